//! Paths inside an app's root. The image is not ours: a path in it may be a link to anywhere, so
//! each is resolved once, by the kernel, as if the root were `/`; what is then done is done to the
//! descriptor.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use drowse_rootfs::IdRange;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, openat2};
use rustix::io::Errno;

use crate::failure::{Failure, OrFail, Step};
use crate::rules::Rule;

/// The root of a sandbox, open.
pub(super) struct Root {
    folder: OwnedFd,
    ids: IdRange,
}

/// Whether something is a folder, or may be mounted over by a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Folder,
    File,
}

impl Root {
    /// What is made in it belongs to the root user of `ids`.
    pub(super) fn new(folder: OwnedFd, ids: IdRange) -> Self {
        Self { folder, ids }
    }

    pub(super) fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// What is at `path`, links followed inside the root; nothing if there is nothing.
    pub(super) fn find(&self, path: &Path) -> Result<Option<(OwnedFd, Shape)>, Failure> {
        match self.open(path, OFlags::empty(), ResolveFlags::IN_ROOT) {
            Ok(found) => {
                let shape = shape_of(&found).or_fail(Step::Resolve, path)?;
                Ok(Some((found, shape)))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(Failure::os(Step::Resolve, path, error)),
        }
    }

    /// A folder directly below the root for one of our own file systems, which is made if it is
    /// missing. A link there is refused: proc and the like are never mounted by way of one.
    pub(super) fn own_folder(&self, name: &str) -> Result<OwnedFd, Failure> {
        if !Rule::OwnFoldersNotLinks.in_force() {
            return self.folder_at(&Path::new("/").join(name));
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let shown = Path::new("/").join(name);
        match self.open(Path::new(name), flags, resolve) {
            Err(Errno::NOENT) => {
                self.make_folder(&self.folder, OsStr::new(name)).or_fail(Step::MountTarget, &shown)?;
                self.open(Path::new(name), flags, resolve).or_fail(Step::Resolve, &shown)
            }
            Err(Errno::LOOP | Errno::NOTDIR) => {
                Err(Failure::refused(Step::Resolve, &shown, "the image has a link or a file there, not a folder"))
            }
            other => other.or_fail(Step::Resolve, &shown),
        }
    }

    /// The folder at `path`, made with all that leads to it if it is missing.
    pub(super) fn folder_at(&self, path: &Path) -> Result<OwnedFd, Failure> {
        match self.open(path, OFlags::DIRECTORY, ResolveFlags::IN_ROOT) {
            Err(Errno::NOENT) => {}
            other => return other.or_fail(Step::Resolve, path),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Failure::os(Step::Resolve, path, Errno::NOENT));
        };
        let parent = self.folder_at(parent)?;
        self.make_folder(&parent, name).or_fail(Step::MountTarget, path)?;
        // Not by way of a link: what was there led nowhere, so a link is in the way.
        openat2(
            parent,
            name,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
        .or_fail(Step::Resolve, path)
    }

    /// A plain file at `path` to mount another one onto. A link or anything else that is no file is
    /// replaced by an empty one: the app's own files must not be hidden by way of a link.
    pub(super) fn file_at(&self, path: &Path) -> Result<OwnedFd, Failure> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Failure::refused(Step::MountTarget, path, "it is not the path of a file"));
        };
        let parent = self.folder_at(parent)?;
        let open = |flags: OFlags| {
            // A mode is only for what is made.
            let mode = if flags.contains(OFlags::CREATE) { 0o644 } else { 0 };
            openat2(
                &parent,
                name,
                flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::from_raw_mode(mode),
                ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            )
        };
        match open(OFlags::PATH) {
            Ok(found) => {
                let kind = file_type(&found).or_fail(Step::Resolve, path)?;
                if kind == FileType::RegularFile {
                    return Ok(found);
                }
                if kind == FileType::Directory {
                    return Err(Failure::refused(Step::MountTarget, path, "the image has a folder there"));
                }
                rustix::fs::unlinkat(&parent, name, AtFlags::empty()).or_fail(Step::MountTarget, path)?;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(Failure::os(Step::Resolve, path, error)),
        }
        let made = open(OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY).or_fail(Step::MountTarget, path)?;
        let (uid, gid) = self.owner();
        rustix::fs::fchown(&made, uid, gid).or_fail(Step::MountTarget, path)?;
        open(OFlags::PATH).or_fail(Step::Resolve, path)
    }

    fn open(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        let (path, resolve) = if Rule::TargetsInRoot.in_force() {
            (path, resolve)
        } else {
            let below = path.strip_prefix("/").unwrap_or(path);
            (if below.as_os_str().is_empty() { Path::new(".") } else { below }, ResolveFlags::empty())
        };
        openat2(
            &self.folder,
            path,
            flags | OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            resolve | ResolveFlags::NO_MAGICLINKS,
        )
    }

    fn make_folder(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => return Ok(()),
            other => other?,
        }
        let (uid, gid) = self.owner();
        Ok(rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.ids.first)), Some(Gid::from_raw(self.ids.first)))
    }
}

fn file_type(file: impl AsFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode))
}

/// Of what is open.
pub(super) fn shape_of(file: impl AsFd) -> io::Result<Shape> {
    Ok(if file_type(file)? == FileType::Directory { Shape::Folder } else { Shape::File })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root(folder: &Path) -> Root {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        assert_eq!(uid, gid, "the tests run as a user with a group of the same number");
        let ids = IdRange { first: uid, count: 1 };
        Root::new(std::fs::File::open(folder).unwrap().into(), ids)
    }

    #[test]
    fn links_of_the_image_do_not_lead_outside() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("hosts"), "the host's").unwrap();
        symlink(outside.path(), inside.path().join("etc")).unwrap();
        symlink("/", inside.path().join("dev")).unwrap();
        symlink("../../../..", inside.path().join("up")).unwrap();
        let root = root(inside.path());
        assert!(root.find(Path::new("/etc/hosts")).unwrap().is_none());
        let (up, shape) = root.find(Path::new("/up")).unwrap().unwrap();
        assert_eq!(shape, Shape::Folder);
        let same = rustix::fs::fstat(&up).unwrap().st_ino == rustix::fs::fstat(root.folder()).unwrap().st_ino;
        assert!(same, "the way up ends at the root");
        assert!(matches!(root.own_folder("dev"), Err(Failure { step: Step::Resolve, .. })));
        let failure = root.file_at(Path::new("/etc/hosts")).unwrap_err();
        assert_eq!(failure.step, Step::Resolve, "{failure}");
        assert_eq!(std::fs::read_to_string(outside.path().join("hosts")).unwrap(), "the host's");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1, "nothing was made outside");
    }

    #[test]
    fn a_link_in_the_place_of_an_injected_file_is_replaced() {
        let outside = tempfile::NamedTempFile::new().unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir(inside.path().join("etc")).unwrap();
        symlink(outside.path(), inside.path().join("etc/hosts")).unwrap();
        root(inside.path()).file_at(Path::new("/etc/hosts")).unwrap();
        let made = std::fs::symlink_metadata(inside.path().join("etc/hosts")).unwrap();
        assert!(made.is_file());
    }

    #[test]
    fn missing_folders_are_made_and_links_inside_are_followed() {
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir(inside.path().join("run")).unwrap();
        symlink("/run", inside.path().join("var-run")).unwrap();
        let root = root(inside.path());
        root.folder_at(Path::new("/var-run/a/b")).unwrap();
        assert!(inside.path().join("run/a/b").is_dir());
        root.file_at(Path::new("/new/file")).unwrap();
        assert!(inside.path().join("new/file").is_file());
    }
}
