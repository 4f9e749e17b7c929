//! Calls about builds.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query as UrlQuery, State};
use axum::response::Response;
use drowse_api::agent::{BuildRequest, BuildStatus, KnownBuild};
use drowse_api::{DeploymentId, ErrorCode, Problem};

use super::Shared;
use super::answer::{Answer, Query, Refused, parse, query, read_secret};
use super::stream;

pub(super) async fn put(
    State(agent): State<Shared>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<BuildStatus> {
    let (id, request): (DeploymentId, BuildRequest) = (parse(&id)?, read_secret(body)?);
    if request.deployment != id {
        let detail = format!("the path names build {id}, the body {}", request.deployment);
        return Err(Problem::new(ErrorCode::BadRequest, detail).into());
    }
    Ok(Json(agent.builds.put(request).await?))
}

pub(super) async fn list(State(agent): State<Shared>) -> Json<Vec<KnownBuild>> {
    Json(agent.builds.list())
}

pub(super) async fn status(State(agent): State<Shared>, Path(id): Path<String>) -> Answer<BuildStatus> {
    Ok(Json(agent.builds.status(&parse(&id)?)?))
}

pub(super) async fn delete(State(agent): State<Shared>, Path(id): Path<String>) -> Answer<()> {
    agent.builds.delete(&parse(&id)?).await?;
    Ok(Json(()))
}

pub(super) async fn logs(
    State(agent): State<Shared>,
    Path(id): Path<String>,
    url: Result<UrlQuery<Query>, QueryRejection>,
) -> Result<Response, Refused> {
    let (id, query): (DeploymentId, Query) = (parse(&id)?, query(url)?);
    agent.builds.status(&id)?;
    let folder = agent.builds.log_folder(&id);
    Ok(stream::respond(move |lines| async move {
        let tail = query.tail.unwrap_or(usize::MAX);
        stream::log(lines, folder, tail, query.follow, || agent.builds.is_over(&id)).await
    }))
}
