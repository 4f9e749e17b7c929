//! The agent's events: numbered, bounded, kept over restarts, and followed by the controller.
//!
//! One JSON object a line. Numbers rise and never repeat; a restart of the agent leaves a gap, so
//! that a number whose line a power cut took is not given again. A log that begins anew has another
//! id, so that its numbers are not taken for those of the one before.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drowse_api::EventLogId;
use drowse_api::agent::Told;
use drowse_api::event::{AgentEvent, EventKind};
use drowse_api::instance::InstanceSpec;
use jiff::Timestamp;
use tokio::sync::watch;

/// How many events are kept.
const KEPT: usize = 5_000;
/// What a restart adds to the number.
const GAP: u64 = 1_000;

/// Why the events cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the events in {path}")]
pub struct EventsError {
    action: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

/// The log of events. Shared by reference.
#[derive(Debug)]
pub struct EventLog {
    id: EventLogId,
    path: PathBuf,
    // A lock and no channel: an event has its number when `tell` returns.
    inner: Mutex<Inner>,
    latest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    lines: usize,
    kept: VecDeque<AgentEvent>,
    next: u64,
}

impl EventLog {
    /// Opens the log at `path`, or starts one.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, EventsError> {
        let error = |action| move |source| EventsError { action, path: path.to_owned(), source };
        let mut kept = VecDeque::new();
        match File::open(path) {
            Ok(file) => {
                for line in BufReader::new(file).split(b'\n') {
                    let line = line.map_err(error("read"))?;
                    // A line that a crash cut short is passed over: its number lies in the gap.
                    if let Ok(event) = serde_json::from_slice::<AgentEvent>(&line) {
                        kept.push_back(event);
                    }
                    if kept.len() > KEPT {
                        kept.pop_front();
                    }
                }
            }
            Err(absent) if absent.kind() == std::io::ErrorKind::NotFound => {}
            Err(other) => return Err(error("read")(other)),
        }
        let next = kept.back().map_or(1, |last: &AgentEvent| last.sequence + GAP);
        let id = kept.iter().rev().find_map(|event| event.log.clone()).unwrap_or_else(EventLogId::generate);
        let file = rewrite(path, &kept).map_err(error("write"))?;
        let inner = Inner { file, lines: kept.len(), kept, next };
        Ok(Self { id, path: path.to_owned(), latest: watch::Sender::new(next - 1), inner: Mutex::new(inner) })
    }

    /// Adds an event about an instance; the node's own are told as events of the node.
    pub fn about(&self, spec: &InstanceSpec, kind: EventKind, message: impl Into<String>) {
        if spec.id.as_str() == crate::host::SITES {
            return self.about_node(format!("the file server of static sites: {}", message.into()));
        }
        self.add(AgentEvent {
            sequence: 0,
            log: None,
            at: Timestamp::now(),
            kind,
            app: Some(spec.app.clone()),
            deployment: Some(spec.deployment.clone()),
            instance: Some(spec.id.clone()),
            message: message.into(),
        });
    }

    /// Adds an event about the node.
    pub fn about_node(&self, message: impl Into<String>) {
        let (at, kind) = (Timestamp::now(), EventKind::Node);
        self.add(AgentEvent {
            sequence: 0,
            log: None,
            at,
            kind,
            app: None,
            deployment: None,
            instance: None,
            message: message.into(),
        });
    }

    /// Which log it is.
    #[must_use]
    pub fn id(&self) -> &EventLogId {
        &self.id
    }

    /// Where it stands.
    #[must_use]
    pub fn newest(&self) -> Told {
        let sequence = self.lock().kept.back().map_or(0, |last| last.sequence);
        Told { log: self.id.clone(), sequence }
    }

    /// The kept events after number `after`, and a signal that moves with each further one.
    #[must_use]
    pub fn after(&self, after: u64) -> Vec<AgentEvent> {
        let inner = self.lock();
        let first = inner.kept.partition_point(|event| event.sequence <= after);
        inner.kept.range(first..).cloned().collect()
    }

