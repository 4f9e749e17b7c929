//! A file or folder as a tar stream, and back: what `drowse cp` sends and takes.
//!
//! The same code runs at both ends: in the sandbox as the app's own user, and in the command line.
//! Neither trusts the other. The path that a user names is found as ever; below it every step is made
//! from an open folder by a plain name, so that no link leads anywhere, also one that is put there in
//! the middle. It knows nothing of sandboxes, clients or calls.

#![forbid(unsafe_code)]

mod pack;
mod place;
mod unpack;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

pub use pack::pack;
pub use place::Place;
use rustix::fs::StatFs;
pub use unpack::{Links, Unpacked, unpack};

/// What the first entry of every stream is called; all others are below it.
const TOP: &str = "it";

/// The deepest that a folder may be below what is copied.
const DEEPEST: usize = 200;

/// Why something could not be copied.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it, the fields are their parts")]
pub enum CopyError {
    #[error("there is no {}", .path.display())]
    NotFound { path: PathBuf },
    #[error("cannot {action} {}: {source}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: {why}", .path.display())]
    Refused { path: PathBuf, why: &'static str },
    #[error("the stream broke off: {0}")]
    Stream(#[source] io::Error),
    #[error("what was sent is not what it should be: {0}")]
    Malformed(&'static str),
}

/// What kind of error it is, as the code that a process ends with.
pub mod code {
    /// Any other.
    pub const OTHER: u8 = 1;
    /// A path or its permissions are not right.
    pub const NOT_RIGHT: u8 = 2;
    /// What was named is not there.
    pub const NOT_FOUND: u8 = 3;
    /// There is no room.
    pub const FULL: u8 = 6;
}

impl CopyError {
    /// One of [`code`].
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => code::NOT_FOUND,
            Self::Refused { .. } => code::NOT_RIGHT,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => code::FULL,
                io::ErrorKind::NotFound => code::NOT_FOUND,
                io::ErrorKind::PermissionDenied
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::ReadOnlyFilesystem => code::NOT_RIGHT,
                _ => code::OTHER,
            },
            Self::Stream(_) | Self::Malformed(_) => code::OTHER,
        }
    }

    fn io(action: &'static str, path: &Path, error: impl Into<io::Error>) -> Self {
        let source = error.into();
        if source.kind() == io::ErrorKind::NotFound {
            return Self::NotFound { path: path.to_owned() };
        }
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// Whether files there are the kernel's own: what they hold is of processes and devices, not data.
fn is_kernels_own(found: &StatFs) -> bool {
    // proc, sysfs, devpts, mqueue, both kinds of control groups (statfs(2)).
    [0x9fa0, 0x6265_6572, 0x1cd1, 0x1980_0202, 0x0027_e0eb, 0x6367_7270].contains(&found.f_type)
}

/// Whether this is the name of something in a folder.
fn is_name(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    !bytes.is_empty() && bytes != b"." && bytes != b".." && !bytes.contains(&b'/') && !bytes.contains(&0)
}
