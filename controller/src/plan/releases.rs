//! Releases: enough instances for the live and the pending one, traffic to the pending one when
//! all of its instances are ready, its end when one of them fails. Old deployments are forgotten.

use std::sync::Arc;

use drowse_api::deployment::DeploymentState;
use drowse_api::event::EventKind;
use drowse_api::instance::{Failure, FailureReason, InstanceState};
use drowse_api::platform::Wanted;
use drowse_api::{Epoch, ErrorCode, InstanceId, Problem};
use jiff::Timestamp;

use super::{Plan, connected};
use crate::desired::{Fact, Step, removal};
use crate::model::{
    App, Build, Cause, Deployment, Instance, Life, PastRelease, ProcessType, Release, brings_a_version,
    effective_bounds,
};
use crate::phase::Phase;
use crate::picture::{Picture, Refused};

pub(super) fn plan(picture: &Picture, app: &App, instances: &[&Arc<Instance>], now: Timestamp, plan: &mut Plan) {
    if app.wanted == Wanted::Stopped {
        return;
    }
    let of = |release: &Release| -> Vec<&Arc<Instance>> {
        instances.iter().copied().filter(|instance| release.has(instance) && !instance.life.is_past()).collect()
    };
    if let Some(pending) = &app.pending {
        if let Some(deployment) = picture.desired.deployments.get(pending.deployment.as_str()) {
            plan.steps.extend(advance(picture, app, pending, deployment, &of(pending), instances, now));
        }
    } else if let Some(live) = &app.live
        && let Some(deployment) = picture.desired.deployments.get(live.deployment.as_str())
        && let Phase::Ready(_) = deployment.phase
    {
        let own = of(live);
        plan.steps.extend(crashed(picture, live, deployment, &own, now).or_else(|| {
            // What was stopped belongs to no release that runs any more.
            let missing = missing(app, &own);
            filled(app, live, deployment, missing, now)
        }));
    }
}

fn missing(app: &App, own: &[&Arc<Instance>]) -> usize {
    (effective_bounds(app.scale).min as usize).saturating_sub(own.len())
}

/// One step of the pending release towards traffic, or its end.
fn advance(
    picture: &Picture,
    app: &App,
    pending: &Release,
    deployment: &Deployment,
    own: &[&Arc<Instance>],
    all: &[&Arc<Instance>],
    now: Timestamp,
) -> Option<Step> {
    if deployment.phase.is_building() {
        return None;
    }
    if let Some(problem) = own.iter().find_map(|instance| boot_failure(picture, instance)) {
        return Some(undone(app, pending, deployment, problem, all, now));
    }
    let missing = missing(app, own);
    if missing > 0 {
        return filled(app, pending, deployment, missing, now);
    }
    own.iter().all(|instance| instance.life == Life::Serving).then(|| promoted(app, pending, deployment, own, now))
}

/// Why an instance of a pending release will never be ready, if so.
fn boot_failure(picture: &Picture, instance: &Instance) -> Option<Problem> {
    let view = connected(picture, &instance.node)?;
    if let Some(refusal) = view.refusals.get(&Refused::Instance(instance.id.clone(), instance.epoch)) {
        return Some(refusal.clone());
    }
    let status = view.instances.get(&instance.id).filter(|status| status.epoch == instance.epoch)?;
    match &status.state {
        InstanceState::Failed { failure } => Some(problem_of(failure)),
        _ => None,
    }
}

fn problem_of(failure: &Failure) -> Problem {
    let code = match failure.reason {
        FailureReason::TimeoutError | FailureReason::Exited | FailureReason::OutOfMemory => ErrorCode::TimeoutError,
        FailureReason::CrashLoop => ErrorCode::CrashLoop,
        FailureReason::Host => ErrorCode::HostUnfit,
    };
    Problem::new(code, failure.detail.clone()).log(failure.log.clone())
}

fn promoted(app: &App, pending: &Release, deployment: &Deployment, own: &[&Arc<Instance>], now: Timestamp) -> Step {
    let mut next = app.clone();
    let former = std::mem::replace(&mut next.live, next.pending.take());
    next.problem = None;
    if matches!(pending.cause, Cause::Rollback { .. }) {
        next.env.clone_from(&pending.env);
    }
    let mut ready = deployment.clone();
    ready.phase = ready.phase.ready(now);
    let ids: Vec<_> = own.iter().map(|instance| instance.id.as_str()).collect();
    let message = format!(
        "traffic goes to deployment {}, release {} ({}), on {}",
        deployment.id,
        pending.number,
        pending.cause,
        ids.join(", ")
    );
    let mut step = Step::new(next);
    // What a restart replaced is no version to go back to.
    if let Some(former) =
        former.filter(|former| (&former.deployment, &former.env) != (&pending.deployment, &pending.env))
    {
        step = step.and(PastRelease::of(&app.name, former, now));
    }
    let mut step = step.told(Fact::new(EventKind::Traffic, message).deployment(&app.name, &deployment.id));
    if ready.phase != deployment.phase {
        let fact = Fact::new(EventKind::Deployment, DeploymentState::Ready.to_string());
        step = step.and(ready).told(fact.deployment(&app.name, &deployment.id));
    }
    // It serves only what was seen ready: none of them may have been decided about meanwhile.
    own.iter().fold(step, |step, instance| step.guarded(instance.as_ref()))
}

