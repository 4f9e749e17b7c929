//! Every way out of a sandbox that we know is tried, and each is stopped by a rule with a name; and
//! each rule is needed, since without it an attempt gets through.

use std::collections::BTreeSet;
use std::process::Command;

use drowse_launcher::rules::Rule;
use drowse_tests::isolation::{Attempt, Bench, run};
use drowse_tests::{machine, skip};

/// Rules of other programs than the launcher, with tests of their own: limits in `agent::cgroup`,
/// the network in `agent::network`.
fn is_elsewhere(rule: Rule) -> bool {
    matches!(rule.part(), "limits" | "network")
}

#[test]
fn the_threat_model_names_every_rule_and_no_other() {
    let text = std::fs::read_to_string(machine::repository().join("docs/threat-model.md")).expect("the page");
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let named: BTreeSet<&str> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    let is_named = |rule: &Rule| named.contains(rule.name()) || rule.name().starts_with("net-");
    let missing: Vec<&Rule> = Rule::ALL.iter().filter(|rule| !is_named(rule)).collect();
    assert!(missing.is_empty(), "docs/threat-model.md does not name {missing:?}");
    let is_other = |name: &&&str| !name.contains(['/', '.']) && name.contains('-') && Rule::named(name).is_none();
    let other: Vec<&&str> = named.iter().filter(is_other).filter(|name| **name != "net-").collect();
    assert!(other.is_empty(), "there is no rule called {other:?}");
}

#[test]
fn a_release_build_refuses_to_drop_rules() {
    let source = machine::repository().join("agent/launcher/src/rules.rs");
    let folder = tempfile::tempdir().expect("a folder");
    let compile = |assertions: &str| {
        Command::new("rustc")
            .args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "--cfg=feature=\"drop-rules\""])
            .arg(format!("-Cdebug-assertions={assertions}"))
            .arg("--out-dir")
            .args([folder.path(), &source])
            .output()
            .expect("rustc runs")
    };
    assert!(compile("on").status.success(), "tests can be built with it");
    let refused = String::from_utf8_lossy(&compile("off").stderr).into_owned();
    assert!(refused.contains("never for a release"), "{refused}");
}

#[test]
fn every_attempt_is_stopped_by_the_rule_that_is_named() {
    if let Err(why) = Bench::is_possible() {
        skip!("{why}");
    }
    let mut attempts = Vec::new();
    run(None, &mut attempts).expect("everything can be tried");
    for attempt in &attempts {
        eprintln!("{:26} {:44} {:?}", attempt.rule.name(), attempt.name, attempt.end);
    }
    let escaped: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.escaped()).collect();
    assert!(escaped.is_empty(), "{escaped:#?}");
    let tried: BTreeSet<&str> = attempts.iter().map(|attempt| attempt.rule.name()).collect();
    let untried: Vec<&Rule> =
        Rule::ALL.iter().filter(|rule| !is_elsewhere(**rule) && !tried.contains(rule.name())).collect();
    assert!(untried.is_empty(), "no attempt is made on {untried:?}");
    assert!(attempts.len() > 250, "only {} attempts were made", attempts.len());
}

#[test]
fn without_any_one_rule_an_attempt_on_it_gets_through() {
    if let Err(why) = Bench::is_possible() {
        skip!("{why}");
    }
    let mut useless = Vec::new();
    for rule in Rule::ALL.iter().copied().filter(|rule| !is_elsewhere(*rule)) {
        let mut attempts = Vec::new();
        let done = run(Some(rule), &mut attempts);
        match attempts.iter().find(|attempt| attempt.rule == rule && attempt.escaped()) {
            Some(attempt) => eprintln!("{:26} {}: {:?}", rule.name(), attempt.name, attempt.end),
            None => useless.push((
                rule,
                done,
                attempts.iter().filter(|attempt| attempt.rule == rule).cloned().collect::<Vec<_>>(),
            )),
        }
    }
    assert!(useless.is_empty(), "nothing got through without {useless:#?}");
}
