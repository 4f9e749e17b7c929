//! What can go wrong with the state, said so that an operator knows what to do.

use std::path::PathBuf;

use crate::Revision;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The history that was asked for is forgotten: list again, and watch from there.
    #[error("revision {asked} is compacted: the oldest that can be watched from is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest that is possible.
        oldest: Revision,
    },
    /// The database was written by a newer Drowse.
    #[error(
        "database {path} has schema {found}, and this program knows schemas up to {supported}: it was written by \
         Drowse {written_by}; upgrade to that version or newer (nothing was changed)"
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest this program knows.
        supported: i64,
        /// The version that wrote it.
        written_by: String,
    },
    /// The file is a database, but not one of ours.
    #[error("{path} is not a database of Drowse's controller; set data_dir to another folder or move the file away")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read as a database any more.
    #[error(
        "database {path} is damaged ({detail}): nothing was changed; restore it and its -wal file from a backup, or \
         keep a copy and recover it with `sqlite3 {path} .recover`"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the check found.
        detail: String,
    },
    /// No room for the change; nothing of it was kept.
    #[error("no space left for database {path}: free some, nothing that was acknowledged is lost")]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be opened.
    #[error("cannot open database {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The engine refused something else.
    #[error("cannot {action} in database {path}")]
    Engine {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The engine has ended.
    #[error("the store is closed")]
    Closed,
    /// A key that is empty, too long or not printable ASCII.
    #[error("key {key:?} is not 1 to 512 printable ASCII characters")]
    BadKey {
        /// The key, cut to a readable length.
        key: String,
    },
    /// A transaction changes a key twice.
    #[error("key {key:?} is changed twice in one transaction")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A value that is too large.
    #[error("the value of {key:?} has {size} bytes; the limit is 4194304")]
    TooLarge {
        /// The key.
        key: String,
        /// Its size.
        size: usize,
    },
    /// A record that cannot be read.
    #[error("record {key:?} cannot be read as a {kind}")]
    BadRecord {
        /// The key.
        key: String,
        /// What was expected.
        kind: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A record of a newer version.
    #[error("record {key:?} has version {found}, and this program knows {supported}: upgrade Drowse")]
    NewerRecord {
        /// The key.
        key: String,
        /// Its version.
        found: u32,
        /// The newest this program knows.
        supported: u32,
    },
}
