//! One visitor's connection, from its first byte to its end.
//!
//! hyper serves the requests; how long a visitor may take for a head, and what an idle connection
//! costs, is decided here. A connection that asks nothing for a moment is taken apart: of hyper and its
//! buffers nothing stays, only the socket, until the visitor says something again. Most connections
//! of a router are idle at any time.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::body::ResponseBody;
use crate::forward;
use crate::io::VisitorStream;
use crate::shared::Shared;

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often a connection is looked at; one that did nothing in between is taken apart.
const LOOK: Duration = Duration::from_secs(1);

/// Who is at the other end of one connection, and what it is doing.
#[derive(Debug)]
pub(crate) struct Visitor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) worker: usize,
    /// Its address, as instances are told it.
    pub(crate) address: HeaderValue,
    /// Its address, for counting.
    pub(crate) ip: IpAddr,
    /// It comes from this machine.
    pub(crate) is_local: bool,
    /// Requests begun so far.
    begun: AtomicUsize,
    /// Requests whose answer has not ended.
    busy: AtomicUsize,
    /// Something was read that is not yet part of a request.
    pub(crate) has_spoken: AtomicBool,
    /// Something of an answer is not yet written.
    pub(crate) is_blocked: AtomicBool,
}

/// A request of a visitor until its answer has ended.
#[derive(Debug)]
pub(crate) struct Busy(pub(crate) Arc<Visitor>);

impl Busy {
    fn new(visitor: &Arc<Visitor>) -> Self {
        visitor.begun.fetch_add(1, Ordering::Relaxed);
        visitor.busy.fetch_add(1, Ordering::Relaxed);
        visitor.has_spoken.store(false, Ordering::Relaxed);
        Self(Arc::clone(visitor))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.has_spoken.store(false, Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

type ServeError = Box<dyn std::error::Error + Send + Sync>;

/// Serves a connection until it ends.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    worker: usize,
    stream: TcpStream,
    peer: SocketAddr,
) -> Result<(), ServeError> {
    stream.set_nodelay(true)?;
    let is_http2 = tokio::select! {
        found = timeout(shared.limits.header(), begins_as_http2(&stream)) => found??,
        () = shared.draining.cancelled() => return Ok(()),
    };
    let ip = peer.ip().to_canonical();
    let visitor = Arc::new(Visitor {
        shared,
        worker,
        address: HeaderValue::from_str(&ip.to_string())?,
        ip,
        is_local: ip.is_loopback(),
        begun: AtomicUsize::new(0),
        busy: AtomicUsize::new(0),
        has_spoken: AtomicBool::new(false),
        is_blocked: AtomicBool::new(false),
    });
    let mut stream = VisitorStream::new(stream, Arc::clone(&visitor));
    if is_http2 {
        return Box::pin(serve_http2(stream, visitor)).await;
    }
    loop {
        // Boxed, so that an idle connection has no room for what only a busy one needs.
        let Some(idle) = Box::pin(serve_http1(stream, &visitor)).await? else { return Ok(()) };
        stream = idle;
        if !stream.has_something_to_read() {
            let limits = &visitor.shared.limits;
            tokio::select! {
                spoke = timeout(limits.header(), stream.readable()) => match spoke {
                    Ok(readable) => readable?,
                    Err(_) => return Ok(()),
                },
                () = visitor.shared.draining.cancelled() => return Ok(()),
            }
        }
    }
}

/// Serves requests until the connection ends (`None`) or has nothing to do (what is left of it).
async fn serve_http1(stream: VisitorStream, visitor: &Arc<Visitor>) -> Result<Option<VisitorStream>, ServeError> {
    let limits = &visitor.shared.limits;
    let header = limits.header();
    let look = LOOK.min(header / 2);
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes.max(8192))
        .serve_connection(stream, Visit(Arc::clone(visitor)))
        .with_upgrades();
    let mut next_look = std::pin::pin!(sleep_until(Instant::now() + look));
    let mut draining = std::pin::pin!(visitor.shared.draining.cancelled());
    let mut is_draining = false;
    let mut begun = visitor.begun.load(Ordering::Relaxed);
    let mut speaking = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => return ended.map(|()| None).map_err(ServeError::from),
            () = &mut next_look => {}
            () = &mut draining, if !is_draining => {
                Pin::new(&mut connection).graceful_shutdown();
                is_draining = true;
                continue;
            }
        }
        next_look.as_mut().reset(Instant::now() + look);
        let begun_now = visitor.begun.load(Ordering::Relaxed);
        let did_nothing = begun_now == begun && visitor.busy.load(Ordering::Relaxed) == 0;
        begun = begun_now;
        if !did_nothing {
            speaking = Duration::ZERO;
        } else if visitor.has_spoken.load(Ordering::Relaxed) {
            // A head that does not end.
            speaking += look;
            if speaking >= header {
                return Ok(None);
            }
        } else if !visitor.is_blocked.load(Ordering::Relaxed) {
            let Some(parts) = connection.into_parts() else { return Ok(None) };
            visitor.shared.parked.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(parts.io.with_unread(&parts.read_buf)));
        }
    }
}

async fn serve_http2(stream: VisitorStream, visitor: Arc<Visitor>) -> Result<(), ServeError> {
    let limits = &visitor.shared.limits;
    let mut connection = std::pin::pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(limits.header() / 2)
            .keep_alive_timeout(Duration::from_secs(20))
            .serve_connection(stream, Visit(Arc::clone(&visitor)))
    );
    tokio::select! {
        biased;
        ended = connection.as_mut() => return Ok(ended?),
        () = visitor.shared.draining.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

/// Whether the first bytes are HTTP/2's preface. They are looked at, not taken.
async fn begins_as_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0_u8; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 || first[..seen] != PREFACE[..seen] {
            return Ok(false);
        }
        if seen == PREFACE.len() {
            return Ok(true);
        }
        // The rest of a preface that came in pieces. Peeking does not wait for more than there is.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The service of one connection.
struct Visit(Arc<Visitor>);

impl Service<Request<Incoming>> for Visit {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let busy = Busy::new(&self.0);
        // Boxed: hyper keeps room for this future for as long as a connection lives.
        Box::pin(async move { Ok(forward::answer(busy, request).await) })
    }
}
