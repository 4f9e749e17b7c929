//! The Wake Up page: what a person sees who visits an app that sleeps deeply.
//!
//! One page without anything from elsewhere. Its button is a plain form and works without script; with
//! script it shows how far the start is, and keeps what stands behind `#`. An operator's own page has
//! the same places to be filled.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use drowse_api::sleep::Sleeper;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use jiff::Timestamp;

use crate::fault::Escaped;
use crate::instead::STATE_HEADER;
use crate::router::RouterError;

/// The largest page of an operator.
const LARGEST: usize = 256 << 10;

/// What must stand in it: else the button would do nothing.
const NEEDED: [&str; 2] = ["action=\"/.drowse/wake\"", "{{to}}"];

/// How long a start is expected to take of which nothing is known, in milliseconds.
const GUESS: u32 = 2_000;

/// The page with its places.
#[derive(Debug, Clone)]
pub(crate) struct WakePage(Arc<str>);

/// What one visitor's page shows.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) app: &'a str,
    /// Path and what follows the question mark: where the visitor wanted to go.
    pub(crate) to: &'a str,
    pub(crate) sleeper: Option<&'a Sleeper>,
    /// It is on its way up.
    pub(crate) is_waking: bool,
}

impl WakePage {
    /// Ours, or the operator's.
    ///
    /// # Errors
    /// A page that cannot be read, is too large, or has no button.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, RouterError> {
        let Some(path) = path else { return Ok(Self(include_str!("wake.html").into())) };
        let refuse = |what: String| RouterError::WakePage { path: path.to_owned(), what };
        let page = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        if page.len() > LARGEST {
            return Err(refuse(format!("it has {} bytes; the limit is {LARGEST}", page.len())));
        }
        if let Some(missing) = NEEDED.into_iter().find(|needed| !page.contains(needed)) {
            let example = "<form method=\"post\" action=\"/.drowse/wake\"><input type=\"hidden\" name=\"to\" \
                           value=\"{{to}}\"><button>Wake up</button></form>";
            return Err(refuse(format!("{missing} is missing: it needs a form such as {example}")));
        }
        Ok(Self(page.into()))
    }

    /// The answer to one visitor.
    pub(crate) fn answer(&self, shown: &Shown<'_>) -> Response<Bytes> {
        let takes = shown.sleeper.and_then(|sleeper| sleeper.takes).unwrap_or(GUESS);
        let seconds = takes.div_ceil(1000).max(1);
        let nonce = nonce();
        let state = if shown.is_waking { "waking" } else { "sleeping" };
        let since = shown.sleeper.map_or_else(String::new, |sleeper| since(sleeper.since, Timestamp::now()));
        // Without script the page asks again by itself while the app is on its way.
        let refresh = if shown.is_waking {
            format!("<noscript><meta http-equiv=refresh content=\"{seconds};url={}\"></noscript>", Escaped(shown.to))
        } else {
            String::new()
        };
        let page = fill(&self.0, |place| match place {
            "app" => Some(Escaped(shown.app).to_string()),
            "to" => Some(Escaped(shown.to).to_string()),
            "state" => Some(state.to_owned()),
            "since" => Some(since.clone()),
            "takes" => Some(takes.to_string()),
            "nonce" => Some(nonce.clone()),
            "refresh" => Some(refresh.clone()),
            _ => None,
        });
        let mut response = Response::new(Bytes::from(page));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let policy = format!(
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src \
             data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        );
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        headers.insert(STATE_HEADER, HeaderValue::from_static(state));
        response
    }
}

/// The page with its places filled. What is put in is not looked at again.
fn fill(page: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::with_capacity(page.len() + 512);
    let mut rest = page;
    while let Some(at) = rest.find("{{") {
        let (before, place) = rest.split_at(at);
        filled.push_str(before);
        let found = place.find("}}").and_then(|end| Some((value(&place[2..end])?, end + 2)));
        match found {
            Some((text, end)) => {
                filled.push_str(&text);
                rest = &place[end..];
            }
            None => {
                filled.push_str("{{");
                rest = &place[2..];
            }
        }
    }
    filled.push_str(rest);
    filled
}

