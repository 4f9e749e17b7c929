//! The calls of an agent: JSON over HTTP on its Unix socket.
//!
//! | call | who | what |
//! |---|---|---|
//! | `GET /v1/node` | control, router | [`NodeInfo`] |
//! | `GET /v1/doctor` | control | a list of [`Check`] |
//! | `GET /v1/instances` | control | a list of [`InstanceStatus`](crate::instance::InstanceStatus) |
//! | `GET /v1/instances/watch` | control | NDJSON of [`InstancesPicture`]: whole at first and after every change |
//! | `PUT /v1/instances/{id}` | control | [`InstanceSpec`](crate::instance::InstanceSpec): make it so; idempotent; answers its status at once |
//! | `POST /v1/instances/{id}/stop` | control | [`StopRequest`]: SIGTERM, grace, SIGKILL; idempotent; answers its status at once |
//! | `POST /v1/instances/{id}/sleep` | control | [`SleepRequest`](crate::sleep::SleepRequest): once every router has let go of it; answers its status when it sleeps, `conflict` when it stays awake |
//! | `POST /v1/instances/{id}/demand` | router, control | [`Demand`](crate::sleep::Demand): wake it or keep it awake; idempotent; answers at once |
//! | `POST /v1/instances/{id}/quiet` | router | [`Quiet`](crate::sleep::Quiet): the router has let go of an instance that is about to sleep |
//! | `GET /v1/activity` | control | a map from instance to [`Activity`](crate::sleep::Activity), of those that run |
//! | `DELETE /v1/instances/{id}?epoch=N` | control | stop without grace if needed and forget it with its files; idempotent |
//! | `GET /v1/instances/{id}/logs?follow=BOOL&tail=N` | control | NDJSON of [`LogLine`](crate::instance::LogLine) |
//! | `POST /v1/instances/{id}/exec` | control | [`ExecRequest`]: an upgrade, see [`exec`](crate::exec); beside what runs |
//! | `POST /v1/run` | control | [`RunRequest`]: the same in a sandbox of its own, which ends with it |
//! | `GET /v1/usage` | control | a list of [`PlaceUsage`] |
//! | `GET /v1/events?after=SEQUENCE&log=ID` | control | NDJSON of [`AgentEvent`](crate::event::AgentEvent), then live; from the first if the agent's log is another |
//! | `PUT /v1/blobs/{digest}` | control | store a blob; refused if the body has another digest |
//! | `POST /v1/blobs` | control | store a blob of unknown digest; answers [`BlobStored`] |
//! | `GET`, `HEAD /v1/blobs/{digest}` | control | serve a blob |
//! | `GET /v1/builds` | control | a list of [`KnownBuild`] |
//! | `PUT /v1/builds/{deployment}` | control | [`BuildRequest`]: start a build; idempotent |
//! | `GET /v1/builds/{deployment}` | control | [`BuildStatus`] |
//! | `GET /v1/builds/{deployment}/logs?follow=BOOL` | control | NDJSON of log lines |
//! | `DELETE /v1/builds/{deployment}` | control | cancel and forget; its image goes when no instance has it |
//! | `GET /v1/stacks` | control | a list of [`Stack`] |
//! | `GET /v1/endpoints/watch?router=NAME` | router, control | NDJSON of [`EndpointsPicture`]: whole at first and after every change; whoever gives a name is waited for when an instance is to sleep |

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::deployment::BuildInput;
use crate::exec::ExecRequest;
use crate::instance::{InstanceStatus, Limits, Workload};
use crate::secrets::Secrets;
use crate::sleep::Sleeper;
use crate::{
    AppName, ControllerId, DeploymentId, Digest, Epoch, EventLogId, InstanceId, MemoryBytes, NodeName, Problem, UserId,
};

/// A host and its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The node's name.
    pub name: NodeName,
    /// Version of the agent.
    pub version: String,
    /// `/proc/sys/kernel/random/boot_id`: changes with every reboot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// `v2` or `hybrid`.
    pub cgroups: String,
    /// Memory of the host.
    pub memory: MemoryBytes,
    /// Processors of the host.
    pub processors: u32,
}

/// One finding of `drowse doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, where something is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// How a check stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, with a loss that `found` names.
    Warning,
    /// Apps cannot run until it is mended.
    Failure,
}

/// All instances of a node at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstancesPicture {
    /// Every instance the agent knows.
    pub instances: Vec<InstanceStatus>,
    /// The newest of the agent's events at this moment: what led here was told by it or before.
    #[serde(default)]
    pub told: Option<Told>,
}

/// A place in an agent's events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The log of events.
    pub log: EventLogId,
    /// The number in it.
    pub sequence: u64,
}

/// Ends an instance: SIGTERM to its main process, then SIGKILL to all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// The decision this belongs to.
    pub epoch: Epoch,
    /// How long it may take to end by itself, in seconds.
    pub grace_seconds: u32,
    /// Why, for the log and the events.
    pub reason: String,
}

