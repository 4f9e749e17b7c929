//! Lies in wait for processes that the launcher starts in this sandbox: between their change of user
//! and their exec they are this user's, and still hold what is the launcher's.

use std::fs;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::facts::Facts;
use crate::report::{Outcome, tell};
use crate::sys;

const RULE: &str = "starting-hidden";
const LIMIT: Duration = Duration::from_secs(10);

/// What was looked into, and what came of it.
type Outcomes = [(&'static str, io::Result<()>); 5];

pub fn tries(facts: &Facts) {
    let started = Instant::now();
    while started.elapsed() < LIMIT {
        let Some(pid) = pids().find(|pid| is_starting(*pid, facts)) else { continue };
        if let Some(outcomes) = look_while_starting(pid, facts) {
            for (name, result) in outcomes {
                tell(&format!("{name} of a process that is being started"), RULE, &Outcome::must_fail(result));
            }
            return;
        }
    }
}

/// The best that came of looking again and again: right after its change of user a process is hidden by
/// the kernel itself, for a moment. None if it was over before the first look was.
fn look_while_starting(pid: i32, facts: &Facts) -> Option<Outcomes> {
    let mut best: Option<Outcomes> = None;
    loop {
        let outcomes = look_into(pid);
        // Else it was another program's that was looked into.
        if !is_starting(pid, facts) {
            return best;
        }
        best = Some(match best {
            None => outcomes,
            Some(mut best) => {
                for (before, now) in best.iter_mut().zip(outcomes) {
                    if before.1.is_err() {
                        *before = now;
                    }
                }
                best
            }
        });
    }
}

fn pids() -> impl Iterator<Item = i32> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(move |pid| *pid != 1 && *pid != own)
}

/// Still the launcher's program, and already this user.
fn is_starting(pid: i32, facts: &Facts) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let user = field("Uid:").split_whitespace().next().and_then(|uid| uid.parse().ok());
    // A name has 15 letters; the launcher without a rule has a longer one.
    field("Name:").starts_with("drowse-launche") && user == Some(facts.uid)
}

fn look_into(pid: i32) -> Outcomes {
    let read = |file: &str| {
        fs::File::open(format!("/proc/{pid}/{file}")).and_then(|mut open| open.read(&mut [0; 1]).map(drop))
    };
    [
        ("the memory map", read("maps")),
        ("the environment", read("environ")),
        (
            "the descriptors",
            fs::read_dir(format!("/proc/{pid}/fd")).and_then(|mut all| all.next().transpose()).map(drop),
        ),
        ("the program", fs::read_link(format!("/proc/{pid}/exe")).map(drop)),
        ("the control", sys::seize(pid)),
    ]
}
