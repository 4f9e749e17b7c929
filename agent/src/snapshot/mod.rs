//! Snapshots: the processes of an app on disk, and back into the sandbox that was kept for them.
//!
//! [`SnapshotEngine`] dumps and restores; [`Criu`] is the real one. [`Manifest`] says what a snapshot
//! is of and proves that nobody changed it; [`tasks`] reads what a process may do, so that a restored one
//! can be held against what was dumped. Who sleeps when is not known here.

mod criu;
mod fake;
mod manifest;
pub mod tasks;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub use criu::Criu;
pub use fake::{Call, Fake};
pub use manifest::{Key, Manifest, Subject};
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// Why a snapshot could not be taken or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file or folder.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The checkpoint program or the object that is preloaded into it does not start.
    #[error("cannot start the checkpoint program {program}")]
    Start {
        /// Which.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It ended before it was asked anything.
    #[error("the checkpoint program ended while it entered the sandbox: {what}")]
    Entry {
        /// How.
        what: String,
    },
    /// It said no.
    #[error("{action} failed: {message}")]
    Refused {
        /// `the dump`, `the restore`.
        action: &'static str,
        /// In its own words.
        message: String,
    },
    /// It was told to give up, and did.
    #[error("the dump was broken off, as it was asked to")]
    Aborted,
    /// It did not answer in time.
    #[error("{action} did not end in {waited:?}")]
    Deadline {
        /// `the restore`.
        action: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// Something was exchanged with it that is no message of its protocol.
    #[error("cannot talk to the checkpoint program")]
    Talk {
        /// Why not.
        source: std::io::Error,
    },
    /// The snapshot is damaged, or not of what it should be.
    #[error("the snapshot cannot be used: {what}")]
    Unusable {
        /// What is wrong with it.
        what: String,
    },
    /// The disk is as full as it may be.
    #[error("there is no room for it on the disk: {what}")]
    NoRoom {
        /// How much there is, and how much it takes.
        what: String,
    },
    /// A restored process may do more or less than the one that was dumped.
    #[error("a restored process is not what was dumped: {what}")]
    Changed {
        /// Which process, and what of it.
        what: String,
    },
}

/// A snapshot that was taken, as whoever may use it knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Bytes of all images.
    pub size: u64,
    /// Tells it from every other one, also of the same app: an older one that was put back is not used.
    pub mark: String,
}

/// What is dumped. It is frozen by its control group, and is so afterwards, whatever comes of it.
#[derive(Debug)]
pub struct DumpRequest<'a> {
    /// The folder for the images: empty, and root's alone.
    pub images: BorrowedFd<'a>,
    /// The app's main process.
    pub app: BorrowedFd<'a>,
    /// Its pid inside.
    pub pid_inside: i32,
    /// The folder of the version 2 group that all of the app is in, and nothing else.
    pub group: BorrowedFd<'a>,
    /// The app's user and group, as host ids.
    pub ids: (u32, u32),
}

/// What is restored: every process is born in `groups` and in the namespaces of `init`.
#[derive(Debug)]
pub struct RestoreRequest<'a> {
    /// The folder with the images, checked.
    pub images: BorrowedFd<'a>,
    /// pid 1 of the sandbox.
    pub init: BorrowedFd<'a>,
    /// `cgroup.procs` of the app's groups in every hierarchy, open for writing.
    pub groups: Vec<OwnedFd>,
    /// What takes the place of the pipes that were the app's standard streams: the inode of each at the
    /// time of the dump, and the new one's writing end.
    pub streams: Vec<(u64, OwnedFd)>,
    /// How long it may take: after an error a restore can hang for good.
    pub limit: Duration,
}

/// Dumps and restores the processes of an app. Calls block.
pub trait SnapshotEngine: Send + Sync {
    /// Writes the processes into the folder. They go on existing, frozen.
    ///
    /// # Errors
    /// The app is as it was before: a dump that fails has never harmed it.
    fn dump(&self, request: &DumpRequest<'_>, abort: &Abort) -> Result<(), SnapshotError>;

    /// Brings the processes back; they run when this returns.
    ///
    /// # Errors
    /// Half-restored processes may be left in the groups: kill them.
    fn restore(&self, request: RestoreRequest<'_>) -> Result<(), SnapshotError>;
}

/// Breaks off a dump: for a visitor who comes in the middle of it.
#[derive(Debug, Default)]
pub struct Abort {
    // A std lock, held over one call to the kernel.
    state: Mutex<AbortState>,
}

#[derive(Debug, Default)]
enum AbortState {
    #[default]
    Idle,
    Dumping(OwnedFd),
    Asked,
}

impl Abort {
    /// Asks a dump that goes on to give up, which takes it some 10 ms; one that is only to begin does not.
    pub fn ask(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let AbortState::Dumping(process) = &*state {
            let _ = pidfd_send_signal(process, Signal::USR1);
        }
        *state = AbortState::Asked;
    }

    /// Whether it was asked.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        matches!(*self.state.lock().unwrap_or_else(PoisonError::into_inner), AbortState::Asked)
    }

    /// The process that dumps from now on; false if it is not to begin.
    fn dumping(&self, process: OwnedFd) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, AbortState::Asked) {
            return false;
        }
        *state = AbortState::Dumping(process);
        true
    }
}

fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> SnapshotError {
    let path = path.into();
    move |source| SnapshotError::Io { action, path, source }
}
