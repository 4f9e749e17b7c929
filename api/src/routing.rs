//! What the controller tells routers, and what routers tell back.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::sleep::{Glances, Wake};
use crate::{AppName, DeploymentId, HostName, InstanceId, NodeName, RunId};

/// Every host name the router answers for. Immutable: a change is a new table with a new revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Rises with every change within one run of the controller.
    pub revision: u64,
    /// The run. Over runs the newer table is the one that the controller offers now, whatever its
    /// revision: its records may have been put back to an older state.
    #[serde(default)]
    pub run: Option<RunId>,
    /// The domain that apps live under; cookies for it are dropped.
    pub domain: String,
    /// From host name to what answers for it.
    pub hosts: BTreeMap<HostName, Route>,
}

/// What answers for one host name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "kebab-case")]
pub enum Route {
    /// Instances of an app.
    Instances {
        /// The app.
        app: AppName,
        /// The deployment that is served.
        deployment: DeploymentId,
        /// Where requests go; balanced by least requests in flight.
        endpoints: Vec<Endpoint>,
        /// What a browser gets while all of them sleep deeply.
        #[serde(default)]
        wake: Wake,
        /// What those get then who only look by.
        #[serde(default)]
        glances: Glances,
    },
    /// A known app that cannot serve now: it is answered with this, never with a 404.
    Unavailable {
        /// The app.
        app: AppName,
        /// Why, as a word: `stopped`, `starting`, `crash-loop`, `not-deployed`.
        code: String,
        /// Why, for people.
        message: String,
    },
    /// The controller's own API, at `api.DOMAIN`.
    Controller,
}

/// One instance as a target. Never an address: on its own node the router dials the instance, from
/// another node the owner's ingress.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it runs.
    pub node: NodeName,
    /// Which one.
    pub instance: InstanceId,
}

/// What one router has applied; put to the controller whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// The router's name: its node.
    pub name: String,
    /// Revision of the table it serves by.
    pub applied: u64,
    /// The run of the controller that made that table.
    #[serde(default)]
    pub run: Option<RunId>,
    /// Requests and upgraded connections in flight, by instance; instances with none are left out.
    pub in_flight: BTreeMap<InstanceId, u64>,
    /// When a request of it last began or ended, for each instance that is awake; when the router came
    /// to know it, before the first.
    #[serde(default)]
    pub active: BTreeMap<InstanceId, Timestamp>,
}
