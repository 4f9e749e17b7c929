//! A limit on how long something may stand still, which costs nothing while it moves.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Armed by the first wait, and looked at again only when the limit has passed.
#[derive(Debug)]
pub(crate) struct Stall {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    /// When it last moved, once armed.
    moved: bool,
}

impl Stall {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, moved: false }
    }

    /// It moved.
    pub(crate) fn moved(&mut self) {
        self.moved = true;
    }

    /// It does not move now. Ready once it has not moved for the limit.
    pub(crate) fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.limit)));
        if std::mem::take(&mut self.moved) {
            sleep.as_mut().reset(Instant::now() + self.limit);
        }
        sleep.as_mut().poll(cx)
    }
}
