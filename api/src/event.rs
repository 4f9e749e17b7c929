//! Events: every transition and decision, with its cause.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{AppName, DeploymentId, EventLogId, InstanceId};

/// One thing that happened, as users read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the order of all events of the platform; a follower resumes after it.
    pub revision: u64,
    /// When.
    pub at: Timestamp,
    /// What kind, as a word: see [`EventKind`].
    pub kind: EventKind,
    /// The app it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// The deployment it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentId>,
    /// The instance it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// One sentence: what and why.
    pub message: String,
}

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// An app was made, changed or removed.
    App,
    /// A deployment changed its state.
    Deployment,
    /// Traffic moved to other instances.
    Traffic,
    /// An instance was started, became ready, exited, was stopped.
    Instance,
    /// An instance is started again after an exit: the try and the delay.
    Restart,
    /// An instance fell asleep, woke up, or was kept awake: why.
    Sleep,
    /// An agent, a controller or a router started or was lost, or quarantined something.
    Node,
}

/// What an agent reports, numbered by the agent. The controller stores it once as an [`Event`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentEvent {
    /// Its place in this agent's order; kept over restarts of the agent.
    pub sequence: u64,
    /// Which order that is: an agent whose files were lost begins another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<EventLogId>,
    /// When.
    pub at: Timestamp,
    /// What kind.
    pub kind: EventKind,
    /// The app it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// The deployment it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentId>,
    /// The instance it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// One sentence: what and why.
    pub message: String,
}
