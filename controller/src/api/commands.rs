//! Commands that users run: found out where, then their connection is joined to the node's.
//!
//! What passes is the node's and the client's: nothing of it is looked at or kept here.

use axum::Json as Answered;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use drowse_api::agent::RunRequest;
use drowse_api::client::{Client, Tunnel};
use drowse_api::deployment::AppType;
use drowse_api::exec::{ExecRequest, PROTOCOL};
use drowse_api::instance::InstanceState;
use drowse_api::platform::{NodeUsage, Wanted};
use drowse_api::{AppName, ErrorCode, Problem};
use futures_util::future::join_all;
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::Serialize;

use super::Api;
use super::access::Caller;
use super::answer::{Answer, Json, Params, bad_request};
use super::apps::startable;
use crate::desired::Desired;
use crate::model::{App, Instance, Life};

/// How many connections are joined to commands at once.
pub const TUNNELS: usize = 256;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    instance: Option<String>,
}

pub(super) async fn exec(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
    Params(which): Params<Which>,
    request: Request,
) -> Answer<Response> {
    let (upgrade, exec) = taken(request).await?;
    let desired = api.ledger.desired();
    let app = caller.app(&desired, &name)?;
    let instance = chosen(&api, &desired, app, which.instance.as_deref())?;
    let client = client(&api, instance)?;
    let path = format!("/v1/instances/{}/exec", instance.id);
    join(&api, upgrade, &client, &path, &exec).await
}

pub(super) async fn run(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Request,
) -> Answer<Response> {
    let (upgrade, exec) = taken(request).await?;
    let desired = api.ledger.desired();
    let app = caller.app(&desired, &name)?;
    let nothing = || {
        let problem = Problem::new(ErrorCode::Conflict, format!("{name} has no deployment that could be run"));
        problem.hint("`drowse deploy` makes one")
    };
    let deployment = startable(&desired, app).ok_or_else(nothing)?;
    let image = deployment.phase.image().ok_or_else(nothing)?.clone();
    if deployment.app_type == AppType::Static {
        return Err(
            bad_request(format!("{name} is a static site: there is nothing in it to run a command with")).into()
        );
    }
    let node = api.nodes.get(&deployment.node);
    let node = node.ok_or_else(|| Problem::new(ErrorCode::Unavailable, "its node is not configured any more"))?;
    let live = app.live.as_ref().filter(|live| live.deployment == deployment.id);
    let secrets = match live {
        Some(live) => api.vault.reveal(&app.name, &live.secrets)?,
        None => {
            let sealed = app.secrets.iter().map(|(name, secret)| (name.clone(), secret.sealed.clone())).collect();
            api.vault.reveal(&app.name, &sealed)?
        }
    };
    let request = RunRequest {
        app: app.name.clone(),
        user: app.owner.clone(),
        image,
        env: live.map_or_else(|| app.env.clone(), |live| live.env.clone()),
        secrets,
        limits: api.config.limits.instance,
        exec,
    };
    join(&api, upgrade, &node.client, "/v1/run", &request).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfApp {
    app: Option<AppName>,
}

pub(super) async fn usage(
    caller: Caller,
    State(api): State<Api>,
    Params(of): Params<OfApp>,
) -> Answer<Answered<Vec<NodeUsage>>> {
    let desired = api.ledger.desired();
    if let Some(app) = &of.app {
        caller.app(&desired, app.as_str())?;
    }
    let reads = api.nodes.iter().map(|(name, node)| async move { (name, node.client.get("/v1/usage").await) });
    let (mut found, mut problem) = (Vec::new(), None);
    for (node, answer) in join_all(reads).await {
        match answer {
            Ok(usages) => {
                let usages: Vec<drowse_api::agent::PlaceUsage> = usages;
                found.extend(usages.into_iter().map(|usage| NodeUsage { node: node.clone(), usage }));
            }
            Err(error) => problem = Some(error),
        }
    }
    // What some nodes say is better than nothing.
    if let (true, Some(problem)) = (found.is_empty(), problem) {
        return Err(problem.into());
    }
    found.retain(|one| {
        let app = desired.apps.get(one.usage.app.as_str());
        app.is_some_and(|app| caller.owns(&app.owner)) && of.app.as_ref().is_none_or(|name| *name == one.usage.app)
    });
    found.sort_by(|a, b| (&a.usage.app, &a.usage.what).cmp(&(&b.usage.app, &b.usage.what)));
    Ok(Answered(found))
}

/// The wish to speak the protocol, and what is asked for.
async fn taken(mut request: Request) -> Result<(OnUpgrade, ExecRequest), super::answer::Refusal> {
    let asked = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    let asked = asked.unwrap_or_default().to_owned();
    let is_ours = asked.split(',').any(|name| name.trim().eq_ignore_ascii_case(PROTOCOL));
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| is_ours).ok_or_else(|| {
        bad_request(format!("this call is an upgrade to {PROTOCOL}, and {asked:?} was asked for"))
            .hint("the controller and drowse are to be of one release")
    })?;
    let Json(exec) = <Json<ExecRequest> as axum::extract::FromRequest<()>>::from_request(request, &()).await?;
    Ok((upgrade, exec))
}

