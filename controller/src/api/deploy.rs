//! Deploys: the folder streamed to a node, the deployment that follows from it, and its life as
//! someone who waits for it sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Json as Answered;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use drowse_api::agent::BlobStored;
use drowse_api::deployment::{AppType, BuildInput};
use drowse_api::event::EventKind;
use drowse_api::instance::LogLine;
use drowse_api::manifest::Manifest;
use drowse_api::platform::{DeploymentUpdate, DeploymentView, Wanted};
use drowse_api::routing::RouterStatus;
use drowse_api::{AppName, DeploymentId, Digest, ErrorCode, NodeName, Problem};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Method, StatusCode, header};
use jiff::Timestamp;
use serde::Deserialize;

use super::access::Caller;
use super::answer::{Answer, Params, bad_request, parsed};
use super::apps::give_up_pending;
use super::ndjson::{self, Gone, Out};
use super::{Api, views};
use crate::desired::{Desired, Fact, Step};
use crate::model::{App, Build, Cause, Deployment, environment};
use crate::phase::{Deploying, Phase};
use crate::plan::place;

/// How long an upload may stand still.
const STALL: Duration = Duration::from_secs(60);

/// How long the rest of a build's log is waited for when the build has ended.
const LOG_REST: Duration = Duration::from_secs(2);

/// How long routers have to learn of a new deployment before its READY is told: longer than one
/// takes to connect to a controller that has just started.
const ROUTED: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    r#type: AppType,
    manifest: Option<String>,
}

/// What a deploy is made of, beside whose it is.
#[derive(Debug)]
pub(crate) struct Upload<'a> {
    /// Its type.
    pub app_type: AppType,
    /// What its folder pins.
    pub manifest: &'a Manifest,
    /// The node that has the folder.
    pub node: &'a NodeName,
    /// The folder.
    pub source: &'a Digest,
}

