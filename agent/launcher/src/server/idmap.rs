//! User namespaces that stand for id ranges: a mount with such a map shows the ids of files shifted,
//! and a process in one that is root inside is so over these ids.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use drowse_rootfs::IdRange;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::inside::OWN_IDS;
use super::process;
use crate::failure::{Failure, OrFail, Step};
use crate::rules::Rule;
use crate::sys::{self, Cloned};

/// The namespaces of one request, one for each range.
#[derive(Debug, Default)]
pub(super) struct IdMaps(HashMap<IdRange, OwnedFd>);

impl IdMaps {
    /// With those that are there already.
    pub(super) fn of(known: Vec<(IdRange, OwnedFd)>) -> Self {
        Self(known.into_iter().collect())
    }

    /// Makes the namespace of a range, once.
    pub(super) fn add(&mut self, ids: IdRange) -> Result<(), Failure> {
        if ids != IdRange::IDENTITY && !self.0.contains_key(&ids) {
            self.0.insert(ids, make(ids)?);
        }
        Ok(())
    }

    /// The namespace of a range that was added; none for ids that stay as they are.
    pub(super) fn get(&self, ids: IdRange) -> Option<BorrowedFd<'_>> {
        self.0.get(&ids).map(AsFd::as_fd)
    }
}

/// The namespace for the processes of a sandbox with root inside. The last id of the range is init's,
/// and not in it: whatever root inside becomes, it is not init.
pub(super) fn of_processes(ids: IdRange) -> Result<OwnedFd, Failure> {
    let spared = u32::from(Rule::RootSparesInit.in_force());
    make(IdRange { count: ids.count.saturating_sub(spared), ..ids })
}

/// The namespace that the init of a sandbox holds for its processes, if root is inside.
pub(super) fn held_by(init: &OwnedFd) -> Result<Option<OwnedFd>, Failure> {
    if !Rule::RootMapped.in_force() {
        return Ok(None);
    }
    let path = format!("/proc/{}/fd/{OWN_IDS}", process::pid_of(init).or_fail(Step::EnterNamespace, "user")?);
    match std::fs::read_link(&path) {
        Ok(link) if link.as_os_str().as_encoded_bytes().starts_with(b"user:[") => {}
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::os(Step::EnterNamespace, "user", error));
        }
        _ => return Ok(None),
    }
    let namespace = File::open(&path).or_fail(Step::EnterNamespace, "user")?;
    // Only if the pid still is init's was it init's descriptor.
    process::pid_of(init).or_fail(Step::EnterNamespace, "user")?;
    Ok(Some(namespace.into()))
}

/// A namespace needs a process to be born in; it ends as soon as the namespace is held open.
pub(super) fn make(ids: IdRange) -> Result<OwnedFd, Failure> {
    let name = format!("{}+{}", ids.first, ids.count);
    let (ours, theirs) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).or_fail(Step::UserNamespace, &name)?;
    match sys::clone_process(libc::CLONE_NEWUSER).or_fail(Step::UserNamespace, &name)? {
        Cloned::Child => {
            drop(theirs);
            // Ends when the parent has what it wants, or is gone.
            let _ = rustix::io::read(&ours, &mut [0; 1]);
            sys::exit_now(0)
        }
        Cloned::Parent(pid, _pidfd) => {
            drop(ours);
            let namespace = describe(pid, ids).or_fail(Step::UserNamespace, &name);
            drop(theirs);
            let _ = waitpid(Pid::from_raw(pid), None);
            namespace
        }
    }
}

fn describe(pid: i32, ids: IdRange) -> std::io::Result<OwnedFd> {
    let map = format!("0 {} {}\n", ids.first, ids.count);
    // Each map can be written once, by one write.
    std::fs::write(format!("/proc/{pid}/uid_map"), &map)?;
    std::fs::write(format!("/proc/{pid}/gid_map"), &map)?;
    Ok(File::open(format!("/proc/{pid}/ns/user"))?.into())
}
