//! Reading events: those that are kept, and those to come.

use drowse_api::event::Event;
use drowse_store::{Change, Entry, Range, Revision, Store, StoreError, Watch, record};

use crate::ledger::{StoredEvent, event_key};

/// How many are read at once.
const PAGE: usize = 500;

/// The stored events after the event `after`, oldest first, and the revision of the store that
/// they were read at.
///
/// # Errors
/// The store's.
pub async fn stored(store: &Store, after: u64) -> Result<(Vec<Event>, Revision), StoreError> {
    let (mut found, mut last) = (Vec::new(), event_key(after));
    loop {
        let range = Range { prefix: record::prefix::<StoredEvent>(), after: Some(last.clone()), limit: Some(PAGE) };
        let page = store.list_range(range).await?;
        let is_last = page.entries.len() < PAGE;
        for entry in page.entries {
            found.push(record::decode::<StoredEvent>(&entry)?.0);
            last = entry.key;
        }
        if is_last {
            return Ok((found, page.revision));
        }
    }
}

/// Events as they happen.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    watch: Watch,
    after: u64,
}

impl Follower {
    /// From a reading of the stored ones.
    #[must_use]
    pub fn new(store: &Store, read_at: Revision, after: u64) -> Self {
        let watch = store.watch(record::prefix::<StoredEvent>(), read_at);
        Self { store: store.clone(), watch, after }
    }

    /// The next ones. A follower that was too slow for the history reads the stored ones again.
    ///
    /// # Errors
    /// The store's; `Compacted` if some that it has not seen are not kept any more.
    pub async fn next(&mut self) -> Result<Vec<Event>, StoreError> {
        let found = match self.watch.next().await {
            Ok(batch) => batch
                .changes
                .into_iter()
                .filter_map(|change| match change {
                    Change::Put { key, value } => {
                        let entry = Entry { key, value, created: batch.revision, modified: batch.revision };
                        Some(record::decode::<StoredEvent>(&entry).map(|event| event.0))
                    }
                    Change::Delete { .. } => None,
                })
                .collect::<Result<Vec<_>, _>>()?,
            Err(error @ StoreError::Compacted { .. }) => {
                let (found, read_at) = stored(&self.store, self.after).await?;
                if found.first().is_some_and(|first| first.revision > self.after + 1) {
                    return Err(error);
                }
                self.watch = self.store.watch(record::prefix::<StoredEvent>(), read_at);
                found
            }
            Err(error) => return Err(error),
        };
        self.after = found.last().map_or(self.after, |event| event.revision);
        Ok(found)
    }
}
