//! Records on disk: where, in which form, and what a new agent makes of those it finds.

use std::path::{Path, PathBuf};

use drowse_api::secrets::Secrets;
use drowse_seal::{Key, SealError, Sealed};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::host::Record;
use super::state::{End, Next, Rest, Running, State, Then};
use crate::durable::{self, DurableError};

/// The first word of a record's file.
pub const MAGIC: &str = "drowse-instance";
/// The newest form of the record.
pub const VERSION: u32 = 2;

/// Where the record of the instance in `folder` is.
#[must_use]
pub fn path(folder: &Path) -> PathBuf {
    folder.join("record")
}

/// Why an instance ends whose secrets cannot be read any more. Its controller starts it again with them.
const KEY_IS_GONE: &str = "the key to its secrets, which is made anew at each boot, is gone";

/// A record as it is on disk: its secrets are sealed, with a key that does not outlive the boot.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    #[serde(flatten)]
    record: Record,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secrets: Option<Sealed>,
}

impl Kept {
    /// What is written of `record`.
    ///
    /// # Errors
    /// If nothing can be sealed.
    pub fn of(mut record: Record, key: &Key) -> Result<Self, SealError> {
        let secrets = std::mem::take(&mut record.life.spec.secrets);
        if secrets.is_empty() {
            return Ok(Self { record, secrets: None });
        }
        let text = serde_json::to_vec(&secrets).map_err(|_| SealError)?;
        let secrets = Some(key.seal(&what(&record), &text)?);
        Ok(Self { record, secrets })
    }

    fn open(self, key: &Key) -> Record {
        let Self { mut record, secrets } = self;
        let Some(sealed) = secrets else { return record };
        let text = key.open(&what(&record), &sealed).ok();
        match text.and_then(|text| serde_json::from_slice::<Secrets>(&text).ok()) {
            Some(secrets) => record.life.spec.secrets = secrets,
            None => {
                tracing::error!(instance = %record.life.spec.id, "{KEY_IS_GONE}: it is ended");
                record.life.state = ended(record.life.state);
            }
        }
        record
    }
}

fn what(record: &Record) -> String {
    format!("secrets of instance {}", record.life.spec.id)
}

