//! The logs of an app: of all its instances, from their nodes.

use std::collections::BTreeSet;

use axum::extract::{Path, State};
use axum::response::Response;
use drowse_api::client::Client;
use drowse_api::instance::LogLine;
use drowse_api::platform::AppLogLine;
use drowse_api::{AppName, InstanceId, Problem};
use futures_util::future::join_all;
use serde::Deserialize;
use tokio::task::JoinSet;

use super::Api;
use super::access::Caller;
use super::answer::{Answer, Params};
use super::ndjson::{self, Gone, Out};

const DEFAULT_TAIL: usize = 100;
const MAX_TAIL: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    #[serde(default)]
    follow: bool,
    tail: Option<usize>,
}

pub(super) async fn logs(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
    Params(query): Params<Query>,
) -> Answer<Response> {
    let app = caller.app(&api.ledger.desired(), &name)?.name.clone();
    let tail = query.tail.unwrap_or(DEFAULT_TAIL).min(MAX_TAIL);
    if query.follow {
        return Ok(ndjson::stream(api.end.clone(), |out| follow(api, app, tail, out)));
    }
    let reads = sources(&api, &app).into_iter().map(|(id, client)| async move { read(&client, &id, tail).await });
    let (mut lines, mut problem) = (Vec::new(), None);
    for outcome in join_all(reads).await {
        match outcome {
            Ok(more) => lines.extend(more),
            Err(error) => problem = Some(error),
        }
    }
    // Nothing at all because a node is away is a failure; a part of the logs is better than none.
    if let (true, Some(problem)) = (lines.is_empty(), problem) {
        return Err(problem.into());
    }
    lines.sort_by_key(|line| line.line.at);
    let lines = lines.split_off(lines.len().saturating_sub(tail));
    Ok(ndjson::stream(api.end.clone(), |out| async move {
        for line in &lines {
            out.send(line).await?;
        }
        Ok(())
    }))
}

/// The instances whose logs there are, with the client of their node.
fn sources(api: &Api, app: &AppName) -> Vec<(InstanceId, Client)> {
    let desired = api.ledger.desired();
    let instances = desired.instances_of(app).into_iter().filter(|instance| !instance.life.is_past());
    let with_client =
        instances.filter_map(|instance| Some((instance.id.clone(), api.nodes.get(&instance.node)?.client.clone())));
    with_client.collect()
}

async fn read(client: &Client, id: &InstanceId, tail: usize) -> Result<Vec<AppLogLine>, Problem> {
    let mut lines = client.lines::<LogLine>(&format!("/v1/instances/{id}/logs?follow=false&tail={tail}")).await?;
    let mut found = Vec::new();
    while let Some(line) = lines.next().await? {
        found.push(AppLogLine { instance: id.clone(), line });
    }
    Ok(found)
}

/// Follows every instance, those to come too.
async fn follow(api: Api, app: AppName, tail: usize, out: Out<AppLogLine>) -> Result<(), Gone> {
    let mut records = api.ledger.subscribe();
    let mut followed = BTreeSet::new();
    let mut tasks = JoinSet::new();
    loop {
        records.borrow_and_update();
        for (id, client) in sources(&api, &app) {
            if followed.insert(id.clone()) {
                tasks.spawn(follow_one(client, id, tail, out.clone()));
            }
        }
        tokio::select! {
            changed = records.changed() => if changed.is_err() { return Ok(()) },
            Some(done) = tasks.join_next() => match done {
                Ok((_, Err(Gone))) => return Err(Gone),
                // Its node may not have it yet, or was restarted: it is found again if it still is.
                Ok((id, Ok(()))) => {
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                    followed.remove(&id);
                }
                Err(_) => {}
            },
        }
        if api.ledger.desired().apps.get(app.as_str()).is_none() && tasks.is_empty() {
            return Ok(());
        }
    }
}

async fn follow_one(
    client: Client,
    id: InstanceId,
    tail: usize,
    out: Out<AppLogLine>,
) -> (InstanceId, Result<(), Gone>) {
    let path = format!("/v1/instances/{id}/logs?follow=true&tail={tail}");
    if let Ok(mut lines) = client.lines::<LogLine>(&path).await {
        while let Ok(Some(line)) = lines.next().await {
            if out.send(&AppLogLine { instance: id.clone(), line }).await.is_err() {
                return (id, Err(Gone));
            }
        }
    }
    (id, Ok(()))
}
