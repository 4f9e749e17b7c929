//! A tar stream into a folder. The stream is hostile: it is made by whoever is at the other end.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tar::{Archive, EntryType};

use crate::{CopyError, DEEPEST, Place, TOP, is_name};

/// The longest name or target of a link.
const LONGEST: u64 = 16 << 10;

/// Which links are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Those that lead to what is copied with them; others are left out with a note.
    Within,
    /// All of them, as they are.
    All,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files.
    pub files: u64,
    /// What they hold.
    pub bytes: u64,
}

/// Unpacks what `input` holds to `place`. Files take the place of files that are there, whole or not
/// at all; folders are filled up. Owners, setuid bits and devices are never taken over.
///
/// # Errors
/// If something cannot be made, is in the way, or the stream is not one of ours.
pub fn unpack(
    input: impl Read,
    place: &Place,
    links: Links,
    note: &mut dyn FnMut(String),
) -> Result<Unpacked, CopyError> {
    let mut archive = Archive::new(input);
    let mut done = Unpacked::default();
    let mut next = Next::default();
    let mut is_empty = true;
    // Raw: the long names would otherwise be read into memory whatever their length.
    for entry in archive.entries().map_err(CopyError::Stream)?.raw(true) {
        let mut entry = entry.map_err(CopyError::Stream)?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => {
                next.name = Some(long(&mut entry)?);
                continue;
            }
            EntryType::GNULongLink => {
                next.target = Some(long(&mut entry)?);
                continue;
            }
            _ => {}
        }
        let Next { name, target } = std::mem::take(&mut next);
        let name = name.unwrap_or_else(|| entry.path_bytes().into_owned());
        let parts = parts(&name)?;
        let (folder, name, shown) = parent(place, &parts)?;
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        match kind {
            EntryType::Directory => make_folder(&folder, &name, mode, &shown)?,
            EntryType::Regular => {
                let modified = entry.header().mtime().unwrap_or_default();
                let size = entry.size();
                let mut contents = Whole { inner: &mut entry, left: size };
                done.bytes += write_file(&folder, &name, &shown, mode, modified, &mut contents)?;
                done.files += 1;
            }
            EntryType::Symlink => {
                let target = target.or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
                let target = target.filter(|target| !target.is_empty() && !target.contains(&0));
                let target = target.ok_or(CopyError::Malformed("a link without a target"))?;
                let target = PathBuf::from(OsString::from_vec(target));
                if links == Links::Within && !leads_inside(&parts, &target) {
                    note(format!("{} was left out: it is a link to {}", shown.display(), target.display()));
                } else {
                    make_link(&folder, &name, &target, &shown)?;
                }
            }
            _ => return Err(CopyError::Malformed("an entry that is neither file, folder nor link")),
        }
        is_empty = false;
    }
    if is_empty { Err(CopyError::Malformed("it is empty")) } else { Ok(done) }
}

/// Of the entry to come, where they do not fit into its header.
#[derive(Default)]
struct Next {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

/// Contents that end before their size are an error, and not a shorter file.
struct Whole<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(length as u64);
        if length == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(length)
    }
}

fn long(entry: &mut impl Read) -> Result<Vec<u8>, CopyError> {
    let mut text = Vec::new();
    entry.take(LONGEST + 1).read_to_end(&mut text).map_err(CopyError::Stream)?;
    if text.len() as u64 > LONGEST {
        return Err(CopyError::Malformed("a name is too long"));
    }
    while text.last() == Some(&0) {
        text.pop();
    }
    Ok(text)
}

/// The plain names below the top, from the outermost; none for the top itself.
fn parts(name: &[u8]) -> Result<Vec<OsString>, CopyError> {
    let mut parts = name.split(|byte| *byte == b'/').map(|part| OsStr::from_bytes(part).to_owned());
    if parts.next().as_deref() != Some(OsStr::new(TOP)) {
        return Err(CopyError::Malformed("a name that is not below what is copied"));
    }
    let mut parts: Vec<OsString> = parts.collect();
    if parts.last().is_some_and(|last| last.is_empty()) {
        parts.pop();
    }
    if parts.len() > DEEPEST + 1 || !parts.iter().all(|part| is_name(part)) {
        return Err(CopyError::Malformed("a name that leads elsewhere"));
    }
    Ok(parts)
}

