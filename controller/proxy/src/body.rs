//! Bodies on their way through, in both directions: streamed frame by frame, so that the slower side
//! sets the pace, and with a limit on standing still.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderMap, SET_COOKIE};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::connection::Busy;
use crate::headers;
use crate::instance::{Instance, Ticket};
use crate::stall::Stall;
use crate::upstream::Connection;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// Nothing came for the limit's time.
    #[error("nothing came for {} s", limit.as_secs())]
    Stalled {
        /// The limit.
        limit: Duration,
    },
    /// The connection it came from failed.
    #[error("the connection failed")]
    Connection {
        /// How.
        source: hyper::Error,
    },
}

/// The body of a request, on its way to an instance.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Upload(Arc<Upload>),
}

/// A request's body, kept where it can be taken back if the connection it was to be sent on turns
/// out to be dead.
#[derive(Debug)]
pub(crate) struct Upload {
    /// One task polls it at a time: the lock makes it shareable and is never waited for.
    inner: Mutex<(Incoming, Stall)>,
    hint: SizeHint,
    limit: Duration,
    /// Some of it was handed to a connection.
    consumed: AtomicBool,
    /// All of it was handed over.
    done: AtomicBool,
    stalled: AtomicBool,
    broken: AtomicBool,
    began: Instant,
    /// Milliseconds after `began` at which it last moved.
    moved: AtomicU64,
}

impl Upload {
    pub(crate) fn new(body: Incoming, limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            hint: body.size_hint(),
            inner: Mutex::new((body, Stall::new(limit))),
            limit,
            consumed: AtomicBool::new(false),
            done: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            began: Instant::now(),
            moved: AtomicU64::new(0),
        })
    }

    pub(crate) fn is_consumed(&self) -> bool {
        self.consumed.load(Ordering::Acquire)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// The visitor stopped sending.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// What the visitor sent is malformed, or it went away.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// When it last moved.
    pub(crate) fn moved_at(&self) -> Instant {
        self.began + Duration::from_millis(self.moved.load(Ordering::Acquire))
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (body, stall) = &mut *inner;
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => {
                stall.moved();
                let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.moved.store(elapsed, Ordering::Release);
                if let Some(Err(_)) = &frame {
                    self.broken.store(true, Ordering::Release);
                }
                if frame.is_some() {
                    self.consumed.store(true, Ordering::Release);
                }
                if frame.is_none() || body.is_end_stream() {
                    self.done.store(true, Ordering::Release);
                }
                Poll::Ready(frame.map(|frame| frame.map(clean).map_err(|source| BodyError::Connection { source })))
            }
            Poll::Pending => {
                ready!(stall.poll_waiting(cx));
                self.stalled.store(true, Ordering::Release);
                Poll::Ready(Some(Err(BodyError::Stalled { limit: self.limit })))
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Upload(upload) => upload.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Upload(upload) => upload.is_done(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Upload(upload) => upload.hint,
        }
    }
}

/// The body of an answer, on its way to a visitor.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    content: Content,
    /// The request, which is over when this body is.
    pub(crate) busy: Option<Busy>,
}

#[derive(Debug)]
enum Content {
    /// Our own.
    Own(Option<Bytes>),
    /// An instance's.
    Download(Download),
}

impl ResponseBody {
    /// One of our own.
    pub(crate) fn own(bytes: Bytes) -> Self {
        Self { content: Content::Own(Some(bytes).filter(|bytes| !bytes.is_empty())), busy: None }
    }

    /// One that comes from an instance.
    pub(crate) fn download(body: Incoming, limit: Duration, lease: Lease) -> Self {
        Self { content: Content::Download(Download::new(body, limit, lease)), busy: None }
    }
}

/// A body that comes from an instance. Dropping it before its end closes the connection it comes
/// from, which is how an instance learns that its visitor went away.
#[derive(Debug)]
struct Download {
    body: Incoming,
    stall: Stall,
    limit: Duration,
    lease: Option<Lease>,
}

/// What an answer holds until its end: a place inside the gate, and a connection.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) ticket: Ticket,
    pub(crate) connection: Connection,
    pub(crate) upload: Option<Arc<Upload>>,
    pub(crate) worker: usize,
}

impl Lease {
    /// The answer is complete: the connection can serve again, if all of the request was sent on it.
    fn complete(self) {
        let Self { ticket, mut connection, upload, worker } = self;
        let instance: &Instance = &ticket.instance;
        if upload.is_none_or(|upload| upload.is_done()) && !connection.is_closed() {
            connection.used = Instant::now();
            instance.checkin(worker, connection);
        }
    }
}

impl Download {
    fn new(body: Incoming, limit: Duration, lease: Lease) -> Self {
        let mut download = Self { body, stall: Stall::new(limit), limit, lease: Some(lease) };
        download.end_if_over();
        download
    }

    fn end_if_over(&mut self) {
        if self.body.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.complete();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let download = match &mut self.get_mut().content {
            Content::Own(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Download(download) => download,
        };
        match Pin::new(&mut download.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                download.stall.moved();
                download.end_if_over();
                Poll::Ready(Some(Ok(clean(frame))))
            }
            Poll::Ready(Some(Err(source))) => {
                download.lease = None;
                Poll::Ready(Some(Err(BodyError::Connection { source })))
            }
            Poll::Ready(None) => {
                if let Some(lease) = download.lease.take() {
                    lease.complete();
                }
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(download.stall.poll_waiting(cx));
                download.lease = None;
                Poll::Ready(Some(Err(BodyError::Stalled { limit: download.limit })))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(bytes) => bytes.is_none(),
            Content::Download(download) => download.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Content::Download(download) => download.body.size_hint(),
        }
    }
}

/// Trailers may not smuggle in what headers may not.
fn clean(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

fn clean_trailers(trailers: &mut HeaderMap) {
    headers::remove_hop_by_hop(trailers);
    trailers.remove(SET_COOKIE);
    trailers.remove(http::header::HOST);
    trailers.remove(http::header::CONTENT_LENGTH);
}
