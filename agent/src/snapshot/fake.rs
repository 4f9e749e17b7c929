//! An engine without a kernel, which records what it is asked.

use std::sync::{Mutex, PoisonError};

use super::{Abort, DumpRequest, RestoreRequest, SnapshotEngine, SnapshotError};

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Of the main process with this pid inside.
    Dump(i32),
    /// With this many streams.
    Restore(usize),
}

/// Records, writes one image, and fails when it is told to.
#[derive(Debug, Default)]
pub struct Fake {
    // A std lock, held over one push.
    calls: Mutex<Vec<Call>>,
    /// What the next calls fail with.
    pub refusal: Mutex<Option<String>>,
}

impl Fake {
    /// All calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn record(&self, call: Call, action: &'static str) -> Result<(), SnapshotError> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        match self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(message) => Err(SnapshotError::Refused { action, message }),
            None => Ok(()),
        }
    }
}

impl SnapshotEngine for Fake {
    fn dump(&self, request: &DumpRequest<'_>, abort: &Abort) -> Result<(), SnapshotError> {
        if abort.is_asked() {
            return Err(SnapshotError::Aborted);
        }
        self.record(Call::Dump(request.pid_inside), "the dump")
    }

    fn restore(&self, request: RestoreRequest<'_>) -> Result<(), SnapshotError> {
        self.record(Call::Restore(request.streams.len()), "the restore")
    }
}
