//! Apps: seen, restarted, stopped, started, removed, and their environment.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Answered;
use axum::extract::{Path, State};
use drowse_api::deployment::DeploymentState;
use drowse_api::event::EventKind;
use drowse_api::platform::{AppView, EnvPatch, Environment, Wanted};
use drowse_api::variable::{self, VariableError};
use drowse_api::{ErrorCode, Problem};
use http::StatusCode;
use jiff::Timestamp;

use super::access::Caller;
use super::answer::{Answer, Json, bad_request};
use super::{Api, views};
use crate::desired::{Desired, Fact, Step, removal};
use crate::model::{App, Build, Cause, Deployment};
use crate::phase::{Phase, superseded};

/// The largest environment, names and values together.
pub(super) const MAX_ENV: usize = 256 << 10;

/// What a call that changes an app answers.
pub(super) type Accepted = Answer<(StatusCode, Answered<AppView>)>;

pub(super) async fn list(caller: Caller, State(api): State<Api>) -> Answered<Vec<AppView>> {
    let desired = api.ledger.desired();
    let own = desired.apps.iter().filter(|app| caller.owns(&app.owner));
    Answered(own.map(|app| views::app(&api, &desired, app)).collect())
}

pub(super) async fn show(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Answer<Answered<AppView>> {
    let desired = api.ledger.desired();
    Ok(Answered(views::app(&api, &desired, caller.app(&desired, &name)?)))
}

/// Changes an app and answers with what it is then.
pub(super) async fn change(
    api: &Api,
    caller: &Caller,
    name: &str,
    decide: impl Fn(&Desired, &App) -> Result<Step, Problem>,
) -> Accepted {
    api.ledger.update(|desired| Ok((decide(desired, caller.app(desired, name)?)?, ()))).await?;
    let desired = api.ledger.desired();
    let view = views::app(api, &desired, caller.app(&desired, name)?);
    Ok((StatusCode::ACCEPTED, Answered(view)))
}

pub(super) fn told(step: Step, app: &App, caller: &Caller, what: &str) -> Step {
    step.told(Fact::new(EventKind::App, format!("{what} by {} ({})", caller.name, caller.by)).app(&app.name))
}

/// Ends the pending deployment, if it was not ready yet. Its build is cancelled.
pub(super) fn give_up_pending(desired: &Desired, app: &App, by: &str, now: Timestamp) -> Step {
    let pending = app.pending.as_ref();
    let deployment = pending.and_then(|release| desired.deployments.get(release.deployment.as_str()));
    // What was ready once and is on its way again stays what it is.
    let Some(deployment) = deployment.filter(|found| found.phase.is_building() || found.phase.is_starting()) else {
        return Step::default();
    };
    let mut ended = deployment.as_ref().clone();
    ended.phase = ended.phase.superseded(superseded(by), now);
    let message = format!("{}: superseded by {by}", DeploymentState::DeploymentError);
    let fact = Fact::new(EventKind::Deployment, message).deployment(&app.name, &deployment.id);
    let step = Step::new(ended).told(fact);
    match desired.builds.get(deployment.id.as_str()) {
        Some(build) if deployment.phase.is_building() => step.and(Build { is_unwanted: true, ..Build::clone(build) }),
        _ => step,
    }
}

/// The step that starts new instances of what is there.
pub(super) fn released(desired: &Desired, app: &App, cause: Cause, now: Timestamp) -> Result<Step, Problem> {
    let deployment = startable(desired, app).ok_or_else(|| {
        let problem = Problem::new(ErrorCode::Conflict, format!("{} has no deployment that can be started", app.name));
        problem.hint("`drowse deploy` makes one")
    })?;
    let mut next = app.clone();
    next.wanted = Wanted::Running;
    next.problem = None;
    next.release(deployment.id.clone(), cause, now);
    Ok(retried(Step::new(next), deployment, cause, now))
}

/// With the deployment that the step's release is of tried again where it had failed.
pub(super) fn retried(step: Step, deployment: &Deployment, cause: Cause, now: Timestamp) -> Step {
    let Phase::DeploymentError(error) = &deployment.phase else { return step.guarded(deployment) };
    let Some(starting) = error.retried(now) else { return step.guarded(deployment) };
    let next = Deployment { phase: Phase::Starting(starting), ..deployment.clone() };
    let message = format!("{}: tried again by a {cause}", next.phase.shown(next.app_type).state);
    step.and(next).told(Fact::new(EventKind::Deployment, message).deployment(&deployment.app, &deployment.id))
}

/// The live deployment, or the newest that has an image.
pub(super) fn startable<'a>(desired: &'a Desired, app: &App) -> Option<&'a Arc<Deployment>> {
    let live = app.live.as_ref().and_then(|live| desired.deployments.get(live.deployment.as_str()));
    live.or_else(|| desired.deployments_of(&app.name).into_iter().find(|found| found.phase.image().is_some()))
}

