//! Everything that visitors do at once: short requests over kept, fresh and HTTP/2 connections, uploads,
//! downloads, and a WebSocket. Whatever is not as it should be is a failure, with when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use crate::http::{Socket, Visitor, whole};

/// How long one exchange may take before it counts as failed.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two exchanges of one visitor.
const PAUSE: Duration = Duration::from_millis(20);
const CHUNK: usize = 1000;

/// What visitors got.
#[derive(Debug, Clone, Default)]
pub struct Got {
    /// Exchanges that went well, by their kind.
    pub exchanges: BTreeMap<&'static str, u64>,
    /// Answers by the version that gave them.
    pub versions: BTreeMap<String, u64>,
    /// What went wrong.
    pub failures: Vec<String>,
}

#[derive(Debug)]
struct Shared {
    visitor: Visitor,
    app: String,
    began: Instant,
    end: CancellationToken,
    got: Mutex<Got>,
}

/// Visitors of every kind, who go on until they are told to stop.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Begins to visit an app that is a probe.
    #[must_use]
    pub fn start(visitor: &Visitor, app: &str) -> Self {
        let shared = Arc::new(Shared {
            visitor: visitor.clone(),
            app: app.to_owned(),
            began: Instant::now(),
            end: CancellationToken::new(),
            got: Mutex::default(),
        });
        let tasks = vec![
            tokio::spawn(again(Arc::clone(&shared), "fresh connection", async |shared: &Shared| fresh(shared).await)),
            tokio::spawn(again(Arc::clone(&shared), "HTTP/2", async |shared: &Shared| http2(shared).await)),
            tokio::spawn(again(Arc::clone(&shared), "upload", async |shared: &Shared| upload(shared).await)),
            tokio::spawn(again(Arc::clone(&shared), "download", async |shared: &Shared| download(shared).await)),
            tokio::spawn(kept(Arc::clone(&shared))),
            tokio::spawn(websocket(Arc::clone(&shared))),
        ];
        Self { shared, tasks }
    }

    /// What was got until now.
    #[must_use]
    pub fn got(&self) -> Got {
        self.shared.lock().clone()
    }

    /// Waits until visitors of every kind have got so many more answers.
    pub async fn more(&self, each: u64) {
        let before = self.got().exchanges;
        crate::wait::until("visitors of every kind are answered", Duration::from_secs(120), async || {
            let got = self.got();
            let enough = |kind: &&str| {
                let count = |of: &BTreeMap<&'static str, u64>| of.get(kind).copied().unwrap_or_default();
                count(&got.exchanges) >= count(&before) + each
            };
            (!got.failures.is_empty() || KINDS.iter().all(enough)).then_some(())
        })
        .await;
    }

    /// Lets the visitors finish, and returns what they got.
    pub async fn stop(self) -> Got {
        self.shared.end.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
        self.shared.lock().clone()
    }
}

/// What visitors do.
const KINDS: [&str; 6] = ["kept connection", "fresh connection", "HTTP/2", "upload", "download", "WebSocket"];

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Got> {
        // Held only to count; nothing panics meanwhile.
        self.got.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one exchange. `version`: who answered, where the answer tells.
    fn count(&self, kind: &'static str, result: Result<Option<String>>) {
        let mut got = self.lock();
        match result {
            Ok(version) => {
                *got.exchanges.entry(kind).or_default() += 1;
                if let Some(version) = version {
                    *got.versions.entry(version).or_default() += 1;
                }
            }
            Err(error) => got.failures.push(format!("{kind} at {:.1?}: {error:#}", self.began.elapsed())),
        }
    }
}

async fn again(shared: Arc<Shared>, kind: &'static str, exchange: impl AsyncFn(&Shared) -> Result<Option<String>>) {
    while !shared.end.is_cancelled() {
        let result = tokio::time::timeout(LIMIT, exchange(&shared)).await;
        shared.count(kind, result.unwrap_or_else(|_| bail!("not over after {LIMIT:?}")));
        tokio::time::sleep(PAUSE).await;
    }
}

fn version(text: &str) -> Option<String> {
    Some(text.split(' ').next().unwrap_or_default().to_owned())
}

async fn fresh(shared: &Shared) -> Result<Option<String>> {
    Ok(version(&shared.visitor.get(&shared.app, "/").await?.ok()?))
}

async fn http2(shared: &Shared) -> Result<Option<String>> {
    Ok(version(&shared.visitor.get_h2(&shared.app, "/").await?.ok()?))
}

/// A POST, which nobody may repeat, of a size that takes a few packets.
async fn upload(shared: &Shared) -> Result<Option<String>> {
    let body = vec![b'x'; 300_000];
    let got = shared.visitor.post(&shared.app, "/upload", body).await?.ok()?;
    // SHA-256 of what was sent.
    ensure!(got == UPLOADED, "the app got something else: {got}");
    Ok(None)
}

const UPLOADED: &str = "29927e273accc68286005017f7fa6e4f27bddb4db3083ff8b8d4c3667905b7fa";

/// Some two seconds of it.
async fn download(shared: &Shared) -> Result<Option<String>> {
    let path = format!("/stream?chunks=100&every=0.02&size={CHUNK}");
    let request = shared.visitor.request("GET", &shared.app, &path).body(Full::default())?;
    let answer = shared.visitor.open(request).await?;
    ensure!(answer.status() == 200, "{}", answer.status());
    let body = answer.into_body().collect().await.context("it broke off")?.to_bytes();
    ensure!(body.len() == 100 * CHUNK, "it has {} bytes", body.len());
    Ok(None)
}

/// Requests one after the other over a connection that is kept.
async fn kept(shared: Arc<Shared>) {
    let mut sender = None;
    while !shared.end.is_cancelled() {
        let result = tokio::time::timeout(LIMIT, async {
            let mut connection = match sender.take() {
                Some(connection) => connection,
                None => shared.visitor.connect().await?,
            };
            // Closed between two requests: a client makes a new one.
            if connection.ready().await.is_err() {
                connection = shared.visitor.connect().await?;
            }
            let request = shared.visitor.request("GET", &shared.app, "/").body(Full::default())?;
            let answer = whole(connection.send_request(request).await?).await?;
            sender = Some(connection);
            Ok(version(&answer.ok()?))
        });
        shared.count("kept connection", result.await.unwrap_or_else(|_| bail!("no answer in {LIMIT:?}")));
        tokio::time::sleep(PAUSE).await;
    }
}

/// Messages over a WebSocket, which is opened again when it is told that its other end goes away.
async fn websocket(shared: Arc<Shared>) {
    let mut socket: Option<Socket> = None;
    while !shared.end.is_cancelled() {
        let result = tokio::time::timeout(LIMIT, async {
            let mut open = match socket.take() {
                Some(open) => open,
                None => shared.visitor.websocket(&shared.app, "/websocket").await?,
            };
            open.send(Message::text("hello")).await.context("it takes no message")?;
            match open.next().await.context("it ended without a close")?.context("it broke off")? {
                Message::Text(text) if text.as_str() == "hello" => socket = Some(open),
                Message::Close(Some(frame)) if frame.code == CloseCode::Away => while open.next().await.is_some() {},
                other => bail!("it said {other:?}"),
            }
            Ok(None)
        });
        shared.count("WebSocket", result.await.unwrap_or_else(|_| bail!("no answer in {LIMIT:?}")));
        tokio::time::sleep(PAUSE).await;
    }
}
