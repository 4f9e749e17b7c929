//! `scripts/bench router`: the router beside HAProxy and nginx.

use std::process::ExitCode;
use std::time::Duration;

use drowse_tests::bench::router::{self, Plan};
use drowse_tests::bench::{process, program};

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = arguments.as_slice()
        && first == "--serve"
    {
        router::serve(rest)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut plan = Plan { rounds: 7, round: Duration::from_secs(2) };
    let json = program::options(arguments, "--rounds N, --seconds N", |word, value| {
        match word {
            "--rounds" => plan.rounds = program::number(word, value)?,
            "--seconds" => plan.round = program::seconds(word, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rows = program::measured(&runtime, async {
        let folder = tempfile::tempdir()?;
        let path = folder.path().to_owned();
        tokio::task::spawn_blocking(move || router::run(plan, &path)).await?
    });
    process::end_all();
    // The measuring thread may be in the middle of a round.
    runtime.shutdown_background();
    program::show(rows?, json)
}
