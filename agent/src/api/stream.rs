//! NDJSON streams: one value a line, an empty line after 15 s of silence.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::logs::Follower;

const HEARTBEAT: Duration = Duration::from_secs(15);
const LOG_POLL: Duration = Duration::from_millis(100);
/// Lines that may wait for a slow reader before the producer waits too. A line may be a picture of all
/// instances.
const WAITING: usize = 4;

/// The reader is gone.
#[derive(Debug)]
pub struct Gone;

/// Where a producer puts its values.
#[derive(Debug)]
pub struct Lines(mpsc::Sender<Bytes>);

impl Lines {
    /// Sends one value.
    ///
    /// # Errors
    /// If the reader is gone.
    pub async fn send(&self, value: &impl Serialize) -> Result<(), Gone> {
        let mut line = serde_json::to_vec(value).map_err(|_| Gone)?;
        line.push(b'\n');
        self.0.send(line.into()).await.map_err(|_| Gone)
    }

    /// Waits until the reader is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// The answer whose lines `produce` sends. It is dropped when the reader goes.
pub fn respond<F>(produce: impl FnOnce(Lines) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (lines, mut produced) = mpsc::channel(WAITING);
    let (out, body) = mpsc::channel::<Result<Bytes, Infallible>>(WAITING);
    let work = produce(Lines(lines));
    tokio::spawn(async move {
        tokio::pin!(work);
        let mut working = true;
        loop {
            let line = tokio::select! {
                _ = &mut work, if working => { working = false; continue }
                line = produced.recv() => match line {
                    Some(line) => line,
                    None => return,
                },
                () = tokio::time::sleep(HEARTBEAT) => Bytes::from_static(b"\n"),
            };
            // While a slow reader is waited for, the producer waits as well: nothing piles up.
            if out.send(Ok(line)).await.is_err() {
                return;
            }
        }
    });
    let body = Body::from_stream(ReceiverStream::new(body));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// Sends the last `tail` lines of the log in `folder`, and with `follow` what comes, until `ended`
/// says that nothing more will.
///
/// # Errors
/// If the reader is gone.
pub async fn log(
    lines: Lines,
    folder: PathBuf,
    tail: usize,
    follow: bool,
    ended: impl Fn() -> bool,
) -> Result<(), Gone> {
    let mut follower = Follower::new(&folder, tail);
    loop {
        let is_last = !follow || ended();
        let polled = tokio::task::spawn_blocking(move || {
            let found = follower.poll();
            (follower, found)
        });
        let Ok((back, found)) = polled.await else { return Err(Gone) };
        follower = back;
        for line in &found {
            lines.send(line).await?;
        }
        if is_last {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOG_POLL) => {}
            () = lines.closed() => return Err(Gone),
        }
    }
}
