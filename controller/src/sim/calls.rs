//! The calls of the simulated agent.

use std::collections::BTreeMap;

use axum::Json as Answered;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use drowse_api::agent::{
    BlobStored, BuildRequest, BuildStatus, Check, InstancesPicture, KnownBuild, NodeInfo, StopRequest, Told, Verdict,
};
use drowse_api::event::{AgentEvent, EventKind};
use drowse_api::instance::{InstanceSpec, InstanceState, InstanceStatus, LogLine, LogStream};
use drowse_api::sleep::{Activity, Demand, SleepRequest};
use drowse_api::{DeploymentId, Digest, Epoch, ErrorCode, InstanceId, MemoryBytes, Problem};
use futures_util::StreamExt;
use jiff::Timestamp;
use serde::Deserialize;
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;

use super::{Shared, World};
use crate::api::answer::{Answer, Json};
use crate::api::ndjson::{self, Gone};

fn not_found() -> Problem {
    Problem::new(ErrorCode::NotFound, "the simulated agent does not have it")
}

fn stale(known: Epoch) -> Problem {
    Problem::new(ErrorCode::StaleEpoch, format!("epoch {known} is newer"))
}

pub(super) async fn node(State(shared): State<Shared>) -> Answered<NodeInfo> {
    Answered(NodeInfo {
        name: shared.world().node.clone(),
        version: "simulated".to_owned(),
        boot_id: "simulated".to_owned(),
        kernel: "none".to_owned(),
        cgroups: "v2".to_owned(),
        memory: MemoryBytes::gib(16),
        processors: 2,
    })
}

pub(super) async fn doctor() -> Answered<Vec<Check>> {
    let found = "simulated".to_owned();
    Answered(vec![Check { name: "kernel".to_owned(), verdict: Verdict::Ok, found, advice: None }])
}

fn picture(world: &World) -> InstancesPicture {
    let told = world.events.last().map(|event| Told { log: world.log.clone(), sequence: event.sequence });
    InstancesPicture { instances: world.instances.values().map(|instance| instance.status.clone()).collect(), told }
}

pub(super) async fn instances(State(shared): State<Shared>) -> Answered<Vec<InstanceStatus>> {
    Answered(picture(&shared.world()).instances)
}

pub(super) async fn watch(State(shared): State<Shared>) -> Response {
    ndjson::stream(CancellationToken::new(), |out| async move {
        let mut changed = shared.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let (picture, is_hanging) = {
                let world = shared.world();
                (picture(&world), world.is_hanging)
            };
            // As a killed process: its streams break.
            if is_hanging {
                return Ok(());
            }
            out.send(&picture).await?;
            changed.changed().await.map_err(|_| Gone)?;
        }
    })
}

pub(super) async fn put_instance(
    State(shared): State<Shared>,
    Path(id): Path<InstanceId>,
    Json(spec): Json<InstanceSpec>,
) -> Answer<Answered<InstanceStatus>> {
    shared.change(|world| {
        world.calls.push(format!("put {id} {}", spec.epoch));
        let known = world.instances.get_mut(&id);
        match known {
            Some(known) if known.status.epoch > spec.epoch => Err(stale(known.status.epoch).into()),
            Some(known) if known.status.epoch == spec.epoch || !known.status.state.is_over() => {
                known.status.epoch = spec.epoch;
                Ok(Answered(known.status.clone()))
            }
            _ => Ok(Answered(world.boot(spec))),
        }
    })
}

pub(super) async fn stop_instance(
    State(shared): State<Shared>,
    Path(id): Path<InstanceId>,
    Json(request): Json<StopRequest>,
) -> Answer<Answered<InstanceStatus>> {
    shared.change(|world| {
        world.calls.push(format!("stop {id} {}", request.epoch));
        let known = world.instances.get_mut(&id).ok_or_else(not_found)?;
        if known.status.epoch > request.epoch {
            return Err(stale(known.status.epoch).into());
        }
        known.status.epoch = request.epoch;
        known.status.state = InstanceState::Stopped { reason: request.reason };
        Ok(Answered(known.status.clone()))
    })
}

pub(super) async fn sleep_instance(
    State(shared): State<Shared>,
    Path(id): Path<InstanceId>,
    Json(request): Json<SleepRequest>,
) -> Answer<Answered<InstanceStatus>> {
    shared.change(|world| {
        world.calls.push(format!("sleep {id} {} ({})", request.depth, request.reason));
        let is_needed = world.is_needed;
        let known = world.instances.get_mut(&id).ok_or_else(not_found)?;
        if known.status.epoch > request.epoch {
            return Err(stale(known.status.epoch).into());
        }
        if is_needed || !known.status.state.serves() {
            return Err(Problem::new(ErrorCode::Conflict, "it stays awake").into());
        }
        let (depth, reason) = (request.depth, request.reason);
        known.status.state = InstanceState::Frozen { depth, since: Timestamp::now(), reason, takes: None };
        let (spec, status) = (known.spec.clone(), known.status.clone());
        world.tell(EventKind::Sleep, Some(&spec), "asleep");
        Ok(Answered(status))
    })
}

