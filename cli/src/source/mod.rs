//! What is deployed: the entries of a folder or bundle, chosen and checked before anything is sent,
//! and their archive.

pub mod archive;
pub mod bundle;
pub mod detect;
mod error;
pub mod folder;
pub mod pinned;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use drowse_api::MemoryBytes;
use drowse_api::deployment::{MAX_SOURCE, MAX_SOURCE_ENTRIES};

pub use error::SourceError;
pub use pinned::{Pinned, PinnedError};

/// What goes into an archive, in its order.
#[derive(Debug)]
pub struct Source {
    /// The folder the paths are below.
    pub root: PathBuf,
    /// Parents before children, siblings by name.
    pub entries: Vec<Entry>,
    /// The files' sizes together.
    pub size: MemoryBytes,
    /// What stays behind, and why.
    pub left_out: Vec<LeftOut>,
    /// What is odd and not worth stopping for.
    pub warnings: Vec<String>,
}

/// One file, folder or link.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Below the root.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group in the archive.
    pub owner: (u64, u64),
    /// Modification time in seconds since 1970. Kept, since file servers inside apps tell versions
    /// apart by it.
    pub modified: u64,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Folder,
    /// A file of this size.
    File(u64),
    /// A symbolic link to this target.
    Link(PathBuf),
}

/// Something that is not deployed.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Below the root.
    pub path: PathBuf,
    /// Why.
    pub why: &'static str,
}

impl Source {
    /// How many files it holds.
    pub fn files(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.kind, EntryKind::File(_))).count()
    }

    /// Whether there is a file with this path.
    pub fn has_file(&self, path: &str) -> bool {
        self.entries.iter().any(|entry| entry.path == Path::new(path) && entry.kind != EntryKind::Folder)
    }

    /// Checks the limits, now that all entries are known.
    fn check_limits(self) -> Result<Self, SourceError> {
        if self.entries.len() > MAX_SOURCE_ENTRIES {
            return Err(SourceError::TooMany { root: self.root, count: self.entries.len(), limit: MAX_SOURCE_ENTRIES });
        }
        if self.size > MAX_SOURCE {
            let mut files: Vec<_> = self
                .entries
                .into_iter()
                .filter_map(|entry| match entry.kind {
                    EntryKind::File(size) => Some((size, entry.path)),
                    _ => None,
                })
                .collect();
            files.sort_by(|a, b| b.cmp(a));
            files.truncate(5);
            let biggest = files.into_iter().map(|(size, path)| (path, MemoryBytes(size))).collect();
            return Err(SourceError::TooLarge { root: self.root, size: self.size, limit: MAX_SOURCE, biggest });
        }
        Ok(self)
    }
}
