//! Releases: listed, gone back to, and deployments brought forward again.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Answered;
use axum::extract::{Path, State};
use drowse_api::platform::{ReleasePlace, ReleaseView, Wanted};
use drowse_api::{DeploymentId, ErrorCode, Problem};
use jiff::Timestamp;
use serde::Deserialize;

use super::access::Caller;
use super::answer::{Answer, Params};
use super::apps::{Accepted, change, give_up_pending, retried, told};
use super::{Api, deploy};
use crate::desired::{Desired, Step};
use crate::model::{App, Cause, Deployment, PastRelease, Release};
use crate::phase::Phase;
use crate::routes::deployment_label;

pub(super) async fn list(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Answer<Answered<Vec<ReleaseView>>> {
    let desired = api.ledger.desired();
    let app = caller.app(&desired, &name)?;
    Ok(Answered(views(&api, &desired, app)))
}

/// A release, wherever it is kept.
struct Listed<'a> {
    number: u64,
    place: ReleasePlace,
    deployment: &'a DeploymentId,
    env: &'a BTreeMap<String, String>,
    cause: Cause,
    created: Timestamp,
}

impl<'a> Listed<'a> {
    fn current(release: &'a Release, place: ReleasePlace) -> Self {
        let Release { number, deployment, env, cause, created, .. } = release;
        Self { number: *number, place, deployment, env, cause: *cause, created: *created }
    }

    fn past(release: &'a PastRelease) -> Self {
        let PastRelease { number, deployment, env, cause, created, .. } = release;
        Self { number: *number, place: ReleasePlace::Earlier, deployment, env, cause: *cause, created: *created }
    }
}

fn views(api: &Api, desired: &Desired, app: &App) -> Vec<ReleaseView> {
    let mut all: Vec<Listed<'_>> =
        desired.past_of(&app.name).into_iter().map(|release| Listed::past(release)).collect();
    all.extend(app.live.as_ref().map(|release| Listed::current(release, ReleasePlace::Live)));
    all.extend(app.pending.as_ref().map(|release| Listed::current(release, ReleasePlace::Next)));
    all.sort_by_key(|release| std::cmp::Reverse(release.number));
    let before = all.iter().skip(1).map(Some).chain([None]);
    let view = |(release, before): (&Listed<'_>, Option<&Listed<'_>>)| ReleaseView {
        number: release.number,
        place: release.place,
        deployment: release.deployment.clone(),
        url: api.config.url(&deployment_label(app.name.as_str(), release.deployment.as_str())),
        cause: release.cause,
        created: release.created,
        changed: before.map(|before| differing(before.env, release.env)).unwrap_or_default(),
    };
    all.iter().zip(before).map(view).collect()
}

/// The names whose values differ, or that only one has.
fn differing(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Vec<String> {
    let mut names: Vec<_> = one.keys().chain(other.keys()).filter(|name| one.get(*name) != other.get(*name)).collect();
    names.sort();
    names.dedup();
    names.into_iter().cloned().collect()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    to: Option<u64>,
}

pub(super) async fn rollback(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
    Params(target): Params<Target>,
) -> Accepted {
    change(&api, &caller, &name, |desired, app| {
        let (step, cause) = rolled_back(desired, app, target.to, Timestamp::now())?;
        Ok(told(step, app, &caller, &format!("{cause} asked for")))
    })
    .await
}

/// The step that makes an earlier release serve again, by a new one with its deployment and its
/// environment. Secrets stay as they are now.
pub(crate) fn rolled_back(
    desired: &Desired,
    app: &App,
    to: Option<u64>,
    now: Timestamp,
) -> Result<(Step, Cause), Problem> {
    let target = match to {
        Some(number) => numbered(desired, app, number)?,
        None => last_different(desired, app)?,
    };
    let deployment = kept(desired, &target.deployment)?;
    let cause = Cause::Rollback { to: target.number };
    let mut next = App { wanted: Wanted::Running, problem: None, ..app.clone() };
    next.release_with(deployment.id.clone(), target.env.clone(), cause, now);
    let step = ending_the_pending(desired, app, deployment, "`drowse rollback`", now).and(next);
    Ok((retried(step, deployment, cause, now), cause))
}

/// Ends what is on its way, unless it is of the deployment that is to serve now.
fn ending_the_pending(desired: &Desired, app: &App, wanted: &Deployment, by: &str, now: Timestamp) -> Step {
    match &app.pending {
        Some(pending) if pending.deployment == wanted.id => Step::default(),
        _ => give_up_pending(desired, app, by, now),
    }
}

fn numbered<'a>(desired: &'a Desired, app: &App, number: u64) -> Result<&'a PastRelease, Problem> {
    if app.live.as_ref().is_some_and(|live| live.number == number) {
        let problem = Problem::new(ErrorCode::Conflict, format!("release {number} of {} serves already", app.name));
        return Err(problem.hint(format!("`drowse restart {}` starts it anew", app.name)));
    }
    let past = desired.past_of(&app.name);
    let kept: Vec<_> = past.iter().map(|release| release.number.to_string()).collect();
    past.into_iter().find(|release| release.number == number).map(AsRef::as_ref).ok_or_else(|| {
        let kept = if kept.is_empty() { "none is".to_owned() } else { format!("kept are {}", kept.join(", ")) };
        let problem =
            Problem::new(ErrorCode::NotFound, format!("release {number} of {} is not kept: {kept}", app.name));
        problem.hint(format!("`drowse releases {}` lists them", app.name))
    })
}

