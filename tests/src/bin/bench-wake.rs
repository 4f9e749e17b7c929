//! `scripts/bench wake`: wakes from every depth, beside `runc restore`.

#![allow(clippy::print_stderr, reason = "progress is for whoever waits")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use drowse_tests::bench::report;
use drowse_tests::bench::wake::{self, Plan};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<ExitCode> {
    let mut json: Option<PathBuf> = None;
    let mut plan = Plan { wakes: 100, rest: Duration::from_secs(3), apps: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--json" => json = Some(value.into()),
            "--wakes" => plan.wakes = value.parse().context("--wakes needs a number")?,
            "--rest" => plan.rest = Duration::from_secs_f64(value.parse().context("--rest needs seconds")?),
            "--apps" => plan.apps = value.split(',').map(str::to_owned).collect(),
            _ => anyhow::bail!("unknown option {word}: --json FILE, --wakes N, --rest SECONDS, --apps NAME,NAME"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Broken off, its world is removed all the same.
        tokio::select! {
            rows = wake::run(plan) => rows.map(Some),
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
