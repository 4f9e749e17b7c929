//! What the router answers itself: coded errors, as a page for people and as
//! `application/problem+json` (RFC 9457) for programs.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use drowse_api::error::PROBLEM_JSON;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;

/// The header that tells the router's own errors from an app's, with the code.
pub(crate) const ERROR_HEADER: HeaderName = HeaderName::from_static("x-drowse-error");

/// An error the router answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) status: StatusCode,
    /// The word that programs match.
    pub(crate) code: Cow<'static, str>,
    /// One sentence for people.
    pub(crate) detail: Cow<'static, str>,
    /// What to do about it.
    pub(crate) hint: Option<Cow<'static, str>>,
    /// Seconds after which asking again makes sense.
    pub(crate) retry_after: Option<u32>,
}

impl Fault {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code: Cow::Borrowed(code), detail: detail.into(), hint: None, retry_after: None }
    }

    pub(crate) fn bad_request(detail: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    pub(crate) fn unavailable(code: &'static str, detail: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(1)
    }

    pub(crate) fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The answer, in the form that the visitor reads.
    pub(crate) fn answer(&self, form: Form, request_id: &HeaderValue) -> Response<Bytes> {
        let id = request_id.to_str().unwrap_or_default();
        let (body, media) = match form {
            Form::Page => (self.page(id), HeaderValue::from_static("text/html; charset=utf-8")),
            Form::Problem => (self.problem(id), HeaderValue::from_static(PROBLEM_JSON)),
        };
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, media);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if form == Form::Page {
            headers.insert(
                header::CONTENT_SECURITY_POLICY,
                HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
            );
        }
        if let Ok(code) = HeaderValue::from_str(&self.code) {
            headers.insert(ERROR_HEADER, code);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers.insert(crate::headers::REQUEST_ID, request_id.clone());
        response
    }

    fn problem(&self, request_id: &str) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            title: &'a str,
            status: u16,
            code: &'a str,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            hint: Option<&'a str>,
            request_id: &'a str,
        }
        serde_json::to_string(&Body {
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: &self.code,
            detail: &self.detail,
            hint: self.hint.as_deref(),
            request_id,
        })
        .unwrap_or_default()
    }

    fn page(&self, request_id: &str) -> String {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let mut page = String::with_capacity(1500);
        page.push_str(PAGE_HEAD);
        let _ = write!(
            page,
            "<title>{status} {title}</title></head><body><main><h1>{title}</h1><p>{detail}</p>",
            status = self.status.as_u16(),
            detail = Escaped(&self.detail),
        );
        if let Some(hint) = &self.hint {
            let _ = write!(page, "<p>{}</p>", Escaped(hint));
        }
        let _ = writeln!(
            page,
            "<p class=small>{status} <code>{code}</code> · request <code>{id}</code></p></main></body></html>",
            status = self.status.as_u16(),
            code = Escaped(&self.code),
            id = Escaped(request_id),
        );
        page
    }
}

const PAGE_HEAD: &str = "<!doctype html><html lang=en><head><meta charset=utf-8>\
<meta name=viewport content=\"width=device-width,initial-scale=1\"><meta name=color-scheme content=\"light dark\">\
<style>:root{color-scheme:light dark}body{margin:0;min-height:100vh;display:grid;place-items:center;\
font:1rem/1.5 system-ui,sans-serif;background:#fafafa;color:#1c1c1e}main{max-width:34rem;padding:2rem}\
h1{font-size:1.5rem;margin:0 0 .75rem}p{margin:0 0 .75rem}.small{font-size:.8125rem;opacity:.75}\
code{font-family:ui-monospace,monospace}\
@media(prefers-color-scheme:dark){body{background:#1c1c1e;color:#f2f2f7}}</style>";

/// Who is asking: a person with a browser, or a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Page,
    Problem,
}

impl Form {
    /// A page for whoever names `text/html` among what it accepts.
    pub(crate) fn wanted_by(headers: &HeaderMap) -> Self {
        let names_html = |value: &HeaderValue| {
            value.as_bytes().split(|b| *b == b',').any(|item| {
                let kind = item.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
                kind.eq_ignore_ascii_case(b"text/html") || kind.eq_ignore_ascii_case(b"application/xhtml+xml")
            })
        };
        if headers.get_all(header::ACCEPT).iter().any(names_html) { Form::Page } else { Form::Problem }
    }
}

/// Text inside HTML, as content or in a quoted attribute.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_escapes_what_others_wrote() {
        let fault = Fault::new(StatusCode::SERVICE_UNAVAILABLE, "stopped", "<script>alert('1')</script> & \"x\"");
        let answer = fault.answer(Form::Page, &HeaderValue::from_static("\"><b>"));
        let page = String::from_utf8(answer.body().to_vec()).expect("UTF-8");
        assert!(!page.contains("<script>") && !page.contains("<b>"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;x&quot;"), "{page}");
        assert!(page.len() < 2500);
    }

    #[test]
    fn browsers_get_a_page_and_programs_a_problem() {
        let form = |accept: &'static str| {
            Form::wanted_by(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert_eq!(form("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"), Form::Page);
        assert_eq!(form("application/json"), Form::Problem);
        assert_eq!(form("*/*"), Form::Problem);
        assert_eq!(Form::wanted_by(&HeaderMap::new()), Form::Problem);
    }
}
