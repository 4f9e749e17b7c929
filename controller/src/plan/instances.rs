//! One instance: what was decided about it against what its node says of it.

use std::sync::Arc;

use drowse_api::Epoch;
use drowse_api::agent::StopRequest;
use drowse_api::event::EventKind;
use drowse_api::instance::{BootCheck, InstanceSpec, InstanceState, InstanceStatus, OnBootFailure, Workload};
use drowse_api::platform::Wanted;
use drowse_api::secrets::Secrets;
use drowse_store::Revision;
use jiff::{SignedDuration, Timestamp};

use super::{Call, Plan, connected};
use crate::desired::{Fact, Held, Step, removal};
use crate::drain::is_drained;
use crate::model::{App, Deployment, Instance, Life, Release, environment};
use crate::phase::Phase;
use crate::picture::{NodeView, Picture, Refused};

/// How long a removed instance is remembered, should a late command make it again.
const TOMBSTONE: SignedDuration = SignedDuration::from_mins(10);

/// An instance with all that a decision about it looks at.
struct Case<'a> {
    picture: &'a Picture,
    instance: &'a Instance,
    modified: Revision,
    app: Option<&'a App>,
    release: Option<&'a Release>,
    now: Timestamp,
}

pub(super) fn plan(picture: &Picture, held: &Held<Instance>, now: Timestamp, plan: &mut Plan) {
    let instance = held.value.as_ref();
    let app = picture.desired.apps.get(instance.app.as_str()).map(AsRef::as_ref);
    let release = app.and_then(|app| app.release_of(instance));
    let case = Case { picture, instance, modified: held.modified, app, release, now };
    let view = connected(picture, &instance.node);
    match &instance.life {
        Life::Starting | Life::Serving => case.running(view, plan),
        Life::Draining { since } => plan.steps.extend(case.draining(view, *since)),
        Life::Stopping { reason } => case.stopping(view, reason, plan),
        Life::Stopped | Life::Failed => {
            if !case.is_live() {
                let step = case.to(Life::Removing, instance.epoch.next());
                let message = format!("instance {} is removed: nothing needs its log any more", instance.id);
                plan.steps.push(case.told(step, message));
            }
        }
        Life::Removing => case.removing(view, plan),
        Life::Removed { since } => case.removed(view, *since, plan),
    }
}

