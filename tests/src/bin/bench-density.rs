//! `scripts/bench density`: sleepers, what each holds, and how they wake.

#![allow(clippy::print_stderr, reason = "progress is for whoever waits")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use drowse_tests::bench::density::{self, Plan};
use drowse_tests::bench::report;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<ExitCode> {
    let mut json: Option<PathBuf> = None;
    let mut plan = Plan { sleepers: 1000, each: 6, wakes: 60 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--json" => json = Some(value.into()),
            "--sleepers" => plan.sleepers = value.parse().context("--sleepers needs a number")?,
            "--each" => plan.each = value.parse().context("--each needs a number")?,
            "--wakes" => plan.wakes = value.parse().context("--wakes needs a number")?,
            _ => anyhow::bail!("unknown option {word}: --json FILE, --sleepers N, --each N, --wakes N"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Broken off, its world is removed all the same.
        tokio::select! {
            rows = density::run(plan) => rows.map(Some),
            _ = interrupt.recv() => Ok(None),
            _ = terminate.recv() => Ok(None),
        }
    });
    let Some(rows) = outcome? else { return Ok(ExitCode::from(130)) };
    report::print(&rows);
    if let Some(path) = json {
        report::write(&path, &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}
