//! `scripts/bench wake`: wakes from every depth, beside `runc restore`.

use std::process::ExitCode;
use std::time::Duration;

use drowse_tests::bench::program;
use drowse_tests::bench::wake::{self, Plan};

fn main() -> anyhow::Result<ExitCode> {
    let mut plan = Plan { wakes: 100, rest: Duration::from_secs(3), apps: Vec::new() };
    let json =
        program::options(std::env::args().skip(1), "--wakes N, --rest SECONDS, --apps NAME,NAME", |word, value| {
            match word {
                "--wakes" => plan.wakes = program::number(word, value)?,
                "--rest" => plan.rest = program::seconds(word, value)?,
                "--apps" => plan.apps = value.split(',').map(str::to_owned).collect(),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
    // Broken off, its world is removed all the same.
    program::main(json, wake::run(plan))
}