impl Case<'_> {
    fn is_live(&self) -> bool {
        let live = self.app.and_then(|app| app.live.as_ref());
        live.is_some_and(|release| release.has(self.instance))
    }

    fn is_wanted(&self) -> bool {
        self.release.is_some() && self.app.is_some_and(|app| app.wanted == Wanted::Running)
    }

    fn to(&self, life: Life, epoch: Epoch) -> Step {
        Step::new(Instance { life, epoch, ..self.instance.clone() })
    }

    fn told(&self, step: Step, message: impl Into<String>) -> Step {
        step.told(Fact::new(EventKind::Instance, message).instance(self.instance))
    }

    fn running(&self, view: Option<&NodeView>, plan: &mut Plan) {
        if !self.is_wanted() {
            plan.steps.push(self.no_longer_wanted());
            return;
        }
        let Some(view) = view else { return };
        let status = view.instances.get(&self.instance.id);
        match status {
            Some(status) if status.epoch > self.instance.epoch => {
                // The store was put back to an older state: this decision must be the newest again.
                let step = self.to(self.instance.life.clone(), status.epoch.next());
                plan.steps.push(self.told(step, "its node knew a newer decision: decided anew"));
            }
            Some(status) if status.epoch == self.instance.epoch => plan.steps.extend(self.running_as_told(status)),
            _ => {
                // A refusal ends a pending release; what serves is tried again and again.
                let refused = Refused::Instance(self.instance.id.clone(), self.instance.epoch);
                if (self.is_live() || !view.refusals.contains_key(&refused))
                    && let Some(call) = self.put()
                {
                    plan.call(&self.instance.node, call);
                }
            }
        }
    }

    /// Why it is to end: it was replaced, its app was stopped, or its app is gone.
    fn no_longer_wanted(&self) -> Step {
        let (id, epoch) = (&self.instance.id, self.instance.epoch.next());
        let reason = match self.app {
            None => "its app was removed",
            Some(app) if app.wanted == Wanted::Stopped => "its app was stopped",
            Some(_) if self.instance.life == Life::Starting => "its release failed or was overtaken before it served",
            Some(_) => "another release took its place",
        };
        if self.instance.life == Life::Serving && self.app.is_some() {
            // The agent is told nothing yet: the epoch rises when it is.
            let step = self.to(Life::Draining { since: self.now }, self.instance.epoch);
            return self.told(step, format!("instance {id} gets no more requests: {reason}"));
        }
        let step = self.to(Life::Stopping { reason: reason.to_owned() }, epoch);
        self.told(step, format!("instance {id} is stopped: {reason}"))
    }

    fn running_as_told(&self, status: &InstanceStatus) -> Option<Step> {
        let (id, epoch) = (&self.instance.id, self.instance.epoch);
        match &status.state {
            state if state.serves() && self.instance.life == Life::Starting => {
                let message = format!("instance {id} is ready and may serve for release {}", self.instance.release);
                Some(self.told(self.to(Life::Serving, epoch), message))
            }
            InstanceState::Stopped { reason } => {
                let step = self.to(self.instance.life.clone(), epoch.next());
                Some(self.told(step, format!("instance {id} is started again: {reason}")))
            }
            // The failure of a pending release's instance is the release's own affair.
            InstanceState::Failed { failure } if self.is_live() => {
                let step = self.to(Life::Failed, epoch);
                Some(self.told(step, format!("instance {id} failed for good: {}", failure.detail)))
            }
            _ => None,
        }
    }

    fn put(&self) -> Option<Call> {
        let (app, release) = (self.app?, self.release?);
        let deployment = self.picture.desired.deployments.get(self.instance.deployment.as_str())?;
        // Never without them: the app would find out in a worse way.
        let secrets = self.picture.vault.reveal(&app.name, &release.secrets);
        let secrets = secrets.inspect_err(|problem| tracing::error!(%problem, "an instance is not started")).ok()?;
        Some(Call::PutInstance(Arc::new(self.spec(app, release, deployment, secrets))))
    }

    fn spec(&self, app: &App, release: &Release, deployment: &Deployment, secrets: Secrets) -> InstanceSpec {
        let Instance { id, epoch, image, owner, .. } = self.instance;
        InstanceSpec {
            id: id.clone(),
            epoch: *epoch,
            controller: self.picture.desired.lineage().cloned(),
            user: owner.clone(),
            app: app.name.clone(),
            deployment: deployment.id.clone(),
            workload: deployment.workload(),
            image: image.clone(),
            env: environment(&deployment.manifest, &release.env),
            secrets,
            limits: self.picture.settings.instance,
            boot: self.boot(app, deployment),
            on_boot_failure: if self.is_live() { OnBootFailure::Retry } else { OnBootFailure::Fail },
        }
    }

    /// What was ready once need not show again that it stays, nor need files.
    fn boot(&self, app: &App, deployment: &Deployment) -> BootCheck {
        let (boot, asked) = (self.picture.settings.boot.clone(), &deployment.manifest.check);
        let timeout_seconds = asked.timeout_seconds.unwrap_or(boot.timeout_seconds);
        let stays = matches!(deployment.phase, Phase::Ready(_)) || deployment.workload() == Workload::Site;
        let settle_milliseconds = if stays { 0 } else { boot.settle_milliseconds };
        let host = Some(format!("{}.{}", app.name, self.picture.published.domain));
        BootCheck { timeout_seconds, path: asked.path.clone().or(boot.path), host, settle_milliseconds }
    }

    fn draining(&self, view: Option<&NodeView>, since: Timestamp) -> Option<Step> {
        let has_ended =
            view.is_some_and(|view| view.instances.get(&self.instance.id).is_none_or(|status| status.state.is_over()));
        let is_over = has_ended || is_drained(self.picture, &self.instance.id, self.modified, since, self.now);
        is_over.then(|| {
            let reason = match self.app {
                Some(app) if app.wanted == Wanted::Stopped => "its app was stopped",
                _ => "another release took its place",
            };
            let step = self.to(Life::Stopping { reason: reason.to_owned() }, self.instance.epoch.next());
            self.told(step, format!("instance {} is stopped: its requests are finished", self.instance.id))
        })
    }

    fn stopping(&self, view: Option<&NodeView>, reason: &str, plan: &mut Plan) {
        let Some(view) = view else { return };
        let status = view.instances.get(&self.instance.id);
        if status.is_none_or(|status| status.state.is_over()) {
            let is_kept = self.is_live() && self.app.is_some_and(|app| app.wanted == Wanted::Stopped);
            let id = &self.instance.id;
            plan.steps.push(match is_kept {
                true => {
                    let step = self.to(Life::Stopped, self.instance.epoch);
                    self.told(step, format!("instance {id} has ended and is kept for its log: {reason}"))
                }
                false => {
                    let step = self.to(Life::Removing, self.instance.epoch.next());
                    self.told(step, format!("instance {id} has ended and is removed: {reason}"))
                }
            });
            return;
        }
        let is_told = status.is_some_and(|status| {
            status.epoch >= self.instance.epoch && matches!(status.state, InstanceState::Stopping { .. })
        });
        if !is_told {
            let newest = status.map_or(self.instance.epoch, |status| status.epoch.max(self.instance.epoch));
            let request = StopRequest {
                epoch: newest,
                grace_seconds: self.picture.settings.grace_seconds,
                reason: reason.to_owned(),
            };
            plan.call(&self.instance.node, Call::StopInstance(self.instance.id.clone(), request));
        }
    }

    fn removing(&self, view: Option<&NodeView>, plan: &mut Plan) {
        let Some(view) = view else { return };
        match view.instances.get(&self.instance.id) {
            Some(status) => {
                let epoch = status.epoch.max(self.instance.epoch);
                plan.call(&self.instance.node, Call::DeleteInstance(self.instance.id.clone(), epoch));
            }
            None => plan.steps.push(self.to(Life::Removed { since: self.now }, self.instance.epoch)),
        }
    }

    fn removed(&self, view: Option<&NodeView>, since: Timestamp, plan: &mut Plan) {
        let Some(view) = view else { return };
        if view.instances.contains_key(&self.instance.id) {
            self.removing(Some(view), plan);
        } else if self.now.duration_since(since) > TOMBSTONE {
            plan.steps.push(Step::new(removal(self.instance)));
        }
    }
}
