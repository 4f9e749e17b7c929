//! Opening the file: what it must be before anything in it is touched, and its schema.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::{Revision, StoreError};

/// `drws`, in SQLite's header: tells our files from others'.
const APPLICATION_ID: i64 = 0x6472_7773;

/// The newest schema this program knows; kept in SQLite's `user_version`.
pub(super) const SCHEMA: i64 = 1;

const HEADER: &[u8; 16] = b"SQLite format 3\0";

const CREATE: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, number INTEGER, text TEXT) WITHOUT ROWID;
    CREATE TABLE current (
        key TEXT PRIMARY KEY, value BLOB NOT NULL, created INTEGER NOT NULL, modified INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE log (
        revision INTEGER NOT NULL, position INTEGER NOT NULL, key TEXT NOT NULL, value BLOB,
        PRIMARY KEY (revision, position)
    ) WITHOUT ROWID;
    INSERT INTO meta VALUES ('head', 0, NULL), ('compacted', 0, NULL), ('written_by', 0, '');
";

/// Turns SQLite's error into one that says what to do.
pub(super) fn failure(path: &Path, action: &'static str, source: rusqlite::Error) -> StoreError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::DiskFull { path: path.to_owned() },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged { path: path.to_owned(), detail: source.to_string() }
        }
        _ => StoreError::Engine { action, path: path.to_owned(), source },
    }
}

/// Opens for writing, makes what is missing, and reads the newest revision.
pub(super) fn open_writer(path: &Path) -> Result<(Connection, Revision), StoreError> {
    let is_new = is_new(path)?;
    let failure = |source| failure(path, "open", source);
    let mut connection = Connection::open(path).map_err(failure)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(failure)?;
    if !is_new {
        examine(&connection, path)?;
    }
    connection.pragma_update(None, "journal_mode", "wal").map_err(failure)?;
    connection.pragma_update(None, "synchronous", "full").map_err(failure)?;
    let head = prepare(&mut connection).map_err(failure)?;
    Ok((connection, head))
}

/// Opens for reading only.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let failure = |source| failure(path, "open", source);
    // SQLITE_OPEN_READ_ONLY could not make the shared memory file of WAL; query_only can.
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(failure)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(failure)?;
    connection.pragma_update(None, "query_only", true).map_err(failure)?;
    Ok(connection)
}

/// Whether there is no database yet: no file, or the empty one of a start that was cut short.
fn is_new(path: &Path) -> Result<bool, StoreError> {
    let failure = |source| StoreError::Open { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(failure(error)),
    };
    let mut start = Vec::new();
    file.by_ref().take(16).read_to_end(&mut start).map_err(failure)?;
    if start.is_empty() {
        return Ok(true);
    }
    if start != HEADER {
        return Err(StoreError::Damaged { path: path.to_owned(), detail: "it does not begin as a database".into() });
    }
    Ok(false)
}

/// Refuses what is foreign, newer or damaged. Changes nothing.
fn examine(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failure = |source| failure(path, "examine", source);
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failure);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(failure)?;
    let application = number("application_id")?;
    if application == 0 && tables == 0 {
        // Made, but its first transaction was cut short.
        return Ok(());
    }
    if application != APPLICATION_ID {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    let found = number("user_version")?;
    if found > SCHEMA {
        let written_by = connection
            .query_row("SELECT text FROM meta WHERE key = 'written_by'", [], |row| row.get(0))
            .unwrap_or_else(|_| "of an unknown version".to_owned());
        return Err(StoreError::NewerSchema { path: path.to_owned(), found, supported: SCHEMA, written_by });
    }
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failure)?;
    if verdict == "ok" { Ok(()) } else { Err(StoreError::Damaged { path: path.to_owned(), detail: verdict }) }
}

/// Brings the schema up to date in one transaction, and notes who writes from now on.
fn prepare(connection: &mut Connection) -> rusqlite::Result<Revision> {
    let write = connection.transaction()?;
    let schema: i64 = write.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if schema == 0 {
        write.execute_batch(CREATE)?;
        write.pragma_update(None, "application_id", APPLICATION_ID)?;
        write.pragma_update(None, "user_version", SCHEMA)?;
    }
    write.execute("UPDATE meta SET text = ?1 WHERE key = 'written_by' AND text <> ?1", [env!("CARGO_PKG_VERSION")])?;
    let head = super::meta(&write, "head")?;
    write.commit()?;
    Ok(head)
}
