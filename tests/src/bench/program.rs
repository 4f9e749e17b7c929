//! What the programs `bench-NAME` do around their measuring: options, an interruption, the table and the file.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::report::{self, Row};

/// Reads options, each with a value: where the rows are to be written, if they are. Every word but `--json` is
/// for `take`, which says whether it knows it; `known` names those for whoever wrote another.
///
/// # Errors
/// An option is unknown, lacks its value, or has one that it cannot have.
pub fn options(
    words: impl IntoIterator<Item = String>,
    known: &str,
    mut take: impl FnMut(&str, &str) -> anyhow::Result<bool>,
) -> anyhow::Result<Option<PathBuf>> {
    let (mut json, mut words) = (None, words.into_iter());
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        if word == "--json" {
            json = Some(value.into());
        } else if !take(&word, &value)? {
            anyhow::bail!("unknown option {word}: --json FILE, {known}");
        }
    }
    Ok(json)
}

/// The number that is the value of an option.
///
/// # Errors
/// It is none.
pub fn number<T: FromStr>(word: &str, value: &str) -> anyhow::Result<T> {
    value.parse().ok().with_context(|| format!("{word} needs a number, not {value:?}"))
}

/// The same in seconds, also parts of them.
///
/// # Errors
/// It is none.
pub fn seconds(word: &str, value: &str) -> anyhow::Result<Duration> {
    let found = value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    found.with_context(|| format!("{word} needs seconds, not {value:?}"))
}

/// Measures on all processors, and shows what was found.
///
/// # Errors
/// Those of `run`, or if the rows cannot be written.
pub fn main(json: Option<PathBuf>, run: impl Future<Output = anyhow::Result<Vec<Row>>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    show(measured(&runtime, run)?, json)
}

/// The rows; none if it was broken off, with what `run` holds let go.
///
/// # Errors
/// Those of `run`.
pub fn measured(
    runtime: &Runtime,
    run: impl Future<Output = anyhow::Result<Vec<Row>>>,
) -> anyhow::Result<Option<Vec<Row>>> {
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            rows = run => rows.map(Some),
            _ = interrupt.recv() => Ok(None),
            _ = terminate.recv() => Ok(None),
        }
    })
}

/// Prints the rows, and writes them where they are wanted.
///
/// # Errors
/// If they cannot be written.
pub fn show(rows: Option<Vec<Row>>, json: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let Some(rows) = rows else { return Ok(ExitCode::from(130)) };
    report::print(&rows);
    if let Some(path) = json {
        report::write(&path, &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> anyhow::Result<(Option<PathBuf>, usize, Duration)> {
        let (mut rounds, mut round) = (7, Duration::ZERO);
        let json = options(words.iter().map(|word| (*word).to_owned()), "--rounds N, --seconds N", |word, value| {
            match word {
                "--rounds" => rounds = number(word, value)?,
                "--seconds" => round = seconds(word, value)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok((json, rounds, round))
    }

    #[test]
    fn options_are_read_and_each_mistake_is_named() {
        let read_whole = read(&["--seconds", "1.5", "--json", "out", "--rounds", "3"]).expect("good");
        assert_eq!(read_whole, (Some("out".into()), 3, Duration::from_millis(1500)));
        for (words, told) in [
            (&["--rounds"][..], "--rounds needs a value"),
            (&["--rounds", "many"], "--rounds needs a number, not \"many\""),
            (&["--seconds", "-1"], "--seconds needs seconds, not \"-1\""),
            (&["--turns", "3"], "unknown option --turns: --json FILE, --rounds N, --seconds N"),
        ] {
            assert_eq!(read(words).expect_err("wrong").to_string(), told);
        }
    }
}
