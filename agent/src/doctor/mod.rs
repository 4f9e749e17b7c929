//! What the host can and cannot do, found by trying and never by a version, each with what to do.
//!
//! It changes nothing that outlasts it, and knows nothing of instances.

mod clock;
mod host;
mod kernel;
mod mount;
mod program;

use drowse_api::agent::{Check, Verdict};

use crate::config::Config;
use crate::network::{Network, NetworkConfig};

/// Examines the host: some tenths of a second, at most some seconds. Blocking; it runs programs.
#[must_use]
pub fn examine(config: &Config) -> Vec<Check> {
    let mut checks = vec![host::user(), host::capabilities(), kernel::release()];
    checks.extend([kernel::namespaces(), kernel::control_groups()]);
    checks.extend([kernel::process_descriptors(), kernel::seccomp(), mount::overlay(config), mount::id_maps(config)]);
    checks.extend(network(config));
    checks.extend([program::siblings(config), program::criu(config)]);
    checks.extend([host::disk(config), host::disk_limits(config), host::swap(), host::zram(), clock::clock()]);
    checks
}

fn network(config: &Config) -> Vec<Check> {
    let network = Network::new(NetworkConfig::new(config, Vec::new()));
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(network.survey()),
        Err(error) => vec![failure("network", format!("not examined: {error}"), "raise the limit on open files")],
    }
}

fn ok(name: &str, found: impl Into<String>) -> Check {
    Check { name: name.to_owned(), verdict: Verdict::Ok, found: found.into(), advice: None }
}

fn warning(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check { name: name.to_owned(), verdict: Verdict::Warning, found: found.into(), advice: Some(advice.into()) }
}

fn failure(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check { name: name.to_owned(), verdict: Verdict::Failure, found: found.into(), advice: Some(advice.into()) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_finding_that_is_not_well_says_what_to_do() {
        let data = tempfile::tempdir().expect("a folder");
        let text = format!("data_dir = {:?}\nlink_prefix = \"dwt\"\ntable = \"drowse-test\"", data.path());
        let config = Config::parse(&text, Path::new("agent.toml")).expect("a configuration");
        let checks = examine(&config);
        for check in &checks {
            eprintln!("{:?}: {}: {} ({:?})", check.verdict, check.name, check.found, check.advice);
            assert!(!check.found.is_empty());
            assert!(check.verdict == Verdict::Ok || check.advice.is_some(), "{}", check.name);
        }
        let mut names: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), checks.len(), "each name once");
        assert_eq!(std::fs::read_dir(data.path()).expect("list").count(), 0, "nothing is left");
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: that this machine is fit can only be seen by root");
            return;
        }
        // The programs are built elsewhere, and CRIU may be missing; the kernel must do.
        let kernel = [
            "control groups",
            "disk limits",
            "id-mapped mounts",
            "namespaces",
            "nftables",
            "overlay",
            "pidfd",
            "seccomp",
        ];
        for name in kernel {
            let check = checks.iter().find(|check| check.name == name).expect("examined");
            assert_eq!(check.verdict, Verdict::Ok, "{name}: {}", check.found);
        }
    }
}
