//! Overlays and id-mapped mounts, tried in the data folder without mounting anything anywhere.

#![allow(unsafe_code, reason = "the C library has no wrapper for mount_setattr")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use drowse_api::agent::Check;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    open_tree,
};

use super::{failure, ok};
use crate::config::Config;

pub(super) fn overlay(config: &Config) -> Check {
    let tried = scratch(config).and_then(|folder| try_overlay(folder.path()));
    match tried {
        Ok(()) => ok("overlay", format!("can be made on the file system of {}", config.data_dir.display())),
        Err(error) => failure(
            "overlay",
            format!("cannot be made on the file system of {}: {error}", config.data_dir.display()),
            "run the agent as root on a kernel with overlayfs, and put data_dir on ext4, xfs or btrfs",
        ),
    }
}

pub(super) fn id_maps(config: &Config) -> Check {
    let tried = scratch(config).and_then(|folder| try_id_map(folder.path()));
    match tried {
        Ok(()) => ok("id-mapped mounts", format!("work on the file system of {}", config.data_dir.display())),
        Err(error) => failure(
            "id-mapped mounts",
            format!("do not work on the file system of {}: {error}", config.data_dir.display()),
            "put data_dir on ext4, xfs or btrfs, and use Linux 5.19 or newer",
        ),
    }
}

/// A folder where data will be, removed again with all in it.
pub(super) fn scratch(config: &Config) -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(".drowse-doctor-").tempdir_in(existing(&config.data_dir))
}

/// The folder itself, or the nearest one above it that is there.
pub(super) fn existing(folder: &Path) -> PathBuf {
    folder.ancestors().find(|part| part.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// The mount ends with its descriptor, never having been attached.
fn try_overlay(folder: &Path) -> io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, name) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        let part = folder.join(name);
        std::fs::create_dir(&part)?;
        fsconfig_set_string(context.as_fd(), key, part)?;
    }
    for (key, value) in [("index", "on"), ("nfs_export", "on")] {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(())
}

fn try_id_map(folder: &Path) -> io::Result<()> {
    let tree = open_tree(CWD, folder, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let namespace = user_namespace()?;
    map_ids(tree.as_fd(), namespace.as_fd())
}

/// A user namespace with a map. One has to be born with a process, and a threaded program must not
/// clone one itself, so util-linux does it.
fn user_namespace() -> io::Result<OwnedFd> {
    let mut child =
        Command::new("unshare").args(["--user", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let opened = open_namespace_of(child.id());
    // It ends with its input.
    drop(child.stdin.take());
    child.wait()?;
    opened
}

fn open_namespace_of(pid: u32) -> io::Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/user");
    let own = std::fs::read_link("/proc/self/ns/user")?;
    let end = Instant::now() + Duration::from_secs(5);
    while std::fs::read_link(&path)? == own {
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no user namespace in 5 s"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{map}"), "0 65536 65536\n")?;
    }
    Ok(std::fs::File::open(path)?.into())
}

fn map_ids(tree: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    // SAFETY: the path is terminated, and the attributes outlive the call, which only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
