//! Visitors who ask all the time, to find out whether anybody notices what a test does meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::http::{Visitor, whole};

/// How long one answer may take before it counts as failed.
const LIMIT: Duration = Duration::from_secs(20);

/// What visitors got.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Answers with status 200, by their body (cut to 60 characters), which tells who answered.
    pub answers: BTreeMap<String, u64>,
    /// What went wrong, each with when.
    pub failures: Vec<String>,
    /// The slowest answer.
    pub slowest: Duration,
}

impl Seen {
    /// How many answers were right.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.answers.values().sum()
    }
}

/// Visitors who ask until they are told to stop.
#[derive(Debug)]
pub struct Load {
    seen: Arc<Mutex<Seen>>,
    end: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many visitors ask for `path` of an app, one request after the other with a small pause.
    /// Every second one keeps its connection, the others make a new one for each request.
    #[must_use]
    pub fn start(visitor: &Visitor, app: &str, path: &str, visitors: usize) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let end = CancellationToken::new();
        let began = Instant::now();
        let tasks = (0..visitors).map(|number| {
            let one = One {
                visitor: visitor.clone(),
                app: app.to_owned(),
                path: path.to_owned(),
                keeps: number % 2 == 0,
                kept: None,
            };
            tokio::spawn(one.ask_until(end.clone(), Arc::clone(&seen), began))
        });
        Self { tasks: tasks.collect(), seen, end }
    }

    /// What was seen until now.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many more answers have arrived.
    pub async fn more(&self, answers: u64) {
        let before = self.seen().total();
        crate::wait::until("visitors are answered", Duration::from_secs(60), async || {
            let seen = self.seen();
            (seen.total() >= before + answers || !seen.failures.is_empty()).then_some(())
        })
        .await;
    }

    /// Lets the visitors finish, and returns what they saw.
    pub async fn stop(self) -> Seen {
        self.end.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the visitors finish; none of them may have seen a failure.
    ///
    /// # Panics
    /// With the first failures.
    pub async fn nobody_noticed(self) -> Seen {
        let seen = self.stop().await;
        let (count, first) = (seen.failures.len(), seen.failures.iter().take(5).cloned().collect::<Vec<_>>());
        assert!(count == 0, "{count} of {} requests failed:\n{}", seen.total() + count as u64, first.join("\n"));
        assert!(seen.total() > 0, "nobody asked anything");
        seen
    }
}

struct One {
    visitor: Visitor,
    app: String,
    path: String,
    keeps: bool,
    kept: Option<SendRequest<Full<Bytes>>>,
}

impl One {
    async fn ask_until(mut self, end: CancellationToken, seen: Arc<Mutex<Seen>>, began: Instant) {
        while !end.is_cancelled() {
            let asked = Instant::now();
            let answer = tokio::time::timeout(LIMIT, self.ask()).await;
            let took = asked.elapsed();
            {
                // Held only to count; nothing panics meanwhile.
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.slowest = seen.slowest.max(took);
                match answer {
                    Ok(Ok(text)) => *seen.answers.entry(text.chars().take(60).collect()).or_default() += 1,
                    Ok(Err(error)) => seen.failures.push(format!("at {:?}: {error:#}", began.elapsed())),
                    Err(_) => seen.failures.push(format!("at {:?}: no answer in {LIMIT:?}", began.elapsed())),
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ask(&mut self) -> anyhow::Result<String> {
        // A kept connection may be closed between two requests; a real client then makes a new one.
        let kept = match self.kept.take() {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.visitor.connect().await?,
        };
        let request = self.visitor.request("GET", &self.app, &self.path).body(Full::default())?;
        let answer = whole(sender.send_request(request).await?).await?;
        if answer.status != StatusCode::OK {
            anyhow::bail!("{} {}: {}", answer.status, answer.header("x-drowse-error"), answer.text());
        }
        if self.keeps {
            self.kept = Some(sender);
        }
        Ok(answer.text())
    }
}
