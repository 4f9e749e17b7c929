//! `scripts/bench footprint`: what Drowse itself takes of a node.

use std::process::ExitCode;
use std::time::Duration;

use drowse_tests::bench::footprint::{self, Plan};
use drowse_tests::bench::program;

fn main() -> anyhow::Result<ExitCode> {
    let mut plan = Plan { instances: 200, window: Duration::from_secs(10) };
    let json = program::options(std::env::args().skip(1), "--instances N, --seconds N", |word, value| {
        match word {
            "--instances" => plan.instances = program::number(word, value)?,
            "--seconds" => plan.window = program::seconds(word, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    // Broken off, its world is removed all the same.
    program::main(json, footprint::run(plan))
}
