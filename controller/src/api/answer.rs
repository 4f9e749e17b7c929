//! Answers and refusals: every failure is a problem document, also those that axum finds.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::response::{IntoResponse, Response};
use drowse_api::error::PROBLEM_JSON;
use drowse_api::{ErrorCode, Problem};
use http::{HeaderValue, StatusCode, header};
use serde::de::DeserializeOwned;

/// A problem as a response.
#[derive(Debug)]
pub struct Refusal(pub Problem);

/// How long a body that is no upload may take.
const SLOWEST: Duration = Duration::from_secs(30);

/// What a call answers.
pub type Answer<T> = Result<T, Refusal>;

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(problem = %self.0, "a call failed");
        }
        let mut response = (status, axum::Json(self.0)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response
    }
}

/// The query, checked.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut http::request::Parts, state: &S) -> Answer<Self> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|error| bad_request(error.body_text()).into())
    }
}

async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<bytes::Bytes, Problem> {
    let read = tokio::time::timeout(SLOWEST, bytes::Bytes::from_request(request, state)).await;
    let slow = |_| Problem::new(ErrorCode::Deadline, format!("the body did not arrive in {} s", SLOWEST.as_secs()));
    read.map_err(slow)?.map_err(|error| {
        let is_large = error.status() == StatusCode::PAYLOAD_TOO_LARGE;
        Problem::new(if is_large { ErrorCode::TooLarge } else { ErrorCode::BadRequest }, error.body_text())
    })
}

/// A JSON body, checked. The media type is not: `curl -d` needs no header then.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refusal;
    async fn from_request(request: Request, state: &S) -> Answer<Self> {
        let bytes = body(request, state).await?;
        let value = serde_json::from_slice(&bytes);
        value.map(Self).map_err(|error| bad_request(format!("the body is not what is expected: {error}")).into())
    }
}

/// A JSON body that holds secrets: what is wrong with it is said without a word of it.
#[derive(Debug)]
pub struct SecretJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for SecretJson<T> {
    type Rejection = Refusal;
    async fn from_request(request: Request, state: &S) -> Answer<Self> {
        let bytes = body(request, state).await?;
        let value = serde_json::from_slice(&bytes);
        value.map(Self).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            bad_request(format!("the body is not what is expected (line {line}, column {column})")).into()
        })
    }
}

/// A `bad-request`.
pub fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::BadRequest, detail)
}

/// Reads a name or id in a path or query.
///
/// # Errors
/// Which rule it breaks.
pub fn parsed<T: std::str::FromStr<Err = drowse_api::ids::NameError>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: drowse_api::ids::NameError| bad_request(error.to_string()))
}
