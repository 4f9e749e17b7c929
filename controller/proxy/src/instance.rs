//! One instance as the router sees it: its gate, its health, its queue and its idle connections.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use drowse_api::InstanceId;
use tokio::sync::{Notify, watch};

use crate::gate::{Closed, Gate};
use crate::nap::Nap;
use crate::upstream::Connection;

/// How long an instance is left alone after it could not be reached, at first and at most.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// How long an unused connection to an instance is kept.
pub(crate) const LONGEST_IDLE: Duration = Duration::from_secs(30);

/// What requests are sent to.
#[derive(Debug)]
pub(crate) struct Instance {
    /// Absent for the controller's API, which is no instance.
    pub(crate) id: Option<InstanceId>,
    pub(crate) address: SocketAddr,
    pub(crate) gate: Gate,
    /// Its sleep, while its gate is shut.
    pub(crate) nap: Nap,
    began: Instant,
    /// Milliseconds after `began` at which a request last began or ended.
    used: AtomicU64,
    health: Health,
    /// Requests that wait for another to leave.
    waiting: AtomicUsize,
    left: Notify,
    /// Whether it gets no more requests.
    leaving: watch::Sender<bool>,
    /// Told when the last request left a closed gate.
    emptied: Arc<Notify>,
    /// Idle connections, a pool for each worker: a connection's task stays on the thread that made it,
    /// so these locks are never contended but by the sweep.
    pools: Box<[Mutex<Vec<Connection>>]>,
}

