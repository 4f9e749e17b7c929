//! One request over a connection of its own, with the time to the first byte of its answer: no library is in
//! between.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);

/// An answer with status 200.
#[derive(Debug)]
pub struct Answer {
    /// From the beginning of the connection.
    pub first_byte: Duration,
    /// The lines before the body.
    head: String,
    /// What it says.
    pub body: String,
}

impl Answer {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// `GET`, as a program would ask.
///
/// # Errors
/// When no whole answer arrives, or its status is not 200.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> Result<Answer> {
    tokio::time::timeout(LIMIT, ask(address, host, path)).await.context("no answer in time")?
}

async fn ask(address: SocketAddr, host: &str, path: &str) -> Result<Answer> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: */*\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = vec![0];
    ensure!(stream.read(&mut bytes).await? == 1, "the connection was closed without an answer");
    let first_byte = began.elapsed();
    stream.read_to_end(&mut bytes).await?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").context("the answer breaks off")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "not 200: {text}");
    Ok(Answer { first_byte, head: head.to_owned(), body: body.to_owned() })
}
