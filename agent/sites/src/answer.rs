//! One request to one site: the library's file service, with what it leaves open put right.
//!
//! Added here: the site's own 404 page, charsets, caching rules, `If-Range`, and no redirect that a
//! browser would read as another host. Whoever takes gzip gets the copy that lies beside a file under its
//! name with `.gz`, where there is one: nothing is compressed while someone waits.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use tower_http::services::ServeDir;

use crate::folder::Site;

/// The body of every answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Browsers may keep files and must ask whether they are still right: a deploy shows at once.
const CACHING: HeaderValue = HeaderValue::from_static("public, max-age=0, must-revalidate");
const NOT_FOUND_PAGE: &str = "/404.html";
const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Answers a request to `site`; `None` is an address without one.
pub async fn answer<B>(request: Request<B>, site: Option<Site>) -> Response<Body> {
    let is_head = request.method() == Method::HEAD;
    let mut response = match (site, files_request(&request)) {
        (Some(site), Some(request)) => from_site(request, site).await,
        (None, _) => text(StatusCode::NOT_FOUND, "There is no site at this address.\n"),
        (_, None) => text(StatusCode::BAD_REQUEST, "This request has no path.\n"),
    };
    if is_head {
        *response.body_mut() = empty();
    }
    response
}

async fn from_site(request: Request<Empty<Bytes>>, site: Site) -> Response<Body> {
    let if_range = request.headers().get(header::IF_RANGE).cloned();
    let mut response = serve(request.clone(), site.clone()).await;
    if is_other_version(response.status(), response.headers(), if_range.as_ref()) {
        response = serve(without(request, &[header::RANGE]), site.clone()).await;
    }
    match response.status() {
        StatusCode::NOT_FOUND => not_found(site).await,
        StatusCode::INTERNAL_SERVER_ERROR => text(StatusCode::INTERNAL_SERVER_ERROR, "This file cannot be read.\n"),
        StatusCode::METHOD_NOT_ALLOWED => {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "A site answers only GET and HEAD.\n");
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            refusal
        }
        _ => finished(response),
    }
}

/// The request as the file service is to see it: its path without a host and with one leading
/// slash (`//name` in a redirect would be a host), and `Range` only where it has a meaning.
fn files_request<B>(request: &Request<B>) -> Option<Request<Empty<Bytes>>> {
    let asked = request.uri().path_and_query()?.as_str();
    if !asked.starts_with('/') {
        return None;
    }
    let path: PathAndQuery = format!("/{}", asked.trim_start_matches('/')).parse().ok()?;
    let mut files = Request::new(Empty::new());
    *files.method_mut() = request.method().clone();
    *files.uri_mut() = Uri::from(path);
    *files.headers_mut() = request.headers().clone();
    let range = request.headers().get(header::RANGE);
    let has_range = request.method() == Method::GET && range.is_some_and(|r| r.as_bytes().starts_with(b"bytes="));
    // Parts are of the file as it is, whatever copies there are.
    Some(without(files, if has_range { &[header::ACCEPT_ENCODING] } else { &[header::RANGE] }))
}

fn without(mut request: Request<Empty<Bytes>>, names: &[HeaderName]) -> Request<Empty<Bytes>> {
    for name in names {
        request.headers_mut().remove(name);
    }
    request
}

/// Whether a part was asked for of a version that is no longer the current one; then the whole
/// file is the answer (RFC 9110, section 13.1.5).
fn is_other_version(status: StatusCode, found: &HeaderMap, if_range: Option<&HeaderValue>) -> bool {
    let is_part = matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE);
    let current = [found.get(header::ETAG), found.get(header::LAST_MODIFIED)];
    is_part && if_range.is_some_and(|wanted| !current.contains(&Some(wanted)))
}

async fn serve(request: Request<Empty<Bytes>>, site: Site) -> Response<Body> {
    let mut files = ServeDir::with_backend("", site).ignore_multi_range_requests(true).precompressed_gzip();
    // The kinds of error are told apart by `call`, which maps them to 404 and 500.
    let answered: Result<_, Infallible> = tower_service::Service::call(&mut files, request).await;
    let Ok(response) = answered;
    response.map(|body| body.boxed_unsync())
}

async fn not_found(site: Site) -> Response<Body> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = Uri::from_static(NOT_FOUND_PAGE);
    let response = serve(request, site).await;
    if response.status() != StatusCode::OK {
        return text(StatusCode::NOT_FOUND, "There is nothing at this path.\n");
    }
    let mut response = finished(response);
    *response.status_mut() = StatusCode::NOT_FOUND;
    for name in [header::ETAG, header::LAST_MODIFIED, header::ACCEPT_RANGES] {
        response.headers_mut().remove(name);
    }
    response
}

fn finished(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, CACHING);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(kind) = headers.get(header::CONTENT_TYPE).and_then(with_charset) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    response
}

/// The type with `charset=utf-8`, where it is a text without one.
fn with_charset(kind: &HeaderValue) -> Option<HeaderValue> {
    let kind = kind.to_str().ok()?;
    let is_text = kind.starts_with("text/") || matches!(kind, "application/javascript" | "image/svg+xml");
    if !is_text || kind.contains(';') {
        return None;
    }
    HeaderValue::from_str(&format!("{kind}; charset=utf-8")).ok()
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, PLAIN_TEXT);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    headers.insert(header::CACHE_CONTROL, CACHING);
    response
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
