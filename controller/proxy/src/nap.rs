//! The sleep of one instance, as its router sees it: what is known of it, and who waits for its end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use drowse_api::sleep::{Depth, Sleeper};
use tokio::sync::Notify;

/// See the module. Nobody looks here while the instance is awake.
#[derive(Debug, Default)]
pub(crate) struct Nap {
    // Held for a copy; looked at only by requests that wait anyway.
    sleeper: Mutex<Option<Sleeper>>,
    waiting: AtomicUsize,
    /// Somebody sees to its being woken: one for all who wait.
    is_demanded: AtomicBool,
    over: Notify,
}

impl Nap {
    /// What is known of it; nothing of one whose gate was shut and that was not heard of since.
    pub(crate) fn sleeper(&self) -> Option<Sleeper> {
        self.sleeper.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How deep it is. What was only just let go of is at its least deep: its process is still there.
    pub(crate) fn depth(&self) -> Depth {
        self.sleeper().map_or(Depth::Paused, |sleeper| sleeper.depth)
    }

    /// It sleeps, so deeply.
    pub(crate) fn is(&self, sleeper: Option<Sleeper>) {
        *self.sleeper.lock().unwrap_or_else(PoisonError::into_inner) = sleeper;
    }

    /// It is over, or who waits for that is to look again.
    pub(crate) fn tell(&self) {
        self.over.notify_waiters();
    }

    /// Ready when it may be over.
    pub(crate) fn over(&self) -> tokio::sync::futures::Notified<'_> {
        self.over.notified()
    }

    /// Somebody waits for its end until this is dropped.
    pub(crate) fn wait(&self) -> Waits<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waits { nap: self }
    }

    /// Whether anybody waits for its end.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// True for the one who is to see to its being woken.
    pub(crate) fn begin_demand(&self) -> bool {
        !self.is_demanded.swap(true, Ordering::SeqCst)
    }

    /// Nobody sees to it any more.
    pub(crate) fn end_demand(&self) {
        self.is_demanded.store(false, Ordering::SeqCst);
    }
}

/// Somebody who waits.
pub(crate) struct Waits<'a> {
    nap: &'a Nap,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.nap.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
