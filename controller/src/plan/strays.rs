//! What nodes have and no record knows.
//!
//! With the id of these records it was made after the backup that they come from: nobody will ever
//! ask for it again, so it is ended and removed. With another id it is another controller's, or of
//! a database that was lost: it is told once and left alone.

use drowse_api::agent::StopRequest;
use drowse_api::event::EventKind;
use drowse_api::instance::{InstanceState, InstanceStatus};
use drowse_api::{ControllerId, NodeName};
use drowse_store::record;
use jiff::Timestamp;

use super::{Call, Plan, connected};
use crate::desired::{Fact, Step, removal};
use crate::model::{Build, Instance, Stray, Thing};
use crate::picture::{NodeView, Picture};

pub(super) fn plan(picture: &Picture, now: Timestamp, plan: &mut Plan) {
    for (node, view) in picture.nodes.iter().filter(|(_, view)| view.is_connected) {
        for status in view.instances.values().filter(|status| !is_known(picture, &Thing::Instance(status.id.clone()))) {
            let thing = Thing::Instance(status.id.clone());
            let what = format!("instance {} of app {}", status.id, status.app);
            if is_told_ours(picture, node, thing, &what, status.controller.as_ref(), now, plan)
                && let Some(call) = ending(picture, status)
            {
                plan.call(node, call);
            }
        }
        for (id, controller) in &view.kept_builds {
            let thing = Thing::Build(id.clone());
            if !is_known(picture, &thing)
                && is_told_ours(picture, node, thing, &format!("build {id}"), controller.as_ref(), now, plan)
            {
                plan.call(node, Call::DeleteBuild(id.clone()));
            }
        }
    }
    for stray in picture.desired.strays.iter() {
        let is_over = match connected(picture, &stray.node) {
            Some(view) => !is_there(view, &stray.thing) || is_known(picture, &stray.thing),
            None => !picture.nodes.contains_key(&stray.node),
        };
        if is_over {
            plan.steps.push(Step::new(removal(stray.as_ref())));
        }
    }
}

fn is_known(picture: &Picture, thing: &Thing) -> bool {
    match thing {
        Thing::Instance(id) => picture.desired.instances.get(id.as_str()).is_some(),
        Thing::Build(id) => picture.desired.builds.get(id.as_str()).is_some(),
    }
}

fn is_there(view: &NodeView, thing: &Thing) -> bool {
    match thing {
        Thing::Instance(id) => view.instances.contains_key(id),
        Thing::Build(id) => view.kept_builds.contains_key(id),
    }
}

/// Whether it is to be ended; what was not told of yet is told of first.
fn is_told_ours(
    picture: &Picture,
    node: &NodeName,
    thing: Thing,
    what: &str,
    controller: Option<&ControllerId>,
    now: Timestamp,
    plan: &mut Plan,
) -> bool {
    let is_ours = controller.is_some() && controller == picture.desired.lineage();
    let absent = match &thing {
        Thing::Instance(id) => record::key::<Instance>(id.as_str()),
        Thing::Build(id) => record::key::<Build>(id.as_str()),
    };
    let stray = Stray { node: node.clone(), thing, is_ours, since: now };
    if picture.desired.strays.get(&drowse_store::Record::id(&stray)).is_some() {
        return is_ours;
    }
    let message = if is_ours {
        format!("{what} on node {node} is removed: it was made after the backup that these records come from")
    } else {
        format!("{what} on node {node} is left alone: another controller had it made")
    };
    let mut step = Step::new(stray).told(Fact::new(EventKind::Node, message));
    step.guards.push(absent);
    plan.steps.push(step);
    false
}

/// What brings it nearer to its end, unless it is ending.
fn ending(picture: &Picture, status: &InstanceStatus) -> Option<Call> {
    if status.state.is_over() {
        return Some(Call::DeleteInstance(status.id.clone(), status.epoch));
    }
    if matches!(status.state, InstanceState::Stopping { .. }) {
        return None;
    }
    let request = StopRequest {
        epoch: status.epoch.next(),
        grace_seconds: picture.settings.grace_seconds,
        reason: "no record knows it".to_owned(),
    };
    Some(Call::StopInstance(status.id.clone(), request))
}
