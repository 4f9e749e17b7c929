//! Connections to instances: HTTP/1.1, one request at a time, used again and again.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::body::RequestBody;

/// A connection to an instance, between or during requests.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<RequestBody>,
    /// When its last request ended.
    pub(crate) used: Instant,
    /// It has carried a request before, so it may have been closed by the instance just now.
    pub(crate) is_reused: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Nothing of the request was sent: here it is again.
    Unsent(Box<Request<RequestBody>>),
    /// The connection ended after some of it was sent, and before the answer.
    Broken(hyper::Error),
}

/// Connects to an instance. With `upgrades` the connection can become a tunnel.
pub(crate) async fn connect(address: SocketAddr, limit: Duration, upgrades: bool) -> io::Result<Connection> {
    let stream = tokio::time::timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    let (sender, connection) =
        http1::Builder::new().handshake::<_, RequestBody>(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends by itself: with the instance, or when the sender and the answer's body are dropped.
    if upgrades {
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
    } else {
        tokio::spawn(async move { drop(connection.await) });
    }
    Ok(Connection { sender, used: Instant::now(), is_reused: false })
}

impl Connection {
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request, and waits for the head of the answer.
    pub(crate) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        if !self.sender.is_ready() && self.sender.ready().await.is_err() {
            return Err(SendError::Unsent(Box::new(request)));
        }
        self.sender.try_send_request(request).await.map_err(|mut failed| match failed.take_message() {
            Some(request) => SendError::Unsent(Box::new(request)),
            None => SendError::Broken(failed.into_error()),
        })
    }
}
