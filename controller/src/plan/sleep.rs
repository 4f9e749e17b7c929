//! The janitor: who is idle is put to sleep, who may not sleep is woken. Nothing is written down about
//! it: whether an instance sleeps is its node's truth, and the node tells why as an event.

use drowse_api::sleep::{Demand, SleepRequest};
use jiff::Timestamp;

use super::{Call, Plan, connected};
use crate::model::{Instance, Life};
use crate::picture::Picture;
use crate::sleep::{Verdict, Vote, live_deployment};

pub(super) fn plan(picture: &Picture, instance: &Instance, now: Timestamp, plan: &mut Plan) {
    let Some(app) = picture.desired.apps.get(instance.app.as_str()) else { return };
    let Some(node) = connected(picture, &instance.node) else { return };
    // What its node was not told yet comes first.
    let is_told = node.instances.get(&instance.id).is_some_and(|status| status.epoch == instance.epoch);
    if instance.life != Life::Serving || !is_told {
        return;
    }
    let vote = Vote {
        app,
        live: live_deployment(&picture.desired, app),
        user: picture.desired.users.get(instance.owner.as_str()).map(AsRef::as_ref),
        instance,
        node: Some(node),
        routers: &picture.routers,
        settings: &picture.sleep,
        now,
    };
    match vote.verdict() {
        Verdict::Sleep(depth, reason) if !is_site(picture, instance) => {
            let grace_seconds = picture.settings.grace_seconds;
            let request = SleepRequest { epoch: instance.epoch, depth, grace_seconds, reason, unless_leased: true };
            plan.call(&instance.node, Call::SleepInstance(instance.id.clone(), request));
        }
        Verdict::Wake(cause) => {
            plan.call(&instance.node, Call::WakeInstance(instance.id.clone(), Demand { cause }));
        }
        Verdict::Sleep(..) | Verdict::Awake(_) | Verdict::Asleep(_) => {}
    }
}

/// Whether it is files that the node's one server serves: nothing of it could sleep.
fn is_site(picture: &Picture, instance: &Instance) -> bool {
    let deployment = picture.desired.deployments.get(instance.deployment.as_str());
    deployment.is_some_and(|deployment| deployment.app_type == drowse_api::deployment::AppType::Static)
}
