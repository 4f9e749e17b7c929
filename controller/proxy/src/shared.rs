//! What all threads of a router share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::instance::Instance;
use crate::page::WakePage;
use crate::picture::Picture;
use crate::waker::Order;
use crate::woken::Woken;

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) picture: ArcSwap<Picture>,
    /// Sent to after every new picture.
    pub(crate) changed: watch::Sender<()>,
    /// Where the agent is asked.
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    /// Whom apps were woken for.
    pub(crate) woken: Woken,
    /// The Wake Up page.
    pub(crate) page: WakePage,
    /// The controller's API.
    pub(crate) api: Arc<Instance>,
    /// Counts requests, for taking turns.
    pub(crate) turn: AtomicUsize,
    /// Visitors' connections of each worker.
    pub(crate) open: Box<[AtomicUsize]>,
    /// Connections that became idle and gave their buffers back, so far.
    pub(crate) parked: AtomicUsize,
    /// Told when a connection has ended.
    pub(crate) ended: tokio::sync::Notify,
    /// No new connections, and no further requests on old ones.
    pub(crate) draining: CancellationToken,
    /// The end: what still runs is cut off.
    pub(crate) ending: CancellationToken,
}

impl Shared {
    /// Visitors' connections of all workers.
    pub(crate) fn connections(&self) -> usize {
        self.open.iter().map(|open| open.load(Ordering::Relaxed)).sum()
    }

    /// The worker with the fewest connections; `own` if it is among them.
    pub(crate) fn calmest(&self, own: usize) -> usize {
        let count = |worker: usize| self.open[worker].load(Ordering::Relaxed);
        let calmest = (0..self.open.len()).min_by_key(|worker| count(*worker)).unwrap_or(own);
        if count(own) <= count(calmest) { own } else { calmest }
    }
}

/// One visitor's connection, in the count of its worker. Dropping it takes it out.
#[derive(Debug)]
pub(crate) struct Counted {
    shared: Arc<Shared>,
    worker: usize,
}

impl Counted {
    pub(crate) fn new(shared: Arc<Shared>, worker: usize) -> Self {
        shared.open[worker].fetch_add(1, Ordering::Relaxed);
        Self { shared, worker }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.open[self.worker].fetch_sub(1, Ordering::Relaxed);
        self.shared.ended.notify_one();
    }
}
