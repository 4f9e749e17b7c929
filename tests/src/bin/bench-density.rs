//! `scripts/bench density`: sleepers, what each holds, and how they wake.

use std::process::ExitCode;

use drowse_tests::bench::density::{self, Plan};
use drowse_tests::bench::program;

fn main() -> anyhow::Result<ExitCode> {
    let mut plan = Plan { sleepers: 1000, each: 6, wakes: 60 };
    let json = program::options(std::env::args().skip(1), "--sleepers N, --each N, --wakes N", |word, value| {
        match word {
            "--sleepers" => plan.sleepers = program::number(word, value)?,
            "--each" => plan.each = program::number(word, value)?,
            "--wakes" => plan.wakes = program::number(word, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    // Broken off, its world is removed all the same.
    program::main(json, density::run(plan))
}
