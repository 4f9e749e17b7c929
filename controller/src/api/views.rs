//! Records as users see them.

use std::collections::BTreeMap;

use drowse_api::agent::BuildStatus;
use drowse_api::deployment::{DeploymentState, StateSince};
use drowse_api::instance::{InstanceState, InstanceStatus};
use drowse_api::platform::{AppView, DeploymentView, InstanceView, TokenView};

use super::Api;
use crate::desired::Desired;
use crate::model::{App, Deployment, Instance, Life, Release, Token};
use crate::picture::NodeView;
use crate::routes::{deployment_label, instance_label};

/// A deployment.
#[must_use]
pub fn deployment(api: &Api, deployment: &Deployment) -> DeploymentView {
    let mut state = deployment.phase.shown(deployment.app_type);
    if state.state == DeploymentState::Deploying
        && let Some(behind) = queued_behind(api, deployment)
    {
        state.reason = format!("queued behind {behind} of the same user");
    }
    DeploymentView {
        id: deployment.id.clone(),
        app: deployment.app.clone(),
        app_type: deployment.app_type,
        url: api.config.url(&deployment_label(deployment.app.as_str(), deployment.id.as_str())),
        state,
        created: deployment.created,
        image: deployment.phase.image().cloned(),
        problem: deployment.phase.problem().cloned(),
    }
}

/// Behind how many others its build waits, if it does.
fn queued_behind(api: &Api, deployment: &Deployment) -> Option<u32> {
    match api.nodes.get(&deployment.node)?.view().builds.get(&deployment.id)? {
        Some(BuildStatus::Queued { behind }) => Some(*behind),
        _ => None,
    }
}

/// A deployment, and whether it sleeps: it is FROZEN while everything of it that serves does.
#[must_use]
pub fn deployment_now(api: &Api, desired: &Desired, found: &Deployment) -> DeploymentView {
    let view = deployment(api, found);
    if view.state.state != DeploymentState::Ready {
        return view;
    }
    let own = desired.instances.iter();
    let own: Vec<_> = own.filter(|one| one.deployment == found.id && one.life == Life::Serving).collect();
    let asleep = own.iter().map(|one| {
        let node = api.nodes.get(&one.node)?.view();
        node.instances.get(&one.id).and_then(|status| frozen(&status.state))
    });
    // All of them, or none that counts.
    let asleep: Option<Vec<StateSince>> = asleep.collect();
    let newest = asleep.and_then(|asleep| asleep.into_iter().max_by_key(|state| state.since));
    DeploymentView { state: newest.unwrap_or(view.state.clone()), ..view }
}

/// How a sleeping instance is shown: how deeply, and why.
fn frozen(state: &InstanceState) -> Option<StateSince> {
    let (reason, since) = match state {
        InstanceState::Frozen { depth, since, reason, .. } => (format!("{depth}: {reason}"), *since),
        InstanceState::Waking { depth, slept_since, .. } => (format!("{depth}: it is being woken"), *slept_since),
        _ => return None,
    };
    Some(StateSince { state: DeploymentState::Frozen, reason, since })
}

/// An app.
#[must_use]
pub fn app(api: &Api, desired: &Desired, app: &App) -> AppView {
    let of = |release: &Option<Release>| {
        let id = release.as_ref()?.deployment.as_str();
        desired.deployments.get(id).map(|found| deployment_now(api, desired, found))
    };
    let nodes: BTreeMap<_, _> = api.nodes.iter().map(|(name, node)| (name, node.view())).collect();
    let instances = desired.instances_of(&app.name);
    let shown = instances.into_iter().filter(|instance| !instance.life.is_past());
    AppView {
        name: app.name.clone(),
        url: api.config.url(app.name.as_str()),
        created: app.created,
        wanted: app.wanted,
        live: of(&app.live),
        pending: of(&app.pending),
        problem: app.problem.clone(),
        sleep: app.sleep,
        instances: shown.map(|instance| self::instance(api, instance, nodes.get(&instance.node))).collect(),
    }
}

fn instance(api: &Api, instance: &Instance, view: Option<&NodeView>) -> InstanceView {
    let known = view.and_then(|view| view.instances.get(&instance.id)).cloned();
    InstanceView {
        node: instance.node.clone(),
        url: api.config.url(&instance_label(instance.app.as_str(), instance.id.as_str())),
        status: known.unwrap_or_else(|| unheard_of(instance)),
    }
}

/// An instance that its node has not told about yet.
fn unheard_of(instance: &Instance) -> InstanceStatus {
    let state = match &instance.life {
        Life::Stopping { reason } => InstanceState::Stopped { reason: reason.clone() },
        Life::Stopped => InstanceState::Stopped { reason: "its app was stopped".to_owned() },
        _ => InstanceState::Preparing,
    };
    InstanceStatus {
        controller: None,
        id: instance.id.clone(),
        epoch: instance.epoch,
        app: instance.app.clone(),
        deployment: instance.deployment.clone(),
        user: instance.owner.clone(),
        address: None,
        state,
        process: None,
        restarts: 0,
        no_snapshot: None,
        no_paging: None,
        in_swap: None,
        on_disk: None,
    }
}

/// A token, without its secret.
#[must_use]
pub fn token(token: &Token) -> TokenView {
    TokenView { id: token.id.clone(), label: token.label.clone(), created: token.created, expires: token.expires }
}
