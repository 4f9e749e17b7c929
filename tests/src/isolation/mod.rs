//! Attempts to get out of a sandbox, each with the rule that is to stop it: from inside by the
//! program `probe-escape`, by hostile images and configurations, and what is seen from outside.
//!
//! They run directly on a launcher, without an agent: a sandbox takes milliseconds, so the whole
//! suite can be run once for each rule that is left out.

mod bench;
mod builder;
mod configurations;
mod host;
mod images;
mod inside;
mod outside;

use bench::Variant;
use drowse_launcher::rules::Rule;

pub use bench::{Bench, Wrapper};

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Somebody said no, and how.
    Refused(String),
    /// It worked, and reached nothing outside.
    Contained(String),
    /// It reached what it must not.
    Escaped(String),
}

/// One attempt.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// What was tried.
    pub name: String,
    /// What is to stop it.
    pub rule: Rule,
    /// What came of it.
    pub end: End,
}

impl Attempt {
    /// Whether it got through.
    #[must_use]
    pub fn escaped(&self) -> bool {
        matches!(self.end, End::Escaped(_))
    }

    fn new(name: impl Into<String>, rule: Rule, end: End) -> Self {
        Self { name: name.into(), rule, end }
    }

    fn fine_if(name: impl Into<String>, rule: Rule, is_fine: bool, found: impl Into<String>) -> Self {
        let end = if is_fine { End::Contained(found.into()) } else { End::Escaped(found.into()) };
        Self::new(name, rule, end)
    }
}

/// Every attempt, or those that show the rule that is left out.
///
/// # Errors
/// What could not be tried at all, which may be so when a rule is left out.
pub fn run(dropped: Option<Rule>, attempts: &mut Vec<Attempt>) -> Result<(), String> {
    let is_wanted = |rules: &[Rule]| dropped.is_none_or(|dropped| rules.contains(&dropped));
    let terminals = [Rule::OwnTerminal, Rule::TerminalsBounded];
    let elsewhere: Vec<Rule> =
        [images::RULES, configurations::RULES, builder::RULES, &[Rule::StartingHidden], &terminals].concat();
    let of_root = [Rule::RootMapped, Rule::RootSparesInit, Rule::RootCapabilities];
    for variant in [Variant::App, Variant::Root] {
        // Whatever a rule is needed for in one variant it is in force for in both.
        let is_asked = dropped.is_none_or(|dropped| of_root.contains(&dropped) == (variant == Variant::Root));
        if is_asked && dropped.is_none_or(|dropped| !elsewhere.contains(&dropped)) {
            in_ordinary_sandboxes(&Bench::new(dropped, Wrapper::Nothing), variant, attempts)?;
        }
        if dropped.is_none() {
            let mut ahead = Vec::new();
            in_ordinary_sandboxes(&Bench::ahead(), variant, &mut ahead)?;
            attempts.extend(ahead.into_iter().map(|attempt| {
                let name = format!("{}, made ahead", attempt.name);
                Attempt { name, ..attempt }
            }));
        }
        if is_asked && is_wanted(&[Rule::StartingHidden]) {
            inside::race(&Bench::new(dropped, Wrapper::Nothing), variant, attempts)?;
        }
        if is_asked && is_wanted(&terminals) {
            inside::on_terminal(&Bench::new(dropped, Wrapper::Nothing), variant, attempts)?;
        }
    }
    if is_wanted(builder::RULES) {
        builder::run(dropped, attempts)?;
    }
    if is_wanted(images::RULES) {
        images::run(dropped, attempts);
    }
    if is_wanted(configurations::RULES) {
        configurations::run(dropped, attempts);
    }
    Ok(())
}

fn in_ordinary_sandboxes(bench: &Bench, variant: Variant, attempts: &mut Vec<Attempt>) -> Result<(), String> {
    outside::look_at_launcher(bench, attempts);
    let before = outside::View::of_launcher(bench);
    let done = inside::run(bench, variant, attempts);
    outside::compare_views(&before, &outside::View::of_launcher(bench), attempts);
    done
}
