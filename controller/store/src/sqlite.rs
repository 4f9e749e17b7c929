//! The engine in one SQLite file.
//!
//! One thread writes, one reads; both speak to the file by WAL with `synchronous=FULL`, so that an
//! acknowledged transaction survives a power cut. `current` holds what is, `log` what happened
//! since the last compaction. A file that is foreign, damaged or newer is refused before anything
//! in it is changed.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use tokio::sync::{oneshot, watch};

use crate::{Answer, Batch, Change, Engine, Entry, Outcome, Page, Range, Revision, StoreError, Transaction, end_of};

mod file;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The state in a file.
pub struct Sqlite {
    path: PathBuf,
    writer: Worker,
    reader: Worker,
    head: watch::Sender<Revision>,
}

/// A thread that owns a connection and does what it is sent.
struct Worker {
    // Emptied when the engine is dropped, which ends the thread.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(name: &str, mut connection: Connection) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Ok(job) = inbox.recv() {
                job(&mut connection);
            }
        })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Nobody waits any more if the caller was dropped; the work is done all the same.
            let _ = answer.send(work(connection));
        });
        self.jobs.as_ref().ok_or(StoreError::Closed)?.send(job).map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported by itself.
            let _ = thread.join();
        }
    }
}

impl Sqlite {
    /// Opens the database, or makes it where there is no file. Blocks for some milliseconds.
    ///
    /// # Errors
    /// A file that is foreign, damaged, newer, unreadable, or a full disk.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (writer, head) = file::open_writer(path)?;
        let reader = file::open_reader(path)?;
        let thread = |source| StoreError::Open { path: path.to_owned(), source };
        Ok(Self {
            path: path.to_owned(),
            writer: Worker::start("store-writer", writer).map_err(thread)?,
            reader: Worker::start("store-reader", reader).map_err(thread)?,
            head: watch::Sender::new(head),
        })
    }

    fn failure(&self, action: &'static str) -> impl Fn(rusqlite::Error) -> StoreError + Send + 'static {
        let path = self.path.clone();
        move |source| file::failure(&path, action, source)
    }
}

impl Engine for Sqlite {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        let failure = self.failure("read");
        let key = key.to_owned();
        Box::pin(self.reader.run(move |connection| {
            connection
                .prepare_cached("SELECT key, value, created, modified FROM current WHERE key = ?1")
                .and_then(|mut query| query.query_row([key], entry).optional())
                .map_err(failure)
        }))
    }

    fn list(&self, range: Range) -> Answer<'_, Page> {
        let failure = self.failure("read");
        Box::pin(self.reader.run(move |connection| list(connection, &range).map_err(failure)))
    }

    fn transact(&self, transaction: Transaction) -> Answer<'_, Outcome> {
        let failure = self.failure("write");
        let head = self.head.clone();
        Box::pin(self.writer.run(move |connection| {
            let outcome = write(connection, &transaction).map_err(failure)?;
            if let Outcome::Committed(revision) = outcome {
                head.send_replace(revision);
            }
            Ok(outcome)
        }))
    }

    fn history<'a>(&'a self, prefix: &'a str, after: Revision, limit: usize) -> Answer<'a, (Vec<Batch>, Revision)> {
        let failure = self.failure("read the history");
        let prefix = prefix.to_owned();
        Box::pin(self.reader.run(move |connection| history(connection, &prefix, after, limit, &failure)))
    }

    fn compact(&self, revision: Revision) -> Answer<'_, ()> {
        let failure = self.failure("compact");
        Box::pin(self.writer.run(move |connection| compact(connection, revision).map_err(failure)))
    }

    fn head(&self) -> watch::Receiver<Revision> {
        self.head.subscribe()
    }
}

fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn revision(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    Ok(Revision(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0)))
}

fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry { key: row.get(0)?, value: row.get(1)?, created: revision(row, 2)?, modified: revision(row, 3)? })
}

fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Revision> {
    connection.prepare_cached("SELECT number FROM meta WHERE key = ?1")?.query_row([key], |row| revision(row, 0))
}

fn set_meta(connection: &Connection, key: &str, value: Revision) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE meta SET number = ?2 WHERE key = ?1")?
        .execute(params![key, number(value)])
        .map(drop)
}