/// The newest earlier release that is another version or environment than the live one, and did not
/// fail at last.
fn last_different<'a>(desired: &'a Desired, app: &App) -> Result<&'a PastRelease, Problem> {
    let is_other = |release: &&Arc<PastRelease>| app.live.as_ref().is_none_or(|live| !release.is_like(live));
    let was_good = |release: &&Arc<PastRelease>| {
        desired.deployments.get(release.deployment.as_str()).is_some_and(|found| matches!(found.phase, Phase::Ready(_)))
    };
    let found = desired.past_of(&app.name).into_iter().filter(is_other).find(was_good);
    found.map(AsRef::as_ref).ok_or_else(|| {
        let problem = Problem::new(ErrorCode::Conflict, format!("{} has no earlier release to go back to", app.name));
        problem.hint(format!("`drowse releases {}` lists what is kept", app.name))
    })
}

/// The deployment, if it can be started.
fn kept<'a>(desired: &'a Desired, id: &DeploymentId) -> Result<&'a Arc<Deployment>, Problem> {
    let found = desired.deployments.get(id.as_str()).filter(|found| found.phase.image().is_some());
    found.ok_or_else(|| Problem::new(ErrorCode::NotFound, format!("the image of deployment {id} is not kept any more")))
}

pub(super) async fn promote(caller: Caller, State(api): State<Api>, Path(id): Path<String>) -> Accepted {
    let name = deploy::find(&api.ledger.desired(), &caller, &id)?.app.clone();
    change(&api, &caller, name.as_str(), |desired, app| {
        let deployment = deploy::find(desired, &caller, &id)?;
        let step = promoted(desired, app, deployment, Timestamp::now())?;
        Ok(told(step, app, &caller, &format!("promotion of deployment {id} asked for")))
    })
    .await
}

/// The step that makes a deployment serve, with the environment that the app has now.
pub(crate) fn promoted(desired: &Desired, app: &App, deployment: &Deployment, now: Timestamp) -> Result<Step, Problem> {
    let id = &deployment.id;
    let is_of = |release: &Option<Release>| release.as_ref().is_some_and(|release| release.deployment == *id);
    if is_of(&app.pending) {
        return Err(Problem::new(ErrorCode::Conflict, format!("deployment {id} is on its way already")));
    }
    if is_of(&app.live) {
        let problem = Problem::new(ErrorCode::Conflict, format!("deployment {id} is the live one already"));
        return Err(problem.hint(format!("`drowse restart {0}` or `drowse start {0}` starts it anew", app.name)));
    }
    if deployment.phase.image().is_none() {
        let state = deployment.phase.shown(deployment.app_type).state;
        let problem =
            Problem::new(ErrorCode::Conflict, format!("deployment {id} has no image to start: it is {state}"));
        return Err(problem.hint("deploy again"));
    }
    let mut next = App { wanted: Wanted::Running, problem: None, ..app.clone() };
    next.release(id.clone(), Cause::Promote, now);
    let step = give_up_pending(desired, app, &format!("`drowse promote {id}`"), now).and(next);
    Ok(retried(step, deployment, Cause::Promote, now))
}
