//! A client for both daemons: JSON calls, uploads, and NDJSON streams, over a Unix socket or TCP.
//!
//! Each call opens a connection of its own: calls are few, and a daemon that was restarted is
//! reached again without any state here to repair.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::Stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};

use crate::sink::SinkOnError;
use crate::{ErrorCode, Problem};

/// How long a daemon may take until it answers a call that is not a stream.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 64 << 20;
const MAX_LINE: usize = 16 << 20;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A connection that speaks another protocol now.
pub type Tunnel = TokioIo<hyper::upgrade::Upgraded>;

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// Host and port, and the value of the `Host` header.
    Tcp {
        /// What is connected to.
        authority: String,
        /// What is asked for.
        host: String,
    },
}

/// A client of one daemon.
#[derive(Debug, Clone)]
pub struct Client {
    address: Address,
    token: Option<String>,
}

impl Client {
    /// A client of the daemon on this Unix socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self { address: Address::Unix(path.into()), token: None }
    }

    /// A client of the daemon at this TCP address.
    #[must_use]
    pub fn tcp(authority: impl Into<String>, host: impl Into<String>, token: Option<String>) -> Self {
        Self { address: Address::Tcp { authority: authority.into(), host: host.into() }, token }
    }

    /// What it connects to, for messages.
    #[must_use]
    pub fn target(&self) -> String {
        match &self.address {
            Address::Unix(path) => path.display().to_string(),
            Address::Tcp { authority, .. } => authority.clone(),
        }
    }

    /// `GET path`, read as JSON.
    ///
    /// # Errors
    /// The daemon's own problem, or `unavailable`, `deadline`, `internal`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// Calls `path` with a JSON body, or without one, and reads the answer as JSON.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Problem> {
        let body: Body = match body {
            None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Some(value) => {
                Full::from(serde_json::to_vec(value).map_err(internal)?).map_err(|never| match never {}).boxed_unsync()
            }
        };
        within(CALL_TIMEOUT, self, async { self.read_json(self.send(method, path, body).await?).await }).await
    }

    /// Sends a stream of bytes as the body, for as long as it takes, and reads the answer as JSON.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn upload<T, S, E>(&self, method: Method, path: &str, bytes: S) -> Result<T, Problem>
    where
        T: DeserializeOwned,
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        use futures_util::StreamExt;
        let frames = bytes.map(|chunk| chunk.map(Frame::data).map_err(Into::into));
        let response = self.send(method, path, StreamBody::new(frames).boxed_unsync()).await?;
        self.read_json(response).await
    }

    /// `GET path`, read as NDJSON for as long as the daemon sends.
    ///
    /// # Errors
    /// As [`get`](Self::get), until the first line.
    pub async fn lines<T: DeserializeOwned>(&self, path: &str) -> Result<Lines<T>, Problem> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let response = within(CALL_TIMEOUT, self, self.send(Method::GET, path, body)).await?;
        Ok(Lines { body: response.into_body(), buffer: BytesMut::new(), read: std::marker::PhantomData })
    }

    /// `GET path`, as the raw body.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn download(&self, path: &str) -> Result<Incoming, Problem> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        Ok(within(CALL_TIMEOUT, self, self.send(Method::GET, path, body)).await?.into_body())
    }

    /// `POST path` with a JSON body, which asks for `protocol`: the connection, once the daemon speaks it.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn tunnel(&self, path: &str, protocol: &'static str, body: &impl Serialize) -> Result<Tunnel, Problem> {
        let bytes = serde_json::to_vec(body).map_err(internal)?;
        let body = Full::from(bytes).map_err(|never| match never {}).boxed_unsync();
        let opened = async {
            let mut response = self.ask(Method::POST, path, body, Some(protocol)).await?;
            let agreed = response.headers().get(header::UPGRADE).is_some_and(|agreed| agreed == protocol);
            if response.status() != StatusCode::SWITCHING_PROTOCOLS || !agreed {
                let status = response.status();
                let detail = format!("{} answered {status} instead of {protocol}", self.target());
                return Err(Problem::new(ErrorCode::Internal, detail));
            }
            let upgraded = hyper::upgrade::on(&mut response).await.map_err(internal)?;
            Ok(TokioIo::new(upgraded))
        };
        within(CALL_TIMEOUT, self, opened).await
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Result<Response<Incoming>, Problem> {
        self.ask(method, path, body, None).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Body,
        upgrade: Option<&'static str>,
    ) -> Result<Response<Incoming>, Problem> {
        let host = match &self.address {
            Address::Unix(_) => "localhost",
            Address::Tcp { host, .. } => host,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(protocol) = upgrade {
            request = request.header(header::CONNECTION, "upgrade").header(header::UPGRADE, protocol);
        }
        let request = request.body(body).map_err(internal)?;
        let unavailable = |error: &dyn std::fmt::Display| {
            Problem::new(ErrorCode::Unavailable, format!("cannot reach {}: {error}", self.target()))
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(request)).await;
        let response = connected.map_err(|_| unavailable(&"no connection in 5 s"))?.map_err(|e| unavailable(&e))?;
        let response = response.await.map_err(|e| unavailable(&e))?;
        let is_answer = response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if is_answer { Ok(response) } else { Err(self.read_problem(response).await) }
    }

    /// Connects, and returns the answer still to come.
    async fn connect(
        &self,
        request: Request<Body>,
    ) -> Result<impl Future<Output = Result<Response<Incoming>, hyper::Error>> + use<>, BoxError> {
        let mut sender = match &self.address {
            Address::Unix(path) => handshake(UnixStream::connect(path).await?).await?,
            Address::Tcp { authority, .. } => handshake(TcpStream::connect(authority.as_str()).await?).await?,
        };
        Ok(async move { sender.send_request(request).await })
    }

    async fn read_json<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, Problem> {
        let bytes = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| {
            Problem::new(ErrorCode::Unavailable, format!("{} broke off its answer: {e}", self.target()))
        })?;
        let bytes = bytes.to_bytes();
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text).map_err(|e| {
            Problem::new(ErrorCode::Internal, format!("{} answered something unexpected: {e}", self.target()))
        })
    }

    async fn read_problem(&self, response: Response<Incoming>) -> Problem {
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            let code = match status {
                StatusCode::UNAUTHORIZED => ErrorCode::Unauthenticated,
                StatusCode::FORBIDDEN => ErrorCode::Forbidden,
                StatusCode::NOT_FOUND => ErrorCode::NotFound,
                StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
                status if status.is_client_error() => ErrorCode::BadRequest,
                _ => ErrorCode::Unavailable,
            };
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).into_owned();
            Problem::new(code, format!("{} answered {status}: {}", self.target(), text.trim()))
        })
    }
}

