//! Writes an archive's entries below one folder, in the form that overlayfs takes as a layer.
//!
//! Every name is resolved by the kernel with `openat2`, beneath the folder, over no magic link and
//! no mount. That is stricter than resolving with the folder as root: an entry that passes through
//! a symbolic link which leads outside is refused, not bent back inside, since no tool that reads a
//! real folder writes such an archive. Symbolic links themselves are data and may point anywhere.
//!
//! Dropped, whoever made the archive: the setuid and setgid bits of files, because nothing that we
//! run could use them (`no_new_privs`) and a copy on the host should be no danger to it; and all
//! extended attributes but `user.*`, and of those `user.overlay.*`, so that an archive can neither give
//! capabilities nor speak to overlayfs (which reads `user.overlay.*` where it is mounted with `userxattr`).
//!
//! A failed unpacking leaves a part behind: the caller unpacks into a temporary folder and renames
//! it when all went well.

mod tree;

use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{OFlags, XattrFlags};

use crate::archive::{self, ArchiveError, Entry, EntryPath, Kind, Limits, shown};
use tree::{Place, Tree};

/// What an archive may hold, and whose its files become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// A layer: folders, files, links, pipes, whiteouts; owners are kept. Device nodes are refused,
    /// except below `dev`, where they are left out: a sandbox has a /dev of its own.
    Layer,
    /// A bundle, its configuration beside its root folder: as a layer, but names that begin with
    /// `.wh.` are refused, and the /dev of device nodes is `rootfs/dev`.
    Bundle,
    /// What a user sends: folders, files and symbolic links; everything belongs to this id, modes
    /// become 0755 or 0644; version control folders (`.git`) are left out.
    Upload {
        /// Owner and group of everything.
        owner: u32,
    },
}

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive itself is at fault.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The file system refused.
    #[error("cannot {action} {entry:?}")]
    Write {
        /// What was tried.
        action: &'static str,
        /// With which entry.
        entry: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The prefix of names that delete (OCI image specification, layer, "Whiteouts").
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The name that hides everything below it in lower layers.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// What overlayfs reads on a folder that hides the lower ones.
pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Unpacks the uncompressed `stream` into the existing folder `root` and reads it to its end.
///
/// # Errors
/// The first entry that is refused or cannot be written.
pub fn unpack(stream: impl Read, root: &Path, policy: Policy, limits: Limits) -> Result<(), UnpackError> {
    let mut stream = stream;
    let tree = Tree::open(root).map_err(|source| UnpackError::Write {
        action: "open",
        entry: root.display().to_string(),
        source,
    })?;
    let mut unpacker = Unpacker { tree, policy, folder_times: Vec::new() };
    archive::for_each_entry(&mut stream, limits, |entry, content| unpacker.add(entry, content))?;
    // A digest over the stream covers what follows the end of the archive, too.
    io::copy(&mut stream, &mut io::sink()).map_err(ArchiveError::from)?;
    unpacker.finish()
}

struct Unpacker {
    tree: Tree,
    policy: Policy,
    /// Applied last: writing into a folder changes its time.
    folder_times: Vec<(EntryPath, i64)>,
}

struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Unpacker {
    fn add(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), UnpackError> {
        let refuse = |reason| Err(UnpackError::from(ArchiveError::refused(entry.path.as_bytes(), reason)));
        if matches!(self.policy, Policy::Upload { .. }) && is_version_control(&entry.path) {
            return Ok(());
        }
        let (folder, name) = entry.path.split();
        if name.starts_with(WHITEOUT) {
            return match self.policy {
                Policy::Layer => self.whiteout(entry, folder, name),
                Policy::Bundle | Policy::Upload { .. } => refuse("names that begin with .wh. have a meaning in images"),
            };
        }
        let attributes = self.attributes(entry);
        if entry.path.is_root() {
            return match entry.kind {
                Kind::Folder => self.folder(entry, None, &attributes),
                _ => refuse("the root must be a folder"),
            };
        }
        if matches!(self.policy, Policy::Upload { .. })
            && matches!(entry.kind, Kind::Hardlink(_) | Kind::Fifo | Kind::Device)
        {
            return refuse("only files, folders and symbolic links can be uploaded");
        }
        if entry.kind == Kind::Device {
            let mut parts = entry.path.components();
            let top = if self.policy == Policy::Bundle { parts.nth(1) } else { parts.next() };
            return match top {
                Some(b"dev") => Ok(()),
                _ => refuse("device nodes are not allowed in images"),
            };
        }
        let place = self.place(entry, folder, name)?;
        match &entry.kind {
            Kind::Folder => self.folder(entry, Some(&place), &attributes),
            Kind::File(size) => self.file(entry, &place, *size, content, &attributes),
            Kind::Symlink(target) => {
                self.clear(entry, &place)?;
                written("link", entry, place.symlink(target))?;
                written("give away", entry, place.own(attributes.uid, attributes.gid))?;
                written("date", entry, place.date(entry.mtime))
            }
            Kind::Hardlink(target) => self.hardlink(entry, &place, target),
            Kind::Fifo => {
                self.clear(entry, &place)?;
                written("make", entry, place.fifo(attributes.mode))?;
                written("give away", entry, place.own(attributes.uid, attributes.gid))?;
                written("date", entry, place.date(entry.mtime))
            }
            Kind::Device => Ok(()),
        }
    }

    fn attributes(&self, entry: &Entry) -> Attributes {
        match self.policy {
            Policy::Upload { owner } => {
                let is_executable = entry.kind == Kind::Folder || entry.mode & 0o111 != 0;
                Attributes { uid: owner, gid: owner, mode: if is_executable { 0o755 } else { 0o644 } }
            }
            // The sticky bit, and setgid of folders (which only hands down a group), are harmless.
            Policy::Layer | Policy::Bundle => {
                let kept = if entry.kind == Kind::Folder { 0o3777 } else { 0o1777 };
                Attributes { uid: entry.uid, gid: entry.gid, mode: entry.mode & kept }
            }
        }
    }

    fn place(&mut self, entry: &Entry, folder: &[u8], name: &[u8]) -> Result<Place, UnpackError> {
        let owner = match self.policy {
            Policy::Upload { owner } => owner,
            Policy::Layer | Policy::Bundle => 0,
        };
        self.tree.place(folder, name, owner).map_err(|error| through(entry, error))
    }

    /// Makes room: what was there under the same name goes, unless it is a folder with content.
    fn clear(&mut self, entry: &Entry, place: &Place) -> Result<(), UnpackError> {
        match place.clear() {
            Err(error) if error.raw_os_error() == Some(libc::ENOTEMPTY) => {
                Err(ArchiveError::refused(entry.path.as_bytes(), "an earlier entry made it a folder with content")
                    .into())
            }
            Ok(true) => {
                self.tree.forget();
                Ok(())
            }
            other => written("replace", entry, other.map(drop)),
        }
    }

    fn folder(&mut self, entry: &Entry, place: Option<&Place>, attributes: &Attributes) -> Result<(), UnpackError> {
        // It may have taken the place of a link that the remembered folder was reached by.
        self.tree.forget();
        let folder = match place {
            None => self.tree.root(),
            Some(place) => place.folder(),
        };
        let folder = written("make", entry, folder)?;
        written("give away", entry, tree::own(&folder, attributes.uid, attributes.gid))?;
        written("set the mode of", entry, tree::set_mode(&folder, attributes.mode))?;
        set_xattrs(entry, &folder)?;
        self.folder_times.push((entry.path.clone(), entry.mtime));
        Ok(())
    }

    fn file(
        &mut self,
        entry: &Entry,
        place: &Place,
        size: u64,
        content: &mut dyn Read,
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        self.clear(entry, place)?;
        let mut file = written("create", entry, place.create())?;
        let copied = copy(content, &mut file, entry)?;
        if copied != size {
            return Err(ArchiveError::Read(io::ErrorKind::UnexpectedEof.into()).into());
        }
        written("give away", entry, tree::own(&file, attributes.uid, attributes.gid))?;
        written("set the mode of", entry, tree::set_mode(&file, attributes.mode))?;
        set_xattrs(entry, &file)?;
        written("date", entry, tree::date(&file, entry.mtime))
    }

    fn hardlink(&mut self, entry: &Entry, place: &Place, target: &EntryPath) -> Result<(), UnpackError> {
        let (folder, name) = target.split();
        let source = match self.tree.existing(folder, name) {
            Ok(source) => source,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                return Err(
                    ArchiveError::refused(entry.path.as_bytes(), "its hard link names nothing before it").into()
                );
            }
            Err(error) => return Err(through(entry, error)),
        };
        if !written("look at", entry, source.can_be_linked())? {
            return Err(ArchiveError::refused(
                entry.path.as_bytes(),
                "its hard link names nothing before it that can be linked",
            )
            .into());
        }
        if target != &entry.path {
            self.clear(entry, place)?;
            written("link", entry, source.link_to(place))?;
        }
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, folder: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        let refuse = |reason| Err(UnpackError::from(ArchiveError::refused(entry.path.as_bytes(), reason)));
        let hidden = &name[WHITEOUT.len()..];
        if name == OPAQUE {
            let folder = self.tree.folder(folder, 0).map_err(|error| through(entry, error))?;
            return written("hide", entry, tree::set_opaque(&folder));
        }
        if hidden.starts_with(WHITEOUT) {
            // aufs's own bookkeeping (`.wh..wh.plnk` and the like), as every reader of layers does.
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return refuse("it deletes nothing that could be there");
        }
        let place = self.place(entry, folder, hidden)?;
        written("hide", entry, place.whiteout())
    }

    fn finish(mut self) -> Result<(), UnpackError> {
        for (path, mtime) in std::mem::take(&mut self.folder_times).iter().rev() {
            // One that a later entry replaced by something else keeps that entry's time.
            if let Ok(folder) = self.tree.existing_folder(path.as_bytes()) {
                tree::date(&folder, *mtime).map_err(|source| UnpackError::Write {
                    action: "date",
                    entry: shown(path.as_bytes()),
                    source,
                })?;
            }
        }
        Ok(())
    }
}