fn since(since: Timestamp, now: Timestamp) -> String {
    let minutes = now.duration_since(since).as_secs() / 60;
    match minutes {
        ..1 => "for a moment".to_owned(),
        1 => "for a minute".to_owned(),
        2..120 => format!("for {minutes} minutes"),
        120..2880 => format!("for {} hours", minutes / 60),
        _ => format!("for {} days", minutes / 1440),
    }
}

/// What allows this page's own script, and no other: nobody can know it before.
fn nonce() -> String {
    let mut bytes = [0_u8; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // The page works without its script.
        return "none".to_owned();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use drowse_api::sleep::Depth;

    fn page(shown: &Shown<'_>) -> (Response<Bytes>, String) {
        let answer = WakePage::read(None).expect("ours").answer(shown);
        let text = String::from_utf8(answer.body().to_vec()).expect("text");
        (answer, text)
    }

    #[test]
    fn the_page_is_small_whole_and_never_kept() {
        let (answer, text) = page(&Shown { app: "shop", to: "/a?b=1", sleeper: None, is_waking: false });
        assert_eq!(answer.status(), 503);
        assert!(text.len() < 10_000, "{} bytes", text.len());
        assert!(!text.contains("{{") && !text.contains("http://") && !text.contains("https://"), "{text}");
        let header = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
        assert_eq!((header("cache-control"), header("x-frame-options")), ("no-store".into(), "DENY".into()));
        assert!(header("content-security-policy").contains("frame-ancestors 'none'"));
        assert_eq!((header("retry-after"), header("x-drowse-state")), ("2".into(), "sleeping".into()));
        let (other, _) = page(&Shown { app: "shop", to: "/", sleeper: None, is_waking: false });
        assert_ne!(answer.headers()["content-security-policy"], other.headers()["content-security-policy"]);
    }

    #[test]
    fn markup_in_names_and_paths_stays_text() {
        let evil = "/\"><script>alert(1)</script>{{nonce}}?a='b'&c";
        let (_, text) = page(&Shown { app: "<b>shop</b>", to: evil, sleeper: None, is_waking: true });
        assert!(!text.contains("<script>alert") && !text.contains("<b>shop"), "{text}");
        assert!(text.contains("{{nonce}}"), "what was put in is not filled again");
    }

    #[test]
    fn it_tells_how_long_the_start_took_the_last_time() {
        let address = "10.0.0.1:8080".parse().expect("one");
        let since = Timestamp::now();
        let sleeper = Sleeper { address, depth: Depth::Cold, since, is_waking: true, takes: Some(4_200) };
        let (answer, text) = page(&Shown { app: "shop", to: "/", sleeper: Some(&sleeper), is_waking: true });
        assert_eq!(answer.headers()["retry-after"], "5");
        assert!(text.contains("data-takes=\"4200\"") && text.contains("http-equiv=refresh"), "{text}");
    }

    #[test]
    fn an_operators_page_must_have_the_button() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page.html");
        std::fs::write(&path, "<h1>{{app}} sleeps</h1>").expect("written");
        let error = WakePage::read(Some(&path)).expect_err("no button").to_string();
        assert!(error.contains("/.drowse/wake") && error.contains("is missing"), "{error}");
        let form = "<form method=post action=\"/.drowse/wake\"><input name=to value=\"{{to}}\"></form>{{app}}";
        std::fs::write(&path, form).expect("written");
        let own = WakePage::read(Some(&path)).expect("usable");
        let answer = own.answer(&Shown { app: "shop", to: "/x", sleeper: None, is_waking: false });
        assert!(String::from_utf8_lossy(answer.body()).contains("value=\"/x\"></form>shop"));
        assert!(WakePage::read(Some(&folder.path().join("none"))).is_err());
    }
}
