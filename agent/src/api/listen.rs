//! The socket: its permissions, how many may use it at once and for how long, and who may use what.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use drowse_api::error::PROBLEM_JSON;
use drowse_api::{ErrorCode, Problem};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::Refused;
use super::patient::{Endless, Patient};
use super::peer::{Class, Peers};

/// How many connections there may be at once of root and the controller, of the router, and of all others.
const CONTROLS: usize = 768;
const ROUTERS: usize = 128;
const STRANGERS: usize = 16;
/// How much of what a caller sends is held for it: heads must fit, bodies pass through.
const BUFFER: usize = 64 << 10;
/// How long a head may take, and how long a connection may be idle.
const HEADER_TIME: Duration = Duration::from_secs(10);

/// Why the socket cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the socket {path}")]
pub struct ListenError {
    action: &'static str,
    path: PathBuf,
    source: std::io::Error,
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

/// Serves connections for as long as it is polled. Nobody can take the room of others: one connection too
/// many of a class is told so, and closed.
pub async fn serve(listener: UnixListener, router: Router, peers: Peers) {
    let seats = Seats::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let class = peers.class_of(&stream);
                let Some(seat) = seats.take(class) else {
                    send_away(&stream);
                    continue;
                };
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, router, class).await;
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

/// How many connections each class may have at once.
struct Seats {
    control: Arc<Semaphore>,
    router: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Default for Seats {
    fn default() -> Self {
        let of = |count| Arc::new(Semaphore::new(count));
        Self { control: of(CONTROLS), router: of(ROUTERS), strangers: of(STRANGERS) }
    }
}

impl Seats {
    fn take(&self, class: Class) -> Option<OwnedSemaphorePermit> {
        let room = match class {
            Class::Control => &self.control,
            Class::Router => &self.router,
            Class::Nothing => &self.strangers,
        };
        Arc::clone(room).try_acquire_owned().ok()
    }
}

/// Tells a caller that there is no room for it. What does not fit into an empty socket is lost.
fn send_away(stream: &UnixStream) {
    let problem = Problem::new(ErrorCode::Exhausted, "the agent has as many connections of this user as it takes")
        .hint("close some, and try again");
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {} Too Many Requests\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        problem.code.http_status(),
        body.len()
    );
    let _ = stream.try_write(&[head.into_bytes(), body].concat());
}

/// Answers one caller until it goes, or was idle for too long.
pub(super) async fn connection<S>(stream: S, router: Router, class: Class)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let endless = Endless::default();
    let router = router.layer(axum::middleware::from_fn(not_for_strangers));
    let router = router.layer(Extension(class)).layer(Extension(endless.clone()));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).half_close(false).max_buf_size(BUFFER);
    // Else what is said of a bad request could come before what is left of the answer to the one before it.
    builder.writev(false);
    let stream = TokioIo::new(Patient::new(stream, endless));
    let served = builder.serve_connection(stream, TowerToHyperService::new(router)).with_upgrades();
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
        Class::Router | Class::Nothing => forbidden(
            "this call is the controller's; a router may only watch endpoints, demand an instance and let go of one",
        ),
    }
}

fn forbidden(detail: &str) -> Response {
    Refused(Problem::new(ErrorCode::Forbidden, detail)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_class_leaves_room_to_the_others() {
        let seats = Seats::default();
        let taken: Vec<_> = (0..CONTROLS).map(|_| seats.take(Class::Control).expect("there is room")).collect();
        assert!(seats.take(Class::Control).is_none());
        assert!(seats.take(Class::Router).is_some() && seats.take(Class::Nothing).is_some());
        drop(taken);
        assert!(seats.take(Class::Control).is_some());
    }

    #[tokio::test]
    async fn who_is_sent_away_is_told_why() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        send_away(&ours);
        drop(ours);
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut theirs, &mut answer).await.expect("reads");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        let problem: Problem = serde_json::from_str(body).expect("a problem");
        assert_eq!(problem.code, ErrorCode::Exhausted);
    }
}
