//! What fuzzing sends its bytes to, and what it begins with; see `tests/fuzz`. A connection with the limits of
//! the real one, and every call's own readers of paths, queries and bodies; nothing is done with what they read.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query as UrlQuery};
use axum::middleware::from_fn;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use drowse_api::agent::{BuildRequest, StopRequest};
use drowse_api::instance::InstanceSpec;
use drowse_api::{DeploymentId, Digest, InstanceId, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::{Answer, Query, parse, query, read};
use super::peer::Class;
use super::{MAX_JSON, deadline, listen, unknown, wrong_method};

type Body = Result<Bytes, BytesRejection>;
type Url = Result<UrlQuery<Query>, QueryRejection>;

/// What was read is written and read again: it must be the same.
fn checked<T: DeserializeOwned + Serialize>(body: Body) -> Result<T, Problem> {
    let value: T = read(body)?;
    let text = serde_json::to_vec(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&text).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&again).expect("written"), text, "it changed on its way");
    Ok(value)
}

async fn put_instance(Path(id): Path<String>, body: Body) -> Answer<InstanceSpec> {
    parse::<InstanceId>(&id)?;
    Ok(Json(checked(body)?))
}

async fn stop_instance(Path(id): Path<String>, body: Body) -> Answer<StopRequest> {
    parse::<InstanceId>(&id)?;
    Ok(Json(checked(body)?))
}

async fn put_build(Path(id): Path<String>, body: Body) -> Answer<BuildRequest> {
    parse::<DeploymentId>(&id)?;
    Ok(Json(checked(body)?))
}

async fn with_query(Path(id): Path<String>, url: Url) -> Answer<Option<u64>> {
    parse::<InstanceId>(&id)?;
    Ok(Json(query(url)?.epoch))
}

async fn blob(Path(digest): Path<String>) -> Answer<Digest> {
    Ok(Json(parse(&digest)?))
}

fn router() -> Router {
    Router::new()
        .route("/v1/node", get(async || Json(())))
        .route("/v1/instances/{id}", put(put_instance).delete(with_query))
        .route("/v1/instances/{id}/stop", post(stop_instance))
        .route("/v1/instances/{id}/logs", get(with_query))
        .route("/v1/builds/{id}", put(put_build))
        .route("/v1/blobs/{digest}", get(blob))
        .layer(DefaultBodyLimit::max(MAX_JSON))
        .layer(from_fn(deadline))
        .layer(from_fn(listen::only_control))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
}

/// Sends the bytes over a connection, as root. What is answered is HTTP.
///
/// # Panics
/// When it is not.
pub fn call(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let (ours, theirs) = tokio::io::duplex(bytes.len().max(1));
        let served = tokio::spawn(listen::connection(theirs, router(), Class::Control));
        let (mut from, mut to) = tokio::io::split(ours);
        let sending = async {
            let _ = to.write_all(bytes).await;
            let _ = to.shutdown().await;
        };
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(sending, from.read_to_end(&mut answer));
        read.expect("reads to the end");
        served.await.expect("nothing panicked");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{:?}", String::from_utf8_lossy(&answer));
    });
}

/// Calls to begin with.
#[must_use]
pub fn calls() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "1".repeat(64));
    let spec = format!(
        r#"{{"id":"web","epoch":1,"user":"u","app":"shop","deployment":"d1","workload":"web","image":"{digest}","env":{{"A":"b"}},"limits":{{"memory":67108864,"pids":512,"cpu_weight":100}},"boot":{{"timeout_seconds":10}},"on_boot_failure":"fail"}}"#
    );
    let build = format!(
        r#"{{"deployment":"d1","app":"shop","user":"u","input":{{"app_type":"static","source":"{digest}"}},"env":{{}},"limits":{{"memory":2147483648,"pids":512,"timeout_seconds":1800}}}}"#
    );
    let with_body = |head: &str, body: &str| {
        format!("{head} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    };
    let plain = |head: &str| format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    [
        plain("GET /v1/node"),
        with_body("PUT /v1/instances/web", &spec),
        with_body("PUT /v1/builds/d1", &build),
        with_body("POST /v1/instances/web/stop", r#"{"epoch":2,"grace_seconds":10,"reason":"told to"}"#),
        plain("DELETE /v1/instances/web?epoch=3"),
        plain("GET /v1/instances/web/logs?tail=5&follow=true&after=7&log=x"),
        plain(&format!("GET /v1/blobs/{digest}")),
        "PUT /v1/instances/web HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_owned(),
        "GET /v1/node HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/%2e%2e HTTP/1.0\r\n\r\n".to_owned(),
    ]
    .map(String::into_bytes)
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fuzzing_begins_with_and_once_found_does_no_harm() {
        for bytes in calls().into_iter().chain(drowse_rootfs::fuzzing::findings("api")) {
            call(&bytes);
        }
    }
}