/// The instance that is named, or the only one that runs.
fn chosen<'a>(api: &Api, desired: &'a Desired, app: &App, named: Option<&str>) -> Result<&'a Instance, Problem> {
    let mut all: Vec<&Instance> = desired.instances_of(&app.name).into_iter().map(AsRef::as_ref).collect();
    all.retain(|instance| !instance.life.is_past());
    let name = &app.name;
    if let Some(id) = named {
        return all.into_iter().find(|instance| instance.id.as_str() == id).ok_or_else(|| {
            let shown: String = id.chars().take(80).collect();
            Problem::new(ErrorCode::NotFound, format!("{name} has no instance {shown:?}"))
                .hint(format!("`drowse info {name}` lists them"))
        });
    }
    if app.wanted == Wanted::Stopped {
        return Err(Problem::new(ErrorCode::NotRunning, format!("{name} is stopped"))
            .hint(format!("`drowse start {name}`; or `drowse run {name}`, which needs no running instance")));
    }
    let runs = |instance: &&Instance| {
        let view = api.nodes.get(&instance.node).map(crate::nodes::Node::view);
        view.and_then(|view| view.instances.get(&instance.id).map(|status| status.state.clone()))
            .is_some_and(|state| matches!(state, InstanceState::Ready { .. } | InstanceState::Booting { .. }))
    };
    let running: Vec<_> = all.iter().copied().filter(runs).collect();
    let serving: Vec<_> = running.iter().copied().filter(|instance| instance.life == Life::Serving).collect();
    let candidates = if serving.is_empty() { running } else { serving };
    match candidates.as_slice() {
        [one] => Ok(one),
        [] => Err(Problem::new(ErrorCode::NotRunning, format!("no instance of {name} runs now"))
            .hint(format!("`drowse info {name}` tells why; `drowse run {name}` needs no running instance"))),
        several => {
            let ids: Vec<_> = several.iter().map(|instance| instance.id.as_str()).collect();
            let detail = format!("{name} has {} instances: {}", ids.len(), ids.join(", "));
            Err(Problem::new(ErrorCode::Conflict, detail).hint("name one of them with -i"))
        }
    }
}

fn client(api: &Api, instance: &Instance) -> Result<Client, Problem> {
    let node = api.nodes.get(&instance.node).map(|node| node.client.clone());
    node.ok_or_else(|| Problem::new(ErrorCode::Unavailable, "its node is not configured any more"))
}

/// Opens the node's connection, and joins the client's to it. What the node refuses is the answer.
async fn join(api: &Api, upgrade: OnUpgrade, node: &Client, path: &str, body: &impl Serialize) -> Answer<Response> {
    let seat = std::sync::Arc::clone(&api.tunnels).try_acquire_owned();
    let seat = seat.map_err(|_| {
        Problem::new(ErrorCode::Exhausted, format!("{TUNNELS} commands are connected already")).hint("end one of them")
    })?;
    let tunnel = node.tunnel(path, PROTOCOL, body).await?;
    let end = api.end.clone();
    tokio::spawn(async move {
        let _seat = seat;
        tokio::select! {
            () = end.cancelled() => {}
            () = pass(upgrade, tunnel) => {}
        }
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(PROTOCOL)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

/// Passes bytes both ways, each no further than the other side takes them. When one side ends, so does
/// the other: a client that is gone ends its command.
async fn pass(upgrade: OnUpgrade, mut node: Tunnel) {
    let Ok(client) = upgrade.await else { return };
    // How it ended is known to both sides.
    let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut node).await;
}
