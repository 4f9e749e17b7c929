//! `scripts/bench router`: the router beside HAProxy and nginx.

#![allow(clippy::print_stderr, reason = "progress is for whoever waits")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use drowse_tests::bench::router::{self, Plan};
use drowse_tests::bench::{process, report};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = arguments.as_slice()
        && first == "--serve"
    {
        router::serve(rest)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut json: Option<PathBuf> = None;
    let mut plan = Plan { rounds: 7, round: Duration::from_secs(2) };
    let mut words = arguments.into_iter();
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--json" => json = Some(value.into()),
            "--rounds" => plan.rounds = value.parse().context("--rounds needs a number")?,
            "--seconds" => plan.round = Duration::from_secs(value.parse().context("--seconds needs a number")?),
            _ => anyhow::bail!("unknown option {word}: --json FILE, --rounds N, --seconds N"),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let folder = tempfile::tempdir()?;
        let path = folder.path().to_owned();
        let run = tokio::task::spawn_blocking(move || router::run(plan, &path));
        tokio::select! {
            rows = run => rows?.map(Some),
            _ = interrupt.recv() => Ok(None),
            _ = terminate.recv() => Ok(None),
        }
    });
    process::end_all();
    // The measuring thread may be in the middle of a round.
    runtime.shutdown_background();
    let Some(rows) = outcome? else { return Ok(ExitCode::from(130)) };
    report::print(&rows);
    if let Some(path) = json {
        report::write(&path, &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}