fn list(connection: &mut Connection, range: &Range) -> rusqlite::Result<Page> {
    // One transaction, so that the revision belongs to what is read.
    let read = connection.transaction()?;
    let head = meta(&read, "head")?;
    let end = end_of(&range.prefix);
    let limit = range.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let entries = read
        .prepare_cached(
            "SELECT key, value, created, modified FROM current
             WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) AND (?3 IS NULL OR key > ?3) ORDER BY key LIMIT ?4",
        )?
        .query_map(params![range.prefix, end, range.after, limit], entry)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(Page { revision: head, entries })
}

fn write(connection: &mut Connection, transaction: &Transaction) -> rusqlite::Result<Outcome> {
    // Dropped without commit, it is rolled back.
    let write = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let versions = |key: &str| {
        write
            .prepare_cached("SELECT created, modified FROM current WHERE key = ?1")?
            .query_row([key], |row| Ok((revision(row, 0)?, revision(row, 1)?)))
            .optional()
    };
    for compare in &transaction.compares {
        let modified = versions(&compare.key)?.map_or(Revision(0), |(_, modified)| modified);
        if modified != compare.modified {
            return Ok(Outcome::Conflict { key: compare.key.clone(), modified });
        }
    }
    let before = meta(&write, "head")?;
    let next = Revision(before.0 + 1);
    let mut position = 0_i64;
    for change in &transaction.changes {
        let existing = versions(change.key())?;
        let value =
            match change {
                Change::Put { key, value } => {
                    let created = existing.map_or(next, |(created, _)| created);
                    write
                        .prepare_cached("INSERT OR REPLACE INTO current VALUES (?1, ?2, ?3, ?4)")?
                        .execute(params![key, value, number(created), number(next)])?;
                    Some(value)
                }
                Change::Delete { .. } if existing.is_none() => continue,
                Change::Delete { key } => {
                    write.prepare_cached("DELETE FROM current WHERE key = ?1")?.execute([key])?;
                    None
                }
            };
        write.prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            number(next),
            position,
            change.key(),
            value
        ])?;
        position += 1;
    }
    if position == 0 {
        return Ok(Outcome::Committed(before));
    }
    set_meta(&write, "head", next)?;
    write.commit()?;
    Ok(Outcome::Committed(next))
}

fn history(
    connection: &mut Connection,
    prefix: &str,
    after: Revision,
    limit: usize,
    failure: &impl Fn(rusqlite::Error) -> StoreError,
) -> Result<(Vec<Batch>, Revision), StoreError> {
    let read = connection.transaction().map_err(failure)?;
    let head = meta(&read, "head").map_err(failure)?;
    let oldest = meta(&read, "compacted").map_err(failure)?;
    if after < oldest {
        return Err(StoreError::Compacted { asked: after, oldest });
    }
    batches(&read, prefix, after, limit).map_err(failure).map(|(found, is_all)| {
        let complete = found.last().filter(|_| !is_all).map_or(head.max(after), |batch| batch.revision);
        (found, complete)
    })
}

fn batches(
    connection: &Connection,
    prefix: &str,
    after: Revision,
    limit: usize,
) -> rusqlite::Result<(Vec<Batch>, bool)> {
    let mut query = connection.prepare_cached(
        "SELECT revision, key, value FROM log
         WHERE revision > ?1 AND key >= ?2 AND (?3 IS NULL OR key < ?3) ORDER BY revision, position",
    )?;
    let mut rows = query.query(params![number(after), prefix, end_of(prefix)])?;
    let mut found: Vec<Batch> = Vec::new();
    while let Some(row) = rows.next()? {
        let revision = revision(row, 0)?;
        let key: String = row.get(1)?;
        let change = match row.get::<_, Option<Vec<u8>>>(2)? {
            Some(value) => Change::Put { key, value },
            None => Change::Delete { key },
        };
        let is_same = found.last().is_some_and(|batch| batch.revision == revision);
        if !is_same {
            if found.len() == limit {
                return Ok((found, false));
            }
            found.push(Batch { revision, changes: Vec::new() });
        }
        if let Some(batch) = found.last_mut() {
            batch.changes.push(change);
        }
    }
    Ok((found, true))
}

fn compact(connection: &mut Connection, revision: Revision) -> rusqlite::Result<()> {
    let write = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let compacted = meta(&write, "compacted")?.max(revision);
    write.execute("DELETE FROM log WHERE revision <= ?1", [number(compacted)])?;
    set_meta(&write, "compacted", compacted)?;
    write.commit()
}

#[cfg(test)]
mod tests;
