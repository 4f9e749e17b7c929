//! A visitor: HTTP/1.1, HTTP/2 with prior knowledge, streams and WebSockets, through a world's
//! router, to a host name that no resolver has to know.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// How long an answer may take that is not a stream.
const LIMIT: Duration = Duration::from_secs(40);
const MAX_BODY: usize = 64 << 20;

/// A WebSocket to an app.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Someone who visits apps.
#[derive(Debug, Clone)]
pub struct Visitor {
    router: SocketAddr,
    domain: String,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The text, if the status is 200.
    ///
    /// # Errors
    /// With status, error code and body.
    pub fn ok(self) -> Result<String> {
        if self.status != StatusCode::OK {
            bail!("{} {}: {}", self.status, self.header("x-drowse-error"), self.text());
        }
        Ok(self.text())
    }
}

impl Visitor {
    /// Someone who visits apps under `domain` through this router.
    #[must_use]
    pub fn new(router: SocketAddr, domain: &str) -> Self {
        Self { router, domain: domain.to_owned() }
    }

    /// The host name of an app; a name with a dot is taken as it is.
    #[must_use]
    pub fn host(&self, app: &str) -> String {
        if app.contains('.') { app.to_owned() } else { format!("{app}.{}", self.domain) }
    }

    /// Where the router listens.
    #[must_use]
    pub fn router(&self) -> SocketAddr {
        self.router
    }

    /// `GET` over a connection of its own.
    ///
    /// # Errors
    /// When no whole answer arrives.
    pub async fn get(&self, app: &str, path: &str) -> Result<Answer> {
        self.send(self.request("GET", app, path).body(Full::default())?).await
    }

    /// `POST` over a connection of its own.
    ///
    /// # Errors
    /// When no whole answer arrives.
    pub async fn post(&self, app: &str, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.send(self.request("POST", app, path).body(Full::new(body.into()))?).await
    }

    /// A request to an app, to be given further headers.
    #[must_use]
    pub fn request(&self, method: &str, app: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(path).header("host", self.host(app))
    }

    /// Sends a request over a connection of its own and reads the whole answer.
    ///
    /// # Errors
    /// When no whole answer arrives.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let within = tokio::time::timeout(LIMIT, async { whole(self.open(request).await?).await });
        within.await.context("no answer in time")?
    }

    /// Sends a request and returns the answer's beginning; the body is read by the caller.
    ///
    /// # Errors
    /// When no answer begins.
    pub async fn open(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        Ok(self.connect().await?.send_request(request).await?)
    }

    /// A connection that is kept for many requests.
    ///
    /// # Errors
    /// When the router does not accept.
    pub async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.router).await.context("cannot connect to the router")?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// `GET` by HTTP/2 without TLS, over a connection of its own.
    ///
    /// # Errors
    /// When no whole answer arrives.
    pub async fn get_h2(&self, app: &str, path: &str) -> Result<Answer> {
        let stream = TcpStream::connect(self.router).await.context("cannot connect to the router")?;
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request =
            Request::builder().uri(format!("http://{}{path}", self.host(app))).body(Full::<Bytes>::default())?;
        let within = tokio::time::timeout(LIMIT, async { whole(sender.send_request(request).await?).await });
        within.await.context("no answer in time")?
    }

    /// Opens a WebSocket.
    ///
    /// # Errors
    /// When the app does not switch to it.
    pub async fn websocket(&self, app: &str, path: &str) -> Result<Socket> {
        let stream = TcpStream::connect(self.router).await.context("cannot connect to the router")?;
        let address = format!("ws://{}{path}", self.host(app));
        let opened = tokio_tungstenite::client_async(address, MaybeTlsStream::Plain(stream));
        Ok(tokio::time::timeout(LIMIT, opened).await.context("no answer in time")??.0)
    }
}

/// Reads the whole body of an answer.
///
/// # Errors
/// When it breaks off or is unreasonably large.
pub async fn whole(response: Response<Incoming>) -> Result<Answer> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|e| anyhow::anyhow!("the body broke off: {e}"))?;
    Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
}
