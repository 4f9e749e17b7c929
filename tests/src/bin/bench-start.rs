//! `scripts/bench start`: a start by the agent beside crun and runc.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use drowse_tests::bench::start::{self, Plan};
use drowse_tests::bench::{process, report};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<ExitCode> {
    let mut json: Option<PathBuf> = None;
    let mut plan = Plan { rounds: 7, starts: 8, crowd: 100 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--json" => json = Some(value.into()),
            "--rounds" => plan.rounds = value.parse().context("--rounds needs a number")?,
            "--starts" => plan.starts = value.parse().context("--starts needs a number")?,
            "--crowd" => plan.crowd = value.parse().context("--crowd needs a number")?,
            _ => anyhow::bail!("unknown option {word}: --json FILE, --rounds N, --starts N, --crowd N"),
        }
    }
    // One thread, so that what is measured has the other processor.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            rows = start::run(plan) => rows.map(Some),
            _ = interrupt.recv() => Ok(None),
            _ = terminate.recv() => Ok(None),
        }
    });
    process::end_all();
    let Some(rows) = outcome? else { return Ok(ExitCode::from(130)) };
    report::print(&rows);
    if let Some(path) = json {
        report::write(&path, &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}
