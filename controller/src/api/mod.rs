//! The API: one set of routes behind two doors, the Unix socket and the TCP listener.
//!
//! Calls answer from the records and never wait for a node, except those that are about a node's
//! own data: uploads, logs, doctor.

use std::sync::Arc;

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::{any, delete, get, post, put};
use drowse_api::routing::RouteTable;
use drowse_api::{ErrorCode, Problem};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::ledger::Ledger;
use crate::reconcile::Nodes;
use crate::rehearsal::Histories;
use crate::routers::Routers;
use crate::vault::Vault;

pub(crate) mod access;
pub(crate) mod answer;
pub(crate) mod apps;
mod commands;
pub(crate) mod deploy;
mod events;
mod logs;
pub(crate) mod ndjson;
mod platform;
mod registries;
pub(crate) mod releases;
pub(crate) mod secrets;
mod sleep;
mod tokens;
mod views;

pub use access::Attempts;
pub use commands::TUNNELS;

/// What the calls work on.
#[derive(Debug, Clone)]
pub struct Api {
    /// The records.
    pub ledger: Ledger,
    /// The nodes.
    pub nodes: Arc<Nodes>,
    /// The routers.
    pub routers: Arc<Routers>,
    /// The table for routers.
    pub table: watch::Receiver<Arc<RouteTable>>,
    /// The configuration.
    pub config: Arc<Config>,
    /// The key to the secrets.
    pub vault: Arc<Vault>,
    /// Wakes the reconciler.
    pub wake: Arc<Notify>,
    /// What was seen of the apps.
    pub histories: Arc<Histories>,
    /// Failed attempts to get in.
    pub attempts: Arc<Attempts>,
    /// How many more connections may be joined to commands.
    pub tunnels: Arc<Semaphore>,
    /// Streams end with it.
    pub end: CancellationToken,
}

/// All routes.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/healthz", get(platform::healthz))
        .route("/v1/whoami", get(platform::whoami))
        .route("/v1/doctor", get(platform::doctor))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/v1/registries", get(registries::list))
        .route("/v1/registries/{registry}", put(registries::put).delete(registries::remove))
        .route("/v1/apps", get(apps::list))
        .route("/v1/apps/{app}", get(apps::show).delete(apps::remove))
        .route("/v1/apps/{app}/deployments", get(deploy::list).post(deploy::deploy))
        .route("/v1/apps/{app}/restart", post(apps::restart))
        .route("/v1/apps/{app}/stop", post(apps::stop))
        .route("/v1/apps/{app}/start", post(apps::start))
        .route("/v1/apps/{app}/sleep", post(sleep::sleep))
        .route("/v1/apps/{app}/wake", post(sleep::wake))
        .route("/v1/apps/{app}/idle", get(sleep::settings).put(sleep::set))
        .route("/v1/apps/{app}/explain", get(sleep::explain))
        .route("/v1/apps/{app}/env", get(apps::env).patch(apps::change_env))
        .route("/v1/apps/{app}/secrets", get(secrets::list).patch(secrets::change))
        .route("/v1/apps/{app}/releases", get(releases::list))
        .route("/v1/apps/{app}/rollback", post(releases::rollback))
        .route("/v1/apps/{app}/logs", get(logs::logs))
        .route("/v1/apps/{app}/exec", post(commands::exec))
        .route("/v1/apps/{app}/run", post(commands::run))
        .route("/v1/usage", get(commands::usage))
        .route("/v1/deployments/{id}", get(deploy::show))
        .route("/v1/deployments/{id}/watch", get(deploy::watch))
        .route("/v1/deployments/{id}/promote", post(releases::promote))
        .route("/v1/events", get(events::events))
        .route("/v1/routes/watch", get(platform::routes))
        .route("/v1/routers/{name}", put(platform::router_status))
        .fallback(any(unknown))
        .method_not_allowed_fallback(wrong_method)
        .with_state(api)
}

async fn unknown(request: axum::extract::Request) -> impl IntoResponse {
    let detail = format!("there is no call {}", request.uri().path());
    answer::Refusal(Problem::new(ErrorCode::NotFound, detail))
}

async fn wrong_method(request: axum::extract::Request) -> impl IntoResponse {
    let detail = format!("{} cannot be called with {}", request.uri().path(), request.method());
    answer::Refusal(Problem::new(ErrorCode::BadRequest, detail))
}
