//! Instances: what the controller asks of an agent, and what the agent reports of one.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::secrets::Secrets;
use crate::sleep::Depth;
use crate::{AppName, ControllerId, DeploymentId, Digest, Epoch, InstanceId, MemoryBytes, UserId};

/// One copy of a deployment, as the controller wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// Its id, which survives restarts.
    pub id: InstanceId,
    /// The decision this spec belongs to; the agent refuses an older one.
    pub epoch: Epoch,
    /// Whose decision it is. The agent keeps and reports it: what a controller does not know and
    /// did not make is not its to end.
    #[serde(default)]
    pub controller: Option<ControllerId>,
    /// Whose pool and id range it lives in.
    pub user: UserId,
    /// The app, for logs and the host name inside.
    pub app: AppName,
    /// The deployment it is a copy of.
    pub deployment: DeploymentId,
    /// What runs.
    pub workload: Workload,
    /// The manifest digest of the image; the agent has it or fetches it by digest.
    pub image: Digest,
    /// The app's environment, without PORT, which the agent sets.
    pub env: BTreeMap<String, String>,
    /// Its secrets, which are set over the environment. The agent keeps them sealed.
    #[serde(default, skip_serializing_if = "Secrets::is_empty")]
    pub secrets: Secrets,
    /// What the kernel lets it use.
    pub limits: Limits,
    /// How the agent finds out that it is ready.
    pub boot: BootCheck,
    /// What happens when it does not become ready.
    pub on_boot_failure: OnBootFailure,
}

/// How an instance is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Processes in a sandbox of their own that listen on PORT.
    Web,
    /// Files, served by the node's one file server at an address of their own.
    Site,
}

/// What the kernel lets one instance use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory including page cache and tmpfs; no swap.
    pub memory: MemoryBytes,
    /// Processes and threads.
    pub pids: u32,
    /// Share of the processors under contention, 1 to 10,000 (cgroup v2 `cpu.weight`).
    pub cpu_weight: u32,
    /// Disk that it may write, beside its image: decided when its disk is made.
    #[serde(default = "Limits::default_disk")]
    pub disk: MemoryBytes,
    /// Files and folders that it may make there; about as many, and at most one for each 8 KiB.
    #[serde(default = "Limits::default_files")]
    pub files: u32,
}

impl Limits {
    /// The smallest disk that there is.
    pub const SMALLEST_DISK: MemoryBytes = MemoryBytes::mib(16);

    // Records and calls of an earlier release have neither.
    fn default_disk() -> MemoryBytes {
        Self::default().disk
    }

    fn default_files() -> u32 {
        Self::default().files
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: MemoryBytes::mib(512), pids: 512, cpu_weight: 100, disk: MemoryBytes::gib(1), files: 100_000 }
    }
}

/// The boot check: the first accepted TCP connection means ready, or the first good answer at `path`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootCheck {
    /// How long the platform tries, in seconds.
    pub timeout_seconds: u32,
    /// A path that must answer 2xx or 3xx too, for an app that accepts before it can serve.
    #[serde(default)]
    pub path: Option<String>,
    /// What a request for `path` names as its host; the instance's address if absent.
    #[serde(default)]
    pub host: Option<String>,
    /// For how long it must stay as it is from then on, in milliseconds: what accepts and is gone
    /// within this time was never ready.
    #[serde(default)]
    pub settle_milliseconds: u32,
}

impl Default for BootCheck {
    fn default() -> Self {
        Self { timeout_seconds: 60, path: None, host: None, settle_milliseconds: 0 }
    }
}

/// What the agent does when the first start does not become ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBootFailure {
    /// A deploy: the instance fails at once and is not tried again.
    Fail,
    /// A restart, or a start after a reboot: the restart budget applies.
    Retry,
}

/// What the agent knows of one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Which one.
    pub id: InstanceId,
    /// The newest epoch the agent has accepted for it.
    pub epoch: Epoch,
    /// The controller that had it made, as its spec said.
    #[serde(default)]
    pub controller: Option<ControllerId>,
    /// The app, deployment and user it belongs to.
    pub app: AppName,
    /// The deployment it is a copy of.
    pub deployment: DeploymentId,
    /// Whose it is.
    pub user: UserId,
    /// Where it is reached from this node, once it has an address.
    pub address: Option<SocketAddr>,
    /// What it is doing.
    pub state: InstanceState,
    /// The app's main process on the host, while there is one.
    pub process: Option<ProcessIdentity>,
    /// How often it was started since it was made or its budget was reset.
    pub restarts: u32,
    /// Why it cannot be put to disk, once that was found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_snapshot: Option<String>,
    /// Why its memory does not go to swap, once that was found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_paging: Option<String>,
    /// How much of its memory is in swap, while it sleeps paged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_swap: Option<MemoryBytes>,
    /// What its processes take on the disk, while they are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_disk: Option<MemoryBytes>,
}

