//! Streams of JSON values: one a line (NDJSON), with an empty line as a heartbeat, or as server-sent
//! events, with an empty comment as one.

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

/// How values are written.
#[derive(Debug)]
pub struct Form<T> {
    /// The media type.
    pub media: &'static str,
    /// What is sent when nothing else was for a while.
    pub heartbeat: &'static [u8],
    /// One value.
    pub encode: fn(&T) -> Option<Vec<u8>>,
}

impl<T> Clone for Form<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Form<T> {}

impl<T: Serialize> Form<T> {
    /// One a line.
    pub const NDJSON: Self = Self { media: "application/x-ndjson", heartbeat: b"\n", encode: line };
}

fn line<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    let mut line = serde_json::to_vec(value).ok()?;
    line.push(b'\n');
    Some(line)
}

/// Where a stream's values go. Cheap to clone.
#[derive(Debug)]
pub struct Out<T> {
    lines: mpsc::Sender<Bytes>,
    form: Form<T>,
}

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        Self { lines: self.lines.clone(), form: self.form }
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
        let line = (self.form.encode)(value).ok_or(Gone)?;
        self.lines.send(line.into()).await.map_err(|_| Gone)
    }
}

/// Answers with what `produce` sends, until it ends, the reader goes or the program ends.
pub fn stream<T, F>(end: CancellationToken, produce: impl FnOnce(Out<T>) -> F) -> Response
where
    T: Serialize,
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    stream_as(Form::NDJSON, end, produce)
}

/// As [`stream`], in another form.
pub fn stream_as<T, F>(form: Form<T>, end: CancellationToken, produce: impl FnOnce(Out<T>) -> F) -> Response
where
    T: Serialize,
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    let work = produce(Out { lines: sender, form });
    let heartbeat = Bytes::from_static(form.heartbeat);
    // Dropped with the body: a producer that waits for something else learns of it.
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::select! {
            // The reader has gone, which needs nothing, or everything was sent.
            _ = work => {}
            () = end.cancelled() => {}
        }
    }));
    let body = stream::unfold((receiver, task), move |(mut receiver, task)| {
        let heartbeat = heartbeat.clone();
        async move {
            let line = tokio::time::timeout(HEARTBEAT, receiver.recv()).await.unwrap_or(Some(heartbeat));
            line.map(|line| (Ok::<_, std::convert::Infallible>(line), (receiver, task)))
        }
    });
    let headers = [(header::CONTENT_TYPE, form.media), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(body)).into_response()
}
