//! The one place where records change: steps become transactions, facts become events, and every
//! new revision is published to whoever plans or answers by it.

use std::collections::BTreeSet;
use std::sync::Arc;

use drowse_api::event::Event;
use drowse_api::{ErrorCode, Problem};
use drowse_store::{Change, Compare, Outcome, Record, Revision, Store, StoreError, Transaction, record};
use jiff::Timestamp;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::desired::{Desired, Fact, Step, Write};
use crate::model::Counter;

/// How often a change is tried when other writers were faster.
const TRIES: usize = 8;

/// How many old events one transaction removes at most: more than one ever adds.
const TRIM: u64 = 256;

/// How many revisions of history are kept for watchers.
const HISTORY: u64 = 20_000;

/// The handle on the records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    store: Store,
    desired: watch::Sender<Arc<Desired>>,
    // Serialises writers of this process. Held over the commit, by the task that carries it out: a
    // caller that goes away cannot leave a commit unpublished.
    writing: Arc<Mutex<()>>,
    events_kept: u64,
}

impl Ledger {
    /// Reads all records of the store.
    ///
    /// # Errors
    /// The store's, or a record that this program cannot read.
    pub async fn open(store: Store, events_kept: u64) -> Result<Self, StoreError> {
        let desired = watch::Sender::new(Arc::new(Desired::load(&store).await?));
        Ok(Self { store, desired, writing: Arc::default(), events_kept })
    }

    /// The store, for reading events.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The newest revision.
    #[must_use]
    pub fn desired(&self) -> Arc<Desired> {
        Arc::clone(&self.desired.borrow())
    }

