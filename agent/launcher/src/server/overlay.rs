//! The root of a sandbox: overlayfs over the image's layers, whose ids are mapped, and the
//! instance's own upper folder, which holds host ids.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use drowse_rootfs::OverlayPlan;
use nix::mount::MsFlags;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

use super::idmap::IdMaps;
use super::mounts;
use crate::disk::Disk;
use crate::failure::{Failure, OrFail, Step};
use crate::rules::Rule;
use crate::sys::{self, MountChange, change_mount};

/// Where layers are attached while the overlay is made: kernels before 6.15 take only layers that
/// are mounted somewhere in the namespace. Covers a folder that every host has, in the new mount
/// namespace only, and goes with the old root.
const STAGE: &str = "/tmp";
/// How long the overlay of a sandbox that just ended may hold the upper folder.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
/// inotify on the root must survive a snapshot, which needs handles of files that are the same
/// after the next mount.
const SETTINGS: [(&str, &str); 2] = [("index", "on"), ("nfs_export", "on")];

/// Layers and folders, opened before the stage covers anything.
pub(super) struct Parts<'a> {
    lowers: Vec<OwnedFd>,
    /// What `upper` and `work` are on, if that is a disk of their own.
    disk: Option<&'a Disk>,
    upper: OwnedFd,
    work: OwnedFd,
}

impl<'a> Parts<'a> {
    pub(super) fn open(plan: &OverlayPlan, maps: &IdMaps, disk: Option<&'a Disk>) -> Result<Self, Failure> {
        let mut lowers = Vec::new();
        for layer in &plan.lowers {
            let copy = mounts::copy_of_path(layer, false).or_fail(Step::OpenLayer, layer)?;
            let change = MountChange {
                set: u64::from(mounts::read_only().difference(rustix::mount::MountAttrFlags::MOUNT_ATTR_NOEXEC).bits()),
                id_map: maps.get(plan.ids).filter(|_| Rule::IdsMapped.in_force()),
                ..MountChange::default()
            };
            change_mount(&copy, &change).or_fail(Step::IdMap, layer)?;
            lowers.push(copy);
        }
        if lowers.is_empty() {
            return Err(Failure::refused(Step::Overlay, "/", "there is no layer"));
        }
        let below = disk.map_or(CWD, AsFd::as_fd);
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(below, path, flags, Mode::empty()).or_fail(Step::OpenLayer, path)
        };
        Ok(Self { lowers, disk, upper: open(&plan.upper)?, work: open(&plan.work)? })
    }

    /// Makes the overlay and attaches it on the stage; the root, open.
    pub(super) fn mount(&self) -> Result<OwnedFd, Failure> {
        let stage = mounts::new_mount("tmpfs", &["mode=700"], mounts::data())?;
        let below = File::open(STAGE).or_fail(Step::Overlay, STAGE)?;
        mounts::attach(&stage, &below).or_fail(Step::Overlay, STAGE)?;
        let mut names = Vec::new();
        for (at, layer) in self.lowers.iter().enumerate() {
            let name = at.to_string();
            let folder = make_folder(&stage, &name).or_fail(Step::Overlay, &name)?;
            mounts::attach(layer, &folder).or_fail(Step::Overlay, &name)?;
            names.push(format!("{STAGE}/{name}"));
        }
        if let Some(disk) = self.disk {
            let folder = make_folder(&stage, "disk").or_fail(Step::Overlay, "disk")?;
            mounts::attach(disk, &folder).or_fail(Step::Overlay, "disk")?;
        }
        let target = make_folder(&stage, "root").or_fail(Step::Overlay, "root")?;
        let started = Instant::now();
        loop {
            match self.try_mount(&names, &target) {
                Err(Failure { cause: crate::failure::Cause::Errno(libc::EBUSY), .. })
                    if started.elapsed() < BUSY_LIMIT =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => return other,
            }
        }
    }

    fn try_mount(&self, names: &[String], target: &OwnedFd) -> Result<OwnedFd, Failure> {
        let upper = format!("/proc/self/fd/{}", self.upper.as_raw_fd());
        let work = format!("/proc/self/fd/{}", self.work.as_raw_fd());
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).or_fail(Step::Overlay, "/")?;
        for name in names {
            match fsconfig_set_string(context.as_fd(), "lowerdir+", name.as_str()) {
                // Kernels before 6.5 take one list, in a value too short for many layers.
                Err(Errno::INVAL) => return self.mount_the_old_way(names, &upper, &work),
                other => other.or_fail(Step::Overlay, name)?,
            }
        }
        let folders = [("upperdir", upper.as_str()), ("workdir", work.as_str())];
        for (key, value) in folders.into_iter().chain(SETTINGS) {
            fsconfig_set_string(context.as_fd(), key, value).or_fail(Step::Overlay, format!("{key}={value}"))?;
        }
        fsconfig_create(context.as_fd()).or_fail(Step::Overlay, format!("/{}", sys::said(&context)))?;
        let mount =
            fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, mounts::plain()).or_fail(Step::Overlay, "/")?;
        mounts::attach(&mount, target).or_fail(Step::Overlay, "/")?;
        Ok(mount)
    }

    fn mount_the_old_way(&self, names: &[String], upper: &str, work: &str) -> Result<OwnedFd, Failure> {
        let target = format!("{STAGE}/root");
        let settings = SETTINGS.map(|(key, value)| format!("{key}={value}")).join(",");
        let data = format!("lowerdir={},upperdir={upper},workdir={work},{settings}", names.join(":"));
        let mut flags = MsFlags::empty();
        flags.set(MsFlags::MS_NOSUID, Rule::MountsNosuid.in_force());
        flags.set(MsFlags::MS_NODEV, Rule::MountsNodev.in_force());
        nix::mount::mount(Some("overlay"), target.as_str(), Some("overlay"), flags, Some(data.as_str()))
            .or_fail(Step::Overlay, "/")?;
        let opened = rustix::fs::open(&target, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        opened.or_fail(Step::Overlay, "/")
    }
}

fn make_folder(parent: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&parent, name, flags, Mode::empty())?)
}
