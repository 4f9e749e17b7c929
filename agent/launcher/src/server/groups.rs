//! The control groups of a new process, as they come: the folder of a version 2 group, which it is born
//! in, and files that it attaches itself by.
//!
//! Attaching by `cgroup.procs` waits for the kernel's readers of process groups, which after an idle spell
//! takes 7 to 15 ms. Being born in a group does not, and nor does attaching oneself alone by the `tasks`
//! of version 1.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};

use crate::failure::{Failure, OrFail, Step};
use crate::rules::Rule;
use crate::sys::{self, Cloned};

/// Clones, into the group whose folder is among `groups` if there is one. Where the kernel does not do
/// that, the folder's file takes its place, by which the child then attaches itself.
pub(super) fn clone(flags: i32, groups: &mut [OwnedFd]) -> io::Result<Cloned> {
    if let Some(folder) = groups.iter().find(|group| is_folder(group)).filter(|_| Rule::OwnCgroup.in_force()) {
        match sys::clone_into(flags, Some(folder.as_fd())) {
            Ok(cloned) => return Ok(cloned),
            Err(_) => attach_instead(groups)?,
        };
    }
    sys::clone_process(flags)
}

/// From now on a child attaches itself; whether it would have been born in a group.
///
/// Some kernels kill at its birth what is born in a group whose count of kills is another than that of the
/// group it is born from.
pub(super) fn attach_instead(groups: &mut [OwnedFd]) -> io::Result<bool> {
    let Some(folder) = groups.iter_mut().find(|group| is_folder(group)) else { return Ok(false) };
    *folder = rustix::fs::openat(&*folder, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(true)
}

/// Attaches this process to the groups that it was not born in, then makes all of them its root.
pub(super) fn enter(groups: &[OwnedFd]) -> Result<(), Failure> {
    for procs in groups.iter().filter(|group| Rule::OwnCgroup.in_force() && !is_folder(group)) {
        rustix::io::write(procs, b"0").map_err(|error| {
            let path = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(procs)));
            Failure::os(Step::AttachCgroup, path.unwrap_or_default(), error)
        })?;
    }
    if !Rule::NamespaceCgroup.in_force() {
        return Ok(());
    }
    sys::unshare(libc::CLONE_NEWCGROUP).or_fail(Step::CgroupNamespace, "the process")
}

fn is_folder(group: &OwnedFd) -> bool {
    rustix::fs::fstat(group).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}
