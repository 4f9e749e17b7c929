//! Calls about blobs: streamed to and from the disk, never held in memory.

use std::io::{self, Read};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use drowse_api::agent::BlobStored;
use drowse_api::{Digest, ErrorCode, Problem};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use super::Shared;
use super::answer::{Answer, Refused, parse};
use crate::problem;

/// The largest blob that is taken.
const MAX_BLOB: u64 = 8 << 30;
/// How long a sender may be silent.
const SILENCE: Duration = Duration::from_secs(60);

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
    let (chunks, received) = mpsc::channel(8);
    let store = agent.node.store.clone();
    let reader = Received { chunks: received, rest: Bytes::new() };
    let writing = tokio::task::spawn_blocking(move || store.put_blob(reader, expected.as_ref(), MAX_BLOB));
    let mut body = body.into_data_stream();
    loop {
        let chunk = match tokio::time::timeout(SILENCE, body.next()).await {
            Err(_) => Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the sender fell silent"))),
            Ok(Some(Err(error))) => Some(Err(io::Error::new(io::ErrorKind::ConnectionAborted, error))),
            Ok(Some(Ok(chunk))) => Some(Ok(chunk)),
            Ok(None) => None,
        };
        let Some(chunk) = chunk else { break };
        let broken = chunk.is_err();
        // The writer leaves early where it refuses the blob: its answer says why.
        if chunks.send(chunk).await.is_err() || broken {
            break;
        }
    }
    drop(chunks);
    let written = writing.await.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
    let (digest, size) = written.map_err(|error| problem::of_store(&error))?;
    Ok(Json(BlobStored { digest, size }))
}

/// The body as something that blocks until there is more.
struct Received {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.rest = chunk?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}
