//! Calls about instances.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query as UrlQuery, State};
use axum::response::Response;
use drowse_api::agent::{EndpointsPicture, InstancesPicture, StopRequest};
use drowse_api::instance::{InstanceSpec, InstanceStatus};
use drowse_api::sleep::{Activity, Demand, Quiet, SleepRequest};
use drowse_api::{Epoch, ErrorCode, InstanceId, Problem};

use super::Shared;
use super::answer::{Answer, Query, Refused, parse, query, read, read_secret};
use super::stream;
use crate::host::home;
use crate::instance::registry;

/// How much of what woke an instance is told.
const LONGEST_CAUSE: usize = 200;

pub(super) async fn list(State(agent): State<Shared>) -> Json<Vec<InstanceStatus>> {
    Json(agent.instances.list().instances)
}

pub(super) async fn watch(State(agent): State<Shared>) -> Response {
    let mut board = agent.instances.watch();
    stream::respond(move |lines| async move {
        loop {
            let instances = board.borrow_and_update().values().cloned().collect();
            // After the look: what led to what was seen has been told by then.
            let told = Some(agent.node.events.newest());
            lines.send(&InstancesPicture { instances, told }).await?;
            if board.changed().await.is_err() {
                return Ok(());
            }
        }
    })
}

pub(super) async fn endpoints(
    State(agent): State<Shared>,
    url: Result<UrlQuery<Query>, QueryRejection>,
) -> Result<Response, Refused> {
    // Before the first look: nothing falls asleep that it was shown as ready, and it was not asked for.
    let following = query(url)?.router.map(|name| agent.instances.followers().follow(&name));
    let mut board = agent.instances.watch();
    Ok(stream::respond(|lines| async move {
        // Dropped with the stream.
        let following = following;
        let follower = following.as_ref().map(|following| following.number);
        let mut sent = None;
        loop {
            let picture = EndpointsPicture { follower, ..registry::endpoints(&board.borrow_and_update()) };
            if sent.as_ref() != Some(&picture) {
                lines.send(&picture).await?;
                sent = Some(picture);
            }
            if board.changed().await.is_err() {
                return Ok(());
            }
        }
    }))
}

pub(super) async fn activity(State(agent): State<Shared>) -> Json<BTreeMap<InstanceId, Activity>> {
    let running = agent.instances.list().instances.into_iter().filter(|status| status.process.is_some());
    let running: Vec<_> = running.filter(|status| status.state.is_ready()).collect();
    let node = agent.node.clone();
    // What cannot be read is left out: it has just ended.
    let read =
        move || running.into_iter().filter_map(|status| Some((status.id.clone(), node.activity(&status)?))).collect();
    Json(tokio::task::spawn_blocking(read).await.unwrap_or_default())
}

pub(super) async fn sleep(
    State(agent): State<Shared>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<InstanceStatus> {
    let (id, request): (InstanceId, SleepRequest) = (parse(&id)?, read(body)?);
    if request.unless_leased && agent.node.doors.lease(&id).is_some() {
        let problem = Problem::new(ErrorCode::Conflict, format!("instance {id} stays awake: it holds a lease"));
        return Err(problem.into());
    }
    Ok(Json(agent.instances.sleep(&id, request).await?))
}

pub(super) async fn demand(
    State(agent): State<Shared>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<()> {
    let (id, demand): (InstanceId, Demand) = (parse(&id)?, read(body)?);
    // Others wrote it, and it goes into a sentence.
    let cause = demand.cause.chars().filter(|c| !c.is_control()).take(LONGEST_CAUSE).collect();
    agent.instances.demand(&id, Demand { cause }).await?;
    Ok(Json(()))
}

pub(super) async fn quiet(
    State(agent): State<Shared>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<()> {
    let (id, quiet): (InstanceId, Quiet) = (parse(&id)?, read(body)?);
    if !agent.instances.followers().let_go(&id, quiet) {
        let detail = format!("no router follows by the number {}", quiet.follower);
        return Err(Problem::new(ErrorCode::NotFound, detail).into());
    }
    Ok(Json(()))
}

pub(super) async fn put(
    State(agent): State<Shared>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<InstanceStatus> {
    let (id, spec): (InstanceId, InstanceSpec) = (parse(&id)?, read_secret(body)?);
    if spec.id != id {
        let detail = format!("the path names instance {id}, the body {}", spec.id);
        return Err(Problem::new(ErrorCode::BadRequest, detail).into());
    }
    Ok(Json(agent.instances.put(spec).await?))
}

pub(super) async fn stop(
    State(agent): State<Shared>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<InstanceStatus> {
    let (id, request): (InstanceId, StopRequest) = (parse(&id)?, read(body)?);
    Ok(Json(agent.instances.stop(&id, request).await?))
}

pub(super) async fn delete(
    State(agent): State<Shared>,
    Path(id): Path<String>,
    url: Result<UrlQuery<Query>, QueryRejection>,
) -> Answer<()> {
    let id: InstanceId = parse(&id)?;
    let epoch = query(url)?.epoch.ok_or_else(|| {
        Problem::new(ErrorCode::BadRequest, "a removal needs the epoch of its decision").hint("add ?epoch=N")
    })?;
    Ok(Json(agent.instances.delete(&id, Epoch(epoch)).await?))
}

pub(super) async fn logs(
    State(agent): State<Shared>,
    Path(id): Path<String>,
    url: Result<UrlQuery<Query>, QueryRejection>,
) -> Result<Response, Refused> {
    let (id, query): (InstanceId, Query) = (parse(&id)?, query(url)?);
    if agent.instances.status(&id).is_none() {
        return Err(registry::not_found(&id).into());
    }
    let folder = home::instances(&agent.node.config).join(id.as_str());
    Ok(stream::respond(move |lines| async move {
        let tail = query.tail.unwrap_or(usize::MAX);
        stream::log(lines, folder, tail, query.follow, || agent.instances.status(&id).is_none()).await
    }))
}