impl Instance {
    pub(crate) fn new(id: Option<InstanceId>, address: SocketAddr, workers: usize, emptied: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            id,
            address,
            gate: Gate::default(),
            nap: Nap::default(),
            began: Instant::now(),
            used: AtomicU64::new(0),
            health: Health::default(),
            waiting: AtomicUsize::new(0),
            left: Notify::new(),
            leaving: watch::Sender::new(false),
            emptied,
            pools: (0..workers).map(|_| Mutex::default()).collect(),
        })
    }

    /// Goes in, if the gate is open.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Ticket, Closed> {
        self.gate.enter()?;
        Ok(Ticket { instance: Arc::clone(self), counts: true })
    }

    /// When a request last began or ended; when it came to be known, before the first.
    pub(crate) fn used_at(&self) -> Instant {
        self.began + Duration::from_millis(self.used.load(Ordering::Relaxed))
    }

    /// A request begins or ends.
    pub(crate) fn touch(&self, now: Instant) {
        let since = u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX);
        self.used.store(since, Ordering::Relaxed);
    }

    /// Whether it may be tried at `now`.
    pub(crate) fn is_usable(&self, now: Instant) -> Result<(), Instant> {
        self.health.usable(now)
    }

    /// It could not be reached: nobody tries again before a while has passed.
    pub(crate) fn failed(&self, now: Instant) {
        self.health.failed(now);
    }

    /// A connection was made.
    pub(crate) fn reached(&self) {
        self.health.reached();
    }

    /// A place in the queue, if it is not full.
    pub(crate) fn queue(&self, limit: usize) -> Option<Waiting<'_>> {
        let place = Waiting { instance: self };
        (self.waiting.fetch_add(1, Ordering::SeqCst) < limit).then_some(place)
    }

    /// The most recently used connection of this worker that has been idle for a time in `idle`.
    pub(crate) fn checkout(&self, worker: usize, now: Instant, idle: Range<Duration>) -> Option<Connection> {
        let mut pool = self.pools.get(worker)?.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = pool.len();
        while at > 0 {
            at -= 1;
            let waited = now.saturating_duration_since(pool[at].used);
            if waited >= idle.end {
                // The others below it have waited longer still.
                return None;
            }
            if pool[at].is_closed() {
                pool.remove(at);
            } else if waited >= idle.start {
                return Some(pool.remove(at));
            }
        }
        None
    }

    /// It gets no more requests: connections that would stay open are to come to an end.
    pub(crate) fn leave(&self) {
        self.leaving.send_replace(true);
    }

    /// It gets requests again.
    pub(crate) fn stay(&self) {
        self.leaving.send_replace(false);
    }

    /// Ready when it has got no more requests for so long.
    pub(crate) async fn left_for(&self, time: Duration) {
        let mut leaving = self.leaving.subscribe();
        loop {
            // The sender is part of this very instance.
            let _ = leaving.wait_for(|leaving| *leaving).await;
            if tokio::time::timeout(time, leaving.wait_for(|leaving| !*leaving)).await.is_err() {
                return;
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(crate) fn checkin(&self, worker: usize, connection: Connection) {
        if let Some(pool) = self.pools.get(worker) {
            pool.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }

    /// Closes this worker's connections that are of no use any more.
    pub(crate) fn sweep(&self, worker: usize, now: Instant, idle: Duration) {
        if let Some(pool) = self.pools.get(worker) {
            let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
            pool.retain(|c| !c.is_closed() && now.saturating_duration_since(c.used) < idle);
            if pool.is_empty() {
                pool.shrink_to_fit();
            }
        }
    }

    /// Closes the idle connections of all workers.
    pub(crate) fn forget_connections(&self) {
        for pool in &self.pools {
            pool.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

/// A request, or a tunnel, inside an instance's gate. Dropping it leaves.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) instance: Arc<Instance>,
    /// Whether the app is in use by it: not by who only looks by.
    pub(crate) counts: bool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.counts {
            self.instance.touch(Instant::now());
        }
        if self.instance.gate.leave() {
            self.instance.emptied.notify_one();
        }
        if self.instance.waiting.load(Ordering::SeqCst) > 0 {
            self.instance.left.notify_one();
        }
    }
}

/// A place in the queue of one instance.
pub(crate) struct Waiting<'a> {
    instance: &'a Instance,
}

impl Waiting<'_> {
    /// Ready when a request has left.
    pub(crate) fn turn(&self) -> tokio::sync::futures::Notified<'_> {
        self.instance.left.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.instance.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Quarantine with backoff.
#[derive(Debug)]
struct Health {
    began: Instant,
    failures: AtomicU32,
    /// Not to be tried before this many milliseconds after `began`; 0 when healthy.
    until: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        Self { began: Instant::now(), failures: AtomicU32::new(0), until: AtomicU64::new(0) }
    }
}

impl Health {
    /// When it may be tried again, if not now. Whoever finds the time over is the one to try: for
    /// the others it begins anew.
    fn usable(&self, now: Instant) -> Result<(), Instant> {
        let until = self.until.load(Ordering::Relaxed);
        if until == 0 {
            return Ok(());
        }
        let at = self.began + Duration::from_millis(until);
        if now < at {
            return Err(at);
        }
        let next = self.since(now + backoff(self.failures.load(Ordering::Relaxed)));
        match self.until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => Err(now + FIRST_BACKOFF),
        }
    }

    fn failed(&self, now: Instant) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        self.until.store(self.since(now + backoff(failures)), Ordering::Relaxed);
    }

    fn reached(&self) {
        if self.until.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.until.store(0, Ordering::Relaxed);
        }
    }

    fn since(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

fn backoff(failures: u32) -> Duration {
    LONGEST_BACKOFF.min(FIRST_BACKOFF * 2_u32.saturating_pow(failures.min(10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_cannot_be_reached_is_left_alone_for_longer_each_time_and_tried_by_one() {
        let health = Health::default();
        let start = Instant::now();
        assert_eq!(health.usable(start), Ok(()));
        health.failed(start);
        let again = health.usable(start).expect_err("in quarantine");
        assert!(again > start && again <= start + FIRST_BACKOFF);
        assert_eq!(health.usable(again), Ok(()), "the first to ask tries");
        assert!(health.usable(again).is_err(), "the second waits");
        health.failed(again);
        let later = health.usable(again).expect_err("in quarantine");
        assert!(later - again > FIRST_BACKOFF);
        for _ in 0..40 {
            health.failed(again);
        }
        assert!(health.usable(again).expect_err("in quarantine") <= again + LONGEST_BACKOFF);
        health.reached();
        assert_eq!(health.usable(again), Ok(()));
    }
}
