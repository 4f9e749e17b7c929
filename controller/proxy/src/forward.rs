//! The way of one request: from its head to an instance, and of the answer back.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use drowse_api::sleep::Depth;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Uri;
use http::{Method, Request, Response, StatusCode, Version, request};
use hyper::body::{Body as _, Incoming};

use crate::admit::{Admitted, admit};
use crate::asker::Asking;
use crate::body::{Lease, RequestBody, ResponseBody, Upload};
use crate::connection::{Busy, Visitor};
use crate::fault::{ERROR_HEADER, Fault, Form};
use crate::host::HostKey;
use crate::instance::LONGEST_IDLE;
use crate::instead::{Instead, STATE_HEADER};
use crate::shared::Shared;
use crate::upstream::{self, Connection, SendError};
use crate::{cookies, headers, reserved, tunnel};

/// A request that must not be sent twice goes only over connections whose last answer ended so long
/// ago. No server that we know closes idle connections sooner than the latest; one that closes each
/// after its answer, or ends with it, has done so by the earliest.
const SAFELY_IDLE: Range<Duration> = Duration::from_millis(20)..Duration::from_secs(1);

/// How many connections a request may find dead before it is given up.
const MOST_ATTEMPTS: u32 = 5;

/// Answers one request.
pub(crate) async fn answer(busy: Busy, request: Request<Incoming>) -> Response<ResponseBody> {
    let id = headers::request_id(request.headers());
    let form = Form::wanted_by(request.headers());
    let mut response = match forward(&busy.0, request, &id).await {
        Ok(response) => response,
        Err(Instead::Own(answer)) => {
            let mut answer = answer.map(ResponseBody::own);
            answer.headers_mut().insert(headers::REQUEST_ID, id);
            answer
        }
        Err(Instead::Fault(fault)) => {
            tracing::debug!(code = %fault.code, request = ?id, "answered with an error of our own");
            fault.answer(form, &id).map(ResponseBody::own)
        }
    };
    response.body_mut().busy = Some(busy);
    response
}

async fn forward(
    visitor: &Visitor,
    mut request: Request<Incoming>,
    id: &HeaderValue,
) -> Result<Response<ResponseBody>, Instead> {
    let limits = &visitor.shared.limits;
    let (host, written) = check(&request)?;
    if reserved::is_reserved(request.uri().path()) {
        // Boxed, since this is rare.
        return Box::pin(reserved::answer(visitor, &host, request)).await.map(|answer| answer.map(ResponseBody::own));
    }
    let tunnel = tunnel::Request::take(&mut request);
    let is_upgrade = tunnel.is_some();
    let mut admitted = admit(visitor, &host, asking(&request, is_upgrade)).await?;

    let (mut parts, body) = request.into_parts();
    prepare(&mut parts, visitor, written, id.clone());
    if let Some(tunnel) = &tunnel {
        tunnel.ask(&mut parts.headers);
    }
    let upload = (!body.is_end_stream()).then(|| Upload::new(body, limits.idle()));
    let mut outgoing = outgoing(parts, upload.as_ref());

    let mut attempts = 0;
    loop {
        let Admitted { ticket, app, slept } = admitted;
        let is_last = attempts >= MOST_ATTEMPTS;
        let reusable =
            if tunnel.is_some() || attempts > 1 { None } else { idle_connection(visitor, &ticket, &outgoing).await };
        let mut connection = match reusable {
            Some(connection) => connection,
            None => match upstream::connect(ticket.instance.address, limits.connect(), tunnel.is_some()).await {
                Ok(connection) => {
                    ticket.instance.reached();
                    if let Some(app) = &app {
                        app.served();
                    }
                    connection
                }
                Err(error) => {
                    // Nothing was sent: another instance may have it, or this one a little later.
                    tracing::debug!(address = %ticket.instance.address, %error, "an instance cannot be reached");
                    if app.is_none() {
                        let detail = "The controller does not answer.";
                        return Err(Fault::unavailable("controller-unavailable", detail).into());
                    }
                    ticket.instance.failed(Instant::now());
                    drop(ticket);
                    admitted = admit(visitor, &host, asking(&outgoing, is_upgrade)).await?;
                    continue;
                }
            },
        };
        attempts += 1;
        let copy = (connection.is_reused && may_repeat(&outgoing)).then(|| copy_of(&outgoing));
        connection.is_reused = true;
        match first_byte(&mut connection, outgoing, upload.as_deref(), limits).await? {
            Ok(response) => {
                let lease = Lease { ticket, connection, upload, worker: visitor.worker };
                let mut response = deliver(visitor, response, lease, tunnel)?;
                if let Some(depth) = slept {
                    response.headers_mut().insert(STATE_HEADER, woken_from(depth));
                }
                return Ok(response);
            }
            Err(SendError::Unsent(request)) if !is_last => outgoing = *request,
            Err(SendError::Broken(error)) => {
                let untouched = upload.as_ref().is_none_or(|upload| !upload.is_consumed());
                match copy {
                    Some(copy) if untouched && !is_last => outgoing = copy,
                    _ => return Err(broken(&error, upload.as_deref()).into()),
                }
            }
            Err(SendError::Unsent(_)) => return Err(bad_answer().into()),
        }
        // The connection had been closed by the instance before it could read the request. If the
        // instance was replaced meanwhile, the request goes to its successor.
        drop(ticket);
        admitted = admit(visitor, &host, asking(&outgoing, is_upgrade)).await?;
    }
}

