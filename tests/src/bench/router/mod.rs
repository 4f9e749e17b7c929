//! The router beside HAProxy and nginx: processor time, system calls and memory, in one run.
//!
//! All sides have the same duties (choose a backend by the host's name, keep connections on both
//! sides, tell the app who asked) and the same app behind them. Rounds of the sides alternate.

mod load;
mod sides;

use std::path::Path;
use std::time::Duration;

use crate::bench::process;
use crate::bench::report::Row;

pub use sides::serve;
use sides::{App, Side};

/// Connections of the load.
const CONNECTIONS: usize = 64;
/// Idle connections that are opened to each side.
const IDLE: usize = 4000;

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many times each side is measured.
    pub rounds: usize,
    /// How long each time.
    pub round: Duration,
}

/// Measures everything.
///
/// # Errors
/// When a side cannot be started or answers wrongly.
pub fn run(plan: Plan, folder: &Path) -> anyhow::Result<Vec<Row>> {
    process::raise_descriptors()?;
    let load = process::load_average();
    eprintln!("    load average before: {load:.1}; beyond the number of processors, ratios scatter by a third");
    let app = App::start(folder)?;
    let mut rows = Vec::new();
    for threads in [1, 2] {
        rows.extend(keep_alive(plan, folder, &app, threads)?);
    }
    rows.extend(system_calls(folder, &app)?);
    rows.extend(idle_connections(folder, &app)?);
    Ok(rows)
}

fn keep_alive(plan: Plan, folder: &Path, app: &App, threads: usize) -> anyhow::Result<Vec<Row>> {
    let sides = Side::start_all(folder, app, threads)?;
    for side in &sides {
        load::run(side.address, CONNECTIONS, plan.round)?;
    }
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); sides.len()];
    for round in 0..plan.rounds {
        for turn in 0..sides.len() {
            // Each side comes first, second and so on equally often.
            let at = (round + turn) % sides.len();
            let before = sides[at].program.cpu();
            let requests = load::run(sides[at].address, CONNECTIONS, plan.round)?;
            let used = sides[at].program.cpu() - before;
            times[at].push(used.as_secs_f64() * 1e6 / requests as f64);
            eprintln!(
                "    round {} of {}, {threads} thread(s), {}: {requests} requests, {:.1} µs",
                round + 1,
                plan.rounds,
                sides[at].name,
                times[at][round]
            );
        }
    }
    let what = format!("CPU time per keep-alive request, {threads} thread{}", if threads == 1 { "" } else { "s" });
    let against = |at: usize| {
        let budget = (sides[at].name == "haproxy").then_some(1.4);
        Row::against(&what, "µs", &times[0], sides[at].name, &times[at], budget)
    };
    Ok((1..sides.len()).map(against).collect())
}

fn system_calls(folder: &Path, app: &App) -> anyhow::Result<Vec<Row>> {
    let sides = Side::start_all(folder, app, 1)?;
    let mut calls = Vec::new();
    for side in &sides {
        load::run(side.address, CONNECTIONS, Duration::from_secs(1))?;
        let count = load::system_calls(&side.program, side.address, CONNECTIONS, folder)?;
        eprintln!("    {}: {count:.2} system calls per request", side.name);
        calls.push(count);
    }
    let what = "system calls per keep-alive request";
    let mut rows = vec![Row::alone(what, "calls", &calls[..1], Some(6.0))];
    rows.extend(
        (1..sides.len()).map(|at| Row::against(what, "calls", &calls[..1], sides[at].name, &calls[at..=at], None)),
    );
    Ok(rows)
}

fn idle_connections(folder: &Path, app: &App) -> anyhow::Result<Vec<Row>> {
    let mut bytes = Vec::new();
    let mut names = Vec::new();
    for side in Side::start_all(folder, app, 1)? {
        let each = load::bytes_per_idle_connection(&side.program, side.address, IDLE)?;
        eprintln!("    {}: {each:.0} bytes per idle connection", side.name);
        bytes.push(each);
        names.push(side.name);
    }
    let what = "idle connection, user space, after one request";
    let mut rows = vec![Row::alone(what, "bytes", &bytes[..1], Some(13_000.0))];
    rows.extend((1..names.len()).map(|at| Row::against(what, "bytes", &bytes[..1], names[at], &bytes[at..=at], None)));
    Ok(rows)
}
