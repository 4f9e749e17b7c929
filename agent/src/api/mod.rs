//! The agent's calls: one axum router on the Unix socket, with what each peer may use.
//!
//! It knows nothing of how anything is done; every answer that is no success is a [`Problem`].

mod answer;
mod blobs;
mod builds;
mod commands;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod instances;
mod listen;
mod node;
mod patient;
mod peer;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use drowse_api::agent::NodeInfo;
use drowse_api::{ErrorCode, Problem};
pub use listen::{ListenError, bind, serve};
pub use peer::Peers;

use crate::build::Builds;
use crate::command::Commands;
use crate::host::Node;
use crate::instance::Instances;

/// The largest JSON body.
const MAX_JSON: usize = 4 << 20;
/// The largest JSON body of a router.
const MAX_DEMAND: usize = 16 << 10;
/// How long a call that is no stream may take.
const DEADLINE: Duration = Duration::from_secs(28);

/// What the calls act on.
pub struct Agent {
    /// What is told of the host.
    pub info: NodeInfo,
    /// Images and events.
    pub node: Node,
    /// Instances.
    pub instances: Arc<Instances<Node>>,
    /// Builds.
    pub builds: Arc<Builds>,
    /// Commands that users run.
    pub commands: Commands,
}

type Shared = Arc<Agent>;

/// Every call.
pub fn router(agent: Shared) -> Router {
    // What changes anything here only wakes, or says that something was let go of.
    let calls_of_routers = Router::new()
        .route("/v1/instances/{id}/demand", post(instances::demand))
        .route("/v1/instances/{id}/quiet", post(instances::quiet))
        .layer(DefaultBodyLimit::max(MAX_DEMAND))
        .layer(from_fn(deadline));
    let for_routers = Router::new()
        .route("/v1/node", get(node::info))
        .route("/v1/endpoints/watch", get(instances::endpoints))
        .merge(calls_of_routers);
    let within_deadline = Router::new()
        .route("/v1/doctor", get(node::doctor))
        .route("/v1/stacks", get(node::stacks))
        .route("/v1/usage", get(commands::usage))
        .route("/v1/instances", get(instances::list))
        .route("/v1/activity", get(instances::activity))
        .route("/v1/instances/{id}", put(instances::put).delete(instances::delete))
        .route("/v1/instances/{id}/stop", post(instances::stop))
        .route("/v1/instances/{id}/sleep", post(instances::sleep))
        .route("/v1/builds", get(builds::list))
        .route("/v1/builds/{id}", put(builds::put).get(builds::status).delete(builds::delete))
        .layer(DefaultBodyLimit::max(MAX_JSON))
        .layer(from_fn(deadline));
    let streams = Router::new()
        .route("/v1/instances/{id}/exec", post(commands::exec))
        .route("/v1/run", post(commands::run))
        .route("/v1/events", get(node::events))
        .route("/v1/instances/watch", get(instances::watch))
        .route("/v1/instances/{id}/logs", get(instances::logs))
        .route("/v1/builds/{id}/logs", get(builds::logs))
        .route("/v1/blobs", post(blobs::post))
        .route("/v1/blobs/{digest}", put(blobs::put).get(blobs::get))
        .layer(DefaultBodyLimit::disable());
    let for_control = within_deadline.merge(streams).layer(from_fn(listen::only_control));
    Router::new()
        .merge(for_control)
        .merge(for_routers)
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(agent)
}

async fn deadline(request: Request, next: Next) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    tokio::time::timeout(DEADLINE, next.run(request)).await.unwrap_or_else(|_| {
        let detail = format!("{what} took longer than {} s; it goes on, ask again", DEADLINE.as_secs());
        answer::Refused(Problem::new(ErrorCode::Deadline, detail)).into_response()
    })
}

async fn unknown(request: Request) -> answer::Refused {
    let detail = format!("the agent has no call {} {}", request.method(), request.uri().path());
    answer::Refused(Problem::new(ErrorCode::NotFound, detail))
}

async fn wrong_method(request: Request) -> answer::Refused {
    let detail = format!("{} cannot be used on {}", request.method(), request.uri().path());
    answer::Refused(Problem::new(ErrorCode::BadRequest, detail))
}
