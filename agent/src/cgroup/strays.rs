//! Killing what is in a version 1 group, one process at a time: there is no `cgroup.kill`.

use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::CgroupError;
use super::files::{children, failed, pids};

/// A group that forks faster than this many rounds of killing is left to the next call.
const ROUNDS: usize = 20;

/// SIGKILL to every process of `group` and of the groups below it.
pub(super) fn kill_below(group: &Path) -> Result<(), CgroupError> {
    kill(group)?;
    children(group)?.iter().try_for_each(|child| kill_below(child))
}

/// SIGKILL to every process of `group`, until none is left that was not told.
fn kill(group: &Path) -> Result<(), CgroupError> {
    let mut told = Vec::new();
    for _ in 0..ROUNDS {
        let new: Vec<i32> = pids(group)?.into_iter().filter(|pid| !told.contains(pid)).collect();
        if new.is_empty() {
            return Ok(());
        }
        for pid in new {
            kill_member(group, pid)?;
            told.push(pid);
        }
    }
    Ok(())
}

/// The descriptor is opened first and the membership read after it, so that a pid which was given to
/// another process meanwhile is not hit.
fn kill_member(group: &Path, pid: i32) -> Result<(), CgroupError> {
    let gone = |error: rustix::io::Errno| error == rustix::io::Errno::SRCH;
    let Some(name) = Pid::from_raw(pid) else { return Ok(()) };
    let process = match pidfd_open(name, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(error) if gone(error) => return Ok(()),
        Err(error) => return Err(failed(format!("open process {pid} of"), group)(error.into())),
    };
    if !pids(group)?.contains(&pid) {
        return Ok(());
    }
    match pidfd_send_signal(&process, Signal::KILL) {
        Err(error) if !gone(error) => Err(failed(format!("kill process {pid} of"), group)(error.into())),
        _ => Ok(()),
    }
}