fn is_version_control(path: &EntryPath) -> bool {
    path.components().any(|component| component == b".git")
}

fn written<T>(action: &'static str, entry: &Entry, result: io::Result<T>) -> Result<T, UnpackError> {
    result.map_err(|source| UnpackError::Write { action, entry: shown(entry.path.as_bytes()), source })
}

/// What the kernel says of a way that it will not go, in words.
fn through(entry: &Entry, error: io::Error) -> UnpackError {
    let reason = match error.raw_os_error() {
        Some(libc::EXDEV) => "the way to it leads outside through a symbolic link",
        Some(libc::ENOTDIR) => "the way to it leads through something that is no folder",
        Some(libc::ELOOP) => "the way to it leads through a loop of symbolic links",
        _ => return UnpackError::Write { action: "reach", entry: shown(entry.path.as_bytes()), source: error },
    };
    ArchiveError::refused(entry.path.as_bytes(), reason).into()
}

/// As `io::copy`, but a broken archive and a full disk are told apart.
fn copy(content: &mut dyn Read, file: &mut std::fs::File, entry: &Entry) -> Result<u64, UnpackError> {
    use std::io::Write;
    let mut buffer = [0_u8; 64 << 10];
    let mut copied = 0;
    loop {
        let read = match content.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ArchiveError::from(error).into()),
        };
        written("write", entry, file.write_all(&buffer[..read]))?;
        copied += read as u64;
    }
}

fn set_xattrs(entry: &Entry, file: impl std::os::fd::AsFd + Copy) -> Result<(), UnpackError> {
    let is_kept = |name: &[u8]| name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    for xattr in entry.xattrs.iter().filter(|xattr| is_kept(&xattr.name)) {
        match rustix::fs::fsetxattr(file, &xattr.name[..], &xattr.value, XattrFlags::empty()) {
            Ok(()) => {}
            // Not every file system has them; nothing of ours depends on them.
            Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
            Err(error) => return written("set attributes of", entry, Err(error.into())),
        }
    }
    Ok(())
}

/// How folders are opened, below and never through a link.
pub(crate) const FOLDER: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::RDONLY).union(OFlags::CLOEXEC);

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod random;
