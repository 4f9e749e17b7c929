//! The gate of one instance: counts who is inside, and can be closed for good or for a while.
//!
//! Count and state share one atomic word, so that there is no moment in which a request that saw an
//! open gate is missing from the count that the closer read.

use std::sync::atomic::{AtomicU64, Ordering};

const CLOSED: u64 = 1 << 63;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicU64);

/// The gate is closed: pick another instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

impl Gate {
    /// Goes in, and says how many are inside now.
    pub(crate) fn enter(&self) -> Result<u64, Closed> {
        let before = self.0.fetch_add(1, Ordering::SeqCst);
        if before & CLOSED != 0 {
            self.leave();
            return Err(Closed);
        }
        Ok(before + 1)
    }

    /// Goes out. True for the last to leave a closed gate.
    pub(crate) fn leave(&self) -> bool {
        self.0.fetch_sub(1, Ordering::SeqCst) == (CLOSED | 1)
    }

    /// Lets nobody in from now on. Who is inside stays.
    pub(crate) fn close(&self) {
        self.0.fetch_or(CLOSED, Ordering::SeqCst);
    }

    /// Lets requests in again.
    pub(crate) fn open(&self) {
        self.0.fetch_and(!CLOSED, Ordering::SeqCst);
    }

    /// How many are inside.
    pub(crate) fn inside(&self) -> u64 {
        self.0.load(Ordering::SeqCst) & !CLOSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_lets_nobody_in_and_tells_when_it_is_empty() {
        let gate = Gate::default();
        assert_eq!(gate.enter(), Ok(1));
        assert_eq!(gate.enter(), Ok(2));
        gate.close();
        assert_eq!(gate.enter(), Err(Closed));
        assert_eq!(gate.inside(), 2);
        assert!(!gate.leave());
        assert!(gate.leave());
        gate.open();
        assert_eq!(gate.enter(), Ok(1));
        assert!(!gate.leave());
    }

    #[test]
    fn nobody_is_inside_once_the_closer_read_zero() {
        for _ in 0..200 {
            let gate = Gate::default();
            let late = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while gate.enter().is_ok() {
                        assert!(!late.load(Ordering::SeqCst), "inside after the closer had read zero");
                        gate.leave();
                    }
                });
                gate.close();
                while gate.inside() != 0 {
                    std::hint::spin_loop();
                }
                late.store(true, Ordering::SeqCst);
            });
        }
    }
}
