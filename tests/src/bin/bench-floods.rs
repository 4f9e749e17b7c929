//! `scripts/bench floods`: what visitors notice while a neighbour floods all there is.

use std::process::ExitCode;
use std::time::Duration;

use drowse_tests::bench::floods::{self, Plan};
use drowse_tests::bench::program;

fn main() -> anyhow::Result<ExitCode> {
    let mut plan = Plan { rounds: 3, round: Duration::from_millis(1500) };
    let json = program::options(std::env::args().skip(1), "--rounds N, --seconds N", |word, value| {
        match word {
            "--rounds" => plan.rounds = program::number(word, value)?,
            "--seconds" => plan.round = program::seconds(word, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    // Broken off, its world is removed all the same.
    program::main(json, floods::run(plan))
}