/// A process, told apart from a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its pid on the host.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: its start time in clock ticks since boot.
    pub start_time: u64,
}

/// What an instance is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum InstanceState {
    /// Its image and sandbox are being prepared.
    Preparing,
    /// The app was started and is being connected to.
    Booting {
        /// 0 for the first start, then the number of the restart.
        attempt: u32,
        /// When this start began.
        since: Timestamp,
    },
    /// It accepts connections.
    Ready {
        /// Since when.
        since: Timestamp,
    },
    /// It is to sleep as soon as every router has let go of it; a request calls that off.
    FallingAsleep {
        /// Since when it was ready.
        since: Timestamp,
        /// How deeply.
        depth: Depth,
        /// The number of this attempt.
        ticket: u64,
    },
    /// It sleeps; a demand wakes it.
    Frozen {
        /// How deeply.
        depth: Depth,
        /// Since when.
        since: Timestamp,
        /// Why, as the rest of a sentence.
        reason: String,
        /// How long waking took the last time, in milliseconds, where that is known.
        #[serde(default)]
        takes: Option<u32>,
    },
    /// It slept, nothing of it ran, and it is being started on demand.
    Waking {
        /// How deeply it slept.
        depth: Depth,
        /// Since when it slept.
        slept_since: Timestamp,
        /// Since when it is being woken.
        since: Timestamp,
        /// How long it took the last time, in milliseconds, where that is known.
        #[serde(default)]
        takes: Option<u32>,
    },
    /// It exited or did not become ready, and is started again at `retry_at`.
    Backoff {
        /// The number of the coming try, 1 to 20.
        attempt: u32,
        /// When it is started again.
        retry_at: Timestamp,
        /// Why it is down.
        cause: Failure,
    },
    /// It was told to end and has until `deadline`.
    Stopping {
        /// When it is killed.
        deadline: Timestamp,
    },
    /// It ended because it was told to, or with the host's reboot; nothing of it runs.
    Stopped {
        /// In one sentence.
        reason: String,
    },
    /// It will not be started again until a new command arrives.
    Failed {
        /// Why.
        failure: Failure,
    },
}

impl InstanceState {
    /// Whether visitors can be sent to it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. } | Self::FallingAsleep { .. })
    }

    /// Whether it sleeps; visitors wake it.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        matches!(self, Self::Frozen { .. })
    }

    /// How deeply it sleeps, if it does: being awake is before every depth.
    #[must_use]
    pub fn depth(&self) -> Option<Depth> {
        match self {
            Self::Frozen { depth, .. } => Some(*depth),
            _ => None,
        }
    }

    /// Whether it serves: it is ready, or sleeps, or is being woken.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.is_ready() || self.is_asleep() || matches!(self, Self::Waking { .. })
    }

    /// Whether nothing of it runs and nothing will without a new command.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::Failed { .. })
    }
}

/// Why an instance is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind.
    pub reason: FailureReason,
    /// One sentence for the user: exit status, signal, what listens where.
    pub detail: String,
    /// The last lines of its log, at most 50.
    #[serde(default)]
    pub log: Vec<String>,
}

/// The kinds of failure of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureReason {
    /// Nothing accepted on its port in time.
    TimeoutError,
    /// It exited (or was killed) before or after it was ready.
    Exited,
    /// The kernel killed it at its memory limit.
    OutOfMemory,
    /// All tries were used up.
    CrashLoop,
    /// Its image, sandbox or network could not be made.
    Host,
}

/// One line that an instance or a build wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When the line was read from the pipe.
    pub at: Timestamp,
    /// Where it was written.
    pub stream: LogStream,
    /// The text without its line end; invalid UTF-8 replaced.
    pub text: String,
}

/// Where a log line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogStream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
    /// Drowse itself.
    Platform,
}
