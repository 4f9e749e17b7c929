//! What the planner looks at: what is desired, and what is.

use std::collections::BTreeMap;
use std::sync::Arc;

use drowse_api::agent::BuildStatus;
use drowse_api::instance::InstanceStatus;
use drowse_api::routing::RouterStatus;
use drowse_api::{ControllerId, DeploymentId, Epoch, HostName, InstanceId, NodeName, Problem, RunId};
use drowse_store::Revision;

use crate::activity::Measured;
use crate::config::Settings;
use crate::desired::Desired;
use crate::sleep::SleepDefaults;
use crate::vault::Vault;

/// Everything that a decision may depend on, beside the time.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The records.
    pub desired: Arc<Desired>,
    /// What the nodes report.
    pub nodes: BTreeMap<NodeName, NodeView>,
    /// What the routers have applied; `None` for one that has not reported to this run yet.
    pub routers: BTreeMap<NodeName, Option<RouterStatus>>,
    /// The table they are offered.
    pub published: Published,
    /// What has a number.
    pub settings: Arc<Settings>,
    /// The key to the secrets.
    pub vault: Arc<Vault>,
    /// How apps sleep where their users set nothing.
    pub sleep: SleepDefaults,
}

/// Which table is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The domain that apps live under.
    pub domain: HostName,
    /// The run of this controller.
    pub run: RunId,
    /// Its revision: of the records when its content last changed.
    pub table: u64,
    /// The revision of the records that it is right for.
    pub as_of: Revision,
}

/// What is known of a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeView {
    /// Whether what follows is what the node reports now, or the last it reported: then nothing is
    /// decided by it.
    pub is_connected: bool,
    /// Its instances.
    pub instances: BTreeMap<InstanceId, InstanceStatus>,
    /// How much its instances do by themselves; only of those that run, and were measured for a while.
    pub measured: BTreeMap<InstanceId, Measured>,
    /// The builds it had when it was found, with whose they are.
    pub kept_builds: BTreeMap<DeploymentId, Option<ControllerId>>,
    /// Builds it was asked about; `None` for those it does not have.
    pub builds: BTreeMap<DeploymentId, Option<BuildStatus>>,
    /// Commands that it refused.
    pub refusals: BTreeMap<Refused, Problem>,
}

impl Published {
    /// Whether a router serves by this table or a newer one.
    #[must_use]
    pub fn is_applied(&self, router: Option<&RouterStatus>) -> bool {
        router.is_some_and(|status| status.run.as_ref() == Some(&self.run) && status.applied >= self.table)
    }
}

/// A command that a node refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// To run an instance, by the decision of this epoch.
    Instance(InstanceId, Epoch),
    /// To start a build.
    Build(DeploymentId),
}
