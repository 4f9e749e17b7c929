//! What to do next, decided from a picture and the time, and from nothing else.
//!
//! A plan has steps (decisions, which become transactions) and calls (what agents are told, by what
//! was decided before). Both are idempotent: a plan made twice changes nothing more. A node that
//! is not connected is not decided about, so a controller that has just started waits for each
//! node's own account first.

use std::collections::BTreeMap;
use std::sync::Arc;

use drowse_api::agent::{BuildRequest, StopRequest};
use drowse_api::deployment::BuildInput;
use drowse_api::event::EventKind;
use drowse_api::instance::InstanceSpec;
use drowse_api::secrets::Secrets;
use drowse_api::sleep::{Demand, SleepRequest};
use drowse_api::{AppName, DeploymentId, Epoch, InstanceId, NodeName};
use jiff::Timestamp;

use crate::desired::{Desired, Fact, Step, removal};
use crate::model::{Deployment, Instance, KnownRouter};
use crate::picture::{NodeView, Picture, Refused};

mod builds;
mod instances;
mod releases;
mod sleep;
mod strays;

/// What is to be done.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Decisions to write down.
    pub steps: Vec<Step>,
    /// What each node is to be told.
    pub calls: BTreeMap<NodeName, Vec<Call>>,
}

impl Plan {
    fn call(&mut self, node: &NodeName, call: Call) {
        self.calls.entry(node.clone()).or_default().push(call);
    }
}

/// Something an agent is told or asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// Run it.
    PutInstance(Arc<InstanceSpec>),
    /// End it.
    StopInstance(InstanceId, StopRequest),
    /// Put it to sleep.
    SleepInstance(InstanceId, SleepRequest),
    /// Wake it.
    WakeInstance(InstanceId, Demand),
    /// Forget it.
    DeleteInstance(InstanceId, Epoch),
    /// Start a build.
    PutBuild(Arc<BuildRequest>),
    /// Say how a build stands.
    AskBuild(DeploymentId),
    /// Forget a build.
    DeleteBuild(DeploymentId),
}

impl Call {
    /// What it is about: calls about the same are made one after another.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::PutInstance(spec) => format!("instance {}", spec.id),
            Self::StopInstance(id, _) | Self::DeleteInstance(id, _) => format!("instance {id}"),
            // Its answer takes as long as a request in flight, and nothing else is to wait for that.
            Self::SleepInstance(id, _) | Self::WakeInstance(id, _) => format!("sleep of instance {id}"),
            Self::PutBuild(request) => format!("build {}", request.deployment),
            Self::AskBuild(id) | Self::DeleteBuild(id) => format!("build {id}"),
        }
    }

    /// What its refusal means for the planner, if it means anything.
    #[must_use]
    pub fn refused(&self) -> Option<Refused> {
        match self {
            Self::PutInstance(spec) => Some(Refused::Instance(spec.id.clone(), spec.epoch)),
            Self::PutBuild(request) => Some(Refused::Build(request.deployment.clone())),
            _ => None,
        }
    }
}

/// Decides what to do next.
#[must_use]
pub fn plan(picture: &Picture, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut instances: BTreeMap<&AppName, Vec<&Arc<Instance>>> = BTreeMap::new();
    for instance in picture.desired.instances.iter() {
        instances.entry(&instance.app).or_default().push(instance);
    }
    let mut deployments: BTreeMap<&AppName, Vec<&Arc<Deployment>>> = BTreeMap::new();
    for deployment in picture.desired.deployments.iter() {
        deployments.entry(&deployment.app).or_default().push(deployment);
    }
    builds::plan(picture, now, &mut plan);
    for app in picture.desired.apps.iter() {
        let own = instances.get(&app.name).map_or(&[][..], Vec::as_slice);
        releases::plan(picture, app, own, now, &mut plan);
        if let Some(deployments) = deployments.get_mut(&app.name) {
            releases::forget(picture, app, deployments, own, &mut plan);
        }
    }
    for held in picture.desired.instances.held() {
        instances::plan(picture, held, now, &mut plan);
        sleep::plan(picture, &held.value, now, &mut plan);
    }
    strays::plan(picture, now, &mut plan);
    routers(picture, now, &mut plan);
    plan
}

/// Remembers the routers that report, and forgets those that are gone.
fn routers(picture: &Picture, now: Timestamp, plan: &mut Plan) {
    let fact = |message| Fact::new(EventKind::Node, message);
    for (name, status) in &picture.routers {
        if status.is_some() && picture.desired.routers.get(name.as_str()).is_none() {
            let router = KnownRouter { name: name.clone(), since: now };
            plan.steps.push(Step::new(router).told(fact(format!("router {name} reports"))));
        }
    }
    for router in picture.desired.routers.iter().filter(|router| !picture.routers.contains_key(&router.name)) {
        let message = format!("router {} is gone: nothing waits for it any more", router.name);
        plan.steps.push(Step::new(removal(router.as_ref())).told(fact(message)));
    }
}

/// Where a new deployment is built and run: on the connected node with the fewest instances.
#[must_use]
pub fn place(desired: &Desired, nodes: &BTreeMap<NodeName, NodeView>) -> Option<NodeName> {
    let load = |name: &NodeName| desired.instances.iter().filter(|instance| instance.node == *name).count();
    let key = |(name, view): &(&NodeName, &NodeView)| (!view.is_connected, load(name));
    nodes.iter().min_by_key(key).map(|(name, _)| name.clone())
}

/// The node, if what is known of it is what is.
fn connected<'a>(picture: &'a Picture, node: &NodeName) -> Option<&'a NodeView> {
    picture.nodes.get(node).filter(|view| view.is_connected)
}

fn build_request(picture: &Picture, build: &crate::model::Build) -> BuildRequest {
    // For the release command, which runs as the version that it prepares.
    let app = picture.desired.apps.get(build.app.as_str());
    let pending = app.and_then(|app| app.pending.as_ref()).filter(|pending| pending.deployment == build.deployment);
    let secrets = pending.map(|pending| picture.vault.reveal(&build.app, &pending.secrets));
    let secrets = secrets.unwrap_or_else(|| Ok(Secrets::default())).unwrap_or_else(|problem| {
        tracing::error!(%problem, "a release command runs without secrets");
        Secrets::default()
    });
    BuildRequest {
        registries: logins(picture, build),
        deployment: build.deployment.clone(),
        controller: picture.desired.lineage().cloned(),
        app: build.app.clone(),
        user: build.owner.clone(),
        input: BuildInput::clone(&build.input),
        env: build.env.clone(),
        secrets,
        limits: picture.settings.build,
    }
}

/// The owner's logins for registries, as `NAME:PASSWORD`.
fn logins(picture: &Picture, build: &crate::model::Build) -> Secrets {
    let own = picture.desired.registries.iter().filter(|registry| registry.user == build.owner);
    own.filter_map(|registry| match picture.vault.reveal_login(registry) {
        Ok(password) => Some((registry.name.clone(), format!("{}:{password}", registry.username))),
        Err(problem) => {
            tracing::error!(%problem, "a build goes without a login");
            None
        }
    })
    .collect()
}

#[cfg(test)]
mod tests;
