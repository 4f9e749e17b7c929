//! Calls about blobs: streamed to and from the disk, never held in memory.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use drowse_api::agent::BlobStored;
use drowse_api::{Digest, ErrorCode, Problem};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::io::ReaderStream;

use super::Shared;
use super::answer::{Answer, Refused, parse};
use crate::problem;
use crate::received::Received;

/// The largest blob that is taken.
const MAX_BLOB: u64 = 8 << 30;
/// A sender sends at least so much in so long, or it is given up.
const WINDOW: Duration = Duration::from_secs(60);
const LEAST: usize = 4 << 10;

pub(super) async fn post(State(agent): State<Shared>, body: Body) -> Answer<BlobStored> {
    store(&agent, None, body).await
}

pub(super) async fn put(State(agent): State<Shared>, Path(digest): Path<String>, body: Body) -> Answer<BlobStored> {
    store(&agent, Some(parse(&digest)?), body).await
}

pub(super) async fn get(State(agent): State<Shared>, Path(digest): Path<String>) -> Result<Response, Refused> {
    let digest: Digest = parse(&digest)?;
    if !agent.node.store.has_blob(&digest) {
        return Err(Problem::new(ErrorCode::NotFound, format!("this node has no blob {digest}")).into());
    }
    let store = agent.node.store.clone();
    let opened = tokio::task::spawn_blocking(move || store.open_blob(&digest)).await;
    let file =
        opened.map_err(|e| Problem::new(ErrorCode::Internal, e.to_string()))?.map_err(|e| problem::of_store(&e))?;
    let length = file.metadata().map(|meta| meta.len()).unwrap_or_default();
    let body = Body::from_stream(ReaderStream::with_capacity(tokio::fs::File::from_std(file), 128 << 10));
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    Ok((headers, body).into_response())
}

async fn store(agent: &Shared, expected: Option<Digest>, body: Body) -> Answer<BlobStored> {
    let (chunks, reader) = Received::new();
    let store = agent.node.store.clone();
    let writing = tokio::task::spawn_blocking(move || store.put_blob(reader, expected.as_ref(), MAX_BLOB));
    receive(body.into_data_stream(), chunks).await;
    let written = writing.await.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
    let (digest, size) = written.map_err(|error| problem::of_store(&error))?;
    Ok(Json(BlobStored { digest, size }))
}

/// Hands on what comes, until it ends, breaks or stands still. The writer leaves early where it refuses the
/// blob: its answer says why.
async fn receive<E: std::error::Error + Send + Sync + 'static>(
    body: impl Stream<Item = Result<Bytes, E>>,
    chunks: mpsc::Sender<io::Result<Bytes>>,
) {
    let mut body = std::pin::pin!(body);
    let (mut until, mut came) = (Instant::now() + WINDOW, 0);
    loop {
        let chunk = match tokio::time::timeout_at(until, body.next()).await {
            Err(_) if came >= LEAST => {
                (until, came) = (Instant::now() + WINDOW, 0);
                continue;
            }
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the sender fell silent, or nearly so")),
            Ok(Some(Err(error))) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, error)),
            Ok(Some(Ok(chunk))) => Ok(chunk),
            Ok(None) => return,
        };
        came += chunk.as_ref().map_or(0, Bytes::len);
        let broken = chunk.is_err();
        if chunks.send(chunk).await.is_err() || broken {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What arrives of `count` chunks of `size` bytes with a second between them, and how it ends.
    async fn trickle(size: usize, count: usize) -> (usize, Option<io::ErrorKind>) {
        let chunks = futures_util::stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, io::Error>(Bytes::from(vec![7; size]))
        });
        let (sender, mut received) = mpsc::channel(8);
        tokio::spawn(receive(chunks, sender));
        let mut length = 0;
        while let Some(chunk) = received.recv().await {
            match chunk {
                Ok(chunk) => length += chunk.len(),
                Err(error) => return (length, Some(error.kind())),
            }
        }
        (length, None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_a_second_is_given_up_after_a_minute_and_a_slow_line_is_not() {
        let (length, end) = trickle(1, 100_000).await;
        assert!(length < 70 && end == Some(io::ErrorKind::TimedOut), "{length} {end:?}");
        assert_eq!(trickle(1024, 1000).await, (1_024_000, None));
        assert_eq!(trickle(1, 10).await, (10, None));
    }
}
