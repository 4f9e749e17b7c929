//! Sleep: told to, woken, set, explained.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answered;
use axum::extract::{Path, State};
use drowse_api::deployment::AppType;
use drowse_api::event::EventKind;
use drowse_api::instance::InstanceStatus;
use drowse_api::platform::{AppView, Wanted};
use drowse_api::sleep::{Demand, Explanation, SHORTEST, SleepCommand, SleepRequest, SleepSettings};
use drowse_api::{ErrorCode, Problem};
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::access::Caller;
use super::answer::{Answer, Json, Params, bad_request};
use super::{Api, views};
use crate::desired::{Desired, Fact, Step};
use crate::events::stored;
use crate::ledger::problem;
use crate::model::{App, Instance, Life};
use crate::sleep::{Verdict, Vote, live_deployment, sleep_policy};

/// How long what a node was told may take to be seen here.
const SEEN: Duration = Duration::from_secs(2);

/// How many of the last sleeps and wakes are shown.
const RECENT: usize = 10;

pub(super) async fn sleep(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(command): Json<SleepCommand>,
) -> Answer<Answered<AppView>> {
    let desired = api.ledger.desired();
    let app = caller.app(&desired, &name)?;
    let instances = serving(&desired, app)?;
    if app.sleep.pinned {
        let problem = Problem::new(ErrorCode::Conflict, format!("{name} is pinned: it never sleeps"));
        return Err(problem.hint(format!("`drowse unpin {name}` lets it sleep")).into());
    }
    let mut depths = BTreeMap::new();
    for instance in &instances {
        let request = SleepRequest {
            epoch: instance.epoch,
            depth: command.depth,
            grace_seconds: api.config.limits.grace_seconds,
            reason: format!("told to by {} ({})", caller.name, caller.by),
            unless_leased: false,
        };
        let node = node(&api, instance)?;
        let path = format!("/v1/instances/{}/sleep", instance.id);
        let slept: InstanceStatus = node.client.call(Method::POST, &path, Some(&request)).await?;
        depths.insert(slept.id, slept.state.depth());
    }
    // On its way down it is shown at every depth that it passes.
    seen(&api, &instances, |status| depths.get(&status.id).is_none_or(|depth| status.state.depth() >= *depth)).await;
    let desired = api.ledger.desired();
    Ok(Answered(views::app(&api, &desired, caller.app(&desired, &name)?)))
}

pub(super) async fn wake(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Answer<(StatusCode, Answered<AppView>)> {
    let desired = api.ledger.desired();
    let app = caller.app(&desired, &name)?;
    let instances = serving(&desired, app)?;
    let demand = Demand { cause: format!("`drowse wake` by {} ({})", caller.name, caller.by) };
    for instance in &instances {
        let path = format!("/v1/instances/{}/demand", instance.id);
        node(&api, instance)?.client.call::<IgnoredAny>(Method::POST, &path, Some(&demand)).await?;
    }
    seen(&api, &instances, |status| !status.state.is_asleep()).await;
    let desired = api.ledger.desired();
    Ok((StatusCode::ACCEPTED, Answered(views::app(&api, &desired, caller.app(&desired, &name)?))))
}

/// The instances of an app that serve, and so can sleep or be woken.
fn serving(desired: &Desired, app: &App) -> Result<Vec<Arc<Instance>>, Problem> {
    let conflict =
        |what: &str, hint: String| Problem::new(ErrorCode::Conflict, format!("{} {what}", app.name)).hint(hint);
    if app.wanted == Wanted::Stopped {
        return Err(conflict("is stopped", format!("`drowse start {}` starts it", app.name)));
    }
    let live = app.live.as_ref();
    let deployment = live.and_then(|live| desired.deployments.get(live.deployment.as_str()));
    if deployment.is_some_and(|deployment| deployment.app_type == AppType::Static) {
        let hint = "its files are served by the node's one server, which costs nothing more".to_owned();
        return Err(conflict("is a static site: nothing of it could sleep", hint));
    }
    let serves =
        |instance: &&Arc<Instance>| instance.life == Life::Serving && live.is_some_and(|live| live.has(instance));
    let found: Vec<_> = desired.instances_of(&app.name).into_iter().filter(serves).cloned().collect();
    if found.is_empty() {
        return Err(conflict("does not serve", format!("`drowse info {}` tells why", app.name)));
    }
    Ok(found)
}

fn node<'a>(api: &'a Api, instance: &Instance) -> Result<&'a crate::nodes::Node, Problem> {
    let missing = || Problem::new(ErrorCode::Unavailable, format!("node {} is not known here", instance.node));
    api.nodes.get(&instance.node).ok_or_else(missing)
}