/// Nothing is started without its secrets: what runs is stopped, what was to start is not.
fn ended(state: State) -> State {
    let reason = || KEY_IS_GONE.to_owned();
    let instead = |then: Then| match then {
        Then::Proceed | Then::Start | Then::Sleep { .. } => Then::Stop(reason()),
        Then::Stop(_) | Then::Remove => then,
    };
    match state {
        State::Launching { then: Then::Remove } => State::Clearing { then: End::Remove },
        State::Launching { .. }
        | State::Backoff { .. }
        | State::Frozen { rest: Rest::Cold | Rest::Snapshot { .. }, .. }
        | State::Clearing { then: End::Start | End::Sleep { .. } } => State::Clearing { then: End::Stopped(reason()) },
        State::Booting { running, .. }
        | State::Ready { running, .. }
        | State::FallingAsleep { running, .. }
        | State::Frozen { rest: Rest::Paused { running } | Rest::Paged { running, .. }, .. } => {
            State::Stopping { running, deadline: Timestamp::now(), then: Then::Stop(reason()) }
        }
        State::Dumping { running, since, reason: why, next } => {
            let next = match next {
                Next::End(then) => Next::End(instead(then)),
                Next::Sleep | Next::Wake(_) => Next::End(Then::Stop(reason())),
            };
            State::Dumping { running, since, reason: why, next }
        }
        State::Exiting { running, verdict, then } => State::Exiting { running, verdict, then: instead(then) },
        State::Stopping { running, deadline, then } => State::Stopping { running, deadline, then: instead(then) },
        over @ (State::Clearing { .. } | State::Stopped { .. } | State::Failed { .. } | State::Removing) => over,
    }
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

/// Reads every record below `folder`, with its secrets if there is a `key`.
///
/// # Errors
/// If a record was written by a newer agent: nothing may be concluded then, and nothing removed.
pub fn find(folder: &Path, key: Option<&Key>) -> Result<Found, DurableError> {
    let mut found = Found::default();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(source) => return Err(DurableError::Io { action: "read", path: folder.to_owned(), source }),
    };
    for entry in entries.flatten() {
        let folder = entry.path();
        match durable::load::<Kept>(&path(&folder), MAGIC, VERSION) {
            Ok(Some(kept)) if entry.file_name() == kept.record.life.spec.id.as_str() => {
                found.records.push(match key {
                    Some(key) => kept.open(key),
                    None => kept.record,
                });
            }
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

/// A paused instance whose processes go on after all: the earlier agent died between the two.
#[must_use]
pub fn awake(mut record: Record, now: Timestamp) -> Record {
    record.life.goes_on(now);
    record
}

/// What is left of an instance after the host was rebooted: nothing runs, what it wrote is kept. What
/// slept without running anything sleeps on.
#[must_use]
pub fn rebooted(mut record: Record, boot_id: &str) -> Record {
    record.boot_id = boot_id.to_owned();
    record.life.woken = None;
    let asleep = record.life.sleeps_on();
    record.life.state = match record.life.state {
        over @ (State::Stopped { .. } | State::Failed { .. }) => over,
        State::Removing => State::Removing,
        _ => asleep.unwrap_or_else(|| State::Stopped { reason: "the host was rebooted".to_owned() }),
    };
    record
}

#[cfg(test)]
mod tests {
    use drowse_api::Epoch;
    use drowse_api::instance::{OnBootFailure, ProcessIdentity};

    use super::super::fake::spec;
    use super::super::state::{App, Life};
    use super::*;

    fn record(state: State) -> Record {
        let mut spec = spec(1, OnBootFailure::Fail);
        spec.secrets = [("TOKEN".to_owned(), "planted".to_owned())].into_iter().collect();
        let (life, _) = Life::new(spec);
        Record { life: Life { state, ..life }, address: [10, 0, 0, 1].into(), port: 8080, boot_id: "boot".to_owned() }
    }

    fn ready() -> State {
        let identity = ProcessIdentity { pid: 5, start_time: 1 };
        State::Ready { running: Running::Process(App { identity, pid_inside: 2 }), since: Timestamp::UNIX_EPOCH }
    }

    /// A folder with the record of one instance as it is kept.
    fn kept(record: &Record, key: &Key) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let own = folder.path().join(record.life.spec.id.as_str());
        std::fs::create_dir(&own).expect("made");
        durable::save(&path(&own), MAGIC, VERSION, &Kept::of(record.clone(), key).expect("sealed")).expect("saved");
        folder
    }

    #[test]
    fn secrets_are_sealed_on_disk_and_there_again_for_the_next_agent_of_this_boot() {
        let (key, record) = (Key::from_bytes(&[1; 32]), record(ready()));
        let folder = kept(&record, &key);
        let file = std::fs::read_to_string(path(&folder.path().join(record.life.spec.id.as_str()))).expect("reads");
        assert!(!file.contains("planted"), "{file}");
        assert_eq!(find(folder.path(), Some(&key)).expect("found").records, std::slice::from_ref(&record));
        let unread = find(folder.path(), None).expect("found").records.remove(0);
        assert!(unread.life.spec.secrets.is_empty() && unread.life.state == record.life.state);
    }

    #[test]
    fn without_the_key_nothing_is_started_and_what_runs_is_stopped() {
        let other = Key::from_bytes(&[2; 32]);
        for state in [ready(), State::Launching { then: Then::Proceed }, State::Clearing { then: End::Start }] {
            let folder = kept(&record(state), &Key::from_bytes(&[1; 32]));
            let found = find(folder.path(), Some(&other)).expect("found").records.remove(0);
            let stops = matches!(
                &found.life.state,
                State::Stopping { then: Then::Stop(_), .. } | State::Clearing { then: End::Stopped(_) }
            );
            assert!(stops, "{:?}", found.life.state);
        }
        let over = State::Stopped { reason: "told to".to_owned() };
        let folder = kept(&record(over.clone()), &Key::from_bytes(&[1; 32]));
        assert_eq!(find(folder.path(), Some(&other)).expect("found").records[0].life.state, over);
    }

    #[test]
    fn a_record_of_an_agent_that_knew_no_secrets_is_read() {
        let mut plain = record(ready());
        plain.life.spec.secrets = Secrets::default();
        plain.life.spec.epoch = Epoch(3);
        let folder = tempfile::tempdir().expect("a folder");
        let own = folder.path().join(plain.life.spec.id.as_str());
        std::fs::create_dir(&own).expect("made");
        durable::save(&path(&own), MAGIC, 1, &plain).expect("saved");
        assert_eq!(find(folder.path(), Some(&Key::from_bytes(&[1; 32]))).expect("found").records, [plain]);
    }
}
