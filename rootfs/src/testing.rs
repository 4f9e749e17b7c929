//! For tests: archives that no honest program writes, and pictures of folders.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

/// Whether this is root; says loudly if a test is skipped because it is not.
pub(crate) fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: {test}: it needs root");
    }
    is_root
}

/// An error with its causes.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A tar archive, entry by entry, with names as they are given.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    owner: u64,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn owned(owner: u64) -> Self {
        Self { bytes: Vec::new(), owner }
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.with_mode(name, 0o644, content)
    }

    pub(crate) fn with_mode(self, name: &str, mode: u32, content: &str) -> Self {
        self.raw(EntryType::Regular, name.as_bytes(), b"", mode, content.len() as u64, content.as_bytes())
    }

    pub(crate) fn folder(self, name: &str) -> Self {
        self.raw(EntryType::Directory, name.as_bytes(), b"", 0o755, 0, b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Symlink, name.as_bytes(), target.as_bytes(), 0o777, 0, b"")
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Link, name.as_bytes(), target.as_bytes(), 0o644, 0, b"")
    }

    pub(crate) fn special(self, kind: EntryType, name: &str) -> Self {
        self.raw(kind, name.as_bytes(), b"", 0o666, 0, b"")
    }

    /// A pax header for the coming entry.
    pub(crate) fn pax(self, key: &str, value: &[u8]) -> Self {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while body + length.to_string().len() != length {
            length += 1;
        }
        let record = [format!("{length} {key}=").as_bytes(), value, b"\n"].concat();
        self.raw(EntryType::XHeader, b"pax", b"", 0o644, record.len() as u64, &record)
    }

    /// A long name for the coming entry.
    pub(crate) fn long_name(self, name: &[u8]) -> Self {
        self.raw(EntryType::GNULongName, b"././@LongLink", b"", 0o644, name.len() as u64, name)
    }

    pub(crate) fn raw(
        mut self,
        kind: EntryType,
        name: &[u8],
        link: &[u8],
        mode: u32,
        size: u64,
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(self.owner);
        header.set_gid(self.owner);
        header.set_mtime(1_600_000_000);
        header.set_size(size);
        let old = header.as_old_mut();
        let length = name.len().min(100);
        old.name[..length].copy_from_slice(&name[..length]);
        let length = link.len().min(100);
        old.linkname[..length].copy_from_slice(&link[..length]);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

/// What a folder holds: for each path its type, mode, owner, time, and content or target.
pub(crate) fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut picture = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("metadata");
            let content = if metadata.is_symlink() {
                fs::read_link(&path).expect("a link").as_os_str().as_bytes().to_vec()
            } else if metadata.is_file() {
                fs::read(&path).expect("a file")
            } else {
                format!("device {:x}", metadata.rdev()).into_bytes()
            };
            let line = format!(
                "{:o} {}:{} {} {}",
                metadata.mode(),
                metadata.uid(),
                metadata.gid(),
                metadata.mtime(),
                String::from_utf8_lossy(&content)
            );
            picture.insert(path.strip_prefix(root).expect("below the root").to_owned(), line);
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    picture
}
