//! Calls about commands: started, then the connection is theirs.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use drowse_api::agent::{PlaceUsage, RunRequest};
use drowse_api::exec::{ExecRequest, PROTOCOL};
use drowse_api::{ErrorCode, InstanceId, Problem};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::answer::{Answer, Refused, parse, read};
use super::patient::Endless;
use super::{DEADLINE, MAX_JSON, Shared};
use crate::command::{Running, Seat};
use crate::instance::registry;

/// How long a client may take to speak the protocol that was agreed on.
const SWITCH: Duration = Duration::from_secs(10);

pub(super) async fn exec(
    State(agent): State<Shared>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let id: InstanceId = parse(&id)?;
    let status = agent.instances.status(&id).ok_or_else(|| registry::not_found(&id))?;
    let (wish, request) = taken::<ExecRequest>(request).await?;
    let seat = agent.commands.seat(Some(&id))?;
    let commands = agent.commands.clone();
    join(&agent, seat, wish, async move { commands.beside(status, request).await }).await
}

pub(super) async fn run(State(agent): State<Shared>, request: Request) -> Result<Response, Refused> {
    let (wish, request) = taken::<RunRequest>(request).await?;
    let seat = agent.commands.seat(None)?;
    let commands = agent.commands.clone();
    join(&agent, seat, wish, async move { commands.alone(request).await }).await
}

pub(super) async fn usage(State(agent): State<Shared>) -> Answer<Vec<PlaceUsage>> {
    Ok(Json(agent.commands.usage(&agent.instances).await?))
}

/// The wish to speak our protocol, from then on for as long as it takes.
struct Wish {
    upgrade: OnUpgrade,
    endless: Endless,
}

/// The wish, and what is asked for in the body.
async fn taken<T: DeserializeOwned>(mut request: Request) -> Result<(Wish, T), Problem> {
    let asked = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    let asked = asked.unwrap_or_default().to_owned();
    let is_ours = asked.split(',').any(|name| name.trim().eq_ignore_ascii_case(PROTOCOL));
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| is_ours).ok_or_else(|| {
        let detail = format!("this call is an upgrade to {PROTOCOL}, and {asked:?} was asked for");
        Problem::new(ErrorCode::BadRequest, detail).hint("agent, controller and drowse are to be of one release")
    })?;
    let endless = request.extensions().get::<Endless>().cloned().unwrap_or_default();
    let body = tokio::time::timeout(SWITCH, axum::body::to_bytes(request.into_body(), MAX_JSON)).await;
    let body = body.map_err(|_| Problem::new(ErrorCode::Deadline, "the body did not arrive in time"))?;
    let body = body.map_err(|error| Problem::new(ErrorCode::BadRequest, error.to_string()))?;
    Ok((Wish { upgrade, endless }, read(Ok(body))?))
}

/// Starts a command, and joins it to the connection. What is started is ended by its own task, also if
/// this call is dropped in the middle.
async fn join(
    agent: &Shared,
    seat: Seat,
    wish: Wish,
    start: impl Future<Output = Result<Running, Problem>> + Send + 'static,
) -> Result<Response, Refused> {
    let (answer, answered) = oneshot::channel();
    let commands = agent.commands.clone();
    let Wish { upgrade, endless } = wish;
    agent.commands.spawn(async move {
        let _seat = seat;
        let running = match start.await {
            Ok(running) => running,
            Err(problem) => return drop(answer.send(Err(problem))),
        };
        if answer.send(Ok(())).is_err() {
            return commands.finish(running).await;
        }
        match tokio::time::timeout(SWITCH, upgrade).await {
            Ok(Ok(connection)) => commands.serve(running, TokioIo::new(connection)).await,
            _ => commands.finish(running).await,
        }
    });
    let late = |_| Problem::new(ErrorCode::Deadline, format!("the command was not started in {DEADLINE:?}"));
    let broken = |_| Problem::new(ErrorCode::Internal, "the start of the command broke off");
    tokio::time::timeout(DEADLINE, answered).await.map_err(late)?.map_err(broken)??;
    endless.begin();
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(PROTOCOL)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}
