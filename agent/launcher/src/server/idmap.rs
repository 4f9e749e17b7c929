//! User namespaces that stand for id ranges: a mount with such a map shows the ids of files shifted.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use drowse_rootfs::IdRange;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::failure::{Failure, OrFail, Step};
use crate::sys::{self, Cloned};

/// The namespaces of one request, one for each range.
#[derive(Debug, Default)]
pub(super) struct IdMaps(HashMap<IdRange, OwnedFd>);

impl IdMaps {
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

/// A namespace needs a process to be born in; it ends as soon as the namespace is held open.
fn make(ids: IdRange) -> Result<OwnedFd, Failure> {
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
