//! The states of an instance, what happens to it, and what is to be done.
//!
//! Values only: `machine.rs` decides on them, `actor.rs` acts on them, `record.rs` keeps them.

use std::time::Duration;

use drowse_api::Epoch;
use drowse_api::event::EventKind;
use drowse_api::instance::{Failure, FailureReason, InstanceSpec, ProcessIdentity};
use drowse_api::sleep::Depth;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::snapshot::Taken;

/// What serves for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Running {
    /// Processes in its own sandbox.
    Process(App),
    /// Files at its address of the node's file server.
    Published,
}

/// The main process of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// On the host.
    pub identity: ProcessIdentity,
    /// Inside its pid namespace, as init records its exit.
    pub pid_inside: i32,
}

/// How an app ended, and what explains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// `exited with status 1`, `was killed by SIGKILL`.
    pub what: String,
    /// The kernel killed it at its memory limit.
    pub out_of_memory: bool,
    /// What is known of the cause, as the end of a sentence: `its .profile ended the start`.
    pub because: Option<String>,
    /// The last lines of its log.
    pub log: Vec<String>,
}

/// Why an app could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchFailure {
    /// One sentence.
    pub detail: String,
    /// Whether the image is to blame (its command cannot be executed) and not the host.
    pub by_app: bool,
}

/// An instance: what is wanted, and what it is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Life {
    /// What the controller wants, by its newest accepted decision.
    pub spec: InstanceSpec,
    /// Starts after an exit, since the budget was reset.
    pub tries: u32,
    /// Whether this spec was ever ready; a deploy that never was fails at once.
    pub proven: bool,
    /// What it is doing.
    pub state: State,
    /// What it was woken by, until it is ready: while nothing of it ran.
    #[serde(default)]
    pub woken: Option<Woken>,
    /// How it slept the last time.
    #[serde(default)]
    pub slept: Option<Woken>,
    /// How long it took from being started to being ready the last time, in milliseconds.
    #[serde(default)]
    pub start_took: Option<u32>,
    /// How long it took to come back from disk the last time, in milliseconds.
    #[serde(default)]
    pub restore_took: Option<u32>,
    /// Why it cannot be put to disk, once that was found out; until it is started anew.
    #[serde(default)]
    pub no_snapshot: Option<String>,
    /// Why there was no room for it on the disk; until it is awake again.
    #[serde(default)]
    pub no_room: Option<String>,
    /// Why its memory does not go to swap; until it is awake again.
    #[serde(default)]
    pub no_paging: Option<String>,
}

/// Why an instance is not on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotDumped {
    /// It never can be, as it is.
    Never(String),
    /// There is no room for it.
    NoRoom(String),
}

/// What an instance is doing. Every state with work in progress says what follows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Image, sandbox, network and process are being made.
    Launching {
        /// What follows.
        then: Then,
    },
    /// It runs and is being connected to.
    Booting {
        /// What runs.
        running: Running,
        /// Since when.
        since: Timestamp,
        /// Until when it may take.
        deadline: Timestamp,
    },
    /// It accepts connections.
    Ready {
        /// What runs.
        running: Running,
        /// Since when.
        since: Timestamp,
    },
    /// It serves and is to sleep; the routers are asked to let go of it until `deadline`.
    FallingAsleep {
        /// What runs.
        running: Running,
        /// Since when it was ready.
        since: Timestamp,
        /// How it is to sleep.
        bed: Bed,
        /// The number of this attempt: routers answer by it.
        ticket: u64,
        /// When it is called off.
        deadline: Timestamp,
    },
    /// It sleeps. No router sends it anything before it was told that it is ready.
    Frozen {
        /// What is left of it meanwhile.
        rest: Rest,
        /// Since when.
        since: Timestamp,
        /// Why, as the rest of a sentence.
        reason: String,
    },
    /// It sleeps, and its processes, which stand still, are being put to disk.
    Dumping {
        /// What runs until that is done.
        running: Running,
        /// Since when it sleeps.
        since: Timestamp,
        /// Why, as the rest of a sentence.
        reason: String,
        /// What follows, whether it goes well or not.
        next: Next,
    },
    /// Its main process ended or is being killed; the rest of it is cleared away.
    Exiting {
        /// What ran.
        running: Running,
        /// Why the platform ended it, where it did.
        verdict: Option<Verdict>,
        /// What follows.
        then: Then,
    },
    /// It is started again at `retry_at`.
    Backoff {
        /// When.
        retry_at: Timestamp,
        /// Why it is down.
        cause: Failure,
    },
    /// It was sent SIGTERM and has until `deadline`.
    Stopping {
        /// What runs.
        running: Running,
        /// When it is killed.
        deadline: Timestamp,
        /// What follows.
        then: Then,
    },
    /// Its sandbox is being torn down.
    Clearing {
        /// What follows.
        then: End,
    },
    /// It ended because it was told to.
    Stopped {
        /// In one sentence.
        reason: String,
    },
    /// It is not started again without a new command.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// Everything of it is being removed.
    Removing,
}

/// How an instance is to sleep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bed {
    /// How deeply.
    pub depth: Depth,
    /// How long the app may take to end, where it has to.
    pub grace: Duration,
    /// Why, as the rest of a sentence.
    pub reason: String,
}

/// What follows a dump, which whoever needs the instance meanwhile has broken off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Next {
    /// It sleeps on.
    Sleep,
    /// It wakes, by this, as the rest of a sentence.
    Wake(String),
    /// It ends.
    End(Then),
}

