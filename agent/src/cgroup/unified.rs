//! What both layouts have in a version 2 tree: freezing, killing, events, processor time.
//!
//! All of it acts on one leaf and reads the result (`cgroup.events`), never the request.
//! `cgroup.kill` has a trap: a process cloned later *into* that group (`CLONE_INTO_CGROUP`) is born
//! dead. One that attaches itself by `cgroup.procs`, as ours do, is not.

use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::CgroupError;
use super::files::{failed, if_there, open, read_key, write};

/// A process in an uninterruptible call to a disk may keep a group from freezing for a while.
const FREEZE_WAIT: Duration = Duration::from_secs(10);

pub(super) fn is_populated(leaf: &Path) -> Result<bool, CgroupError> {
    Ok(if_there(read_key(&leaf.join("cgroup.events"), "populated"))?.unwrap_or(0) == 1)
}

pub(super) fn is_frozen(leaf: &Path) -> Result<bool, CgroupError> {
    Ok(read_key(&leaf.join("cgroup.events"), "frozen")? == 1)
}

pub(super) fn cpu_time(group: &Path) -> Result<Duration, CgroupError> {
    Ok(Duration::from_micros(read_key(&group.join("cpu.stat"), "usage_usec")?))
}

pub(super) fn kill(leaf: &Path) -> Result<(), CgroupError> {
    if_there(write(&leaf.join("cgroup.kill"), "1")).map(drop)
}

pub(super) fn set_frozen(leaf: &Path, frozen: bool) -> Result<(), CgroupError> {
    let (request, wanted) = if frozen { ("1", "frozen") } else { ("0", "thawed") };
    // Opened first: a change between the request and the first look is then a change since opening.
    let path = leaf.join("cgroup.events");
    let mut events = open(&path)?;
    write(&leaf.join("cgroup.freeze"), request)?;
    let line = if frozen { "frozen 1" } else { "frozen 0" };
    let end = Instant::now() + FREEZE_WAIT;
    loop {
        let mut text = String::new();
        events.rewind().and_then(|()| events.read_to_string(&mut text)).map_err(failed("read", &path))?;
        if text.lines().any(|found| found == line) {
            return Ok(());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CgroupError::Deadline { path: leaf.to_owned(), wanted, waited: FREEZE_WAIT });
        }
        let mut set = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut set, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(failed("wait for", &path)(error.into())),
        }
    }
}
