//! /dev of a sandbox: a file system of our own, which nobody inside can add to.

use std::os::fd::{AsFd, OwnedFd};

use drowse_rootfs::IdRange;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, makedev};
use rustix::mount::MountAttrFlags;

use super::mounts;
use crate::failure::{Failure, OrFail, Step};
use crate::rules::Rule;
use crate::sys::{MountChange, change_mount};

/// Name, major and minor number.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];
/// What is left out of the list: the kernel's log.
const UNWANTED: (&str, u32, u32) = ("kmsg", 1, 11);
/// Those of commands beside the app, and as many again for what the app makes itself.
const MOST_TERMINALS: &str = "max=64";
/// The group of terminals, in Debian's and most other images.
const TTY_GROUP: u32 = 5;

/// Mounts /dev and what is below it onto `target`.
pub(super) fn mount(target: &OwnedFd, ids: IdRange, shm: &[String]) -> Result<(), Failure> {
    let attributes = mounts::data().difference(MountAttrFlags::MOUNT_ATTR_NODEV);
    let folder = mounts::new_mount("tmpfs", &["mode=755", "size=64k", "nr_inodes=64"], attributes)?;
    let more = (!Rule::DeviceList.in_force()).then_some(UNWANTED);
    for (name, major, minor) in NODES.into_iter().chain(more) {
        let device = makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(&folder, name, FileType::CharacterDevice, mode, device).or_fail(Step::Device, name)?;
        // The mode above is cut by our umask.
        rustix::fs::chmodat(&folder, name, mode, rustix::fs::AtFlags::empty()).or_fail(Step::Device, name)?;
    }
    for (to, name) in LINKS {
        rustix::fs::symlinkat(to, &folder, name).or_fail(Step::Device, name)?;
    }
    for name in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)).or_fail(Step::Device, name)?;
    }
    mounts::attach(&folder, target).or_fail(Step::Mount, "/dev")?;
    let terminals = ids.to_host(TTY_GROUP).unwrap_or(ids.first);
    let gid = format!("gid={terminals}");
    let mut pts = vec!["newinstance", "ptmxmode=0666", "mode=0620", &gid];
    pts.extend(Rule::TerminalsBounded.in_force().then_some(MOST_TERMINALS));
    mount_below(&folder, "pts", mounts::new_mount("devpts", &pts, attributes)?)?;
    let mut settings = vec!["mode=1777"];
    settings.extend(shm.iter().map(String::as_str));
    mount_below(&folder, "shm", mounts::new_mount("tmpfs", &settings, mounts::data())?)?;
    mount_below(&folder, "mqueue", mounts::new_mount("mqueue", &[], mounts::data())?)?;
    // Devices can be written all the same; the folder has all it will ever have.
    let set = mounts::by(Rule::DevReadOnly, MountAttrFlags::MOUNT_ATTR_RDONLY).bits().into();
    let change = MountChange { set, ..MountChange::default() };
    change_mount(&folder, &change).or_fail(Step::ReadOnly, "/dev")
}

fn mount_below(folder: &OwnedFd, name: &str, mount: OwnedFd) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let target = rustix::fs::openat2(folder, name, flags, Mode::empty(), resolve).or_fail(Step::Resolve, name)?;
    mounts::attach(mount, target).or_fail(Step::Mount, format!("/dev/{name}"))
}

/// The host's null device, to mask files with.
pub(super) fn host_null() -> Result<OwnedFd, Failure> {
    let path = "/dev/null";
    let null = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .or_fail(Step::Device, path)?;
    if is_null(&null).or_fail(Step::Device, path)? {
        Ok(null)
    } else {
        Err(Failure::refused(Step::Device, path, "it is not the null device, char 1:3"))
    }
}

/// The null device of a sandbox: a process must hold no file of the host's /dev.
pub(super) fn own_null(root: impl AsFd) -> Result<OwnedFd, Failure> {
    let path = "/dev/null";
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let null = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve).or_fail(Step::Device, path)?;
    if is_null(&null).or_fail(Step::Device, path)? {
        Ok(null)
    } else {
        Err(Failure::refused(Step::Device, path, "it is not the null device, char 1:3"))
    }
}

/// Whether this really is the null device, whatever it is called.
fn is_null(file: impl AsFd) -> std::io::Result<bool> {
    if !Rule::NullVerified.in_force() {
        return Ok(true);
    }
    let found = rustix::fs::fstat(file)?;
    Ok(FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == makedev(1, 3))
}
