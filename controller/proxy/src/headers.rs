//! What happens to headers on their way through: those for one hop end here, and the instance is
//! told who asked for what.

use std::cell::Cell;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Names one request in every log it passes.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

const LONGEST_ID: usize = 128;

/// Removes what is meant for one connection only (RFC 9110, section 7.6.1). `TE: trailers` is kept
/// as such, since both our sides can carry trailers.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    if let Some(te) = headers.remove(header::TE)
        && tokens(te.as_bytes()).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
    {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    headers.remove(header::UPGRADE);
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(&KEEP_ALIVE);
    headers.remove(&PROXY_CONNECTION);
    headers.remove(header::PROXY_AUTHORIZATION);
    headers.remove(header::PROXY_AUTHENTICATE);
}

/// The headers that `Connection` names, but for its own words and for those that say where a
/// request goes and how long it is: naming these is an attempt to have them disappear on the way.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter();
    values
        .flat_map(|value| tokens(value.as_bytes()))
        .filter(|token| !token.eq_ignore_ascii_case(b"close") && !token.eq_ignore_ascii_case(b"keep-alive"))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
        .collect()
}

/// The items of a comma-separated header.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Whether `Connection` names this option.
pub(crate) fn connection_names(headers: &HeaderMap, option: &[u8]) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|value| tokens(value.as_bytes()).any(|token| token.eq_ignore_ascii_case(option)))
}

/// Tells the instance who asked, for which host and how. What the visitor claims of this is
/// replaced: we are the first hop that can be believed.
pub(crate) fn add_forwarded(headers: &mut HeaderMap, visitor: &HeaderValue, host: HeaderValue, id: HeaderValue) {
    headers.remove(header::FORWARDED);
    headers.remove(&REAL_IP);
    headers.insert(FORWARDED_FOR, visitor.clone());
    headers.insert(FORWARDED_HOST, host);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    headers.insert(REQUEST_ID, id);
}

/// The visitor's own id of the request if it is a sane one, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(&REQUEST_ID) {
        Some(id) if is_sane(id.as_bytes()) => id.clone(),
        _ => new_request_id(),
    }
}

fn is_sane(id: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:=+/".contains(b);
    !id.is_empty() && id.len() <= LONGEST_ID && id.iter().all(allowed)
}

/// 32 hexadecimal digits: 64 bits of the thread's own, and a count. They need to differ, not to be
/// secret, so the kernel is asked once a thread.
fn new_request_id() -> HeaderValue {
    thread_local!(static NEXT: Cell<Option<(u64, u64)>> = const { Cell::new(None) });
    let (thread, count) = NEXT.get().unwrap_or_else(|| {
        let mut seed = [0_u8; 16];
        // Without randomness ids could repeat over threads; requests are served all the same.
        let _ = getrandom::fill(&mut seed);
        let (a, b) = seed.split_at(8);
        (u64::from_ne_bytes(a.try_into().unwrap_or_default()), u64::from_ne_bytes(b.try_into().unwrap_or_default()))
    });
    NEXT.set(Some((thread, count.wrapping_add(1))));
    let mut text = [0_u8; 32];
    for (digits, number) in text.chunks_exact_mut(16).zip([thread, count.wrapping_mul(0x9e37_79b9_7f4a_7c15)]) {
        for (place, digit) in digits.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(number >> (60 - 4 * place) & 15) as usize];
        }
    }
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text)).unwrap_or(HeaderValue::from_static("none"))
}

/// Joins the cookie headers that HTTP/2 lets a visitor split (RFC 9113, section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::COOKIE).iter();
    if values.next().is_none() || values.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(all.join(&b"; "[..]))) {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn headers_for_one_hop_end_here_also_those_that_connection_names() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "keep-alive, host, x-other"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("x-kept", "3"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "close"),
            ("host", "a.b"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("x-kept", "3"), ("te", "trailers"), ("host", "a.b")]));
    }

    #[test]
    fn what_a_visitor_claims_about_itself_is_replaced() {
        let mut headers = map(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
        ]);
        headers.append(FORWARDED_FOR, HeaderValue::from_static("7.7.7.7"));
        add_forwarded(
            &mut headers,
            &HeaderValue::from_static("127.0.0.1"),
            HeaderValue::from_static("a.b:80"),
            HeaderValue::from_static("id"),
        );
        let wanted = [
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a.b:80"),
            ("x-request-id", "id"),
        ];
        assert_eq!(headers, map(&wanted));
    }

    #[test]
    fn a_sane_request_id_is_kept_and_others_are_replaced_by_one_that_differs() {
        assert_eq!(request_id(&map(&[("x-request-id", "7f3e-a.b")])), "7f3e-a.b");
        let (a, b) = (request_id(&map(&[("x-request-id", "with space")])), request_id(&HeaderMap::new()));
        assert_eq!((a.len(), b.len()), (32, 32));
        assert_ne!(a, b);
    }

    #[test]
    fn cookies_that_were_split_are_joined() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut headers);
        assert_eq!(headers, map(&[("cookie", "a=1; b=2")]));
    }
}