fn asking<B>(request: &Request<B>, is_upgrade: bool) -> Asking<'_> {
    Asking { method: request.method(), uri: request.uri(), headers: request.headers(), is_upgrade }
}

/// How an answer tells that the app was woken for it.
fn woken_from(depth: Depth) -> HeaderValue {
    HeaderValue::from_static(match depth {
        Depth::Paused => "woken-paused",
        Depth::Paged => "woken-paged",
        Depth::Snapshot => "woken-snapshot",
        Depth::Cold => "woken-cold",
    })
}

/// Refuses what two readers could understand differently, and finds the host that is asked for.
fn check(request: &Request<Incoming>) -> Result<(HostKey, HeaderValue), Fault> {
    let headers = request.headers();
    if request.method() == Method::CONNECT {
        return Err(Fault::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "CONNECT is not offered here."));
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        if headers.contains_key(header::CONTENT_LENGTH) {
            return Err(Fault::bad_request("The request has both Content-Length and Transfer-Encoding."));
        }
        if request.version() != Version::HTTP_11 {
            return Err(Fault::bad_request("Only HTTP/1.1 knows Transfer-Encoding."));
        }
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let (named, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Fault::bad_request("The request names two hosts."));
    }
    let parse = |text: &[u8]| HostKey::parse(text).map_err(|_| Fault::bad_request("The host's name is malformed."));
    let Some(authority) = request.uri().authority() else {
        let named = named.ok_or_else(|| Fault::bad_request("The request names no host."))?;
        return Ok((parse(named.as_bytes())?, named.clone()));
    };
    let key = parse(authority.as_str().as_bytes())?;
    match named {
        Some(named) if parse(named.as_bytes())? != key => {
            Err(Fault::bad_request("The request names two hosts that differ."))
        }
        Some(named) => Ok((key, named.clone())),
        None if request.version() == Version::HTTP_11 => Err(Fault::bad_request("The request has no Host header.")),
        None => HeaderValue::from_str(authority.as_str())
            .map(|written| (key, written))
            .map_err(|_| Fault::bad_request("The host's name is malformed.")),
    }
}

/// Makes the visitor's head into the one the instance gets.
fn prepare(parts: &mut request::Parts, visitor: &Visitor, host: HeaderValue, id: HeaderValue) {
    if parts.uri.authority().is_some() {
        if let Some(path) = parts.uri.path_and_query() {
            parts.uri = Uri::from(path.clone());
        }
        parts.headers.insert(header::HOST, host.clone());
    }
    if parts.version != Version::HTTP_11 {
        headers::join_cookies(&mut parts.headers);
        parts.version = Version::HTTP_11;
    }
    headers::remove_hop_by_hop(&mut parts.headers);
    // We send "100 Continue" ourselves, as soon as an instance is there to read the body.
    parts.headers.remove(header::EXPECT);
    headers::add_forwarded(&mut parts.headers, &visitor.address, host, id);
}

