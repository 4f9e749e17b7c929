//! Records on disk: where, in which form, and what a new agent makes of those it finds.

use std::path::{Path, PathBuf};

use super::host::Record;
use super::state::{Running, State, Then};
use crate::durable::{self, DurableError};

/// The first word of a record's file.
pub const MAGIC: &str = "drowse-instance";
/// The newest form of the record.
pub const VERSION: u32 = 1;

/// Where the record of the instance in `folder` is.
#[must_use]
pub fn path(folder: &Path) -> PathBuf {
    folder.join("record")
}

/// What was found in the folder of the instances.
#[derive(Debug, Default)]
pub struct Found {
    /// Whole records.
    pub records: Vec<Record>,
    /// Folders whose record is damaged, with what is wrong.
    pub damaged: Vec<(PathBuf, String)>,
    /// Folders without a record: left by a crash between the first file and the record, or in a removal.
    pub ownerless: Vec<PathBuf>,
}

/// Reads every record below `folder`.
///
/// # Errors
/// If a record was written by a newer agent: nothing may be concluded then, and nothing removed.
pub fn find(folder: &Path) -> Result<Found, DurableError> {
    let mut found = Found::default();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(source) => return Err(DurableError::Io { action: "read", path: folder.to_owned(), source }),
    };
    for entry in entries.flatten() {
        let folder = entry.path();
        match durable::load::<Record>(&path(&folder), MAGIC, VERSION) {
            Ok(Some(record)) if entry.file_name() == record.life.spec.id.as_str() => found.records.push(record),
            Ok(Some(_)) => found.damaged.push((folder, "its id is not its folder's name".to_owned())),
            Ok(None) => found.ownerless.push(folder),
            Err(error @ (DurableError::Corrupted { .. } | DurableError::TooLarge { .. })) => {
                found.damaged.push((folder, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A site whose published files are gone is published again: nobody else would.
#[must_use]
pub fn unpublished(mut record: Record) -> Record {
    if matches!(
        record.life.state,
        State::Booting { running: Running::Published, .. } | State::Ready { running: Running::Published, .. }
    ) {
        record.life.state = State::Launching { then: Then::Proceed };
    }
    record
}

/// What is left of an instance after the host was rebooted: nothing runs, what it wrote is kept.
#[must_use]
pub fn rebooted(mut record: Record, boot_id: &str) -> Record {
    record.boot_id = boot_id.to_owned();
    record.life.state = match record.life.state {
        over @ (State::Stopped { .. } | State::Failed { .. }) => over,
        State::Removing => State::Removing,
        _ => State::Stopped { reason: "the host was rebooted".to_owned() },
    };
    record
}
