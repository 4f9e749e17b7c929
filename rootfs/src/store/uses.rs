//! What is in use though nothing that is kept names it yet: parts of an image that is being made.
//!
//! Whoever makes one takes a [`Hold`] first. Everything that is stored, looked for or read while any
//! hold is there is kept by sweeps until the last hold that was there at the time is gone. A use is
//! noted before the file is looked for, and a sweep decides and removes under the same lock: who
//! finds something keeps it, who comes too late does not find it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drowse_api::Digest;

use super::ImageStore;

/// A part of the store that a sweep may remove.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Blob(Digest),
    /// An unpacked layer, by the digest of its uncompressed archive.
    Layer(Digest),
}

/// Who uses what.
#[derive(Debug, Default)]
pub(super) struct Uses {
    // A plain lock: what happens under it is a look at a map, and in sweeps one call to the kernel.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Counts the holds that were ever taken.
    count: u64,
    /// Those that there are: the count from which on they keep, and their own.
    holds: BTreeSet<(u64, u64)>,
    /// The count at the last use.
    used: HashMap<Part, u64>,
}

impl Table {
    fn is_used(&self, part: &Part) -> bool {
        self.holds.first().is_some_and(|(oldest, _)| self.used.get(part).is_some_and(|used| used >= oldest))
    }
}

/// Keeps what is used from now on; see [`ImageStore::hold`].
#[derive(Debug)]
#[must_use = "what is in use is kept for as long as this lives"]
pub struct Hold {
    store: ImageStore,
    key: (u64, u64),
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut table = self.store.inner.uses.lock();
        table.holds.remove(&self.key);
        match table.holds.first().copied() {
            Some((oldest, _)) => table.used.retain(|_, used| *used >= oldest),
            None => table.used.clear(),
        }
    }
}

impl Uses {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `part`, which is about to be looked for or made, for the holds that there are.
    pub(super) fn note(&self, part: Part) {
        let mut table = self.lock();
        if !table.holds.is_empty() {
            let count = table.count;
            table.used.insert(part, count);
        }
    }

    /// Does `remove`, unless `part` is in use. Nobody comes to use it meanwhile.
    pub(super) fn unless_used<T>(&self, part: &Part, remove: impl FnOnce() -> Option<T>) -> Option<T> {
        let table = self.lock();
        if table.is_used(part) { None } else { remove() }
    }
}

impl ImageStore {
    /// Keeps everything that this store is used for from now on until the hold is dropped: to be
    /// taken before the parts of an image are put, and dropped after the image is tagged or among
    /// the roots of [`retain`](Self::retain). For uses in this process alone.
    pub fn hold(&self) -> Hold {
        self.hold_since(|_, now| now)
    }

    /// A sweep's own hold keeps all that the others keep, also once they are dropped: what they made
    /// may have become a root too late for this sweep to know.
    pub(super) fn hold_with_others(&self) -> Hold {
        self.hold_since(|oldest, now| oldest.unwrap_or(now))
    }

    fn hold_since(&self, since: impl FnOnce(Option<u64>, u64) -> u64) -> Hold {
        let mut table = self.inner.uses.lock();
        table.count += 1;
        let key = (since(table.holds.first().map(|(oldest, _)| *oldest), table.count), table.count);
        table.holds.insert(key);
        Hold { store: self.clone(), key }
    }

    pub(super) fn note_layer(&self, diff_id: &Digest) {
        self.inner.uses.note(Part::Layer(diff_id.clone()));
    }

    pub(super) fn note_blob(&self, digest: &Digest) {
        self.inner.uses.note(Part::Blob(digest.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest;

    #[test]
    fn a_use_is_kept_until_the_last_hold_of_its_time_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = ImageStore::open(folder.path()).expect("a store");
        let part = |name: &str| Part::Blob(digest::of(name.as_bytes()));
        let is_used = |name: &str| store.inner.uses.lock().is_used(&part(name));
        store.inner.uses.note(part("before"));
        let first = store.hold();
        store.inner.uses.note(part("early"));
        let second = store.hold();
        store.inner.uses.note(part("late"));
        assert!(!is_used("before") && is_used("early") && is_used("late"));
        drop(first);
        assert!(!is_used("early") && is_used("late"));
        drop(second);
        assert!(!is_used("late"));
        assert!(store.inner.uses.lock().used.is_empty());
    }
}
