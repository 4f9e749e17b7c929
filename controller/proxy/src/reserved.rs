//! The paths under `/.drowse/`, which are the platform's on every host: the button of the Wake Up page,
//! and what its script looks at.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Serialize;

use crate::admit::{self, Hold};
use crate::asker::Asking;
use crate::connection::Visitor;
use crate::fault::{Fault, Form};
use crate::host::HostKey;
use crate::instead::{Instead, STATE_HEADER};
use crate::page::Shown;
use crate::picture::Target;

/// The largest form: a path with what follows it.
const LARGEST_FORM: usize = 16 << 10;

pub(crate) fn is_reserved(path: &str) -> bool {
    path.strip_prefix("/.drowse").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a request for one of them. Known and unknown hosts alike have them.
pub(crate) async fn answer(
    visitor: &Visitor,
    host: &HostKey,
    request: Request<Incoming>,
) -> Result<Response<Bytes>, Instead> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/.drowse/wake") => wake(visitor, host, request).await,
        (&Method::GET, "/.drowse/state") => Ok(state(visitor, host)?),
        _ => Err(unknown().into()),
    }
}

fn unknown() -> Fault {
    Fault::new(StatusCode::NOT_FOUND, "reserved-path", "Paths under /.drowse/ belong to the platform.")
}

#[derive(Serialize)]
struct State {
    state: &'static str,
    /// How long waking took the last time, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    takes: Option<u32>,
}

fn state(visitor: &Visitor, host: &HostKey) -> Result<Response<Bytes>, Fault> {
    let picture = visitor.shared.picture.load();
    let Some(Target::App(app)) = picture.find(host.as_str()) else { return Err(unknown()) };
    let asleep: Vec<_> = app.instances().iter().filter(|instance| instance.gate.is_shut()).collect();
    let state = if app.instances().len() > asleep.len() {
        State { state: "awake", takes: None }
    } else if let Some(instance) = asleep.first() {
        let sleeper = instance.nap.sleeper();
        let is_waking = instance.nap.is_waited_for() || sleeper.as_ref().is_some_and(|sleeper| sleeper.is_waking);
        let takes = sleeper.and_then(|sleeper| sleeper.takes);
        State { state: if is_waking { "waking" } else { "sleeping" }, takes }
    } else {
        State { state: "waking", takes: None }
    };
    Ok(json(StatusCode::OK, &state))
}

fn json(status: StatusCode, state: &State) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(serde_json::to_vec(state).unwrap_or_default()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(STATE_HEADER, HeaderValue::from_static(state.state));
    response
}

/// The button was pressed: the answer waits for the app, and then leads to where the visitor wanted to go.
async fn wake(visitor: &Visitor, host: &HostKey, request: Request<Incoming>) -> Result<Response<Bytes>, Instead> {
    if !is_same_origin(request.headers()) {
        let detail = "The button works on the app's own page only: another site sent this.";
        return Err(Fault::new(StatusCode::FORBIDDEN, "cross-site", detail).into());
    }
    let (parts, body) = request.into_parts();
    let form = Limited::new(body, LARGEST_FORM).collect().await;
    let form = form.map_err(|_| Fault::bad_request("The form is malformed or too large."))?.to_bytes();
    let to = target(&form).ok_or_else(|| Fault::bad_request("The form does not say where to go on this host."))?;
    let asking = Asking { method: &parts.method, uri: &parts.uri, headers: &parts.headers, is_upgrade: false };
    let ready = admit::admit_by(visitor, host, asking, Hold::Until(visitor.shared.limits.wake())).await;
    let form = Form::wanted_by(&parts.headers);
    match ready {
        Ok(admitted) => {
            let is_app = admitted.app.is_some();
            drop(admitted);
            if !is_app {
                return Err(unknown().into());
            }
            if form == Form::Problem {
                return Ok(json(StatusCode::OK, &State { state: "awake", takes: None }));
            }
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::SEE_OTHER;
            let location = HeaderValue::from_str(&to).map_err(|_| Fault::bad_request("The path is malformed."))?;
            response.headers_mut().insert(header::LOCATION, location);
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok(response)
        }
        // A person goes on waiting on the page; a script has its own.
        Err(Instead::Fault(fault)) if fault.code == admit::WAKING && form == Form::Page => {
            let shown = Shown { app: host.as_str(), to: &to, sleeper: None, is_waking: true };
            Ok(visitor.shared.page.answer(&shown))
        }
        Err(instead) => Err(instead),
    }
}

/// Whether the app's own page sent this: browsers say so themselves, and scripts cannot make them lie.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = value("sec-fetch-site") {
        return site == "same-origin";
    }
    let Some(origin) = value("origin") else { return false };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    matches!((authority, value("host")), (Some(from), Some(host)) if from.eq_ignore_ascii_case(host))
}

/// Where the form leads: a path on this host, and nothing that a browser could take for another.
fn target(form: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(form).ok()?;
    let value = text.split('&').find_map(|pair| pair.strip_prefix("to="))?;
    let to = decoded(value)?;
    let is_path = to.starts_with('/')
        && !to.starts_with("//")
        && !to.starts_with("/\\")
        && to.bytes().all(|byte| byte.is_ascii_graphic())
        && !is_reserved(to.split('?').next().unwrap_or_default());
    is_path.then_some(to)
}

/// The value of a form's field (URL standard, section 5.1).
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_leads_to_a_path_of_this_host_and_nowhere_else() {
        assert_eq!(target(b"to=%2Fa%3Fb%3D1%26c%3D2").as_deref(), Some("/a?b=1&c=2"));
        assert_eq!(target(b"x=1&to=/").as_deref(), Some("/"));
        assert_eq!(target(b"to=/a%2520b").as_deref(), Some("/a%20b"), "what was encoded stays so");
        for bad in [
            "to=",
            "to=//evil.example",
            "to=/%5Cevil.example",
            "to=https://evil.example",
            "to=%2F%0D%0ASet-Cookie:a",
            "to=/.drowse/wake",
            "to=/%",
            "to=/%zz",
            "to=/a+b",
            "other=/",
        ] {
            assert_eq!(target(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn only_the_apps_own_page_may_press_the_button() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            let map =
                pairs.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
            map.collect()
        };
        let host = ("host", "shop.drowse.localhost:8080");
        let is = |pairs: &[(&'static str, &'static str)]| is_same_origin(&headers(pairs));
        assert!(is(&[host, ("sec-fetch-site", "same-origin")]));
        assert!(is(&[host, ("origin", "http://shop.drowse.localhost:8080")]));
        for site in ["cross-site", "same-site", "none"] {
            assert!(!is(&[host, ("sec-fetch-site", site), ("origin", "http://shop.drowse.localhost:8080")]), "{site}");
        }
        assert!(!is(&[host, ("origin", "http://blog.drowse.localhost:8080")]), "a neighbour");
        assert!(!is(&[host, ("origin", "null")]));
        assert!(!is(&[host]));
    }
}
