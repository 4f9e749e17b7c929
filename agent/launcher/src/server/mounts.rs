//! The mount calls that sandboxes are made of, by descriptor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::failure::{Failure, OrFail, Step};
use crate::rules::Rule;
use crate::sys;

/// These flags, if the rule that wants them is in force.
pub(super) fn by(rule: Rule, flags: MountAttrFlags) -> MountAttrFlags {
    if rule.in_force() { flags } else { MountAttrFlags::empty() }
}

/// What no file system inside a sandbox needs: setuid programs and devices.
pub(super) fn plain() -> MountAttrFlags {
    by(Rule::MountsNosuid, MountAttrFlags::MOUNT_ATTR_NOSUID) | by(Rule::MountsNodev, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// Neither programs.
pub(super) fn data() -> MountAttrFlags {
    plain() | by(Rule::MountsNoexec, MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

/// Nor changes.
pub(super) fn read_only() -> MountAttrFlags {
    data() | MountAttrFlags::MOUNT_ATTR_RDONLY
}

/// A new file system that is mounted nowhere yet. A setting without a `=` is a flag.
pub(super) fn new_mount(kind: &str, settings: &[&str], attributes: MountAttrFlags) -> Result<OwnedFd, Failure> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).or_fail(Step::Mount, kind)?;
    for setting in settings {
        match setting.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context.as_fd(), key, value),
            None => fsconfig_set_flag(context.as_fd(), *setting),
        }
        .or_fail(Step::Mount, format!("{kind} with {setting}"))?;
    }
    fsconfig_create(context.as_fd()).or_fail(Step::Mount, format!("{kind}{}", sys::said(&context)))?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).or_fail(Step::Mount, kind)
}

/// A copy of what is mounted at `path` of the host, mounted nowhere yet.
pub(super) fn copy_of_path(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, copy_flags(recursive))?)
}

/// A copy of what `place` is open on, mounted nowhere yet.
pub(super) fn copy_of(place: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    Ok(open_tree(place, "", copy_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH)?)
}

fn copy_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

/// Mounts `mount` onto exactly what `target` is open on, whatever its path leads to by now.
pub(super) fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}
