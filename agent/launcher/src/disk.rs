//! A disk of a fixed size in a file: an ext4 image on a loop device, mounted nowhere.
//!
//! The mount is a descriptor. What it is handed to keeps it: a sandbox's overlay for as long as the
//! sandbox stands, whoever made it. With the last user the kernel unmounts it and lets the loop
//! device go, so nothing has to be tidied up and no mount of the host ever shows it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use crate::failure::{Failure, OrFail, Step};
use crate::sys;

const CONTROL: &str = "/dev/loop-control";
/// How long a sandbox that just ended may hold its disk: the kernel writes out what is left.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
/// Others on this host take loop devices, too.
const TRIES: u32 = 100;

/// The folder of it that is an overlay's upper one.
pub const UPPER: &str = "upper";
/// The folder of it that overlayfs works in.
pub const WORK: &str = "work";
/// Room that the app cannot fill: overlayfs needs some files and blocks to be mounted again, also where
/// the app left none. Root's share of ext4 would not do, since overlayfs writes as root.
const RESERVE: &str = "reserve";
const RESERVED_FILES: u32 = 16;
const RESERVED_BYTES: u64 = 256 << 10;

/// An open disk.
#[derive(Debug)]
pub struct Disk(OwnedFd);

impl Disk {
    /// Mounts the image. It is locked for as long as anybody has it: two mounts of one image would
    /// destroy it.
    ///
    /// # Errors
    /// [`Step::Disk`] on the image: no loop device, no ext4 in it, or still in use after five seconds.
    pub fn open(image: &Path) -> Result<Self, Failure> {
        Self::open_within(BUSY_LIMIT, image)
    }

    /// The same with another patience.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_within(patience: Duration, image: &Path) -> Result<Self, Failure> {
        let file = File::options().read(true).write(true).open(image).or_fail(Step::Disk, image)?;
        lock(&file, image, patience)?;
        let (device, path) = attach(&file).or_fail(Step::Disk, image)?;
        let mounted = mount(&path, image);
        // The mount holds the device, or nobody does and it goes.
        drop(device);
        Ok(Self(mounted?))
    }

    /// Makes the folders for an overlay, the upper one `owner`'s, and room for what it needs itself.
    /// What an earlier one left behind in the other goes.
    ///
    /// # Errors
    /// [`Step::Disk`] on the folder.
    pub fn prepare(&self, owner: u32) -> Result<(), Failure> {
        for name in [RESERVE, WORK] {
            match std::fs::remove_dir_all(self.path().join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Failure::os(Step::Disk, name, error));
                }
                _ => {}
            }
        }
        for (name, mode) in [(UPPER, 0o755), (WORK, 0o700)] {
            match rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode)) {
                Err(Errno::EXIST) => {}
                other => other.or_fail(Step::Disk, name)?,
            }
        }
        self.give_to(owner)
    }

    /// Makes the upper folder `owner`'s, and nothing else: for a disk that was prepared for nobody yet.
    ///
    /// # Errors
    /// [`Step::Disk`] on the folder.
    pub fn give_to(&self, owner: u32) -> Result<(), Failure> {
        std::os::unix::fs::chown(self.path().join(UPPER), Some(owner), Some(owner)).or_fail(Step::Disk, UPPER)
    }

    /// Takes the room back for the next time, once the overlay is mounted and before the app runs.
    ///
    /// # Errors
    /// [`Step::Disk`] if there is none.
    pub fn reserve(&self) -> Result<(), Failure> {
        let folder = self.path().join(RESERVE);
        let made = std::fs::create_dir(&folder).and_then(|()| {
            (0..RESERVED_FILES).try_for_each(|number| File::create(folder.join(number.to_string())).map(drop))?;
            let space = File::create(folder.join("space"))?;
            rustix::fs::fallocate(&space, rustix::fs::FallocateFlags::empty(), 0, RESERVED_BYTES)?;
            Ok(())
        });
        made.or_fail(Step::Disk, RESERVE)
    }

    /// Its root folder, for this process and for as long as this is held.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl From<OwnedFd> for Disk {
    /// The descriptor of one that another process opened.
    fn from(mount: OwnedFd) -> Self {
        Self(mount)
    }
}

impl AsFd for Disk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The image, open, once nobody has it mounted; nobody can mount it for as long as this is held.
///
/// # Errors
/// [`Step::Disk`] on the image: it cannot be opened, or is still in use after five seconds.
pub fn hold(image: &Path) -> Result<File, Failure> {
    let file = File::options().read(true).write(true).open(image).or_fail(Step::Disk, image)?;
    lock(&file, image, BUSY_LIMIT)?;
    Ok(file)
}

/// The lock belongs to the open file, which the loop device keeps until it is let go.
fn lock(file: &File, image: &Path, patience: Duration) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK | Errno::INTR) if began.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(Errno::WOULDBLOCK) => return Err(Failure::refused(Step::Disk, image, "another sandbox still has it")),
            Err(error) => return Err(Failure::os(Step::Disk, image, error)),
        }
    }
}

fn attach(file: &File) -> io::Result<(File, String)> {
    let control = File::options().read(true).write(true).open(CONTROL)?;
    // Many of ours at once would be told of the same free device, and all but one try again.
    rustix::fs::flock(&control, FlockOperation::LockExclusive)?;
    let mut tries = 0;
    loop {
        let path = format!("/dev/loop{}", sys::free_loop(&control)?);
        // Between the two calls somebody else may have taken it, or made it disappear.
        let attached = File::options().read(true).write(true).open(&path).and_then(|device| {
            sys::attach_loop(&device, file)?;
            Ok(device)
        });
        match attached {
            Ok(device) => return Ok((device, path)),
            Err(error)
                if tries < TRIES && matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOENT | libc::ENXIO)) =>
            {
                tries += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
}

fn mount(device: &str, image: &Path) -> Result<OwnedFd, Failure> {
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC).or_fail(Step::Disk, image)?;
    let set = |key: &str, value: &str| fsconfig_set_string(context.as_fd(), key, value);
    set("source", device).or_fail(Step::Disk, image)?;
    // What could not be written must not be built upon.
    set("errors", "remount-ro").or_fail(Step::Disk, image)?;
    // What is deleted is given back to the host; inode tables are written when they are used.
    for flag in ["discard", "noinit_itable"] {
        fsconfig_set_flag(context.as_fd(), flag).or_fail(Step::Disk, image)?;
    }
    fsconfig_create(context.as_fd()).map_err(|error| {
        let said = sys::said(&context);
        let error = io::Error::from(error);
        if said.is_empty() {
            Failure::os(Step::Disk, image, error)
        } else {
            Failure::refused(Step::Disk, image, format!("{error}{said}"))
        }
    })?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOATIME;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).or_fail(Step::Disk, image)
}
