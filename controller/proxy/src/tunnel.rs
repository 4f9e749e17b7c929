//! WebSocket and other upgrades. A tunnel is opened only after the instance's own 101: until then
//! what the visitor sends is not passed on, so that it cannot smuggle a request past the router.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::body::ResponseBody;
use crate::instance::Ticket;
use crate::shared::Shared;
use crate::{headers, websocket};

/// A visitor's wish to speak another protocol.
pub(crate) struct Request {
    protocol: HeaderValue,
    visitor: OnUpgrade,
}

/// The instance switched to something that was not asked for.
pub(crate) struct NotAsked;

impl Request {
    /// The wish in a request, if there is one that we pass on. `h2c` is not: it would open HTTP
    /// past the router's checks.
    pub(crate) fn take<B>(request: &mut http::Request<B>) -> Option<Self> {
        let headers = request.headers();
        if request.version() != Version::HTTP_11 || !headers::connection_names(headers, b"upgrade") {
            return None;
        }
        let protocol = headers.get(header::UPGRADE)?;
        if headers::tokens(protocol.as_bytes()).any(|name| name.to_ascii_lowercase().starts_with(b"h2")) {
            return None;
        }
        let protocol = protocol.clone();
        Some(Self { protocol, visitor: hyper::upgrade::on(request) })
    }

    /// Puts the wish into the head for the instance.
    pub(crate) fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.protocol.clone());
    }

    /// The instance agreed: joins both sides, for as long as both keep the connection open.
    pub(crate) fn open(
        self,
        mut response: Response<Incoming>,
        ticket: Ticket,
        shared: &Arc<Shared>,
    ) -> Result<Response<ResponseBody>, NotAsked> {
        let agreed = response.headers().get(header::UPGRADE).cloned().ok_or(NotAsked)?;
        let asked =
            |name: &[u8]| headers::tokens(self.protocol.as_bytes()).any(|asked| asked.eq_ignore_ascii_case(name));
        if !headers::tokens(agreed.as_bytes()).all(asked) {
            return Err(NotAsked);
        }
        let instance = hyper::upgrade::on(&mut response);
        let (visitor, shared) = (self.visitor, Arc::clone(shared));
        let is_websocket = headers::tokens(agreed.as_bytes()).all(|name| name.eq_ignore_ascii_case(b"websocket"));
        tokio::spawn(async move {
            let Ok((visitor, instance)) = futures_util::future::try_join(visitor, instance).await else { return };
            let (visitor, instance) = (TokioIo::new(visitor), TokioIo::new(instance));
            if is_websocket {
                // Dropped at the end: the ticket holds a place inside the instance's gate.
                join_frames(visitor, instance, &ticket, &shared).await;
            } else {
                join(visitor, instance, shared.limits.idle()).await;
            }
            drop(ticket);
        });
        let mut headers = std::mem::take(response.headers_mut());
        headers::remove_hop_by_hop(&mut headers);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, agreed);
        let mut answer = Response::new(ResponseBody::own(bytes::Bytes::new()));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}

/// Passes bytes both ways until both sides have closed; `linger` after the first has, the other is
/// cut off. An open tunnel may be silent for as long as it likes.
async fn join<A, B>(visitor: A, instance: B, linger: Duration)
where
    A: AsyncRead + AsyncWrite + Send,
    B: AsyncRead + AsyncWrite + Send,
{
    let (from_visitor, to_visitor) = tokio::io::split(visitor);
    let (from_instance, to_instance) = tokio::io::split(instance);
    let mut up = std::pin::pin!(pass(from_visitor, to_instance));
    let mut down = std::pin::pin!(pass(from_instance, to_visitor));
    let (first, other): (_, Pin<&mut (dyn Future<Output = io::Result<()>> + Send)>) = tokio::select! {
        ended = &mut up => (ended, down),
        ended = &mut down => (ended, up),
    };
    if first.is_ok() {
        // How the other half ends is known to both sides.
        let _ = tokio::time::timeout(linger, other).await;
    }
}

/// The same for a WebSocket. When its instance gets no more requests, or this router ends, it goes on
/// for a moment; then its visitor is told to connect again, and may say goodbye.
async fn join_frames<A, B>(visitor: A, instance: B, ticket: &Ticket, shared: &Shared)
where
    A: AsyncRead + AsyncWrite + Send,
    B: AsyncRead + AsyncWrite + Send,
{
    let (from_visitor, to_visitor) = tokio::io::split(visitor);
    let (from_instance, to_instance) = tokio::io::split(instance);
    let leaving = async {
        tokio::select! {
            () = ticket.instance.left_for(shared.limits.websocket()) => {}
            () = shared.draining.cancelled() => {}
        }
    };
    let mut up = std::pin::pin!(pass(from_visitor, to_instance));
    let mut down = std::pin::pin!(websocket::pass(from_instance, to_visitor, leaving));
    tokio::select! {
        ended = &mut up => if ended.is_ok() {
            let _ = tokio::time::timeout(shared.limits.idle(), down).await;
        },
        ended = &mut down => if let Ok(websocket::Ended::Whole) = ended {
            let _ = tokio::time::timeout(shared.limits.idle(), up).await;
        }
    }
}

async fn pass(mut from: impl AsyncRead + Unpin + Send, mut to: impl AsyncWrite + Unpin + Send) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}
