//! Builds: started, followed to their image or their error, removed when nobody wants them.

use std::sync::Arc;

use drowse_api::agent::BuildStatus;
use drowse_api::deployment::DeploymentState;
use drowse_api::event::EventKind;
use drowse_api::instance::Workload;
use drowse_api::{Digest, ErrorCode, Problem};
use jiff::Timestamp;

use super::{Call, Plan, build_request, connected};
use crate::desired::{Fact, Step, removal};
use crate::model::{Build, Deployment};
use crate::phase::Phase;
use crate::picture::{Picture, Refused};

pub(super) fn plan(picture: &Picture, now: Timestamp, plan: &mut Plan) {
    for build in picture.desired.builds.iter() {
        let Some(view) = connected(picture, &build.node) else { continue };
        let status = view.builds.get(&build.deployment);
        let deployment = picture.desired.deployments.get(build.deployment.as_str());
        match deployment {
            Some(deployment) if !build.is_unwanted && deployment.phase.is_building() => {
                if let Some(problem) = view.refusals.get(&Refused::Build(build.deployment.clone())) {
                    plan.steps.extend(failed(picture, deployment, problem.clone(), now));
                    continue;
                }
                follow(picture, build, deployment, status, now, plan);
            }
            Some(_) if !build.is_unwanted => {}
            _ if status == Some(&None) => plan.steps.push(Step::new(removal(build.as_ref()))),
            _ => plan.call(&build.node, Call::DeleteBuild(build.deployment.clone())),
        }
    }
}

fn follow(
    picture: &Picture,
    build: &Build,
    deployment: &Deployment,
    status: Option<&Option<BuildStatus>>,
    now: Timestamp,
    plan: &mut Plan,
) {
    match status {
        Some(Some(BuildStatus::Done { image, workload, .. })) => {
            plan.steps.push(built(deployment, image.clone(), *workload, now));
            return;
        }
        // The agent was restarted in the middle: its sandbox is gone, and a repeated PUT begins anew.
        Some(Some(BuildStatus::Failed { problem })) if problem.code == ErrorCode::Unavailable => {
            plan.call(&build.node, Call::PutBuild(Arc::new(build_request(picture, build))));
            return;
        }
        Some(Some(BuildStatus::Failed { problem })) => {
            plan.steps.extend(failed(picture, deployment, problem.clone(), now));
            return;
        }
        Some(Some(BuildStatus::Booted)) => plan.steps.extend(advanced(deployment, false, now)),
        Some(Some(BuildStatus::Building { .. })) => plan.steps.extend(advanced(deployment, true, now)),
        Some(Some(BuildStatus::Queued { .. } | BuildStatus::Preparing)) => {}
        Some(None) => {
            plan.call(&build.node, Call::PutBuild(Arc::new(build_request(picture, build))));
            return;
        }
        None => {}
    }
    plan.call(&build.node, Call::AskBuild(build.deployment.clone()));
}

fn told(step: Step, deployment: &Deployment, state: DeploymentState, why: &str) -> Step {
    let message = if why.is_empty() { state.to_string() } else { format!("{state}: {why}") };
    step.told(Fact::new(EventKind::Deployment, message).deployment(&deployment.app, &deployment.id))
}

fn advanced(deployment: &Deployment, is_building: bool, now: Timestamp) -> Option<Step> {
    if !deployment.app_type.has_build() {
        return None;
    }
    let mut next = deployment.clone();
    let mut step = Step::default();
    if let Phase::Deploying(it) = next.phase {
        next.phase = Phase::Booted(it.booted(now));
        step = told(step, deployment, DeploymentState::Booted, "the build sandbox runs");
    }
    if is_building && let Phase::Booted(it) = next.phase {
        next.phase = Phase::Building(it.building(now));
        step = told(step, deployment, DeploymentState::Building, "");
    }
    (next.phase != deployment.phase).then(|| step.and(next))
}

fn built(deployment: &Deployment, image: Digest, workload: Workload, now: Timestamp) -> Step {
    let mut next = deployment.clone();
    next.workload = Some(workload);
    let why = format!("its image is {image}");
    next.phase = next.phase.built(deployment.app_type, image, now);
    let message = format!("{}: {why}", next.phase.shown(next.app_type).state);
    let fact = Fact::new(EventKind::Deployment, message).deployment(&deployment.app, &deployment.id);
    Step::new(next).told(fact)
}

fn failed(picture: &Picture, deployment: &Deployment, problem: Problem, now: Timestamp) -> Option<Step> {
    let mut next = deployment.clone();
    let why = problem.detail.clone();
    next.phase = next.phase.build_failed(deployment.app_type, problem, now);
    let state = next.phase.shown(deployment.app_type).state;
    let mut step = told(Step::new(next), deployment, state, &why);
    if let Some(app) = picture.desired.apps.get(deployment.app.as_str())
        && app.pending.as_ref().is_some_and(|release| release.deployment == deployment.id)
    {
        let app = app.as_ref().clone();
        step = step.and(app.without_pending(picture.desired.instances_of(&deployment.app)));
    }
    Some(step)
}
