//! Reading tar archives that someone else made: decompression, caps, and entries whose names were
//! checked. It knows nothing of where entries go.
//!
//! The tar crate only splits the stream here (its raw entries). Long names and pax records are read
//! by us, so that they have a cap and so that what names an entry is decided in one place.

mod decompress;
mod entry;
mod limits;
mod path;
mod pax;

pub use decompress::decompressed;
pub use entry::{Entry, Kind, Xattr, for_each_entry};
pub use limits::{Exceeded, Limits};
pub use path::EntryPath;

/// Why an archive is refused or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// An entry that no honest archive holds.
    #[error("archive entry {entry:?} is refused: {reason}")]
    Refused {
        /// Its name, cut to a readable length.
        entry: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// A cap was reached.
    #[error("the archive is refused: {0}")]
    Exceeded(Exceeded),
    /// A format that is not read.
    #[error("the archive is packed with {0}: send it as plain tar, gzip or zstd")]
    Packed(&'static str),
    /// It ended, or broke, in the middle.
    #[error("cannot read the archive")]
    Read(#[source] std::io::Error),
}

impl ArchiveError {
    pub(crate) fn refused(entry: &[u8], reason: &'static str) -> Self {
        Self::Refused { entry: shown(entry), reason }
    }
}

impl From<std::io::Error> for ArchiveError {
    fn from(error: std::io::Error) -> Self {
        match error.downcast::<Exceeded>() {
            Ok(exceeded) => Self::Exceeded(exceeded),
            Err(error) => Self::Read(error),
        }
    }
}

/// A name as it is shown in messages: readable and short.
pub(crate) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}
