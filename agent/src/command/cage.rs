//! What holds a command: its group inside an instance's, or a sandbox of its own. All calls block.

use std::time::{Duration, Instant};

use drowse_api::exec::ExitStatus;
use drowse_api::instance::ProcessIdentity;
use drowse_launcher::init::read_exits;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::cgroup::{CgroupError, Cgroups, CommandGroup, Leaf, Place};
use crate::host::home::Home;

/// How long killed processes may take to be gone, and an exit to be recorded.
const GONE: Duration = Duration::from_secs(10);
const RECORDED: Duration = Duration::from_secs(2);

/// What holds a command.
#[derive(Debug, Clone)]
pub(super) enum Cage {
    /// A group beside the app's processes.
    Beside { home: Home, group: CommandGroup },
    /// All of a sandbox.
    Own { home: Home },
}

/// A command's main process, with what tells its exit from others'.
#[derive(Debug, Clone, Copy)]
pub(super) struct Main {
    pub(super) identity: ProcessIdentity,
    pub(super) pid_inside: i32,
    /// How many exits init had recorded before it was started.
    pub(super) exits_before: u64,
    /// The kernel's count of memory kills before it was started.
    pub(super) kills_before: u64,
}

impl Cage {
    pub(super) fn home(&self) -> &Home {
        match self {
            Self::Beside { home, .. } | Self::Own { home } => home,
        }
    }

    fn place(&self) -> &Place {
        &self.home().place
    }

    pub(super) fn processes(&self, cgroups: &dyn Cgroups) -> Result<Vec<i32>, CgroupError> {
        match self {
            Self::Beside { group, .. } => cgroups.command_processes(self.place(), group),
            Self::Own { .. } => cgroups.processes(self.place(), Leaf::App),
        }
    }

    pub(super) fn oom_kills(&self, cgroups: &dyn Cgroups) -> Result<u64, CgroupError> {
        match self {
            Self::Beside { group, .. } => cgroups.oom_kills_with(self.place(), group),
            Self::Own { .. } => cgroups.oom_kills(self.place()),
        }
    }

    /// Sends a signal to every process, or to those of one process group. By descriptor, and looked for
    /// a second time: a number may have become another process's.
    pub(super) fn signal(&self, cgroups: &dyn Cgroups, signal: Signal, group: Option<i32>) -> Result<(), CgroupError> {
        for pid in self.processes(cgroups)? {
            let opened = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
            let is_meant = || group.is_none_or(|group| process_group(pid) == Some(group));
            let Some(opened) = opened.filter(|_| is_meant()) else { continue };
            if self.processes(cgroups)?.contains(&pid) {
                // That it ended meanwhile is what was wanted, or nobody's concern.
                let _ = pidfd_send_signal(&opened, signal);
            }
        }
        Ok(())
    }

    /// Kills everything of the command, and waits until it is gone.
    pub(super) fn kill(&self, cgroups: &dyn Cgroups) -> Result<(), CgroupError> {
        let deadline = Instant::now() + GONE;
        loop {
            match self {
                Self::Beside { group, .. } => cgroups.kill_command(self.place(), group)?,
                Self::Own { .. } => cgroups.kill_app(self.place())?,
            }
            if self.processes(cgroups)?.is_empty() || Instant::now() > deadline {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes the emptied group of a command beside an app; a sandbox goes with its lease.
    pub(super) fn remove(&self, cgroups: &dyn Cgroups) -> Result<(), CgroupError> {
        match self {
            Self::Beside { group, .. } => cgroups.remove_command(self.place(), group),
            Self::Own { .. } => Ok(()),
        }
    }

    /// How the main process ended: as init recorded it. Its pid may have been another's before, whose
    /// record is an earlier one.
    pub(super) fn status(&self, main: Main) -> ExitStatus {
        let deadline = Instant::now() + RECORDED;
        loop {
            if let Some(status) = self.recorded(main) {
                return status;
            }
            if Instant::now() > deadline {
                return ExitStatus::Unknown;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn recorded(&self, main: Main) -> Option<ExitStatus> {
        let records = read_exits(&std::fs::File::open(self.home().exits()).ok()?).ok()?;
        let own = records.iter().rev().find(|record| record.pid_inside == main.pid_inside)?;
        (own.sequence > main.exits_before).then(|| of_wait(own.status))
    }
}

fn of_wait(status: i32) -> ExitStatus {
    let number = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    if libc::WIFSIGNALED(status) {
        ExitStatus::Signalled(number(libc::WTERMSIG(status)))
    } else {
        ExitStatus::Exited(number(libc::WEXITSTATUS(status)))
    }
}

/// Field 5 of `/proc/PID/stat` (proc(5)).
fn process_group(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(2)?.parse().ok()
}

/// Ends what an earlier agent has left of commands beside the app of `place`.
pub fn sweep(cgroups: &dyn Cgroups, place: &Place) {
    for group in cgroups.commands(place).unwrap_or_default() {
        let swept = cgroups.kill_command(place, &group).and_then(|()| cgroups.remove_command(place, &group));
        match swept {
            Ok(()) => tracing::info!(%place, "ended a command whose agent is gone"),
            Err(error) => tracing::warn!(%place, "cannot end a command whose agent is gone: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_wait_is_read() {
        assert_eq!(of_wait(0x0300), ExitStatus::Exited(3));
        assert_eq!(of_wait(15), ExitStatus::Signalled(15));
    }

    #[test]
    fn the_group_of_a_process_is_found() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert_eq!(process_group(own), Some(rustix::process::getpgrp().as_raw_nonzero().get()));
        assert_eq!(process_group(-1), None);
    }
}