/// The folder that an entry is in, opened step by step, with its name there.
fn parent(place: &Place, parts: &[OsString]) -> Result<(OwnedFd, OsString, PathBuf), CopyError> {
    let mut shown = place.shown.clone();
    let Some((last, above)) = parts.split_last() else {
        let folder = place.folder.try_clone().map_err(|error| CopyError::io("open", &shown, error))?;
        return Ok((folder, place.name.clone(), shown));
    };
    let open = |folder: &OwnedFd, name: &OsStr, shown: &Path| {
        open_folder(folder, name).map_err(|error| in_the_way("open", shown, error))
    };
    let mut folder = open(&place.folder, &place.name, &shown)?;
    for name in above {
        shown.push(name);
        folder = open(&folder, name, &shown)?;
    }
    shown.push(last);
    Ok((folder, last.clone(), shown))
}

fn open_folder(folder: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

fn in_the_way(action: &'static str, path: &Path, error: Errno) -> CopyError {
    match error {
        Errno::LOOP | Errno::NOTDIR => {
            CopyError::Refused { path: path.to_owned(), why: "something that is no folder is in the way" }
        }
        Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY => {
            CopyError::Refused { path: path.to_owned(), why: "a folder is in the way" }
        }
        error => CopyError::io(action, path, error),
    }
}

fn make_folder(folder: &OwnedFd, name: &OsStr, mode: u32, shown: &Path) -> Result<(), CopyError> {
    match rustix::fs::mkdirat(folder, name, Mode::RWXU) {
        Ok(()) => {
            let made = open_folder(folder, name).map_err(|error| in_the_way("open", shown, error))?;
            // Its owner can always fill it.
            let mode = Mode::from_raw_mode(mode | 0o700);
            rustix::fs::fchmod(made, mode).map_err(|error| CopyError::io("set the mode of", shown, error))
        }
        Err(Errno::EXIST) => open_folder(folder, name).map(drop).map_err(|error| in_the_way("open", shown, error)),
        Err(error) => Err(CopyError::io("make", shown, error)),
    }
}

/// Beside its place first, so that what was there stays whole until this is.
fn write_file(
    folder: &OwnedFd,
    name: &OsStr,
    shown: &Path,
    mode: u32,
    modified: u64,
    contents: &mut impl Read,
) -> Result<u64, CopyError> {
    let (beside, file) = new_file(folder).map_err(|error| CopyError::io("write", shown, error))?;
    let mut file = File::from(file);
    let written = fill(&mut file, contents, shown).and_then(|bytes| {
        let at = Timespec { tv_sec: i64::try_from(modified).unwrap_or_default(), tv_nsec: 0 };
        let set = rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
            .and_then(|()| rustix::fs::futimens(&file, &Timestamps { last_access: at, last_modification: at }))
            .and_then(|()| rustix::fs::renameat(folder, &beside, folder, name));
        set.map(|()| bytes).map_err(|error| in_the_way("write", shown, error))
    });
    if written.is_err() {
        let _ = rustix::fs::unlinkat(folder, &beside, AtFlags::empty());
    }
    written
}

fn new_file(folder: &OwnedFd) -> Result<(String, OwnedFd), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for number in 0..1000 {
        let name = format!(".drowse-copy-{}-{number}", std::process::id());
        match rustix::fs::openat(folder, &name, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::EXIST) => {}
            other => return other.map(|file| (name, file)),
        }
    }
    Err(Errno::EXIST)
}

/// Tells a stream that ends too early from a disk that is full.
fn fill(file: &mut File, contents: &mut impl Read, shown: &Path) -> Result<u64, CopyError> {
    let (mut buffer, mut total) = (vec![0; 64 << 10], 0);
    loop {
        let length = match contents.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Stream(error)),
        };
        io::Write::write_all(file, &buffer[..length]).map_err(|error| CopyError::io("write", shown, error))?;
        total += length as u64;
    }
}

fn make_link(folder: &OwnedFd, name: &OsStr, target: &Path, shown: &Path) -> Result<(), CopyError> {
    match rustix::fs::symlinkat(target, folder, name) {
        Err(Errno::EXIST) => {
            // A file or a link makes way, a folder does not.
            rustix::fs::unlinkat(folder, name, AtFlags::empty())
                .and_then(|()| rustix::fs::symlinkat(target, folder, name))
                .map_err(|error| in_the_way("replace", shown, error))
        }
        other => other.map_err(|error| CopyError::io("make the link", shown, error)),
    }
}

/// Whether a link at `parts` below the top can lead nowhere but below the top. Ways up come first, and
/// are no more than there are folders, which are real ones: so every link that is made leads inside,
/// and with it each that goes on from there.
fn leads_inside(parts: &[OsString], target: &Path) -> bool {
    let mut ups = 0;
    let mut went_down = false;
    for part in target.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if !went_down => ups += 1,
            Component::Normal(_) => went_down = true,
            _ => return false,
        }
    }
    ups < parts.len()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
