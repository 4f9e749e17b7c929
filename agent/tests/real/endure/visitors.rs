//! Visitors who ask an app all the time, and keep what went wrong.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::LIMIT;

/// Between two requests of one visitor.
const PAUSE: Duration = Duration::from_millis(40);

#[derive(Default)]
struct Tally {
    over: AtomicBool,
    answered: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// One visitor for each address.
pub(super) struct Visitors {
    tally: Arc<Tally>,
    tasks: JoinSet<()>,
}

impl Visitors {
    pub(super) fn of(addresses: impl Iterator<Item = SocketAddr>) -> Self {
        let (tally, mut tasks) = (Arc::<Tally>::default(), JoinSet::new());
        for address in addresses {
            let tally = Arc::clone(&tally);
            tasks.spawn(async move {
                while !tally.over.load(Ordering::Relaxed) {
                    match tokio::time::timeout(LIMIT, ask(address)).await {
                        Ok(Ok(answer)) if answer.ends_with("hello\n") => {
                            tally.answered.fetch_add(1, Ordering::Relaxed);
                        }
                        other => tally.failures.lock().unwrap().push(format!("{address}: {other:?}")),
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        Self { tally, tasks }
    }

    /// What went wrong so far.
    pub(super) fn failures(&self) -> Vec<String> {
        self.tally.failures.lock().unwrap().clone()
    }

    pub(super) fn answered(&self) -> u64 {
        self.tally.answered.load(Ordering::Relaxed)
    }

    /// Sends them away; how many answers they got, and what went wrong.
    pub(super) async fn leave(mut self) -> (u64, Vec<String>) {
        self.tally.over.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        (self.answered(), self.failures())
    }
}

async fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