pub(super) async fn restart(caller: Caller, State(api): State<Api>, Path(name): Path<String>) -> Accepted {
    change(&api, &caller, &name, |desired, app| {
        if app.wanted == Wanted::Stopped {
            let problem = Problem::new(ErrorCode::Conflict, format!("{name} is stopped"));
            return Err(problem.hint(format!("`drowse start {name}` starts it")));
        }
        if let Some(pending) = app.pending.as_ref().filter(|_| app.is_changing_version()) {
            let what = format!("restart asked for, which the {} under way is", pending.cause);
            return Ok(told(Step::default(), app, &caller, &what));
        }
        let step = released(desired, app, Cause::Restart, Timestamp::now())?;
        Ok(told(step, app, &caller, "restart asked for"))
    })
    .await
}

/// The step that starts an app; nothing if it runs, or is on its way.
pub(crate) fn started(desired: &Desired, app: &App, now: Timestamp) -> Result<Step, Problem> {
    let live = app.live.as_ref().and_then(|live| desired.deployments.get(live.deployment.as_str()));
    let is_up = live.is_some_and(|deployment| matches!(deployment.phase, Phase::Ready(_)));
    if app.is_changing_version() || app.wanted == Wanted::Running && (is_up || app.pending.is_some()) {
        return Ok(Step::default());
    }
    released(desired, app, Cause::Start, now)
}

pub(super) async fn start(caller: Caller, State(api): State<Api>, Path(name): Path<String>) -> Accepted {
    change(&api, &caller, &name, |desired, app| {
        let step = started(desired, app, Timestamp::now())?;
        Ok(if step.writes.is_empty() { step } else { told(step, app, &caller, "start asked for") })
    })
    .await
}

/// The step that stops an app; nothing if it is stopped.
pub(crate) fn stopped(desired: &Desired, app: &App, now: Timestamp) -> Step {
    if app.wanted == Wanted::Stopped && app.pending.is_none() {
        return Step::default();
    }
    let stopped = App { wanted: Wanted::Stopped, pending: None, ..app.clone() };
    give_up_pending(desired, app, "`drowse stop`", now).and(stopped)
}

pub(super) async fn stop(caller: Caller, State(api): State<Api>, Path(name): Path<String>) -> Accepted {
    change(&api, &caller, &name, |desired, app| {
        let step = stopped(desired, app, Timestamp::now());
        Ok(if step.writes.is_empty() { step } else { told(step, app, &caller, "stop asked for") })
    })
    .await
}

/// The step that removes an app. Its instances belong to nothing then, which is all that the plan
/// needs to know.
pub(crate) fn removed(desired: &Desired, app: &App) -> Step {
    let step = desired
        .past_of(&app.name)
        .into_iter()
        .fold(Step::new(removal(app)), |step, release| step.and(removal(release.as_ref())));
    desired.deployments_of(&app.name).into_iter().fold(step, |step, deployment| {
        let step = step.and(removal(deployment.as_ref()));
        match desired.builds.get(deployment.id.as_str()) {
            Some(build) => step.and(Build { is_unwanted: true, ..Build::clone(build) }),
            None => step,
        }
    })
}