/// Waits a moment until the nodes' reports show it.
async fn seen(api: &Api, instances: &[Arc<Instance>], is_so: impl Fn(&InstanceStatus) -> bool) {
    for instance in instances {
        let Some(node) = api.nodes.get(&instance.node) else { continue };
        let mut view = node.subscribe();
        let shows = |view: &crate::picture::NodeView| view.instances.get(&instance.id).is_none_or(&is_so);
        let _ = tokio::time::timeout(SEEN, view.wait_for(shows)).await;
    }
}

pub(super) async fn settings(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Answer<Answered<SleepSettings>> {
    let desired = api.ledger.desired();
    Ok(Answered(caller.app(&desired, &name)?.sleep))
}

pub(super) async fn set(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(settings): Json<SleepSettings>,
) -> Answer<Answered<SleepSettings>> {
    if !settings.is_long_enough() {
        return Err(bad_request(format!("an app must be idle for {SHORTEST} s at least before it sleeps")).into());
    }
    let changed = api.ledger.update(|desired| {
        let app = caller.app(desired, &name)?;
        if app.sleep == settings {
            return Ok((Step::default(), settings));
        }
        let next = App { sleep: settings, ..app.clone() };
        let policy = sleep_policy(&next, live_deployment(desired, app), None, &api.config.sleep).in_words();
        let message = format!("its sleep was set by {} ({}): {policy}", caller.name, caller.by);
        Ok((Step::new(next).told(Fact::new(EventKind::App, message).app(&app.name)), settings))
    });
    Ok(Answered(changed.await?))
}

/// What is asked beside the explanation.
#[derive(Debug, Deserialize)]
pub(super) struct DryRun {
    /// How it would have slept, had it been put to sleep whenever it was idle for so many seconds.
    dry_run: Option<u32>,
}

pub(super) async fn explain(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
    Params(query): Params<DryRun>,
) -> Answer<Answered<Explanation>> {
    let desired = api.ledger.desired();
    let app = caller.app(&desired, &name)?;
    let rehearse = |after| api.histories.rehearse(&app.name, after, Timestamp::now());
    let rehearsal = query.dry_run.and_then(rehearse);
    let user = desired.users.get(app.owner.as_str()).map(AsRef::as_ref);
    let routers = api.routers.all();
    let live = app.live.as_ref();
    let deployment = live_deployment(&desired, app);
    let own = desired.instances_of(&app.name);
    let own =
        own.into_iter().filter(|instance| live.is_some_and(|live| live.has(instance)) && !instance.life.is_past());
    let now = own.map(|instance| {
        let view = api.nodes.get(&instance.node).map(crate::nodes::Node::view).filter(|view| view.is_connected);
        let (node, settings, now) = (view.as_ref(), &api.config.sleep, Timestamp::now());
        let vote = Vote { app, live: deployment, user, instance, node, routers: &routers, settings, now };
        let said = match vote.verdict() {
            Verdict::Awake(why) => format!("awake: {why}"),
            Verdict::Sleep(depth, why) => format!("about to sleep ({depth}): {why}"),
            Verdict::Asleep(why) => format!("asleep: {why}"),
            Verdict::Wake(why) => format!("about to wake: {why}"),
        };
        format!("{} {said}", instance.id)
    });
    let now: Vec<_> = now.collect();
    let (events, _) = stored(api.ledger.store(), 0).await.map_err(|error| problem(&error))?;
    let mut recent: Vec<_> = events
        .into_iter()
        .filter(|event| event.kind == EventKind::Sleep && event.app.as_ref() == Some(&app.name))
        .collect();
    recent.drain(..recent.len().saturating_sub(RECENT));
    let policy = sleep_policy(app, deployment, user, &api.config.sleep).in_words();
    Ok(Answered(Explanation { now, policy, recent, rehearsal }))
}