async fn handshake<I>(io: I) -> Result<hyper::client::conn::http1::SendRequest<Body>, hyper::Error>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(SinkOnError::new(io))).await?;
    // The connection ends by itself when the sender and the answer's body are dropped.
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

async fn within<T>(
    limit: Duration,
    client: &Client,
    work: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Problem::new(ErrorCode::Deadline, format!("{} did not answer in {} s", client.target(), limit.as_secs())))
    })
}

fn internal(error: impl std::fmt::Display) -> Problem {
    Problem::new(ErrorCode::Internal, error.to_string())
}

/// A stream of JSON values, one a line.
#[derive(Debug)]
pub struct Lines<T> {
    body: Incoming,
    buffer: BytesMut,
    read: std::marker::PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// The next value; `None` when the daemon ended the stream. Empty lines (heartbeats) are
    /// passed over. Cancel-safe: nothing read is lost when the future is dropped.
    ///
    /// # Errors
    /// `unavailable` when the connection broke, `internal` when a line is not what was expected.
    pub async fn next(&mut self) -> Result<Option<T>, Problem> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(internal);
            }
            if self.buffer.len() > MAX_LINE {
                return Err(internal("a line of the stream is too long"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(Problem::new(ErrorCode::Unavailable, format!("the stream broke off: {error}")));
                }
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}