/// What is left of an instance that sleeps. Each depth has its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rest", rename_all = "kebab-case")]
pub enum Rest {
    /// Its processes stand still.
    Paused {
        /// These.
        running: Running,
    },
    /// They stand still, and most of their memory is in swap.
    Paged {
        /// These.
        running: Running,
        /// How much, in bytes.
        swapped: u64,
    },
    /// Its processes are on disk. Its sandbox stands, or is made anew when they come back.
    Snapshot {
        /// This one, and no earlier one.
        #[serde(default)]
        taken: Taken,
    },
    /// Nothing runs; its files are kept.
    Cold,
}

impl Rest {
    /// How deep that is.
    #[must_use]
    pub fn depth(&self) -> Depth {
        match self {
            Self::Paused { .. } => Depth::Paused,
            Self::Paged { .. } => Depth::Paged,
            Self::Snapshot { .. } => Depth::Snapshot,
            Self::Cold => Depth::Cold,
        }
    }
}

/// A wake that takes a restore or a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Woken {
    /// How deeply it slept.
    pub depth: Depth,
    /// Since when it slept.
    pub slept_since: Timestamp,
    /// When it was woken.
    pub at: Timestamp,
    /// By what, as the rest of a sentence.
    pub cause: String,
}

/// What follows work in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// As ever: after a launch the boot check, after an exit the restart budget.
    Proceed,
    /// It stops, for this reason.
    Stop(String),
    /// It starts anew by the spec as it is by then.
    Start,
    /// It sleeps, and nothing of it runs.
    Sleep {
        /// Since when it counts as asleep.
        since: Timestamp,
        /// Why.
        reason: String,
    },
    /// It is removed.
    Remove,
}

/// What follows the tearing down of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It stays stopped.
    Stopped(String),
    /// It stays failed.
    Failed(Failure),
    /// It starts anew.
    Start,
    /// It sleeps.
    Sleep {
        /// Since when it counts as asleep.
        since: Timestamp,
        /// Why.
        reason: String,
    },
    /// It is removed.
    Remove,
}

/// Why the platform ended an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The kind.
    pub reason: FailureReason,
    /// One sentence.
    pub detail: String,
}

/// What an app that is not ready at its deadline lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// A connection to its port.
    Connection {
        /// What listens instead.
        instead: String,
    },
    /// A good answer at the path of its boot check.
    Answer {
        /// The path.
        path: String,
        /// What it did instead.
        instead: String,
    },
}

/// What happens to an instance.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A newer decision on what it should be.
    Put(Box<InstanceSpec>),
    /// A newer decision that it should stop.
    Stop {
        /// The decision.
        epoch: Epoch,
        /// How long it may take.
        grace: Duration,
        /// Why.
        reason: String,
    },
    /// It is to be removed.
    Delete(Epoch),
    /// It is to sleep.
    Sleep {
        /// How.
        bed: Bed,
        /// The number of this attempt.
        ticket: u64,
    },
    /// Every router has let go of it.
    Quiet {
        /// The attempt that they were asked in.
        ticket: u64,
    },
    /// Somebody needs it, as the rest of a sentence.
    Demand(String),
    /// It is on disk, and no process of it is left.
    Dumped(Taken),
    /// It is not on disk, and stands still as before.
    DumpFailed(NotDumped),
    /// It came back from disk, and runs.
    Restored(Running),
    /// It did not come back from disk, and nothing of it runs.
    RestoreFailed(String),
    /// So many bytes of it are in swap.
    Paged(u64),
    /// It could not be paged out, and stands still as before.
    PageOutFailed(String),
    /// It could not be made to stand still.
    FreezeFailed(String),
    /// It could not be made to go on.
    ThawFailed(String),
    /// The launch ended well.
    Launched(Running),
    /// The launch failed.
    LaunchFailed(LaunchFailure),
    /// Its boot check was passed.
    Accepted,
    /// Its main process is gone.
    Gone,
    /// What was left of its processes is cleared away.
    Collected(Exit),
    /// The time of its state is over.
    Due {
        /// What an app that boots lacks.
        lack: Option<Lack>,
    },
    /// Its sandbox is torn down.
    Cleared,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make image, sandbox, network and process; answer `Launched` or `LaunchFailed`.
    Launch,
    /// Connect to its port until it accepts; answer `Accepted`.
    Probe,
    /// Apply the limits of the spec to what runs.
    Limit,
    /// Put the processes to disk, as they stand still; answer `Dumped` or `DumpFailed`.
    Dump,
    /// Have a dump that goes on give up.
    AbortDump,
    /// Bring the processes back from disk; answer `Restored` or `RestoreFailed`.
    Restore(Taken),
    /// Make everything of the app stand still; answer `FreezeFailed` if it does not.
    Freeze,
    /// Let everything of the app go on; answer `ThawFailed` if it does not.
    Thaw,
    /// Have its memory go to swap, as it stands still; answer `Paged` or `PageOutFailed`. Whatever comes next breaks it off.
    PageOut,
    /// Read back what it will need first, before it goes on.
    PageIn,
    /// SIGTERM to the main process, which goes on if it stood still.
    Terminate,
    /// Kill what is there of the app and find out how it ended; answer `Collected`.
    Collect,
    /// Tear down the sandbox, keep the files; answer `Cleared`.
    Clear,
    /// Remove everything of it, and its record.
    Remove,
    /// Tell followers of the events.
    Tell(EventKind, String),
}
