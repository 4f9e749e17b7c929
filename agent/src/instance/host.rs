//! What an instance needs of its host: the seam between the task that sees to it and the kernel.

use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use drowse_api::MemoryBytes;
use drowse_api::instance::{BootCheck, Failure, InstanceSpec, InstanceState, InstanceStatus, ProcessIdentity};
use drowse_api::sleep::Depth;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::state::{End, Exit, LaunchFailure, Life, Next, NotDumped, Rest, Running, State, Then, Woken};
use crate::snapshot::{Abort, Taken};

/// The port that apps are told to listen on, unless their image names another. Every instance has an
/// address of its own.
pub const PORT: u16 = 8080;

/// All that is kept of an instance over restarts of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What is wanted, and what it is doing.
    pub life: Life,
    /// Its address, from the first moment to the last.
    pub address: Ipv4Addr,
    /// Where it is to listen.
    #[serde(default = "usual_port")]
    pub port: u16,
    /// The boot of the host that the state belongs to.
    pub boot_id: String,
}

fn usual_port() -> u16 {
    PORT
}

impl Record {
    /// Where it is reached.
    #[must_use]
    pub fn endpoint(&self) -> SocketAddr {
        (self.address, self.port).into()
    }

    /// What others are told of it.
    #[must_use]
    pub fn status(&self) -> InstanceStatus {
        let Life { spec, tries, .. } = &self.life;
        let process = match self.life.running() {
            Some(Running::Process(app)) => Some(app.identity),
            _ => None::<ProcessIdentity>,
        };
        InstanceStatus {
            controller: spec.controller.clone(),
            id: spec.id.clone(),
            epoch: spec.epoch,
            app: spec.app.clone(),
            deployment: spec.deployment.clone(),
            user: spec.user.clone(),
            address: Some(self.endpoint()),
            state: shown(&self.life),
            process,
            restarts: *tries,
            no_snapshot: self.life.no_snapshot.clone().or_else(|| self.life.no_room.clone()),
            no_paging: self.life.no_paging.clone(),
            in_swap: match &self.life.state {
                State::Frozen { rest: Rest::Paged { swapped, .. }, .. } => Some(MemoryBytes(*swapped)),
                _ => None,
            },
            on_disk: match &self.life.state {
                State::Frozen { rest: Rest::Snapshot { taken }, .. } => Some(MemoryBytes(taken.size)),
                _ => None,
            },
        }
    }
}

fn shown(life: &Life) -> InstanceState {
    let Life { tries, state, start_took, .. } = life;
    let (tries, takes) = (*tries, *start_took);
    let stopping = || InstanceState::Stopping { deadline: Timestamp::now() };
    let frozen = |depth, since: &Timestamp, reason: &String| InstanceState::Frozen {
        depth,
        since: *since,
        reason: reason.clone(),
        takes,
    };
    if let Some(Woken { depth, slept_since, at, .. }) = &life.woken {
        let takes = if *depth == Depth::Snapshot { life.restore_took } else { takes };
        return InstanceState::Waking { depth: *depth, slept_since: *slept_since, since: *at, takes };
    }
    match state {
        State::Launching { then: Then::Proceed | Then::Start } => InstanceState::Preparing,
        State::Booting { since, .. } => InstanceState::Booting { attempt: tries, since: *since },
        State::Ready { since, .. } => InstanceState::Ready { since: *since },
        State::FallingAsleep { since, bed, ticket, .. } => {
            InstanceState::FallingAsleep { since: *since, depth: bed.depth, ticket: *ticket }
        }
        State::Frozen { rest: Rest::Snapshot { .. }, since, reason } => InstanceState::Frozen {
            depth: Depth::Snapshot,
            since: *since,
            reason: reason.clone(),
            takes: life.restore_took,
        },
        State::Frozen { rest, since, reason } => frozen(rest.depth(), since, reason),
        State::Dumping { next: Next::Sleep | Next::Wake(_), since, reason, .. } => frozen(Depth::Paused, since, reason),
        State::Dumping { next: Next::End(_), .. } => stopping(),
        State::Stopping { then: Then::Sleep { since, reason }, .. }
        | State::Exiting { then: Then::Sleep { since, reason }, .. }
        | State::Clearing { then: End::Sleep { since, reason } } => frozen(Depth::Cold, since, reason),
        State::Backoff { retry_at, cause } => {
            InstanceState::Backoff { attempt: tries, retry_at: *retry_at, cause: without_log(cause) }
        }
        State::Stopping { deadline, .. } => InstanceState::Stopping { deadline: *deadline },
        State::Exiting { then: Then::Proceed | Then::Start, .. } | State::Clearing { then: End::Start } => {
            InstanceState::Preparing
        }
        State::Launching { .. } | State::Exiting { .. } | State::Removing | State::Clearing { then: End::Remove } => {
            stopping()
        }
        State::Stopped { reason } | State::Clearing { then: End::Stopped(reason) } => {
            InstanceState::Stopped { reason: reason.clone() }
        }
        State::Failed { failure } | State::Clearing { then: End::Failed(failure) } => {
            InstanceState::Failed { failure: failure.clone() }
        }
    }
}

/// A picture of all instances goes out with every change: the log lines of a passing failure stay out of it.
fn without_log(cause: &Failure) -> Failure {
    Failure { log: Vec::new(), ..cause.clone() }
}

/// What listens in the sandbox of an app that is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// A sentence for users, about the app.
    pub text: String,
    /// Whether waiting will hardly mend it: something listens, and not where it must.
    pub is_wrong: bool,
}

/// What an app may run itself around its sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// When every router has let go of it, before it sleeps.
    BeforeSleep,
    /// When it is awake again, or stays awake after all.
    AfterWake,
}

