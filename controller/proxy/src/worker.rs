//! One event loop: accepts visitors, serves them, and sweeps what it keeps idle.

use std::convert::Infallible;
use std::future::Future;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::body::ResponseBody;
use crate::forward::{self, Visitor};
use crate::instance::LONGEST_IDLE;
use crate::io::VisitorStream;
use crate::shared::{Counted, Shared};

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const SWEEP: Duration = Duration::from_secs(1);

/// A connection on its way to the worker that has room for it.
pub(crate) struct Handed {
    stream: StdStream,
    peer: SocketAddr,
    counted: Counted,
}

/// One event loop's own things.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) inboxes: Vec<UnboundedSender<Handed>>,
}

impl Worker {
    /// Serves until the router has drained or ends.
    pub(crate) async fn run(self, listeners: Vec<StdListener>, mut inbox: UnboundedReceiver<Handed>) {
        let this = Arc::new(self);
        for listener in listeners {
            match TcpListener::from_std(listener) {
                Ok(listener) => drop(tokio::spawn(Arc::clone(&this).accept(listener))),
                Err(error) => tracing::error!(%error, "a listener cannot be used"),
            }
        }
        let shared = Arc::clone(&this.shared);
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                Some(handed) = inbox.recv() => match TcpStream::from_std(handed.stream) {
                    Ok(stream) => this.take(stream, handed.peer, handed.counted),
                    Err(error) => tracing::warn!(%error, "a connection was lost between two event loops"),
                },
                _ = sweep.tick() => this.sweep(),
                () = shared.ending.cancelled() => return,
            }
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let shared = &self.shared;
        loop {
            let ended = shared.ended.notified();
            if shared.connections() >= shared.limits.connections {
                // Those who knock now wait in the kernel's queue.
                tokio::select! {
                    () = ended => continue,
                    () = shared.draining.cancelled() => return,
                }
            }
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shared.draining.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.place(stream, peer),
                Err(error) => {
                    // Out of descriptors, most likely: those that end make room.
                    tracing::warn!(%error, "cannot accept a visitor");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Gives a connection to the worker with the fewest.
    fn place(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let to = self.shared.calmest(self.index);
        let counted = Counted::new(Arc::clone(&self.shared), to);
        if to == self.index {
            self.take(stream, peer, counted);
        } else if let Ok(stream) = stream.into_std() {
            // It fails only when that worker is gone, which is at the end.
            let _ = self.inboxes[to].send(Handed { stream, peer, counted });
        }
    }

    fn take(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, counted: Counted) {
        let shared = Arc::clone(&self.shared);
        let worker = self.index;
        tokio::spawn(async move {
            let _counted = counted;
            if let Err(error) = serve(shared, worker, stream, peer).await {
                tracing::trace!(%peer, %error, "a visitor's connection ended");
            }
        });
    }

    fn sweep(&self) {
        let now = Instant::now();
        for instance in self.shared.picture.load().instances.values() {
            instance.sweep(self.index, now, LONGEST_IDLE);
        }
        self.shared.api.sweep(self.index, now, LONGEST_IDLE);
    }
}

type ServeError = Box<dyn std::error::Error + Send + Sync>;

async fn serve(shared: Arc<Shared>, worker: usize, stream: TcpStream, peer: SocketAddr) -> Result<(), ServeError> {
    stream.set_nodelay(true)?;
    let is_http2 = tokio::select! {
        found = tokio::time::timeout(shared.limits.header(), begins_as_http2(&stream)) => found??,
        () = shared.draining.cancelled() => return Ok(()),
    };
    let ip = peer.ip().to_canonical();
    let address = HeaderValue::from_str(&ip.to_string())?;
    let limits = shared.limits.clone();
    let draining = shared.draining.clone();
    let visitor = Arc::new(Visitor { shared, worker, address, is_local: ip.is_loopback() });
    let stream = VisitorStream::new(stream, limits.idle());
    // Each kind is boxed when it is known, so that a silent connection costs neither.
    if is_http2 {
        Box::pin(serve_http2(stream, visitor, &limits, draining)).await
    } else {
        Box::pin(serve_http1(stream, visitor, &limits, draining)).await
    }
}

async fn serve_http1(
    stream: VisitorStream,
    visitor: Arc<Visitor>,
    limits: &crate::Limits,
    draining: tokio_util::sync::CancellationToken,
) -> Result<(), ServeError> {
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header())
            .max_buf_size(limits.header_bytes.max(8192))
            .serve_connection(stream, Visit(visitor))
            .with_upgrades()
    );
    tokio::select! {
        biased;
        ended = connection.as_mut() => return Ok(ended?),
        () = draining.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

async fn serve_http2(
    stream: VisitorStream,
    visitor: Arc<Visitor>,
    limits: &crate::Limits,
    draining: tokio_util::sync::CancellationToken,
) -> Result<(), ServeError> {
    let mut connection = std::pin::pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(limits.header() / 2)
            .keep_alive_timeout(Duration::from_secs(20))
            .serve_connection(stream, Visit(visitor))
    );
    tokio::select! {
        biased;
        ended = connection.as_mut() => return Ok(ended?),
        () = draining.cancelled() => connection.as_mut().graceful_shutdown(),
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
        let visitor = Arc::clone(&self.0);
        // Boxed: hyper keeps room for this future for as long as a connection lives.
        Box::pin(async move { Ok(forward::answer(visitor, request).await) })
    }
}
