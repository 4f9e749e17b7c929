//! Calls about the platform itself, and those of routers.

use axum::Json as Answered;
use axum::extract::{Path, State};
use axum::response::Response;
use drowse_api::NodeName;
use drowse_api::agent::{Check, Verdict};
use drowse_api::platform::{NodeChecks, WhoAmI};
use drowse_api::routing::RouterStatus;
use futures_util::future::join_all;
use serde::Deserialize;

use super::access::{Caller, RouterPeer};
use super::answer::{Answer, Json, Params, bad_request, parsed};
use super::{Api, ndjson};
use crate::desired::Desired;

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
    let desired = api.ledger.desired();
    let asked = api.nodes.iter().map(|(name, node)| async {
        let mut checks = node.client.get::<Vec<Check>>("/v1/doctor").await.unwrap_or_else(|problem| {
            vec![Check {
                name: "agent".to_owned(),
                verdict: Verdict::Failure,
                found: problem.to_string(),
                advice: Some("look at the log of drowse-agent on this node, and start it".to_owned()),
            }]
        });
        checks.extend(foreign(&desired, name));
        NodeChecks { node: name.clone(), checks }
    });
    Answered(join_all(asked).await)
}

/// What the node has of other controllers, if anything.
fn foreign(desired: &Desired, node: &NodeName) -> Option<Check> {
    let strays = desired.strays.iter().filter(|stray| stray.node == *node && !stray.is_ours);
    let things: Vec<_> = strays.map(|stray| stray.thing.to_string()).collect();
    (!things.is_empty()).then(|| Check {
        name: "foreign".to_owned(),
        verdict: Verdict::Warning,
        found: format!("another controller had these made, and nobody here knows them: {}", things.join(", ")),
        advice: Some(
            "if no other controller uses this node, remove each by hand: operating.md, back up and recover".to_owned(),
        ),
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Follower {
    router: Option<NodeName>,
}

pub(super) async fn routes(
    _router: RouterPeer,
    State(api): State<Api>,
    Params(follower): Params<Follower>,
) -> Response {
    let mut table = api.table.clone();
    let following = follower.router.map(|name| api.routers.follow(name));
    ndjson::stream(api.end.clone(), |out| async move {
        // Dropped with the stream.
        let _following = following;
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
    api.routers.put(&parsed(&name)?, status);
    api.wake.notify_one();
    Ok(Answered(()))
}