impl Hook {
    /// Where its program is inside.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::BeforeSleep => "/app/.drowse/before-sleep",
            Self::AfterWake => "/app/.drowse/after-wake",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path().trim_start_matches("/app/"))
    }
}

/// A record could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The disk is full.
    #[error("the disk of the node is full")]
    DiskFull,
    /// Another reason.
    #[error("cannot write the record of the instance: {0}")]
    Io(String),
}

/// A record that is written, and not on disk yet whatever happens.
#[must_use]
pub struct Written(Box<dyn FnOnce() -> Result<(), KeepError> + Send>);

impl Written {
    /// One that `commit` puts on disk. It may block.
    pub fn new(commit: impl FnOnce() -> Result<(), KeepError> + Send + 'static) -> Self {
        Self(Box::new(commit))
    }

    /// Waits until it is on disk.
    ///
    /// # Errors
    /// If it cannot be put there.
    pub async fn commit(self) -> Result<(), KeepError> {
        let committed = tokio::task::spawn_blocking(self.0);
        committed.await.unwrap_or_else(|error| Err(KeepError::Io(error.to_string())))
    }
}

/// What a host does for instances. Every call is idempotent: it may be repeated after a crash.
pub trait Host: Send + Sync + 'static {
    /// The time; a fake's follows tokio's.
    fn now(&self) -> Timestamp;

    /// A number from 0 to 1.
    fn jitter(&self) -> f64;

    /// Writes the record, durably.
    fn keep(&self, record: &Record) -> impl Future<Output = Result<(), KeepError>> + Send;

    /// The first half of [`keep`](Self::keep) for an instance that has no record yet: there is room for it
    /// then, and it need not be waited for. What is begun before [`Written::commit`] ends has no owner after
    /// a crash, and is swept away.
    fn write(&self, record: &Record) -> impl Future<Output = Result<Written, KeepError>> + Send;

    /// Makes what is missing of image, groups, sandbox and network, and starts the app. Never leaves
    /// an older copy of it running.
    fn launch(&self, record: &Record) -> impl Future<Output = Result<Running, LaunchFailure>> + Send;

    /// Waits until the main process is gone. At once if it is gone already, never for what has no process.
    fn gone(&self, record: &Record, running: Running) -> impl Future<Output = ()> + Send;

    /// Tries once to connect.
    fn accepts(&self, endpoint: SocketAddr) -> impl Future<Output = bool> + Send;

    /// Asks once for the path of `boot`; `Err` is what happened instead of an answer that will do, as
    /// a sentence about the app.
    fn answers(&self, endpoint: SocketAddr, boot: &BootCheck) -> impl Future<Output = Result<(), String>> + Send;

    /// Where an app of this spec is to listen. Blocks on a small file at most.
    fn port(&self, spec: &InstanceSpec) -> u16;

    /// What listens in the sandbox.
    fn listening(&self, record: &Record, running: Running) -> impl Future<Output = Listening> + Send;

    /// Applies the limits of the record's spec.
    fn limit(&self, record: &Record) -> impl Future<Output = ()> + Send;

    /// Makes everything of the app stand still. `Err` says why it does not.
    fn freeze(&self, record: &Record) -> impl Future<Output = Result<(), String>> + Send;

    /// Lets everything of the app go on. `Err` says why it does not.
    fn thaw(&self, record: &Record) -> impl Future<Output = Result<(), String>> + Send;

    /// Runs one of the app's own hooks, if it has it; ended when it is dropped. `Err` is a sentence about it.
    fn hook(&self, record: &Record, hook: Hook) -> impl Future<Output = Result<(), String>> + Send;

    /// Why nothing can be paged out on this host, if it cannot.
    fn no_paging(&self) -> Option<String>;

    /// Has the app's memory go to swap, as it stands still: how much of it is there then. Gives up soon after
    /// `stop` is set. `Err` says why not.
    fn page_out(&self, record: &Record, stop: Arc<AtomicBool>) -> impl Future<Output = Result<u64, String>> + Send;

    /// Reads back what the app will need first, before it goes on. What fails costs it time, and nothing else.
    fn page_in(&self, record: &Record) -> impl Future<Output = ()> + Send;

    /// Why nothing can be put to disk on this host, if it cannot.
    fn no_snapshots(&self) -> Option<String>;

    /// Puts the app's processes to disk. One that an earlier agent began is
    /// waited for. `Err` says why not; they stand still then, and are whole.
    fn dump(
        &self,
        record: &Record,
        running: Running,
        abort: Arc<Abort>,
    ) -> impl Future<Output = Result<Taken, NotDumped>> + Send;

    /// Brings the app's processes back from what was taken, and from nothing else. `Err` says why not; nothing
    /// of it runs then.
    fn restore(&self, record: &Record, taken: &Taken) -> impl Future<Output = Result<Running, String>> + Send;

    /// Asks the main process to end; one that stands still goes on first.
    fn terminate(&self, record: &Record, running: Running) -> impl Future<Output = ()> + Send;

    /// Kills all of the app, and says how its main process ended.
    fn collect(&self, record: &Record, running: Running) -> impl Future<Output = Exit> + Send;

    /// Ends the sandbox and takes the address back from the network; what the instance wrote stays.
    fn clear(&self, record: &Record) -> impl Future<Output = ()> + Send;

    /// [`clear`](Self::clear), and every file and the record, these only once all else is gone. `Err`
    /// says what could not be removed; it is to be called again then.
    fn remove(&self, record: &Record) -> impl Future<Output = Result<(), String>> + Send;

    /// A line for the instance's own log.
    fn say(&self, record: &Record, text: &str);
}