pub(super) async fn deploy(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
    Params(query): Params<Query>,
    headers: HeaderMap,
    body: Body,
) -> Answer<(StatusCode, Answered<DeploymentView>)> {
    let name: AppName = parsed(&name)?;
    check_owner(&api.ledger.desired(), &caller, &name)?;
    let manifest = manifest(query.manifest.as_deref())?;
    check_commands(query.r#type, &manifest)?;
    let node = choose_node(&api)?;
    let source = upload(&api, &node, &headers, body).await?;
    let id = DeploymentId::generate();
    let accept = |desired: &Desired| {
        check_owner(desired, &caller, &name)?;
        let upload = Upload { app_type: query.r#type, manifest: &manifest, node: &node, source: &source };
        Ok(accepted(desired, &caller, &name, &id, &upload))
    };
    let deployment = api.ledger.update(accept).await?;
    Ok((StatusCode::ACCEPTED, Answered(views::deployment(&api, &deployment))))
}

/// What the caller says that the folder pins, checked anew.
fn manifest(text: Option<&str>) -> Result<Manifest, Problem> {
    let Some(text) = text else { return Ok(Manifest::default()) };
    let wrong = |what: String| bad_request(format!("the manifest cannot be used: {what}"));
    let manifest: Manifest = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    manifest.check().map_err(|error| wrong(error.to_string()))?;
    Ok(manifest)
}

/// What runs no command of ours cannot pin one.
fn check_commands(app_type: AppType, manifest: &Manifest) -> Result<(), Problem> {
    let has_commands = !matches!(app_type, AppType::Static | AppType::Bundle);
    let pinned = [("start", &manifest.start), ("release", &manifest.release)];
    match pinned.into_iter().find(|(_, command)| command.is_some()) {
        Some((key, _)) if !has_commands => {
            let detail = format!("a {app_type} app has no {key} command");
            Err(bad_request(detail).hint(format!("leave {key} out, or deploy it as another type")))
        }
        _ => Ok(()),
    }
}

fn check_owner(desired: &Desired, caller: &Caller, name: &AppName) -> Result<(), Problem> {
    match desired.apps.get(name.as_str()) {
        Some(app) if !caller.owns(&app.owner) => {
            let problem = Problem::new(ErrorCode::Conflict, format!("the app name {name} is taken"));
            Err(problem.hint("choose another: names are unique on the platform"))
        }
        _ => Ok(()),
    }
}

fn choose_node(api: &Api) -> Result<NodeName, Problem> {
    let nodes = api.nodes.iter().map(|(name, node)| (name.clone(), node.view())).collect();
    place(&api.ledger.desired(), &nodes).ok_or_else(|| Problem::new(ErrorCode::Unavailable, "no node is configured"))
}

/// Streams the body to the node's store of blobs.
async fn upload(api: &Api, node: &NodeName, headers: &HeaderMap, body: Body) -> Result<Digest, Problem> {
    let limit = api.config.limits.upload;
    let too_large = || {
        let problem = Problem::new(ErrorCode::TooLarge, format!("the upload is larger than {limit}"));
        problem.hint("leave out what is not needed with .drowseignore; the operator can raise limits.upload")
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit.0) {
        return Err(too_large());
    }
    let client = &api.nodes.get(node).ok_or_else(|| Problem::new(ErrorCode::Unavailable, "no such node"))?.client;
    let is_over = Arc::new(AtomicBool::new(false));
    let bytes = limited(body, limit.0, Arc::clone(&is_over));
    let stored = client.upload::<BlobStored, _, _>(Method::POST, "/v1/blobs", bytes).await;
    if is_over.load(Ordering::Relaxed) {
        return Err(too_large());
    }
    let stored = stored?;
    if stored.size == 0 {
        return Err(Problem::new(ErrorCode::NothingToRun, "the upload is empty"));
    }
    Ok(stored.digest)
}

/// The body's bytes until there are too many or none come any more.
fn limited(
    body: Body,
    limit: u64,
    is_over: Arc<AtomicBool>,
) -> impl Stream<Item = Result<bytes::Bytes, std::io::Error>> + Send + 'static {
    use std::io::{Error, ErrorKind};
    let total = AtomicU64::new(0);
    let chunks = tokio_stream::StreamExt::timeout(body.into_data_stream(), STALL);
    // Pinned: the stream of timeouts is not Unpin.
    Box::pin(chunks.map(move |chunk| {
        let chunk = chunk.map_err(|_| Error::new(ErrorKind::TimedOut, "the upload stands still"))?;
        let chunk = chunk.map_err(Error::other)?;
        let length = chunk.len() as u64;
        if total.fetch_add(length, Ordering::Relaxed) + length > limit {
            is_over.store(true, Ordering::Relaxed);
            return Err(Error::new(ErrorKind::FileTooLarge, "the upload is too large"));
        }
        Ok(chunk)
    }))
}

/// The step that accepts a deploy, and the deployment it makes.
pub(crate) fn accepted(
    desired: &Desired,
    caller: &Caller,
    name: &AppName,
    id: &DeploymentId,
    upload: &Upload<'_>,
) -> (Step, Deployment) {
    let now = Timestamp::now();
    let Upload { app_type, manifest, node, source } = *upload;
    let existing = desired.apps.get(name.as_str());
    let mut app = existing.map_or_else(
        || App {
            name: name.clone(),
            owner: caller.user.clone(),
            created: now,
            wanted: Wanted::Running,
            scale: None,
            env: Default::default(),
            secrets: Default::default(),
            releases: 0,
            live: None,
            pending: None,
            problem: None,
            sleep: Default::default(),
        },
        |app| App::clone(app),
    );
    let step =
        existing.map_or_else(Step::default, |app| give_up_pending(desired, app, &format!("deployment {id}"), now));
    app.wanted = Wanted::Running;
    app.release(id.clone(), Cause::Deploy, now);
    let (app_name, owner) = (app.name.clone(), app.owner.clone());
    let deployment = Deployment {
        id: id.clone(),
        app: app_name.clone(),
        owner: owner.clone(),
        app_type,
        node: node.clone(),
        created: now,
        phase: Phase::Deploying(Deploying::new(now)),
        manifest: manifest.clone(),
        workload: None,
    };
    let build = Build {
        deployment: id.clone(),
        app: app_name,
        owner,
        node: node.clone(),
        input: BuildInput {
            app_type,
            source: source.clone(),
            start: manifest.start.clone(),
            release: manifest.release.clone(),
        },
        env: environment(manifest, &app.env),
        is_unwanted: false,
    };
    let message = format!("DEPLOYING: {app_type} deploy by {} ({})", caller.name, caller.by);
    let fact = Fact::new(EventKind::Deployment, message).deployment(name, id);
    (step.and(app).and(deployment.clone()).and(build).told(fact), deployment)
}

pub(super) async fn list(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Answer<Answered<Vec<DeploymentView>>> {
    let desired = api.ledger.desired();
    let app = caller.app(&desired, &name)?;
    let all = desired.deployments_of(&app.name);
    Ok(Answered(all.into_iter().map(|deployment| views::deployment_now(&api, &desired, deployment)).collect()))
}

pub(super) fn find<'a>(desired: &'a Desired, caller: &Caller, id: &str) -> Result<&'a Arc<Deployment>, Problem> {
    desired.deployments.get(id).filter(|found| caller.owns(&found.owner)).ok_or_else(|| {
        let shown: String = id.chars().take(80).collect();
        Problem::new(ErrorCode::NotFound, format!("there is no deployment {shown:?}"))
    })
}

