//! Writes a folder as a layer: the reverse of unpacking.
//!
//! The same folder always gives the same bytes: entries are sorted by name, times are whole
//! seconds and kept, and nothing else of the host goes in (no user names, no device numbers).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use tar::{EntryType, Header};

use crate::overlay::IdRange;
use crate::unpack::{FOLDER, OPAQUE, OPAQUE_XATTR, WHITEOUT};

/// Deeper folders are refused: each level holds a descriptor and a stack frame.
const DEEPEST: usize = 256;
/// The longest name in a header's own field, with a NUL after it.
const SHORT_NAME: usize = 99;

/// Why a folder could not become a layer.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The kernel refused.
    #[error("cannot {action} {path}")]
    Read {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Something that an image cannot hold.
    #[error("{path} cannot be kept in an image: {reason}")]
    Unfit {
        /// What.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// A file of somebody else.
    #[error("{path} belongs to the host's {uid}:{gid}, which is outside of the ids {first} to {last} of this image")]
    ForeignOwner {
        /// Which file.
        path: PathBuf,
        /// Its owner on the host.
        uid: u32,
        /// Its group on the host.
        gid: u32,
        /// The first id of the range.
        first: u32,
        /// The last id of the range.
        last: u64,
    },
    /// The layer could not be written.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
}

/// What becomes of a folder's names and owners.
pub(crate) struct Rules<'a> {
    /// Where the folder is put in the image, without slashes at its ends; empty for the root.
    pub prefix: &'a str,
    /// Which host ids are which of the image's.
    pub ids: IdRange,
    /// Whether a path (relative to the folder) is kept; a folder that is not takes all below with it.
    pub keep: &'a dyn Fn(&Path) -> bool,
}

/// Writes `root` as an uncompressed layer and hands `out` back.
pub(crate) fn write_layer<W: Write>(root: &Path, rules: &Rules<'_>, out: W) -> Result<W, CaptureError> {
    let at = |source| CaptureError::Read { action: "open", path: root.to_owned(), source };
    let folder = fs::openat(CWD, root, FOLDER, Mode::empty()).map_err(|error| at(error.into()))?;
    let tar = tar::Builder::new(out);
    let mut capture = Capture { tar, rules, links: HashMap::new() };
    let stat = fs::fstat(&folder).map_err(|error| at(error.into()))?;
    // The image's own root is made by whoever unpacks it; a prefix is a folder of ours.
    if !rules.prefix.is_empty() {
        let header = capture.header(&stat, Path::new(""))?;
        capture
            .append(EntryType::Directory, header, Path::new(rules.prefix), b"", io::empty())
            .map_err(CaptureError::Write)?;
    }
    capture.folder(&folder, Path::new(""), 0)?;
    capture.tar.into_inner().map_err(CaptureError::Write)
}

