//! The launcher without one of its rules: see [`drowse_launcher::rules`]. For tests only.
//!
//! A sandbox without one of its namespaces shares that of the launcher, and what a sandbox does to
//! its own (a new root, a host name, kernel parameters) it would do to the host. So this launcher
//! leaves the host's namespaces first; processes of the host it can still see, and nothing else.

use std::io;
use std::process::ExitCode;

use drowse_launcher::rules::{Rule, VARIABLE};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

fn main() -> ExitCode {
    drowse_launcher::server::main(|| {
        let name = std::env::var(VARIABLE).unwrap_or_default();
        if Rule::named(&name).is_none() {
            return Err(io::Error::other(format!("{VARIABLE} names no rule: {name:?}")));
        }
        Ok(leave_the_host()?)
    })
}

/// Shared mounts, so that the rule against their spreading has something to stop.
fn leave_the_host() -> nix::Result<()> {
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )?;
    let change = |flags| mount(None::<&str>, "/", None::<&str>, flags | MsFlags::MS_REC, None::<&str>);
    change(MsFlags::MS_PRIVATE)?;
    if Rule::PrivateMounts.in_force() { Ok(()) } else { change(MsFlags::MS_SHARED) }
}
