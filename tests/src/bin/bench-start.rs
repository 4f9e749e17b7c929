//! `scripts/bench start`: a start by the agent beside crun and runc.

use std::process::ExitCode;

use drowse_tests::bench::start::{self, Plan};
use drowse_tests::bench::{process, program};

fn main() -> anyhow::Result<ExitCode> {
    let mut plan = Plan { rounds: 7, starts: 8, crowd: 100 };
    let json = program::options(std::env::args().skip(1), "--rounds N, --starts N, --crowd N", |word, value| {
        match word {
            "--rounds" => plan.rounds = program::number(word, value)?,
            "--starts" => plan.starts = program::number(word, value)?,
            "--crowd" => plan.crowd = program::number(word, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    // One thread, so that what is measured has the other processor.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rows = program::measured(&runtime, start::run(plan));
    process::end_all();
    program::show(rows?, json)
}
