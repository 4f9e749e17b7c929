//! Following the changes under a prefix: history first, then what comes.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use crate::{Batch, Engine, Revision, StoreError};

/// How many transactions are read at once.
const CHUNK: usize = 256;

/// Changes under a prefix, transaction by transaction. It holds no place in the engine: a watch
/// that is read too slowly ends with `Compacted`, and costs others nothing.
pub struct Watch {
    engine: Arc<dyn Engine>,
    prefix: String,
    head: watch::Receiver<Revision>,
    seen: Revision,
    ready: VecDeque<Batch>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("prefix", &self.prefix).field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Watch {
    pub(crate) fn new(engine: Arc<dyn Engine>, prefix: String, after: Revision) -> Self {
        let head = engine.head();
        Self { engine, prefix, head, seen: after, ready: VecDeque::new() }
    }

    /// The next transaction that changed something under the prefix. Cancel-safe.
    ///
    /// # Errors
    /// `Compacted` if the history after what was last seen is forgotten, `Closed` at the engine's
    /// end, or the engine's.
    pub async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            if *self.head.borrow_and_update() > self.seen {
                let (batches, complete) = self.engine.history(&self.prefix, self.seen, CHUNK).await?;
                self.ready.extend(batches);
                self.seen = complete;
            } else {
                self.head.changed().await.map_err(|_| StoreError::Closed)?;
            }
        }
    }
}
