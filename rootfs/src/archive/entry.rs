//! The entries of a tar stream, one after the other.

use std::io::Read;

use drowse_api::MemoryBytes;
use tar::EntryType;

use super::{ArchiveError, EntryPath, Exceeded, Limits, pax};

const PAX_MALFORMED: &str = "its pax header is malformed";

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file with so many bytes.
    File(u64),
    /// A folder.
    Folder,
    /// A symbolic link with this target, which is data and may point anywhere.
    Symlink(Vec<u8>),
    /// Another name for an earlier entry.
    Hardlink(EntryPath),
    /// A named pipe.
    Fifo,
    /// A character or block device.
    Device,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Its full name, `user.x`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// An entry without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its checked name.
    pub path: EntryPath,
    /// What it is.
    pub kind: Kind,
    /// Its permission bits, all twelve of them.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was changed, in seconds since 1970.
    pub mtime: i64,
    /// Its extended attributes, all of them.
    pub xattrs: Vec<Xattr>,
}

/// What earlier headers said about the coming entry.
#[derive(Default)]
struct Extensions {
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Vec<u8>>,
}

/// Calls `visit` with every entry of the uncompressed `stream` and a reader of its content.
///
/// # Errors
/// The first entry that is refused, a cap that is reached, a stream that breaks, or what `visit`
/// returned.
pub fn for_each_entry<E: From<ArchiveError>>(
    stream: impl Read,
    limits: Limits,
    mut visit: impl FnMut(&Entry, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut archive = tar::Archive::new(stream);
    let mut extensions = Extensions::default();
    let mut count = 0;
    for raw in archive.entries().map_err(ArchiveError::from)?.raw(true) {
        let mut raw = raw.map_err(ArchiveError::from)?;
        count += 1;
        if count > limits.entries {
            return Err(ArchiveError::Exceeded(Exceeded::Entries(limits.entries)).into());
        }
        let slot = match raw.header().entry_type() {
            EntryType::GNULongName => Some(&mut extensions.long_path),
            EntryType::GNULongLink => Some(&mut extensions.long_link),
            EntryType::XHeader => Some(&mut extensions.pax),
            EntryType::XGlobalHeader => {
                check_for_all(&mut raw, limits)?;
                continue;
            }
            _ => None,
        };
        if let Some(slot) = slot {
            if slot.is_some() {
                let name = raw.path_bytes().into_owned();
                return Err(ArchiveError::refused(&name, "two headers of one kind describe the same entry").into());
            }
            *slot = Some(read_extension(&mut raw, limits)?);
            continue;
        }
        let entry = read_entry(&raw, std::mem::take(&mut extensions))?;
        visit(&entry, &mut raw)?;
    }
    if extensions.long_path.is_some() || extensions.long_link.is_some() || extensions.pax.is_some() {
        return Err(ArchiveError::Read(std::io::ErrorKind::UnexpectedEof.into()).into());
    }
    Ok(())
}

fn read_extension(raw: &mut tar::Entry<'_, impl Read>, limits: Limits) -> Result<Vec<u8>, ArchiveError> {
    let size = raw.size();
    if size > limits.extension {
        return Err(ArchiveError::Exceeded(Exceeded::Extension(MemoryBytes(limits.extension))));
    }
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes)?;
    if bytes.len() as u64 != size {
        return Err(ArchiveError::Read(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

/// A header for all entries that come says nothing that is used; what would change an entry to readers who
/// do use it is refused.
fn check_for_all(raw: &mut tar::Entry<'_, impl Read>, limits: Limits) -> Result<(), ArchiveError> {
    let name = raw.path_bytes().into_owned();
    let header = read_extension(raw, limits)?;
    for record in pax::records(&header) {
        let (key, _) = record.ok_or_else(|| ArchiveError::refused(&name, PAX_MALFORMED))?;
        if is_decisive(key) {
            let reason = "a pax header for all entries may not give them a name, a link or a size";
            return Err(ArchiveError::refused(&name, reason));
        }
    }
    Ok(())
}

/// Keys that decide which entry it is, and where the next one begins.
fn is_decisive(key: &[u8]) -> bool {
    matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.")
}

fn until_nul(bytes: Vec<u8>) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// Some writers, npm's among them, leave numbers empty that they do not care for.
fn or_zero<T: Default>(field: &[u8], number: std::io::Result<T>) -> Result<T, ArchiveError> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(T::default());
    }
    Ok(number?)
}

fn read_entry(raw: &tar::Entry<'_, impl Read>, extensions: Extensions) -> Result<Entry, ArchiveError> {
    let header = raw.header();
    let (long_path, long_link) = (extensions.long_path.map(until_nul), extensions.long_link.map(until_nul));
    let mut name = long_path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
    let mut link =
        long_link.clone().or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
    let shown_name = name.clone();
    let refuse = |reason| ArchiveError::refused(&shown_name, reason);
    let old = header.as_old();
    let mut uid = or_zero(&old.uid, header.uid())?;
    let mut gid = or_zero(&old.gid, header.gid())?;
    // Base-256 fields are two's complement: times before 1970 arrive as huge numbers.
    let mut mtime = or_zero(&old.mtime, header.mtime())?.cast_signed();
    let mut xattrs = Vec::new();
    let pax_header = extensions.pax.unwrap_or_default();
    let mut decisive = Vec::new();
    for record in pax::records(&pax_header) {
        let (key, value) = record.ok_or_else(|| refuse(PAX_MALFORMED))?;
        if is_decisive(key) {
            // Of two readers one takes the first and the other the last.
            if decisive.contains(&key) {
                return Err(refuse("its pax header says one thing twice"));
            }
            decisive.push(key);
        }
        let number = || {
            let text = std::str::from_utf8(value).unwrap_or_default();
            let whole = text.split('.').next().unwrap_or_default();
            whole.parse::<i64>().map_err(|_| refuse("its pax header holds a number that is none"))
        };
        match key {
            b"path" if long_path.as_deref().is_some_and(|other| other != value) => {
                return Err(refuse("its headers give two names"));
            }
            b"linkpath" if long_link.as_deref().is_some_and(|other| other != value) => {
                return Err(refuse("its headers give two link targets"));
            }
            b"path" => name = value.to_vec(),
            b"linkpath" => link = value.to_vec(),
            b"uid" => uid = number()?.try_into().map_err(|_| refuse("its owner is negative"))?,
            b"gid" => gid = number()?.try_into().map_err(|_| refuse("its group is negative"))?,
            b"mtime" => mtime = number()?,
            // Two sizes are two archives to two readers: the stream was already split by the header's.
            b"size" if number()? != raw.size().cast_signed() => {
                return Err(refuse("its pax header and its own header give two sizes"));
            }
            key if key.starts_with(b"GNU.sparse.") => return Err(refuse("sparse entries are not supported")),
            key => {
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                    xattrs.push(Xattr { name: attribute.to_vec(), value: value.to_vec() });
                }
            }
        }
    }
    let path = EntryPath::parse(&name)?;
    let refuse = |reason| ArchiveError::refused(&name, reason);
    let kind = match header.entry_type() {
        // A trailing slash makes a folder of an old-style regular entry.
        EntryType::Regular if name.ends_with(b"/") => Kind::Folder,
        EntryType::Regular | EntryType::Continuous => Kind::File(raw.size()),
        EntryType::Directory => Kind::Folder,
        EntryType::Symlink if link.is_empty() || link.len() > 4095 || link.contains(&0) => {
            return Err(refuse("its link target is empty, too long or holds a NUL"));
        }
        EntryType::Symlink => Kind::Symlink(link),
        EntryType::Link => match EntryPath::parse(&link) {
            Ok(target) if !target.is_root() => Kind::Hardlink(target),
            _ => return Err(refuse("its hard link leads outside the archive")),
        },
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char | EntryType::Block => Kind::Device,
        EntryType::GNUSparse => return Err(refuse("sparse entries are not supported")),
        _ => return Err(refuse("its type is unknown")),
    };
    // Readers differ on whether content follows such an entry, so none may.
    if !matches!(kind, Kind::File(_)) && raw.size() != 0 {
        return Err(refuse("only regular files may have content"));
    }
    Ok(Entry {
        path,
        kind,
        mode: or_zero(&old.mode, header.mode())? & 0o7777,
        uid: id(uid).ok_or_else(|| refuse("its owner is larger than any user id"))?,
        gid: id(gid).ok_or_else(|| refuse("its group is larger than any group id"))?,
        mtime,
        xattrs,
    })
}

/// A user or group id; the highest number is none (it means "leave as it is" to the kernel).
fn id(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX)
}