fn outgoing(parts: request::Parts, upload: Option<&Arc<Upload>>) -> Request<RequestBody> {
    let body = upload.map_or(RequestBody::Empty, |upload| RequestBody::Upload(Arc::clone(upload)));
    let request::Parts { method, uri, headers, .. } = parts;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

async fn idle_connection(
    visitor: &Visitor,
    ticket: &crate::instance::Ticket,
    request: &Request<RequestBody>,
) -> Option<Connection> {
    if may_repeat(request) {
        return ticket.instance.checkout(visitor.worker, Instant::now(), Duration::ZERO..LONGEST_IDLE);
    }
    // What the kernel knows of connections that were closed is learnt before one is chosen.
    tokio::task::yield_now().await;
    ticket.instance.checkout(visitor.worker, Instant::now(), SAFELY_IDLE)
}

/// Whether it may be sent again where it is not known if it was carried out (RFC 9110, section
/// 9.2.2), and nothing of its body is gone.
fn may_repeat(request: &Request<RequestBody>) -> bool {
    request.method().is_idempotent()
}

fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let body = match request.body() {
        RequestBody::Empty => RequestBody::Empty,
        RequestBody::Upload(upload) => RequestBody::Upload(Arc::clone(upload)),
    };
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Sends the request and waits for the head of the answer, for as long as the limits allow.
async fn first_byte(
    connection: &mut Connection,
    request: Request<RequestBody>,
    upload: Option<&Upload>,
    limits: &crate::Limits,
) -> Result<Result<Response<Incoming>, SendError>, Fault> {
    let late = || {
        Fault::new(StatusCode::GATEWAY_TIMEOUT, "first-byte-timeout", "The app did not begin to answer in time.")
            .retry_after(5)
    };
    let limit = limits.first_byte();
    let sent = connection.send(request);
    let Some(upload) = upload else {
        return tokio::time::timeout(limit, sent).await.map_err(|_| late());
    };
    // The time counts from the last movement of the request's body.
    let mut sent = std::pin::pin!(sent);
    loop {
        let standing = if upload.is_done() { limit } else { limit.max(limits.idle()) };
        let deadline = upload.moved_at() + standing;
        if let Ok(outcome) = tokio::time::timeout_at(deadline.into(), &mut sent).await {
            return Ok(outcome);
        }
        if upload.moved_at() + standing <= Instant::now() {
            return Err(late());
        }
    }
}

fn deliver(
    visitor: &Visitor,
    response: Response<Incoming>,
    lease: Lease,
    tunnel: Option<tunnel::Request>,
) -> Result<Response<ResponseBody>, Fault> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let tunnel = tunnel.ok_or_else(bad_answer)?;
        return tunnel.open(response, lease.ticket, &visitor.shared).map_err(|tunnel::NotAsked| bad_answer());
    }
    let (mut head, body) = response.into_parts();
    clean(&mut head.headers, &visitor.shared);
    let mut response = Response::new(ResponseBody::download(body, visitor.shared.limits.idle(), lease));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

/// Makes an instance's head into the one the visitor gets.
pub(crate) fn clean(headers: &mut HeaderMap, shared: &Shared) {
    headers::remove_hop_by_hop(headers);
    headers.remove(&ERROR_HEADER);
    headers.remove(&STATE_HEADER);
    if headers.contains_key(header::SET_COOKIE) {
        cookies::drop_shared(headers, &shared.picture.load().domain);
    }
}

fn broken(error: &hyper::Error, upload: Option<&Upload>) -> Fault {
    tracing::debug!(%error, "no answer from an instance");
    match upload {
        Some(upload) if upload.is_stalled() => {
            Fault::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "The request's body stopped coming.")
        }
        Some(upload) if upload.is_broken() => Fault::bad_request("The request's body is malformed or broke off."),
        _ => bad_answer(),
    }
}

fn bad_answer() -> Fault {
    Fault::new(
        StatusCode::BAD_GATEWAY,
        "bad-answer",
        "The app closed the connection without an answer, or answered something that is not HTTP.",
    )
}

impl Visitor {
    /// A number that differs from request to request.
    pub(crate) fn turn(&self) -> usize {
        self.shared.turn.fetch_add(1, Ordering::Relaxed)
    }
}
