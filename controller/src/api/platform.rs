//! Calls about the platform itself, and those of routers.

use axum::Json as Answered;
use axum::extract::{Path, State};
use axum::response::Response;
use drowse_api::agent::{Check, Verdict};
use drowse_api::platform::{NodeChecks, WhoAmI};
use drowse_api::routing::RouterStatus;
use futures_util::future::join_all;

use super::access::{Caller, RouterPeer};
use super::answer::{Answer, Json, bad_request};
use super::{Api, ndjson};

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn whoami(caller: Caller, State(api): State<Api>) -> Answered<WhoAmI> {
    Answered(WhoAmI {
        user: caller.user,
        name: caller.name,
        by: caller.by,
        domain: api.config.domain.to_string(),
        port: api.config.public_port(),
    })
}

pub(super) async fn doctor(_caller: Caller, State(api): State<Api>) -> Answered<Vec<NodeChecks>> {
    let asked = api.nodes.iter().map(|(name, node)| async move {
        let checks = node.client.get::<Vec<Check>>("/v1/doctor").await.unwrap_or_else(|problem| {
            vec![Check {
                name: "agent".to_owned(),
                verdict: Verdict::Failure,
                found: problem.to_string(),
                advice: Some("look at the log of drowse-agent on this node, and start it".to_owned()),
            }]
        });
        NodeChecks { node: name.clone(), checks }
    });
    Answered(join_all(asked).await)
}

pub(super) async fn routes(_router: RouterPeer, State(api): State<Api>) -> Response {
    let mut table = api.table.clone();
    ndjson::stream(api.end.clone(), |out| async move {
        loop {
            let current = table.borrow_and_update().clone();
            out.send(current.as_ref()).await?;
            if table.changed().await.is_err() {
                return Ok(());
            }
        }
    })
}

pub(super) async fn router_status(
    _router: RouterPeer,
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(status): Json<RouterStatus>,
) -> Answer<Answered<()>> {
    if status.name != name {
        return Err(bad_request(format!("router {name:?} cannot report as {:?}", status.name)).into());
    }
    api.routers.put(status);
    api.wake.notify_one();
    Ok(Answered(()))
}
