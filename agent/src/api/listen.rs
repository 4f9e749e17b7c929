//! The socket: its permissions, who is at the other end, and what it may use.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use drowse_api::{ErrorCode, Problem};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::answer::Refused;

const CONNECTIONS: usize = 1024;
const HEADER_TIME: Duration = Duration::from_secs(10);

/// Who may use what.
#[derive(Debug, Clone, Copy)]
pub struct Peers {
    /// May use every call, as root may.
    pub control: u32,
    /// May use the router's calls.
    pub router: u32,
}

/// What a peer may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Control,
    Router,
    Nothing,
}

/// Why the socket cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the socket {path}")]
pub struct ListenError {
    action: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

impl Peers {
    fn class(self, uid: u32) -> Class {
        match uid {
            0 => Class::Control,
            uid if uid == self.control => Class::Control,
            uid if uid == self.router => Class::Router,
            _ => Class::Nothing,
        }
    }
}

/// Makes the socket at `path`, for root and `group`. One that an earlier agent left is replaced; the
/// caller holds the lock that says there is no other agent.
///
/// # Errors
/// If it cannot be made.
pub fn bind(path: &Path, group: u32) -> Result<UnixListener, ListenError> {
    let error = |action| move |source| ListenError { action, path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(absent) if absent.kind() == std::io::ErrorKind::NotFound => {}
        other => other.map_err(error("replace"))?,
    }
    let listener = UnixListener::bind(path).map_err(error("make"))?;
    std::os::unix::fs::chown(path, None, Some(group)).map_err(error("give the group of"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(error("set the mode of"))?;
    Ok(listener)
}

/// Serves connections for as long as it is polled.
pub async fn serve(listener: UnixListener, router: Router, peers: Peers) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // A full house waits in the kernel's queue.
        let Ok(seat) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, router, peers).await;
                    drop(seat);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, router: Router, peers: Peers) {
    let class = stream.peer_cred().map_or(Class::Nothing, |peer| peers.class(peer.uid()));
    let router = router.layer(axum::middleware::from_fn(not_for_strangers)).layer(Extension(class));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).half_close(false);
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).with_upgrades();
    if let Err(error) = served.await {
        tracing::debug!("a connection broke off: {error}");
    }
}

async fn not_for_strangers(Extension(class): Extension<Class>, request: Request, next: Next) -> Response {
    match class {
        Class::Nothing => forbidden("this user may not use the agent"),
        Class::Control | Class::Router => next.run(request).await,
    }
}

/// Lets only control and root pass.
pub(super) async fn only_control(Extension(class): Extension<Class>, request: Request, next: Next) -> Response {
    match class {
        Class::Control => next.run(request).await,
        Class::Router | Class::Nothing => forbidden("this call is the controller's; a router may only watch endpoints"),
    }
}

fn forbidden(detail: &str) -> Response {
    Refused(Problem::new(ErrorCode::Forbidden, detail)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_class_and_strangers_have_none() {
        let peers = Peers { control: 990, router: 991 };
        let classes = [0, 990, 991, 1000].map(|uid| peers.class(uid));
        assert_eq!(classes, [Class::Control, Class::Control, Class::Router, Class::Nothing]);
    }
}