    /// Moves with every event.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    fn add(&self, mut event: AgentEvent) {
        let mut inner = self.lock();
        event.sequence = inner.next;
        event.log = Some(self.id.clone());
        inner.next += 1;
        let instance = event.instance.as_ref().map(ToString::to_string).unwrap_or_default();
        tracing::info!(sequence = event.sequence, instance, "{}", event.message);
        let written = serde_json::to_vec(&event).map_err(std::io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            inner.file.write_all(&line)
        });
        if let Err(error) = written {
            tracing::error!("cannot write an event to {}: {error}", self.path.display());
        }
        let sequence = event.sequence;
        inner.kept.push_back(event);
        inner.lines += 1;
        if inner.kept.len() > KEPT {
            inner.kept.pop_front();
        }
        if inner.lines > 2 * KEPT {
            match rewrite(&self.path, &inner.kept) {
                Ok(file) => (inner.file, inner.lines) = (file, inner.kept.len()),
                Err(error) => tracing::error!("cannot shorten {}: {error}", self.path.display()),
            }
        }
        drop(inner);
        self.latest.send_replace(sequence);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces the file by `events`, and opens it for adding.
fn rewrite(path: &Path, events: &VecDeque<AgentEvent>) -> std::io::Result<File> {
    let beside = path.with_extension("new");
    let mut text = Vec::new();
    for event in events {
        serde_json::to_writer(&mut text, event)?;
        text.push(b'\n');
    }
    let mut file = File::create(&beside)?;
    file.write_all(&text)?;
    file.sync_data()?;
    std::fs::rename(&beside, path)?;
    File::options().append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(folder: &Path) -> EventLog {
        EventLog::open(&folder.join("events")).expect("opens")
    }

    #[test]
    fn numbers_rise_over_restarts_and_never_repeat() {
        let folder = tempfile::tempdir().expect("folder");
        let first = log(folder.path());
        first.about_node("one");
        first.about_node("two");
        let seen = first.after(0);
        drop(first);
        let second = log(folder.path());
        second.about_node("three");
        let all = second.after(0);
        assert_eq!(all[..2], seen[..]);
        assert!(all[2].sequence > seen[1].sequence);
        assert_eq!(second.after(seen[1].sequence), all[2..]);
    }

    #[test]
    fn a_log_keeps_its_id_and_a_new_one_has_another() {
        let folder = tempfile::tempdir().expect("folder");
        let first = log(folder.path());
        first.about_node("one");
        let id = first.id().clone();
        assert_eq!(first.newest(), Told { log: id.clone(), sequence: first.after(0)[0].sequence });
        drop(first);
        assert_eq!(*log(folder.path()).id(), id);
        std::fs::remove_file(folder.path().join("events")).expect("removes");
        assert_ne!(*log(folder.path()).id(), id);
    }

    #[test]
    fn a_line_cut_short_by_a_crash_is_passed_over() {
        let folder = tempfile::tempdir().expect("folder");
        log(folder.path()).about_node("one");
        let mut file = File::options().append(true).open(folder.path().join("events")).expect("opens");
        file.write_all(b"{\"sequence\":2,\"at\"").expect("writes");
        let again = log(folder.path());
        again.about_node("two");
        let texts: Vec<_> = again.after(0).into_iter().map(|event| event.message).collect();
        assert_eq!(texts, ["one", "two"]);
    }

    #[test]
    fn old_events_make_room() {
        let folder = tempfile::tempdir().expect("folder");
        let log = log(folder.path());
        for n in 0..2 * KEPT + 2 {
            log.about_node(n.to_string());
        }
        assert_eq!(log.after(0).len(), KEPT);
        drop(log);
        let lines = std::fs::read_to_string(folder.path().join("events")).expect("reads").lines().count();
        assert!(lines < 2 * KEPT);
    }
}
