//! A file or folder into a tar stream.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use tar::{Builder, EntryType, Header};

use crate::{CopyError, DEEPEST, TOP, is_kernels_own};

/// Opening never waits for a peer, never becomes a terminal's, and follows no last link.
const SAFELY: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Writes what is at `source` to `out`. Links below it are sent as links; sockets, pipes, devices and
/// the kernel's own file systems are left out, each with a note.
///
/// # Errors
/// If it is not there, cannot be read, or the stream breaks.
pub fn pack(source: &Path, out: impl Write, note: &mut dyn FnMut(String)) -> Result<(), CopyError> {
    let open = rustix::fs::open(source, SAFELY.difference(OFlags::NOFOLLOW), Mode::empty());
    let opened = open.map_err(|error| CopyError::io("open", source, error))?;
    let found = rustix::fs::fstat(&opened).map_err(|error| CopyError::io("look at", source, error))?;
    if is_kernel(&opened, source)? {
        return Err(CopyError::Refused { path: source.to_owned(), why: "it is in a file system of the kernel's own" });
    }
    let mut packer = Packer { out: Builder::new(out), note };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => packer.folder(&opened, &found, source, Path::new(TOP), 0)?,
        FileType::RegularFile => packer.file(opened, &found, source, Path::new(TOP))?,
        _ => return Err(CopyError::Refused { path: source.to_owned(), why: "it is neither a file nor a folder" }),
    }
    let mut out = packer.out.into_inner().map_err(CopyError::Stream)?;
    out.flush().map_err(CopyError::Stream)
}

struct Packer<'a, W: Write> {
    out: Builder<W>,
    note: &'a mut dyn FnMut(String),
}

impl<W: Write> Packer<'_, W> {
    fn folder(
        &mut self,
        folder: &OwnedFd,
        found: &Stat,
        shown: &Path,
        name: &Path,
        depth: usize,
    ) -> Result<(), CopyError> {
        if depth > DEEPEST {
            return Err(CopyError::Refused { path: shown.to_owned(), why: "folders are nested too deeply" });
        }
        let mut header = header(found, EntryType::Directory, 0);
        self.out.append_data(&mut header, name, io::empty()).map_err(CopyError::Stream)?;
        let fail = |error| CopyError::io("list", shown, error);
        for entry in Dir::read_from(folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                self.entry(folder, entry.file_name(), shown, name, depth)?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        folder: &OwnedFd,
        entry: &CStr,
        shown: &Path,
        name: &Path,
        depth: usize,
    ) -> Result<(), CopyError> {
        let part = OsStr::from_bytes(entry.to_bytes());
        let (shown, name) = (shown.join(part), name.join(part));
        let seen = match rustix::fs::statat(folder, entry, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(seen) => seen,
            // It went while the folder was read.
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(CopyError::io("look at", &shown, error)),
        };
        match FileType::from_raw_mode(seen.st_mode) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, entry, Vec::new());
                let target = target.map_err(|error| CopyError::io("read the link", &shown, error))?;
                let target = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
                let mut header = header(&seen, EntryType::Symlink, 0);
                self.out.append_link(&mut header, name, target).map_err(CopyError::Stream)
            }
            kind @ (FileType::Directory | FileType::RegularFile) => {
                let opened = rustix::fs::openat(folder, entry, SAFELY, Mode::empty());
                let opened = opened.map_err(|error| CopyError::io("open", &shown, error))?;
                let found = rustix::fs::fstat(&opened).map_err(|error| CopyError::io("look at", &shown, error))?;
                if FileType::from_raw_mode(found.st_mode) != kind {
                    (self.note)(format!("{} was left out: it changed meanwhile", shown.display()));
                    return Ok(());
                }
                if is_kernel(&opened, &shown)? {
                    (self.note)(format!("{} was left out: it is the kernel's own", shown.display()));
                    return Ok(());
                }
                match kind {
                    FileType::Directory => self.folder(&opened, &found, &shown, &name, depth + 1),
                    _ => self.file(opened, &found, &shown, &name),
                }
            }
            _ => {
                (self.note)(format!("{} was left out: it is a socket, a pipe or a device", shown.display()));
                Ok(())
            }
        }
    }

    /// Exactly as many bytes as the header says, whatever happens to the file meanwhile.
    fn file(&mut self, file: OwnedFd, found: &Stat, shown: &Path, name: &Path) -> Result<(), CopyError> {
        let size = u64::try_from(found.st_size).unwrap_or_default();
        let mut header = header(found, EntryType::Regular, size);
        let mut contents = Steady { file: File::from(file), left: size, is_short: false, failed: None };
        self.out.append_data(&mut header, name, &mut contents).map_err(CopyError::Stream)?;
        if let Some(error) = contents.failed {
            return Err(CopyError::io("read", shown, error));
        }
        if contents.is_short {
            (self.note)(format!("{} became shorter while it was read: filled with zeroes", shown.display()));
        }
        Ok(())
    }
}

fn is_kernel(file: impl AsFd, shown: &Path) -> Result<bool, CopyError> {
    let found = rustix::fs::fstatfs(file).map_err(|error| CopyError::io("look at", shown, error))?;
    Ok(is_kernels_own(&found))
}

fn header(found: &Stat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    // Neither owners nor what an exec would give: they mean something else at the other end.
    header.set_mode(found.st_mode & 0o777);
    header.set_mtime(u64::try_from(found.st_mtime).unwrap_or_default());
    header
}

/// A file that has its size, whatever becomes of it.
struct Steady {
    file: File,
    left: u64,
    is_short: bool,
    failed: Option<io::Error>,
}

impl Read for Steady {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let length = match self.file.read(&mut buffer[..most]) {
            Ok(0) => {
                self.is_short = true;
                buffer[..most].fill(0);
                most
            }
            Ok(length) => length,
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                return Err(kind.into());
            }
        };
        self.left -= length as u64;
        Ok(length)
    }
}
