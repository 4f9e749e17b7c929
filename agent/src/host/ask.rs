//! One HTTP request to an app, by which its boot check finds out whether it can serve.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long one answer may take to begin.
const LIMIT: Duration = Duration::from_secs(5);
/// What an app's log shows of whose request it was.
const AGENT: &str = "drowse-boot-check";

/// Asks for `path`; `Err` is what happened instead of an answer 2xx or 3xx, as a sentence about the app.
pub(super) async fn ask(endpoint: SocketAddr, host: Option<&str>, path: &str) -> Result<(), String> {
    let asked = tokio::time::timeout(LIMIT, status(endpoint, host, path)).await;
    let status = asked.map_err(|_| format!("it did not answer within {} s", LIMIT.as_secs()))??;
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("it answered {status}")) }
}

async fn status(endpoint: SocketAddr, host: Option<&str>, path: &str) -> Result<StatusCode, String> {
    let host = host.map_or_else(|| endpoint.to_string(), ToOwned::to_owned);
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| format!("{path:?} is no path"))?;
    let stream = TcpStream::connect(endpoint).await.map_err(|error| format!("it took no connection: {error}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| in_words(&error))?;
    // The answer's body is of no interest: the connection ends with this call.
    let answer = sender.send_request(request);
    tokio::pin!(connection, answer);
    tokio::select! {
        answer = &mut answer => answer.map(|answer| answer.status()).map_err(|error| in_words(&error)),
        _ = &mut connection => answer.await.map(|answer| answer.status()).map_err(|error| in_words(&error)),
    }
}

fn in_words(error: &hyper::Error) -> String {
    let mut source = std::error::Error::source(error);
    let mut is_reset = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
    while let Some(cause) = source {
        is_reset |= cause.downcast_ref::<io::Error>().is_some();
        source = cause.source();
    }
    if is_reset {
        "it closed the connection without an answer".to_owned()
    } else {
        "it answered something that is not HTTP".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What is said of an app that answers every request with these bytes; none: not at all.
    async fn said(answer: Option<&'static str>) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let endpoint = listener.local_addr().expect("an address");
        let app = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = [0; 4096];
            let length = stream.read(&mut head).await.expect("a request");
            if let Some(answer) = answer {
                stream.write_all(answer.as_bytes()).await.expect("written");
                stream.shutdown().await.expect("closed");
            } else {
                std::future::pending::<()>().await;
            }
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        let said = ask(endpoint, Some("shop.example"), "/health?deep=1").await;
        if answer.is_some() {
            let head = app.await.expect("joined").to_ascii_lowercase();
            assert!(head.starts_with("get /health?deep=1 http/1.1\r\n"), "{head}");
            assert!(head.contains("host: shop.example\r\n"), "{head}");
        }
        said
    }

    #[tokio::test]
    async fn good_answers_and_redirections_will_do_and_all_else_is_told() {
        assert_eq!(said(Some("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")).await, Ok(()));
        assert_eq!(said(Some("HTTP/1.1 204 No Content\r\n\r\n")).await, Ok(()));
        assert_eq!(said(Some("HTTP/1.0 302 Found\r\nlocation: /login\r\n\r\n")).await, Ok(()));
        let told = said(Some("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")).await;
        assert_eq!(told, Err("it answered 503 Service Unavailable".to_owned()));
        let told = said(Some("SSH-2.0-OpenSSH_9.2\r\n")).await;
        assert_eq!(told, Err("it answered something that is not HTTP".to_owned()));
        assert_eq!(said(Some("")).await, Err("it closed the connection without an answer".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_accepts_and_never_answers_is_told_so() {
        assert_eq!(said(None).await, Err("it did not answer within 5 s".to_owned()));
    }
}