struct Capture<'a, W: Write> {
    tar: tar::Builder<W>,
    rules: &'a Rules<'a>,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Capture<'_, W> {
    fn folder(&mut self, folder: &OwnedFd, path: &Path, depth: usize) -> Result<(), CaptureError> {
        let read = |source: Errno| CaptureError::Read { action: "read", path: path.to_owned(), source: source.into() };
        if depth > DEEPEST {
            return Err(CaptureError::Unfit { path: path.to_owned(), reason: "its folders are nested too deeply" });
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        for name in names {
            let path = path.join(OsStr::from_bytes(&name));
            if (self.rules.keep)(&path) {
                self.entry(folder, &name, &path, depth)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, folder: &OwnedFd, name: &[u8], path: &Path, depth: usize) -> Result<(), CaptureError> {
        let read = |source: Errno| CaptureError::Read { action: "read", path: path.to_owned(), source: source.into() };
        let unfit = |reason| Err(CaptureError::Unfit { path: path.to_owned(), reason });
        if name.starts_with(WHITEOUT) {
            return unfit("names that begin with .wh. have a meaning in images");
        }
        let stat = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(read)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == fs::makedev(0, 0) {
            return self.marker(&path.with_file_name(OsStr::from_bytes(&[WHITEOUT, name].concat())));
        }
        let target = self.inside(path);
        let header = self.header(&stat, path)?;
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)).cloned() {
                let link = first.as_os_str().as_bytes();
                return self.append(EntryType::Link, header, &target, link, io::empty()).map_err(CaptureError::Write);
            }
            self.links.insert((stat.st_dev, stat.st_ino), target.clone());
        }
        match kind {
            FileType::Directory => {
                let inner = fs::openat(folder, name, FOLDER, Mode::empty()).map_err(read)?;
                self.append(EntryType::Directory, header, &target, b"", io::empty()).map_err(CaptureError::Write)?;
                if is_opaque(&inner, path)? {
                    self.marker(&path.join(OsStr::from_bytes(OPAQUE)))?;
                }
                self.folder(&inner, path, depth + 1)
            }
            FileType::RegularFile => self.file(folder, name, header, path, &target),
            FileType::Symlink => {
                let to = fs::readlinkat(folder, name, Vec::new()).map_err(read)?;
                self.append(EntryType::Symlink, header, &target, to.to_bytes(), io::empty())
                    .map_err(CaptureError::Write)
            }
            // Left by a program that ended; nothing could connect to them any more.
            FileType::Socket | FileType::Fifo => Ok(()),
            _ => unfit("device nodes are not allowed in images"),
        }
    }

    fn file(
        &mut self,
        folder: &OwnedFd,
        name: &[u8],
        mut header: Header,
        path: &Path,
        target: &Path,
    ) -> Result<(), CaptureError> {
        let read = |source: io::Error| CaptureError::Read { action: "read", path: path.to_owned(), source };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat2(folder, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
            .map_err(|error| read(error.into()))?;
        if has_attribute(&file, "trusted.overlay.metacopy").map_err(|error| read(error.into()))? {
            return Err(CaptureError::Unfit {
                path: path.to_owned(),
                reason: "its content is still in a lower layer (mount without metacopy)",
            });
        }
        let size = fs::fstat(&file).map_err(|error| read(error.into()))?.st_size.cast_unsigned();
        header.set_size(size);
        let content = Exactly { file: File::from(file), left: size };
        self.append(EntryType::Regular, header, target, b"", content).map_err(|error| {
            match error.downcast::<Changed>() {
                Ok(Changed) => CaptureError::Unfit { path: path.to_owned(), reason: "it changed while it was read" },
                Err(error) => CaptureError::Write(error),
            }
        })
    }

    /// Writes an entry with its names as they are: the tar crate would tidy them up, and a link's
    /// target is data.
    fn append(
        &mut self,
        kind: EntryType,
        mut header: Header,
        target: &Path,
        link: &[u8],
        content: impl Read,
    ) -> io::Result<()> {
        let name = target.as_os_str().as_bytes();
        self.long(EntryType::GNULongName, name)?;
        self.long(EntryType::GNULongLink, link)?;
        header.set_entry_type(kind);
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, name), (&mut old.linkname, link)] {
            let length = text.len().min(SHORT_NAME);
            field[..length].copy_from_slice(&text[..length]);
        }
        header.set_cksum();
        self.tar.append(&header, content)
    }

    /// A name that does not fit into its field goes ahead as an entry of its own (GNU's format).
    fn long(&mut self, kind: EntryType, name: &[u8]) -> io::Result<()> {
        if name.len() <= SHORT_NAME {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        let title = b"././@LongLink";
        header.as_old_mut().name[..title.len()].copy_from_slice(title);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(name.len() as u64 + 1);
        header.set_cksum();
        self.tar.append(&header, name.chain(&b"\0"[..]))
    }

    /// An empty file whose name is the message.
    fn marker(&mut self, path: &Path) -> Result<(), CaptureError> {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        let target = self.inside(path);
        self.append(EntryType::Regular, header, &target, b"", io::empty()).map_err(CaptureError::Write)
    }

    fn inside(&self, path: &Path) -> PathBuf {
        Path::new(self.rules.prefix).join(path)
    }

    fn header(&self, stat: &Stat, path: &Path) -> Result<Header, CaptureError> {
        let ids = self.rules.ids;
        let (Some(uid), Some(gid)) = (ids.to_image(stat.st_uid), ids.to_image(stat.st_gid)) else {
            return Err(CaptureError::ForeignOwner {
                path: path.to_owned(),
                uid: stat.st_uid,
                gid: stat.st_gid,
                first: ids.first,
                last: (u64::from(ids.first) + u64::from(ids.count)).saturating_sub(1),
            });
        };
        let mut header = Header::new_gnu();
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mode(stat.st_mode & 0o7777);
        header.set_mtime(stat.st_mtime.try_into().unwrap_or(0));
        header.set_size(0);
        Ok(header)
    }
}

/// Reads so many bytes, neither more nor fewer.
struct Exactly {
    file: File,
    left: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("a file changed while it was read")]
struct Changed;

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::Error::other(Changed));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

fn is_opaque(folder: &OwnedFd, path: &Path) -> Result<bool, CaptureError> {
    let read = |source: Errno| CaptureError::Read { action: "read", path: path.to_owned(), source: source.into() };
    if has_attribute(folder, "trusted.overlay.redirect").map_err(read)? {
        return Err(CaptureError::Unfit {
            path: path.to_owned(),
            reason: "it stands for a folder of another name (mount without redirect_dir)",
        });
    }
    let mut value = [0_u8; 16];
    match fs::fgetxattr(folder, OPAQUE_XATTR, &mut value) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(read(error)),
    }
}

fn has_attribute(file: impl AsFd, name: &str) -> Result<bool, Errno> {
    match fs::fgetxattr(file, name, &mut [0_u8; 0]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}