pub(super) async fn demand_instance(
    State(shared): State<Shared>,
    Path(id): Path<InstanceId>,
    Json(demand): Json<Demand>,
) -> Answer<Answered<()>> {
    shared.change(|world| {
        world.calls.push(format!("demand {id} ({})", demand.cause));
        let known = world.instances.get_mut(&id).ok_or_else(not_found)?;
        if known.status.state.is_asleep() {
            known.status.state = InstanceState::Ready { since: Timestamp::now() };
            let spec = known.spec.clone();
            world.tell(EventKind::Sleep, Some(&spec), &format!("woken by {}", demand.cause));
        }
        Ok(Answered(()))
    })
}

pub(super) async fn activity(State(shared): State<Shared>) -> Answered<BTreeMap<InstanceId, Activity>> {
    let world = shared.world();
    let awake = world.instances.values().filter(|instance| instance.status.state.is_ready());
    // As much as the whole time, or nothing.
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
    let cpu = if world.works { now } else { 0 };
    Answered(awake.map(|instance| (instance.status.id.clone(), Activity { cpu, ..Activity::default() })).collect())
}

#[derive(Deserialize)]
pub(super) struct AtEpoch {
    epoch: Epoch,
}

pub(super) async fn delete_instance(
    State(shared): State<Shared>,
    Path(id): Path<InstanceId>,
    Query(AtEpoch { epoch }): Query<AtEpoch>,
) -> Answer<Answered<()>> {
    shared.change(|world| {
        world.calls.push(format!("delete {id} {epoch}"));
        if let Some(known) = world.instances.get(&id)
            && known.status.epoch > epoch
        {
            return Err(stale(known.status.epoch).into());
        }
        world.instances.remove(&id);
        Ok(Answered(()))
    })
}

fn line(text: &str) -> LogLine {
    LogLine { at: Timestamp::now(), stream: LogStream::Out, text: text.to_owned() }
}

pub(super) async fn instance_logs(State(shared): State<Shared>, Path(id): Path<InstanceId>) -> Answer<Response> {
    let app = shared.world().instances.get(&id).ok_or_else(not_found)?.spec.app.clone();
    Ok(ndjson::stream(
        CancellationToken::new(),
        |out| async move { out.send(&line(&format!("hello from {app}"))).await },
    ))
}

#[derive(Deserialize)]
pub(super) struct After {
    after: u64,
    log: Option<String>,
}

pub(super) async fn events(State(shared): State<Shared>, Query(query): Query<After>) -> Response {
    let log = shared.world().log.clone();
    let is_ours = query.log.is_none_or(|asked| asked == log.as_str());
    let mut after = if is_ours { query.after } else { 0 };
    ndjson::stream(CancellationToken::new(), move |out| async move {
        let mut changed = shared.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let (events, is_hanging): (Vec<AgentEvent>, bool) = {
                let world = shared.world();
                let newer = world.events.iter().filter(|event| event.sequence > after).cloned();
                (newer.collect(), world.is_hanging || world.log != log)
            };
            if is_hanging {
                return Ok(());
            }
            for event in events {
                after = event.sequence;
                out.send(&event).await?;
            }
            changed.changed().await.map_err(|_| Gone)?;
        }
    })
}

pub(super) async fn store_blob(body: Body) -> Answer<Answered<BlobStored>> {
    let (mut hash, mut size) = (sha2::Sha256::new(), 0);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Problem::new(ErrorCode::BadRequest, error.to_string()))?;
        hash.update(&chunk);
        size += chunk.len() as u64;
    }
    Ok(Answered(BlobStored { digest: Digest::from_sha256(hash.finalize().into()), size }))
}

pub(super) async fn put_build(State(shared): State<Shared>, Json(request): Json<BuildRequest>) -> Answered<()> {
    shared.change(|world| {
        world.calls.push(format!("build {}", request.deployment));
        world.build(request);
    });
    Answered(())
}

pub(super) async fn builds(State(shared): State<Shared>) -> Answered<Vec<KnownBuild>> {
    let world = shared.world();
    let known = world
        .builds
        .iter()
        .map(|(id, build)| KnownBuild { deployment: id.clone(), controller: build.controller.clone() });
    Answered(known.collect())
}

pub(super) async fn ask_build(
    State(shared): State<Shared>,
    Path(id): Path<DeploymentId>,
) -> Answer<Answered<BuildStatus>> {
    Ok(Answered(shared.world().ask(&id).ok_or_else(not_found)?))
}

pub(super) async fn delete_build(State(shared): State<Shared>, Path(id): Path<DeploymentId>) -> Answered<()> {
    shared.change(|world| {
        world.calls.push(format!("delete build {id}"));
        world.builds.remove(&id);
    });
    Answered(())
}

pub(super) async fn build_logs(State(shared): State<Shared>, Path(id): Path<DeploymentId>) -> Answer<Response> {
    let app = shared.world().builds.get(&id).ok_or_else(not_found)?.app.clone();
    Ok(ndjson::stream(CancellationToken::new(), |out| async move { out.send(&line(&format!("building {app}"))).await }))
}
