//! What a request gets instead of an instance's answer.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::asker::Bystander;
use crate::fault::Fault;

/// The header that tells what an app was doing when it was asked for.
pub(crate) const STATE_HEADER: HeaderName = HeaderName::from_static("x-drowse-state");

/// See the module.
#[derive(Debug)]
pub(crate) enum Instead {
    /// An error of ours.
    Fault(Fault),
    /// An answer of ours that is none: the Wake Up page, or what those get who only look by.
    Own(Box<Response<Bytes>>),
}

impl From<Fault> for Instead {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Instead {
    pub(crate) fn own(response: Response<Bytes>) -> Self {
        Self::Own(Box::new(response))
    }
}

/// An answer that nobody keeps.
pub(crate) fn plain(status: StatusCode, state: &'static str, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(STATE_HEADER, HeaderValue::from_static(state));
    response
}

/// What somebody gets who only looks by a sleeping app, which sleeps on.
pub(crate) fn sleeping(bystander: Bystander) -> Response<Bytes> {
    let mut response = match bystander {
        // As it should be: nobody is to be called at night for it.
        Bystander::Monitor => plain(StatusCode::OK, "sleeping", "sleeping: the app wakes when it is visited\n"),
        Bystander::Icon => plain(StatusCode::NO_CONTENT, "sleeping", ""),
        // Crawlers come back later and forget nothing; a browser throws the guess away.
        Bystander::Crawler | Bystander::Prefetch => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "sleeping", "sleeping: the app wakes when it is visited\n")
        }
    };
    let again = match bystander {
        Bystander::Crawler => Some(3600),
        Bystander::Prefetch => Some(1),
        Bystander::Monitor | Bystander::Icon => None,
    };
    if let Some(seconds) = again {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