/// Runs a command in a sandbox of its own, beside the instances of its user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// The app, for the host name inside.
    pub app: AppName,
    /// Whose pool and id range it is in.
    pub user: UserId,
    /// The manifest digest of the image.
    pub image: Digest,
    /// The app's environment.
    pub env: BTreeMap<String, String>,
    /// The app's secrets, which its environment has too.
    #[serde(default)]
    pub secrets: Secrets,
    /// What all of it may use.
    pub limits: Limits,
    /// What runs.
    pub exec: ExecRequest,
}

/// What one sandbox of a user uses at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceUsage {
    /// Whose it is.
    pub user: UserId,
    /// Of which app.
    pub app: AppName,
    /// What runs in it.
    pub what: Occupant,
    /// Memory charged to it, page cache included.
    pub memory: MemoryBytes,
    /// The most that it ever was, where the kernel counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<MemoryBytes>,
    /// Processes and threads.
    pub pids: u64,
    /// Processor time used by all of it since it was made, in microseconds.
    pub cpu_microseconds: u64,
    /// What it may use.
    pub limits: Limits,
    /// When this was read, in microseconds of a clock that never goes back.
    pub at_microseconds: u64,
}

/// What runs in a sandbox of a user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occupant {
    /// An instance.
    Instance(InstanceId),
    /// A command that was started by `drowse run`, by the id of its sandbox.
    Run(InstanceId),
}

/// Answer to a stored blob of unknown digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobStored {
    /// What it hashes to.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Starts a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRequest {
    /// The deployment it is for, which is also its id.
    pub deployment: DeploymentId,
    /// Whose decision it is; kept and reported.
    #[serde(default)]
    pub controller: Option<ControllerId>,
    /// The app, for the log.
    pub app: AppName,
    /// Whose id range and caches it uses.
    pub user: UserId,
    /// What is built.
    pub input: BuildInput,
    /// The app's environment, which build commands see too.
    pub env: BTreeMap<String, String>,
    /// The app's secrets, which only the release command sees. Not kept on disk.
    #[serde(default, skip_serializing_if = "Secrets::is_empty")]
    pub secrets: Secrets,
    /// What the build may use.
    pub limits: BuildLimits,
    /// Logins for registries: `NAME:PASSWORD` by registry. Kept nowhere on the node.
    #[serde(default, skip_serializing_if = "Secrets::is_empty")]
    pub registries: Secrets,
}

/// A build that a node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownBuild {
    /// The deployment it is for.
    pub deployment: DeploymentId,
    /// The controller that had it made, as its request said.
    #[serde(default)]
    pub controller: Option<ControllerId>,
}

/// What a build may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildLimits {
    /// Memory.
    pub memory: MemoryBytes,
    /// Processes and threads.
    pub pids: u32,
    /// Share of the processors under contention.
    pub cpu_weight: u32,
    /// How long it may take, in seconds.
    pub timeout_seconds: u32,
    /// Disk that one step of it may write.
    #[serde(default = "BuildLimits::default_disk")]
    pub disk: MemoryBytes,
    /// Files and folders that one step may make.
    #[serde(default = "BuildLimits::default_files")]
    pub files: u32,
}

impl BuildLimits {
    // Calls of an earlier release have neither.
    fn default_disk() -> MemoryBytes {
        Self::default().disk
    }

    fn default_files() -> u32 {
        Self::default().files
    }
}

impl Default for BuildLimits {
    fn default() -> Self {
        Self {
            memory: MemoryBytes::gib(2),
            pids: 2048,
            cpu_weight: 50,
            timeout_seconds: 1800,
            disk: MemoryBytes::gib(8),
            files: 1_000_000,
        }
    }
}

/// Where a build stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum BuildStatus {
    /// It waits for others of its user.
    Queued {
        /// How many come before it.
        behind: u32,
    },
    /// Its sandbox is being prepared.
    Preparing,
    /// Its sandbox runs; no command was started yet.
    Booted,
    /// Its commands run.
    Building {
        /// The command that runs, as shown in the log.
        step: String,
    },
    /// It ended in an image.
    Done {
        /// The manifest digest.
        image: Digest,
        /// Whether the layer of dependencies was reused from an earlier build.
        dependencies_reused: bool,
        /// What runs it.
        #[serde(default = "web")]
        workload: Workload,
    },
    /// It failed; never tried again, unless the code is `unavailable`: then the agent was restarted
    /// meanwhile, and a repeated PUT begins it anew.
    Failed {
        /// Code, sentence, hint, and the last lines of the log.
        problem: Problem,
    },
}

fn web() -> Workload {
    Workload::Web
}

/// A base image of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// `python`, `node`.
    pub name: String,
    /// Its manifest digest.
    pub image: Digest,
    /// Size of its unpacked layers.
    pub size: MemoryBytes,
}

/// Where a router on this node reaches instances.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointsPicture {
    /// The address of every instance that is ready.
    pub ready: BTreeMap<InstanceId, SocketAddr>,
    /// Those of them that are about to sleep, each with the number of the attempt: close the gate,
    /// and tell by it when nothing is in flight any more. A request at the closing gate calls it off.
    #[serde(default)]
    pub closing: BTreeMap<InstanceId, u64>,
    /// Instances that sleep, or are being woken.
    #[serde(default)]
    pub asleep: BTreeMap<InstanceId, Sleeper>,
    /// The number of this stream, for those who gave a name.
    #[serde(default)]
    pub follower: Option<u64>,
}