pub(super) async fn remove(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Answer<Answered<AppView>> {
    let view = api.ledger.update(|desired| {
        let app = caller.app(desired, &name)?;
        Ok((told(removed(desired, app), app, &caller, "removed"), views::app(&api, desired, app)))
    });
    Ok(Answered(view.await?))
}

pub(super) async fn env(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Answer<Answered<Environment>> {
    let desired = api.ledger.desired();
    Ok(Answered(Environment { vars: caller.app(&desired, &name)?.env.clone() }))
}

pub(super) async fn change_env(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(patch): Json<EnvPatch>,
) -> Answer<Answered<Environment>> {
    patch.set.iter().try_for_each(|(name, value)| variable::check(name, value)).map_err(of_variable)?;
    let vars = api.ledger.update(|desired| {
        let app = caller.app(desired, &name)?;
        if let Some(name) = patch.set.keys().find(|name| app.secrets.contains_key(*name)) {
            let problem = Problem::new(ErrorCode::Conflict, format!("{name} is a secret of {}", app.name));
            return Err(
                problem.hint(format!("drowse secret set {0} {name}, or drowse secret unset {0} {name}", app.name))
            );
        }
        let vars = patched(app, &patch)?;
        if vars == app.env {
            return Ok((Step::default(), vars));
        }
        let step = with_env(desired, app, vars.clone(), Timestamp::now())?;
        let names: Vec<_> = patch.set.keys().chain(&patch.unset).map(String::as_str).collect();
        Ok((told(step, app, &caller, &format!("environment changed ({})", names.join(", "))), vars))
    });
    Ok(Answered(Environment { vars: vars.await? }))
}

/// The step that gives an app this environment, and new instances where it runs.
pub(crate) fn with_env(
    desired: &Desired,
    app: &App,
    vars: BTreeMap<String, String>,
    now: Timestamp,
) -> Result<Step, Problem> {
    refuse_during_a_rollback(app)?;
    renewed(desired, App { env: vars, ..app.clone() }, Cause::Environment, now)
}

/// The step that gives a changed app new instances where it runs.
pub(super) fn renewed(desired: &Desired, mut changed: App, cause: Cause, now: Timestamp) -> Result<Step, Problem> {
    match &changed.pending {
        // The deploy under way takes the change with it; its build is not repeated.
        Some(pending) => {
            let (deployment, cause) = (pending.deployment.clone(), pending.cause);
            changed.release(deployment, cause, now);
            Ok(Step::new(changed))
        }
        None if changed.wanted == Wanted::Running && changed.live.is_some() => released(desired, &changed, cause, now),
        None => Ok(Step::new(changed)),
    }
}

fn patched(app: &App, patch: &EnvPatch) -> Result<BTreeMap<String, String>, Problem> {
    let mut vars = app.env.clone();
    for name in &patch.unset {
        vars.remove(name);
    }
    vars.extend(patch.set.clone());
    let size: usize = vars.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MAX_ENV {
        let detail = format!("the environment would have {size} bytes; the limit is {MAX_ENV}");
        return Err(Problem::new(ErrorCode::TooLarge, detail));
    }
    Ok(vars)
}

/// A rollback brings an environment of its own: what was changed meanwhile would be lost, or it.
pub(super) fn refuse_during_a_rollback(app: &App) -> Result<(), Problem> {
    match app.pending.as_ref().map(|pending| pending.cause) {
        Some(cause @ Cause::Rollback { .. }) => {
            let problem = Problem::new(ErrorCode::Conflict, format!("{}: a {cause} is under way", app.name));
            Err(problem.hint("try again when it has ended"))
        }
        _ => Ok(()),
    }
}

/// A `bad-request` with the rule that a variable breaks.
pub(super) fn of_variable(error: VariableError) -> Problem {
    bad_request(error.to_string())
}
