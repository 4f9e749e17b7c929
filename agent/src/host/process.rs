//! Processes by pid and start time: seen, waited for, signalled, and their exits put into words.
//!
//! A pid alone names whatever has it now. A pidfd is opened first and the start time compared after:
//! if it is the same then, the descriptor is of the process that was meant, for as long as it is open.

use std::fs::File;
use std::os::fd::OwnedFd;

use drowse_api::instance::ProcessIdentity;
use drowse_launcher::init::read_exits;
use drowse_launcher::process::start_time;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::readiness::readable;

/// A descriptor of the process, if it still is there (also dead, but not reaped).
#[must_use]
pub fn open(identity: ProcessIdentity) -> Option<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(identity.pid)?, PidfdFlags::NONBLOCK).ok()?;
    (start_time(identity.pid).ok()? == identity.start_time).then_some(pidfd)
}

/// Whether it is there and not dead.
#[must_use]
pub fn is_alive(identity: ProcessIdentity) -> bool {
    open(identity).is_some_and(|pidfd| !has_ended(&pidfd))
}

/// Whether the process of this descriptor is dead.
#[must_use]
pub fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Waits until it is dead. At once if it is gone.
pub async fn ended(identity: ProcessIdentity) {
    let Some(pidfd) = open(identity) else { return };
    match readable(pidfd) {
        Ok(pidfd) => drop(pidfd.readable().await),
        Err(error) => {
            tracing::warn!(pid = identity.pid, "cannot wait for a process, looking again and again: {error}");
            while is_alive(identity) {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// How long ago it was started, if it is there. Rounded to hundredths of a second.
#[must_use]
pub fn age(identity: ProcessIdentity) -> Option<std::time::Duration> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = std::time::Duration::try_from(now).ok()?;
    // The kernel tells it in ticks of a hundredth to every program (proc(5)).
    Some(now.saturating_sub(std::time::Duration::from_millis(identity.start_time.saturating_mul(10))))
}

/// Sends it a signal; nothing if it is gone.
pub fn signal(identity: ProcessIdentity, signal: Signal) {
    if let Some(pidfd) = open(identity) {
        let _ = rustix::process::pidfd_send_signal(pidfd, signal);
    }
}

/// The status with which init saw a process end, in the form of `wait(2)`.
#[must_use]
pub fn recorded_exit(exits: &std::path::Path, pid_inside: i32) -> Option<i32> {
    let records = read_exits(&File::open(exits).ok()?).ok()?;
    records.iter().rev().find(|record| record.pid_inside == pid_inside).map(|record| record.status)
}

/// A status of `wait(2)` as the rest of a sentence about a process.
#[must_use]
pub fn in_words(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        let number = libc::WTERMSIG(status);
        let name = nix::sys::signal::Signal::try_from(number);
        name.map_or_else(|_| format!("was killed by signal {number}"), |name| format!("was killed by {name}"))
    } else {
        format!("exited with status {}", libc::WEXITSTATUS(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_in_words() {
        assert_eq!(in_words(0x0300), "exited with status 3");
        assert_eq!(in_words(9), "was killed by SIGKILL");
        assert_eq!(in_words(40), "was killed by signal 40");
    }

    #[tokio::test]
    async fn a_process_is_told_apart_from_a_later_one_with_its_pid() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("starts");
        let pid = i32::try_from(child.id()).expect("a pid");
        let identity = ProcessIdentity { pid, start_time: start_time(pid).expect("is there") };
        assert!(is_alive(identity));
        let other = ProcessIdentity { start_time: identity.start_time + 1, ..identity };
        assert!(open(other).is_none());
        signal(other, Signal::KILL);
        assert!(is_alive(identity));
        signal(identity, Signal::KILL);
        ended(identity).await;
        assert!(!is_alive(identity));
        child.wait().expect("reaped");
        ended(identity).await;
    }
}
