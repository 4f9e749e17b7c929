//! The engine that forgets everything with its process: for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::{Answer, Batch, Change, Engine, Entry, Outcome, Page, Range, Revision, StoreError, Transaction};

/// The state in memory.
pub struct Memory {
    // Held for a few map operations and never across an await.
    inner: Mutex<Inner>,
    head: watch::Sender<Revision>,
}

#[derive(Default)]
struct Inner {
    current: BTreeMap<String, Entry>,
    log: Vec<Batch>,
    compacted: Revision,
    head: Revision,
}

impl Default for Memory {
    fn default() -> Self {
        Self { inner: Mutex::default(), head: watch::Sender::new(Revision(0)) }
    }
}

impl Memory {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn modified(&self, key: &str) -> Revision {
        self.current.get(key).map_or(Revision(0), |entry| entry.modified)
    }

    fn transact(&mut self, transaction: Transaction) -> Outcome {
        for compare in &transaction.compares {
            let modified = self.modified(&compare.key);
            if modified != compare.modified {
                return Outcome::Conflict { key: compare.key.clone(), modified };
            }
        }
        let revision = Revision(self.head.0 + 1);
        let mut changes = Vec::new();
        for change in transaction.changes {
            match &change {
                Change::Put { key, value } => {
                    let created = self.current.get(key).map_or(revision, |entry| entry.created);
                    let entry = Entry { key: key.clone(), value: value.clone(), created, modified: revision };
                    self.current.insert(key.clone(), entry);
                }
                Change::Delete { key } => {
                    if self.current.remove(key).is_none() {
                        continue;
                    }
                }
            }
            changes.push(change);
        }
        if !changes.is_empty() {
            self.head = revision;
            self.log.push(Batch { revision, changes });
        }
        Outcome::Committed(self.head)
    }
}

impl Engine for Memory {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(async move { Ok(self.inner().current.get(key).cloned()) })
    }

    fn list(&self, range: Range) -> Answer<'_, Page> {
        Box::pin(async move {
            let inner = self.inner();
            let found = inner
                .current
                .range(range.prefix.clone()..)
                .take_while(|(key, _)| key.starts_with(&range.prefix))
                .filter(|(key, _)| range.after.as_ref().is_none_or(|after| *key > after))
                .take(range.limit.unwrap_or(usize::MAX))
                .map(|(_, entry)| entry.clone());
            Ok(Page { revision: inner.head, entries: found.collect() })
        })
    }

    fn transact(&self, transaction: Transaction) -> Answer<'_, Outcome> {
        Box::pin(async move {
            let mut inner = self.inner();
            let outcome = inner.transact(transaction);
            self.head.send_replace(inner.head);
            Ok(outcome)
        })
    }

    fn history<'a>(&'a self, prefix: &'a str, after: Revision, limit: usize) -> Answer<'a, (Vec<Batch>, Revision)> {
        Box::pin(async move {
            let inner = self.inner();
            if after < inner.compacted {
                return Err(StoreError::Compacted { asked: after, oldest: inner.compacted });
            }
            let mut found = Vec::new();
            for batch in inner.log.iter().filter(|batch| batch.revision > after) {
                let changes: Vec<_> = batch.changes.iter().filter(|c| c.key().starts_with(prefix)).cloned().collect();
                if changes.is_empty() {
                    continue;
                }
                found.push(Batch { revision: batch.revision, changes });
                if found.len() == limit {
                    return Ok((found, batch.revision));
                }
            }
            Ok((found, inner.head.max(after)))
        })
    }

    fn compact(&self, revision: Revision) -> Answer<'_, ()> {
        Box::pin(async move {
            let mut inner = self.inner();
            inner.compacted = inner.compacted.max(revision);
            inner.log.retain(|batch| batch.revision > revision);
            Ok(())
        })
    }

    fn head(&self) -> watch::Receiver<Revision> {
        self.head.subscribe()
    }
}
