//! Bodies in and out: JSON, and problems by RFC 9457.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use drowse_api::error::PROBLEM_JSON;
use drowse_api::{ErrorCode, Problem};
use serde::de::DeserializeOwned;

/// A call that did not succeed.
#[derive(Debug)]
pub struct Refused(pub Problem);

/// What a call answers.
pub type Answer<T> = Result<Json<T>, Refused>;

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response
    }
}

fn bytes(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    body.map_err(|rejection| {
        let code = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
            _ => ErrorCode::BadRequest,
        };
        Problem::new(code, rejection.body_text())
    })
}

/// Reads a JSON body.
///
/// # Errors
/// `too-large`, or `bad-request` with the place of the mistake.
pub fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    let bytes = bytes(body)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Problem::new(ErrorCode::BadRequest, format!("the body cannot be used: {error}")))
}

/// Reads a JSON body that may hold secrets: what is wrong with it is said without a word of it.
///
/// # Errors
/// As [`read`].
pub fn read_secret<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    let bytes: Bytes = bytes(body)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Problem::new(ErrorCode::BadRequest, format!("the body cannot be used: line {line}, column {column}"))
    })
}

/// Reads an id out of the path.
///
/// # Errors
/// `bad-request` with the rule.
pub fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: T::Err| Problem::new(ErrorCode::BadRequest, error.to_string()))
}

/// What stands after the question mark.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Query {
    /// The decision a removal belongs to.
    pub epoch: Option<u64>,
    /// Whether to go on with what comes.
    pub follow: bool,
    /// How many of the last lines.
    pub tail: Option<usize>,
    /// The number after which to begin.
    pub after: u64,
    /// The log of events that the number is of.
    pub log: Option<String>,
    /// The name of a router that follows.
    pub router: Option<String>,
}

/// Reads what stands after the question mark.
///
/// # Errors
/// `bad-request`.
pub fn query(
    query: Result<axum::extract::Query<Query>, axum::extract::rejection::QueryRejection>,
) -> Result<Query, Problem> {
    query.map(|query| query.0).map_err(|rejection| Problem::new(ErrorCode::BadRequest, rejection.body_text()))
}
