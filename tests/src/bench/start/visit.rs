//! The first visitor: tries to connect until somebody answers, and reads when the server began.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The port of every side.
pub(super) const PORT: u16 = 8080;
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_micros(200);

/// How long a start took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub exec: Duration,
    pub first_byte: Duration,
}

/// Now, by the clock that servers tell.
pub(super) fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Visits until there is an answer. `began` is when the start was asked for.
pub(super) async fn first(address: Ipv4Addr, began: Duration) -> anyhow::Result<Times> {
    let visit = async {
        loop {
            if let Ok(text) = once((address, PORT).into()).await
                && !text.is_empty()
            {
                return text;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let text = tokio::time::timeout(LIMIT, visit).await.with_context(|| format!("nobody answers at {address}"))?;
    let first_byte = now() - began;
    let (seconds, nanoseconds) = text.trim().split_once('.').context("the server tells no time")?;
    let at = Duration::new(seconds.parse()?, nanoseconds.parse()?);
    Ok(Times { exec: at.checked_sub(began).context("the server is an earlier one")?, first_byte })
}

async fn once(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
