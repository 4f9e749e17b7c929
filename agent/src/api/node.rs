//! Calls about the node.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query as UrlQuery, State};
use axum::response::Response;
use drowse_api::agent::{Check, NodeInfo, Stack};
use drowse_api::{ErrorCode, Problem};

use super::Shared;
use super::answer::{Answer, Query, Refused, query};
use super::stream;

pub(super) async fn info(State(agent): State<Shared>) -> Json<NodeInfo> {
    Json(agent.info.clone())
}

pub(super) async fn doctor(State(agent): State<Shared>) -> Answer<Vec<Check>> {
    let config = agent.node.config.clone();
    let checks = tokio::task::spawn_blocking(move || crate::doctor::examine(&config)).await;
    Ok(Json(checks.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?))
}

pub(super) async fn stacks(State(agent): State<Shared>) -> Answer<Vec<Stack>> {
    let store = agent.node.store.clone();
    let stacks = tokio::task::spawn_blocking(move || crate::stacks::list(&store)).await;
    let stacks = stacks.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
    Ok(Json(stacks.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?))
}

pub(super) async fn events(
    State(agent): State<Shared>,
    url: Result<UrlQuery<Query>, QueryRejection>,
) -> Result<Response, Refused> {
    let query = query(url)?;
    // A number of another log says nothing about this one.
    let is_ours = query.log.is_none_or(|log| log == agent.node.events.id().as_str());
    let mut after = if is_ours { query.after } else { 0 };
    Ok(stream::respond(move |lines| async move {
        let mut latest = agent.node.events.watch();
        loop {
            latest.borrow_and_update();
            for event in agent.node.events.after(after) {
                after = event.sequence;
                lines.send(&event).await?;
            }
            if latest.changed().await.is_err() {
                return Ok(());
            }
        }
    }))
}
