//! Builders of images: root inside, and what they may mount beside that.

use drowse_launcher::SeccompProfile;
use drowse_launcher::rules::Rule;

use super::Attempt;
use super::bench::{Bench, Variant, Wrapper, process_of};
use super::inside::{attempt, in_full};

/// What is tried here.
pub(super) const RULES: &[Rule] = &[Rule::FilterBuilder];

pub(super) fn run(dropped: Option<Rule>, attempts: &mut Vec<Attempt>) -> Result<(), String> {
    let bench = Bench::new(dropped, Wrapper::Nothing);
    let mut running = bench.build(&bench.request_of("instance", Variant::Root)).map_err(|error| in_full(&error))?;
    let mut probe = process_of(Variant::Root, &["/probe".to_owned(), "builder=yes".to_owned()]);
    probe.seccomp = SeccompProfile::Builder;
    let (_, lines) = bench.start(&mut running, &probe, None).map_err(|error| in_full(&error))?;
    let mut is_done = false;
    for line in lines {
        if line.starts_with(r#"{"done""#) {
            is_done = true;
            break;
        }
        let mut attempt = attempt(&line, Variant::App)?;
        attempt.name = format!("as a builder: {}", attempt.name);
        attempts.push(attempt);
    }
    if is_done { Ok(()) } else { Err("the probe ended in the middle".to_owned()) }
}
