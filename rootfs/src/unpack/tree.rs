//! One folder that is written to, and nothing outside it: descriptors and single names only.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::{FOLDER, OPAQUE_XATTR};

/// Never upwards, never through /proc's links, never onto another file system.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// The folder that is written to.
pub(super) struct Tree {
    root: OwnedFd,
    /// The folder last written to: archives list a folder's entries one after the other.
    last: Option<(Vec<u8>, OwnedFd)>,
}

/// A name in an open folder.
pub(super) struct Place {
    folder: OwnedFd,
    name: Vec<u8>,
}

impl Tree {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let root = fs::openat(CWD, path, FOLDER, Mode::empty())?;
        Ok(Self { root, last: None })
    }

    /// The root itself.
    pub(super) fn root(&self) -> io::Result<OwnedFd> {
        self.root.try_clone()
    }

    /// `name` in `folder`, whose missing parts are made with mode 0755 and `owner`.
    pub(super) fn place(&mut self, folder: &[u8], name: &[u8], owner: u32) -> io::Result<Place> {
        if let Some((path, fd)) = &self.last
            && path == folder
        {
            return Ok(Place { folder: fd.try_clone()?, name: name.to_vec() });
        }
        let fd = self.folder(folder, owner)?;
        self.last = Some((folder.to_vec(), fd.try_clone()?));
        Ok(Place { folder: fd, name: name.to_vec() })
    }

    /// Forgets the folder last written to, because something was replaced.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// `folder`, whose missing parts are made.
    pub(super) fn folder(&self, folder: &[u8], owner: u32) -> io::Result<OwnedFd> {
        match self.existing_folder(folder) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
            other => return other,
        }
        let mut current = self.root.try_clone()?;
        for (index, byte) in folder.iter().chain(b"/").enumerate() {
            if *byte != b'/' {
                continue;
            }
            let path = &folder[..index];
            current = match self.existing_folder(path) {
                Ok(fd) => fd,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
                    let place = Place { folder: current, name: name.to_vec() };
                    // A link that leads nowhere, a file: the archive contradicts itself.
                    if place.stat()?.is_some_and(|stat| !is_whiteout(&stat)) {
                        return Err(Errno::NOTDIR.into());
                    }
                    let made = place.folder()?;
                    own(&made, owner, owner)?;
                    set_mode(&made, 0o755)?;
                    made
                }
                Err(error) => return Err(error),
            };
        }
        Ok(current)
    }

    /// `folder`, if it is there.
    pub(super) fn existing_folder(&self, folder: &[u8]) -> io::Result<OwnedFd> {
        let path = if folder.is_empty() { b"." } else { folder };
        Ok(fs::openat2(&self.root, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty(), BENEATH)?)
    }

    /// `name` in `folder`, if that is there.
    pub(super) fn existing(&self, folder: &[u8], name: &[u8]) -> io::Result<Place> {
        Ok(Place { folder: self.existing_folder(folder)?, name: name.to_vec() })
    }
}

impl Place {
    fn stat(&self) -> io::Result<Option<Stat>> {
        match fs::statat(&self.folder, &self.name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what is there; says whether there was something.
    pub(super) fn clear(&self) -> io::Result<bool> {
        match fs::unlinkat(&self.folder, &self.name[..], AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::ISDIR) => {
                fs::unlinkat(&self.folder, &self.name[..], AtFlags::REMOVEDIR)?;
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The folder of this name, made if it is not there. One in place of a whiteout hides what the
    /// whiteout hid.
    pub(super) fn folder(&self) -> io::Result<OwnedFd> {
        let existing = self.stat()?;
        let is_folder = existing.as_ref().is_some_and(|stat| file_type(stat) == FileType::Directory);
        if !is_folder {
            self.clear()?;
            fs::mkdirat(&self.folder, &self.name[..], Mode::RWXU)?;
        }
        let folder =
            fs::openat2(&self.folder, &self.name[..], FOLDER, Mode::empty(), BENEATH | ResolveFlags::NO_SYMLINKS)?;
        if existing.as_ref().is_some_and(is_whiteout) {
            set_opaque(&folder)?;
        }
        Ok(folder)
    }

    /// A new empty file.
    pub(super) fn create(&self) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(fs::openat(&self.folder, &self.name[..], flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    pub(super) fn symlink(&self, target: &[u8]) -> io::Result<()> {
        Ok(fs::symlinkat(target, &self.folder, &self.name[..])?)
    }

    pub(super) fn fifo(&self, mode: u32) -> io::Result<()> {
        fs::mknodat(&self.folder, &self.name[..], FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        Ok(fs::chmodat(&self.folder, &self.name[..], Mode::from_raw_mode(mode), AtFlags::empty())?)
    }

    /// Hides `name` of lower layers. What this layer itself has under the name stays, and hides it.
    pub(super) fn whiteout(&self) -> io::Result<()> {
        match self.stat()? {
            None => Ok(fs::mknodat(
                &self.folder,
                &self.name[..],
                FileType::CharacterDevice,
                Mode::empty(),
                fs::makedev(0, 0),
            )?),
            Some(stat) if file_type(&stat) == FileType::Directory => set_opaque(self.folder()?),
            Some(_) => Ok(()),
        }
    }

    pub(super) fn own(&self, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = owner(uid, gid)?;
        Ok(fs::chownat(&self.folder, &self.name[..], uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    pub(super) fn date(&self, mtime: i64) -> io::Result<()> {
        Ok(fs::utimensat(&self.folder, &self.name[..], &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Whether it is there and a hard link to it makes sense.
    pub(super) fn can_be_linked(&self) -> io::Result<bool> {
        Ok(self
            .stat()?
            .is_some_and(|stat| matches!(file_type(&stat), FileType::RegularFile | FileType::Symlink | FileType::Fifo)))
    }

    pub(super) fn link_to(&self, other: &Self) -> io::Result<()> {
        Ok(fs::linkat(&self.folder, &self.name[..], &other.folder, &other.name[..], AtFlags::empty())?)
    }
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// overlayfs's form of a deleted name: a character device 0:0.
fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == fs::makedev(0, 0)
}

fn owner(uid: u32, gid: u32) -> io::Result<(Option<Uid>, Option<Gid>)> {
    // The highest number means "leave as it is" to the kernel.
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::OVERFLOW.into());
    }
    Ok((Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
}

fn timestamps(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

pub(super) fn own(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = owner(uid, gid)?;
    Ok(fs::fchown(file, uid, gid)?)
}

pub(super) fn set_mode(file: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

pub(super) fn date(file: impl AsFd, mtime: i64) -> io::Result<()> {
    Ok(fs::futimens(file, &timestamps(mtime))?)
}

pub(super) fn set_opaque(folder: impl AsFd) -> io::Result<()> {
    Ok(fs::fsetxattr(folder, OPAQUE_XATTR, b"y", XattrFlags::empty())?)
}
