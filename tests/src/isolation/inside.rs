//! The probe's attempts, and what is seen of its sandbox from outside meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use drowse_launcher::rules::Rule;
use serde::Deserialize;

use super::bench::{Bench, Variant, facts_of_sandbox, process_of};
use super::host::Host;
use super::{Attempt, End, outside};

/// How often a process is started for one that lies in wait.
const MOST_STARTS: usize = 50;

/// A line of the probe.
#[derive(Deserialize)]
struct Line {
    name: String,
    rule: String,
    outcome: String,
    errno: i32,
    detail: String,
}

/// Runs it in a sandbox of that variant.
pub(super) fn run(bench: &Bench, variant: Variant, attempts: &mut Vec<Attempt>) -> Result<(), String> {
    let host = Host::new();
    let instance = bench.request_of("instance", variant);
    let built = match bench.is_ahead {
        true => None,
        false => Some(bench.build(&instance).map_err(|error| in_full(&error))?),
    };
    built.iter().for_each(|built| outside::look_at_init(bench, variant, built, attempts));
    // Of the same user, which only the namespaces keep apart.
    let request = bench.request_of("neighbour", variant);
    let secret = request.overlay.upper.join("secret");
    fs::write(&secret, "the neighbour's").map_err(|error| error.to_string())?;
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o644)).map_err(|error| error.to_string())?;
    let mut neighbour = bench.build(&request).map_err(|error| in_full(&error))?;
    let waits = process_of(variant, &["/probe".to_owned(), "wait=yes".to_owned()]);
    let (other, _lines) = bench.start(&mut neighbour, &waits, None).map_err(|error| in_full(&error))?;
    let mut args = vec!["/probe".to_owned(), "wait=yes".to_owned()];
    args.extend(facts_of_sandbox(variant));
    args.extend(host.facts());
    args.push(format!("neighbour={}", other.pid));
    args.push(format!("neighbour_file={}", secret.display()));
    let probe = process_of(variant, &args);
    let (running, lines) = match built {
        Some(mut built) => {
            let (_, lines) = bench.start(&mut built, &probe, None).map_err(|error| in_full(&error))?;
            (built, lines)
        }
        None => {
            let launched = bench.launch(&instance, &probe).map_err(|error| in_full(&error))?;
            outside::look_at_init(bench, variant, &launched.0, attempts);
            launched
        }
    };
    let mut is_done = false;
    for line in lines {
        if line.starts_with(r#"{"done""#) {
            is_done = true;
            break;
        }
        attempts.push(attempt(&line, variant)?);
    }
    if !is_done {
        return Err("the probe ended in the middle".to_owned());
    }
    outside::look_at_app(bench, variant, running.first(), attempts);
    Ok(())
}

/// Runs it on a terminal.
pub(super) fn on_terminal(bench: &Bench, variant: Variant, attempts: &mut Vec<Attempt>) -> Result<(), String> {
    let mut running = bench.build(&bench.request_of("instance", variant)).map_err(|error| in_full(&error))?;
    let mut args = vec!["/probe".to_owned(), "terminal=yes".to_owned()];
    args.extend(facts_of_sandbox(variant));
    let probe = process_of(variant, &args);
    let lines = bench.start_on_terminal(&mut running, &probe).map_err(|error| in_full(&error))?;
    // What it typed into its own terminal is shown too.
    let lines = lines.filter_map(|line| line.find('{').map(|at| line[at..].trim_end().to_owned()));
    for line in lines.take_while(|line| !line.starts_with(r#"{"done""#)) {
        attempts.push(attempt(&line, variant)?);
    }
    Ok(())
}

/// Starts processes beside one that lies in wait for them.
pub(super) fn race(bench: &Bench, variant: Variant, attempts: &mut Vec<Attempt>) -> Result<(), String> {
    let mut running = bench.build(&bench.request_of("instance", variant)).map_err(|error| in_full(&error))?;
    let mut args = vec!["/probe".to_owned(), "race=yes".to_owned()];
    args.extend(facts_of_sandbox(variant));
    let probe = process_of(variant, &args);
    let (started, lines) = bench.start(&mut running, &probe, None).map_err(|error| in_full(&error))?;
    let waiting = format!("/proc/{}", started.pid);
    // The launcher looks for the program in each folder, which gives the other one time.
    let mut slow = process_of(variant, &["probe".to_owned(), "nothing".to_owned()]);
    slow.process.set_env(Some(vec![format!("PATH={}/", "/x:".repeat(30_000))]));
    for _ in 0..MOST_STARTS {
        if !Path::new(&waiting).exists() {
            break;
        }
        bench.start(&mut running, &slow, None).map_err(|error| in_full(&error))?;
    }
    for line in lines.take_while(|line| !line.starts_with(r#"{"done""#)) {
        attempts.push(attempt(&line, variant)?);
    }
    Ok(())
}

pub(super) fn attempt(line: &str, variant: Variant) -> Result<Attempt, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
    let rule = Rule::named(&line.rule).ok_or_else(|| format!("{} is not a rule", line.rule))?;
    let end = match line.outcome.as_str() {
        "refused" => End::Refused(std::io::Error::from_raw_os_error(line.errno).to_string()),
        "contained" => End::Contained(line.detail),
        _ => End::Escaped(line.detail),
    };
    let name = if variant == Variant::Root { format!("as root inside: {}", line.name) } else { line.name };
    Ok(Attempt::new(name, rule, end))
}

/// An error with its causes.
pub(super) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