fn undone(
    app: &App,
    pending: &Release,
    deployment: &Deployment,
    problem: Problem,
    all: &[&Arc<Instance>],
    now: Timestamp,
) -> Step {
    let is_serving = app.live.as_ref().is_some_and(|live| {
        all.iter().any(|instance| live.has(instance) && matches!(instance.life, Life::Serving | Life::Starting))
    });
    let consequence = if is_serving { "; the version before it serves on" } else { "" };
    let message = format!("the {} failed: {}{consequence}", pending.cause, problem.detail);
    let fact = Fact::new(EventKind::Traffic, message).deployment(&app.name, &deployment.id);
    let mut next = app.clone();
    if brings_a_version(pending.cause) {
        next = next.without_pending(all.iter().copied());
    } else {
        next.pending = None;
    }
    let mut step = Step::default().told(fact);
    if pending.cause == Cause::Deploy || !is_serving || matches!(deployment.phase, Phase::Starting(_)) {
        let mut failed = deployment.clone();
        let state = DeploymentState::DeploymentError;
        let message = format!("{state}: {}: {}", problem.code.as_str(), problem.detail);
        failed.phase = failed.phase.failed(problem.clone(), now);
        if failed.phase != deployment.phase {
            let fact = Fact::new(EventKind::Deployment, message).deployment(&app.name, &deployment.id);
            step = step.and(failed).told(fact);
        }
    }
    if pending.cause != Cause::Deploy {
        next.problem = Some(problem);
    }
    step.and(next)
}

/// The live release when every instance of it has failed for good.
fn crashed(
    picture: &Picture,
    live: &Release,
    deployment: &Deployment,
    own: &[&Arc<Instance>],
    now: Timestamp,
) -> Option<Step> {
    if own.is_empty() || own.iter().any(|instance| instance.life != Life::Failed) {
        return None;
    }
    let told = own.iter().find_map(|instance| boot_failure(picture, instance));
    let problem = told.unwrap_or_else(|| Problem::new(ErrorCode::CrashLoop, "it crashed again and again"));
    let problem =
        Problem { code: ErrorCode::CrashLoop, ..problem }.hint("`drowse start` tries again, a deploy replaces it");
    let state = DeploymentState::DeploymentError;
    let message = format!("{state}: {}: {} (release {})", problem.code.as_str(), problem.detail, live.number);
    let mut failed = deployment.clone();
    failed.phase = failed.phase.failed(problem, now);
    Some(Step::new(failed).told(Fact::new(EventKind::Deployment, message).deployment(&deployment.app, &deployment.id)))
}

/// The missing instances of a release.
fn filled(app: &App, release: &Release, deployment: &Deployment, missing: usize, now: Timestamp) -> Option<Step> {
    let image = deployment.phase.image()?;
    if missing == 0 {
        return None;
    }
    let step = Step::default().guarded(app).guarded(deployment);
    Some((0..missing).fold(step, |step, _| {
        let instance = Instance {
            id: InstanceId::generate(),
            app: app.name.clone(),
            owner: app.owner.clone(),
            deployment: deployment.id.clone(),
            release: release.number,
            process: ProcessType::Web,
            node: deployment.node.clone(),
            image: image.clone(),
            epoch: Epoch(1),
            created: now,
            life: Life::Starting,
        };
        let message = format!("instance {} starts for release {}", instance.id, release.number);
        let fact = Fact::new(EventKind::Instance, message).instance(&instance);
        step.and(instance).told(fact)
    }))
}

/// Removes the oldest releases and deployments of an app beyond their bounds, these with their builds.
pub(super) fn forget(
    picture: &Picture,
    app: &App,
    deployments: &mut [&Arc<Deployment>],
    instances: &[&Arc<Instance>],
    plan: &mut Plan,
) {
    let past = picture.desired.past_of(&app.name);
    for release in past.iter().skip(picture.settings.releases) {
        plan.steps.push(Step::new(removal(release.as_ref())).guarded(app));
    }
    let Some(excess) = deployments.len().checked_sub(picture.settings.deployments).filter(|excess| *excess > 0) else {
        return;
    };
    deployments.sort_by_key(|deployment| deployment.created);
    let is_used = |deployment: &Deployment| {
        app.live.iter().chain(&app.pending).any(|release| release.deployment == deployment.id)
            || instances.iter().any(|instance| instance.deployment == deployment.id && !instance.life.is_past())
            || past.iter().any(|release| release.deployment == deployment.id)
    };
    for deployment in deployments.iter().take(excess).filter(|deployment| !is_used(deployment)) {
        let step = Step::new(removal(deployment.as_ref())).guarded(app);
        plan.steps.push(match picture.desired.builds.get(deployment.id.as_str()) {
            Some(build) => step.and(Build { is_unwanted: true, ..build.as_ref().clone() }),
            None => step,
        });
    }
}
