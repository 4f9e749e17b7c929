//! The state of the controller: keys, values and revisions, in the shape of etcd's.
//!
//! [`Engine`] is what an engine can do; [`Store`] is the handle everyone else holds. Every
//! transaction that changes something has a revision, and a reader can be told all that happened
//! after one. Engines: [`sqlite`] (the default) and [`memory`] (tests). SQL stands nowhere else.
//!
//! It knows nothing of apps and instances: [`record`] gives values a kind and a version, and what
//! is in them is their owner's affair.

#![forbid(unsafe_code)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

pub mod error;
pub mod memory;
pub mod record;
pub mod sqlite;
mod watching;

#[cfg(test)]
mod conformance;

pub use error::StoreError;
pub use record::Record;
pub use watching::Watch;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 512;

/// The largest value, in bytes.
pub const MAX_VALUE: usize = 4 << 20;

/// A moment in the order of all changes. 0 is before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Printable ASCII, at most [`MAX_KEY`] bytes.
    pub key: String,
    /// At most [`MAX_VALUE`] bytes.
    pub value: Vec<u8>,
    /// The revision that made the key.
    pub created: Revision,
    /// The revision that last changed it: what a transaction compares.
    pub modified: Revision,
}

/// Entries in the order of their keys, and the revision they were read at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The newest revision the read saw: a watch from here misses nothing and repeats nothing.
    pub revision: Revision,
    /// What was found.
    pub entries: Vec<Entry>,
}

/// What a read is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Range {
    /// Keys that begin with this.
    pub prefix: String,
    /// Only keys after this one.
    pub after: Option<String>,
    /// At most so many.
    pub limit: Option<usize>,
}

/// Holds before a transaction is carried out, or nothing of it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// The revision that last changed it; 0 demands that it does not exist.
    pub modified: Revision,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Makes or replaces it.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Removes it; nothing happens if it does not exist.
    Delete {
        /// The key.
        key: String,
    },
}

impl Change {
    /// The key that is changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Changes that happen all or not at all, at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What must hold.
    pub compares: Vec<Compare>,
    /// What is changed; each key at most once.
    pub changes: Vec<Change>,
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is changed and on disk. The revision is the old one if nothing had to change.
    Committed(Revision),
    /// A compare did not hold; nothing was changed.
    Conflict {
        /// The first key that was different.
        key: String,
        /// The revision that last changed it; 0 if it does not exist.
        modified: Revision,
    },
}

/// All that one transaction changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its revision.
    pub revision: Revision,
    /// Its changes under the watched prefix, in the transaction's order.
    pub changes: Vec<Change>,
}

/// The answer of an engine, when it comes.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What an engine can do. Keys and sizes were checked by [`Store`] before.
pub trait Engine: Send + Sync + 'static {
    /// One key.
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>>;
    /// Keys by prefix.
    fn list(&self, range: Range) -> Answer<'_, Page>;
    /// Compares, then changes.
    fn transact(&self, transaction: Transaction) -> Answer<'_, Outcome>;
    /// What happened under a prefix after a revision: whole transactions, oldest first, at most
    /// `limit`, and the revision up to which this is complete.
    fn history<'a>(&'a self, prefix: &'a str, after: Revision, limit: usize) -> Answer<'a, (Vec<Batch>, Revision)>;
    /// Forgets the history up to and including a revision; current values stay.
    fn compact(&self, revision: Revision) -> Answer<'_, ()>;
    /// The newest revision, as it rises.
    fn head(&self) -> watch::Receiver<Revision>;
}

/// The handle on an engine.
#[derive(Clone)]
pub struct Store(Arc<dyn Engine>);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

impl Store {
    /// The store on this engine.
    pub fn new(engine: impl Engine) -> Self {
        Self(Arc::new(engine))
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        *self.0.head().borrow()
    }

    /// One key.
    ///
    /// # Errors
    /// The engine's.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.0.get(key).await
    }

    /// All keys that begin with `prefix`.
    ///
    /// # Errors
    /// The engine's.
    pub async fn list(&self, prefix: &str) -> Result<Page, StoreError> {
        self.0.list(Range { prefix: prefix.to_owned(), ..Range::default() }).await
    }

    /// Keys by prefix, a part of them.
    ///
    /// # Errors
    /// The engine's.
    pub async fn list_range(&self, range: Range) -> Result<Page, StoreError> {
        self.0.list(range).await
    }

    /// Compares, then changes, all or nothing.
    ///
    /// # Errors
    /// A key that is malformed or changed twice, a value that is too large, or the engine's.
    pub async fn transact(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        check(&transaction)?;
        self.0.transact(transaction).await
    }

    /// All changes under `prefix` after a revision, those to come too.
    #[must_use]
    pub fn watch(&self, prefix: impl Into<String>, after: Revision) -> Watch {
        Watch::new(Arc::clone(&self.0), prefix.into(), after)
    }

    /// Forgets the history up to and including `revision`; current values stay.
    ///
    /// # Errors
    /// The engine's.
    pub async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.0.compact(revision.min(self.revision())).await
    }
}

fn check(transaction: &Transaction) -> Result<(), StoreError> {
    let mut seen = std::collections::BTreeSet::new();
    for change in &transaction.changes {
        let key = change.key();
        if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(StoreError::BadKey { key: key.chars().take(80).collect() });
        }
        if !seen.insert(key) {
            return Err(StoreError::DuplicateKey { key: key.to_owned() });
        }
        if let Change::Put { value, .. } = change
            && value.len() > MAX_VALUE
        {
            return Err(StoreError::TooLarge { key: key.to_owned(), size: value.len() });
        }
    }
    Ok(())
}

/// The first key after all keys with this prefix; `None` if there is no such key. Keys are ASCII.
fn end_of(prefix: &str) -> Option<String> {
    let mut bytes = prefix.as_bytes().to_vec();
    let last = bytes.last_mut()?;
    *last = last.saturating_add(1);
    String::from_utf8(bytes).ok()
}