    /// The newest revision, as it changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Desired>> {
        self.desired.subscribe()
    }

    /// Carries out what can be carried out of `steps`, which were decided at `base`, and says how
    /// many that were. The others rely on what has changed meanwhile, and are to be decided anew.
    ///
    /// # Errors
    /// The store's; nothing was changed then.
    pub async fn commit(&self, base: &Desired, steps: Vec<Step>) -> Result<usize, StoreError> {
        let guard = Arc::clone(&self.writing).lock_owned().await;
        let current = self.desired();
        let (mut written, mut relied_on) = (BTreeSet::new(), BTreeSet::new());
        let mut whole = Step::default();
        let mut count = 0;
        for step in steps {
            let is_stale = step.keys().any(|key| base.modified(&key) != current.modified(&key));
            let meets_another = step.keys().any(|key| written.contains(&key))
                || step.writes.iter().any(|write| relied_on.contains(&write.key()));
            if is_stale || meets_another {
                continue;
            }
            written.extend(step.writes.iter().map(Write::key));
            relied_on.extend(step.guards.iter().cloned());
            whole.guards.extend(step.guards);
            whole.writes.extend(step.writes);
            whole.facts.extend(step.facts);
            count += 1;
        }
        if count == 0 { Ok(0) } else { Ok(if self.write(guard, whole).await? { count } else { 0 }) }
    }

    /// Changes records by what they are now. `decide` may be called more than once.
    ///
    /// # Errors
    /// What `decide` says, or the store's failure as a problem.
    pub async fn update<R>(
        &self,
        mut decide: impl FnMut(&Desired) -> Result<(Step, R), Problem>,
    ) -> Result<R, Problem> {
        for _ in 0..TRIES {
            let guard = Arc::clone(&self.writing).lock_owned().await;
            let (step, result) = decide(&self.desired())?;
            if self.write(guard, step).await.map_err(|error| problem(&error))? {
                return Ok(result);
            }
        }
        Err(Problem::new(ErrorCode::Conflict, "it was changed by someone else again and again; try once more"))
    }

    /// Writes in a task of its own, so that a caller that is dropped stops nothing half-way.
    /// `false` if another process was faster; the newest records are loaded then.
    async fn write(&self, guard: OwnedMutexGuard<()>, step: Step) -> Result<bool, StoreError> {
        if step.writes.is_empty() && step.facts.is_empty() {
            return Ok(true);
        }
        let this = self.clone();
        let work = tokio::spawn(async move {
            let _guard = guard;
            this.write_alone(step).await
        });
        work.await.map_err(|_| StoreError::Closed)?
    }

    async fn write_alone(&self, step: Step) -> Result<bool, StoreError> {
        let mut next = Desired::clone(&self.desired());
        let guards: BTreeSet<_> = step.keys().collect();
        let mut writes = step.writes;
        let mut changes = writes.iter().map(Write::change).collect::<Result<Vec<_>, _>>()?;
        let counter = self.number(&next, step.facts, &mut changes)?;
        let mut compares: Vec<_> =
            guards.into_iter().map(|key| Compare { modified: next.modified(&key), key }).collect();
        if let Some(counter) = counter {
            let write = Write::from(counter);
            compares.push(Compare { key: write.key(), modified: next.modified(&write.key()) });
            changes.push(write.change()?);
            writes.push(write);
        }
        fail::fail_point!("ledger-before-commit");
        match self.store.transact(Transaction { compares, changes }).await? {
            Outcome::Committed(revision) => {
                fail::fail_point!("ledger-after-commit");
                writes.iter().for_each(|write| next.apply(write, revision));
                self.desired.send_replace(Arc::new(next));
                Ok(true)
            }
            Outcome::Conflict { key, modified } => {
                tracing::warn!(%key, %modified, "another writer changed the store: reading it again");
                self.desired.send_replace(Arc::new(Desired::load(&self.store).await?));
                Ok(false)
            }
        }
    }

    /// Gives facts their numbers, and drops the oldest events beyond the bound.
    fn number(
        &self,
        desired: &Desired,
        facts: Vec<Fact>,
        changes: &mut Vec<Change>,
    ) -> Result<Option<Counter>, StoreError> {
        if facts.is_empty() {
            return Ok(None);
        }
        let mut counter =
            desired.counters.get("events").map_or(Counter { first: 1, next: 1 }, |counter| Counter::clone(counter));
        let before = counter.next;
        for fact in facts {
            let event = Event {
                revision: counter.next,
                at: fact.at.unwrap_or_else(Timestamp::now),
                kind: fact.kind,
                app: fact.app,
                deployment: fact.deployment,
                instance: fact.instance,
                message: fact.message,
            };
            tracing::info!(
                revision = event.revision,
                app = event.app.as_ref().map(AsRef::<str>::as_ref),
                "{}",
                event.message
            );
            let stored = StoredEvent(event);
            changes.push(Change::Put { key: event_key(counter.next), value: record::encode(&stored)? });
            counter.next += 1;
        }
        let excess = (counter.next - counter.first).saturating_sub(self.events_kept);
        // What is added here stays at least until the next time: followers see it.
        for _ in 0..excess.min(TRIM).min(before - counter.first) {
            changes.push(Change::Delete { key: event_key(counter.first) });
            counter.first += 1;
        }
        Ok(Some(counter))
    }

    /// Forgets history that no watcher needs.
    ///
    /// # Errors
    /// The store's.
    pub async fn compact(&self) -> Result<(), StoreError> {
        self.store.compact(Revision(self.store.revision().0.saturating_sub(HISTORY))).await
    }
}

/// An event as a record.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct StoredEvent(pub Event);

impl Record for StoredEvent {
    const KIND: &'static str = "event";
    const VERSION: u32 = 1;
    fn id(&self) -> String {
        format!("{:020}", self.0.revision)
    }
}

/// The key of the event with this number; keys sort as numbers do.
#[must_use]
pub fn event_key(number: u64) -> String {
    record::key::<StoredEvent>(&format!("{number:020}"))
}

/// A failure of the store, as callers of the API read it.
#[must_use]
pub fn problem(error: &StoreError) -> Problem {
    let code = match error {
        StoreError::DiskFull { .. } => ErrorCode::DiskFull,
        StoreError::Closed => ErrorCode::Unavailable,
        StoreError::TooLarge { .. } => ErrorCode::TooLarge,
        _ => ErrorCode::Internal,
    };
    if code == ErrorCode::Internal {
        tracing::error!(error = error as &dyn std::error::Error, "the store failed");
    }
    Problem::new(code, error.to_string())
}