pub(super) async fn show(
    caller: Caller,
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Answer<Answered<DeploymentView>> {
    let desired = api.ledger.desired();
    Ok(Answered(views::deployment_now(&api, &desired, find(&desired, &caller, &id)?)))
}

pub(super) async fn watch(caller: Caller, State(api): State<Api>, Path(id): Path<String>) -> Answer<Response> {
    let desired = api.ledger.desired();
    let deployment = Arc::clone(find(&desired, &caller, &id)?);
    Ok(ndjson::stream(api.end.clone(), |out| follow(api, deployment, out)))
}

/// Sends the log of the build as it comes and each state; the last state when the log has ended.
async fn follow(api: Api, deployment: Arc<Deployment>, out: Out<DeploymentUpdate>) -> Result<(), Gone> {
    let has_build = deployment.app_type.has_build();
    let log = tokio::spawn(follow_log(api.clone(), Arc::clone(&deployment), out.clone()));
    let mut log = tokio_util::task::AbortOnDropHandle::new(log);
    let mut records = api.ledger.subscribe();
    let mut sent = None;
    loop {
        let now = records.borrow_and_update().deployments.get(deployment.id.as_str()).cloned();
        // A deployment that was removed meanwhile has no state any more: the stream ends.
        let Some(now) = now else { return Ok(()) };
        let view = views::deployment(&api, &now);
        let has_ended = view.state.state.ends_a_deploy();
        if has_ended && has_build {
            // Late lines are lost to this reader only: the agent keeps them.
            let _ = tokio::time::timeout(LOG_REST, &mut log).await;
        }
        if matches!(now.phase, Phase::Ready(_)) {
            // Whoever is told READY may visit it: the routers know by then.
            let since = api.ledger.desired().deployments.modified(deployment.id.as_str());
            let _ = tokio::time::timeout(ROUTED, routed(&api, since.0)).await;
        }
        if sent.as_ref() != Some(&view) {
            out.send(&DeploymentUpdate::State { deployment: view.clone() }).await?;
            sent = Some(view);
        }
        if has_ended || records.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Waits until every router serves by a table of this revision or a newer one.
async fn routed(api: &Api, revision: u64) {
    let mut table = api.table.clone();
    // An error means that the controller ends.
    let Ok(run) = table.wait_for(|table| table.revision >= revision).await.map(|table| table.run.clone()) else {
        return;
    };
    let knows = |status: &Option<RouterStatus>| {
        status.as_ref().is_some_and(|status| status.run == run && status.applied >= revision)
    };
    while !api.routers.all().values().all(knows) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn follow_log(api: Api, deployment: Arc<Deployment>, out: Out<DeploymentUpdate>) -> Result<(), Gone> {
    let Some(node) = api.nodes.get(&deployment.node) else { return Ok(()) };
    let path = format!("/v1/builds/{}/logs?follow=true", deployment.id);
    loop {
        if let Ok(mut lines) = node.client.lines::<LogLine>(&path).await {
            while let Ok(Some(line)) = lines.next().await {
                out.send(&DeploymentUpdate::Log { line }).await?;
            }
            return Ok(());
        }
        // The node has not got the build yet, or is away.
        let desired = api.ledger.desired();
        let is_building =
            desired.deployments.get(deployment.id.as_str()).is_some_and(|found| found.phase.is_building());
        if !is_building {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
