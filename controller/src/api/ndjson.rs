//! Streams of JSON values, one a line, with an empty line as a heartbeat.

use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How long a stream is silent at most.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How many lines wait for a slow reader.
const QUEUE: usize = 64;

/// Where a stream's lines go. Cheap to clone.
#[derive(Debug)]
pub struct Out<T> {
    lines: mpsc::Sender<Bytes>,
    of: std::marker::PhantomData<fn(T)>,
}

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        Self { lines: self.lines.clone(), of: std::marker::PhantomData }
    }
}

/// The reader has gone.
#[derive(Debug, Clone, Copy)]
pub struct Gone;

impl<T: Serialize> Out<T> {
    /// Sends one value, when the reader has room for it.
    ///
    /// # Errors
    /// If the reader has gone.
    pub async fn send(&self, value: &T) -> Result<(), Gone> {
        let mut line = serde_json::to_vec(value).map_err(|_| Gone)?;
        line.push(b'\n');
        self.lines.send(line.into()).await.map_err(|_| Gone)
    }
}

/// Answers with what `produce` sends, until it ends, the reader goes or the program ends.
pub fn stream<T, F>(end: CancellationToken, produce: impl FnOnce(Out<T>) -> F) -> Response
where
    T: Serialize,
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    let work = produce(Out { lines: sender, of: std::marker::PhantomData });
    // Dropped with the body: a producer that waits for something else learns of it.
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::select! {
            // The reader has gone, which needs nothing, or everything was sent.
            _ = work => {}
            () = end.cancelled() => {}
        }
    }));
    let body = stream::unfold((receiver, task), |(mut receiver, task)| async move {
        let line = tokio::time::timeout(HEARTBEAT, receiver.recv()).await.unwrap_or(Some(Bytes::from_static(b"\n")));
        line.map(|line| (Ok::<_, std::convert::Infallible>(line), (receiver, task)))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}
