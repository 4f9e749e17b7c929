//! The gate of one instance: counts who is inside, and can be closed for good or for a while.
//!
//! Count and state share one atomic word, so that there is no moment in which a request that saw an
//! open gate is missing from the count that the closer read. For sleep it closes in two steps: while it
//! is closing a request still goes in, and calls it off by that; once it is shut, with nobody inside,
//! requests wait outside.

use std::sync::atomic::{AtomicU64, Ordering};

/// The instance is in no picture any more.
const GONE: u64 = 1 << 63;
/// It is shut for sleep.
const SHUT: u64 = 1 << 62;
/// It is to be shut when nobody is inside.
const CLOSING: u64 = 1 << 61;
const COUNT: u64 = CLOSING - 1;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicU64);

/// Why nobody goes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// For good: pick another instance.
    Gone,
    /// The instance sleeps: wake it, and wait.
    Asleep,
}

/// How far a gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    /// Nobody is inside, and nobody goes in.
    Shut,
    /// Somebody is still inside.
    Busy,
    /// Somebody went in: it is open.
    CalledOff,
}

impl Gate {
    /// Goes in, and says how many are inside now.
    pub(crate) fn enter(&self) -> Result<u64, Closed> {
        let before = self.0.fetch_add(1, Ordering::SeqCst);
        if before & (GONE | SHUT) != 0 {
            self.leave();
            return Err(if before & GONE != 0 { Closed::Gone } else { Closed::Asleep });
        }
        if before & CLOSING != 0 {
            self.0.fetch_and(!CLOSING, Ordering::SeqCst);
        }
        Ok((before & COUNT) + 1)
    }

    /// Goes out. True for the last to leave a gate that is gone or closing.
    pub(crate) fn leave(&self) -> bool {
        let before = self.0.fetch_sub(1, Ordering::SeqCst);
        before & COUNT == 1 && before & (GONE | CLOSING) != 0
    }

    /// Lets nobody in from now on. Who is inside stays.
    pub(crate) fn close(&self) {
        self.0.fetch_or(GONE, Ordering::SeqCst);
    }

    /// The instance is in a picture again.
    pub(crate) fn open(&self) {
        self.0.fetch_and(!GONE, Ordering::SeqCst);
    }

    /// Begins to close it for sleep; one that is shut stays so.
    pub(crate) fn begin_closing(&self) {
        // Set together with the look: a gate that is shut has nothing left to close.
        let _ = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| (word & SHUT == 0).then_some(word | CLOSING));
    }

    /// Shuts a closing gate if nobody is inside.
    pub(crate) fn finish_closing(&self) -> Closing {
        let shut = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
            (word & CLOSING != 0 && word & COUNT == 0).then_some(word & !CLOSING | SHUT)
        });
        match shut {
            Ok(_) => Closing::Shut,
            Err(word) if word & SHUT != 0 => Closing::Shut,
            Err(word) if word & CLOSING != 0 => Closing::Busy,
            Err(_) => Closing::CalledOff,
        }
    }

    /// The instance sleeps.
    pub(crate) fn shut(&self) {
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| Some(word & !CLOSING | SHUT));
    }

    /// The instance is awake. True if it was shut.
    pub(crate) fn wake(&self) -> bool {
        self.0.fetch_and(!(SHUT | CLOSING), Ordering::SeqCst) & SHUT != 0
    }

    /// Whether requests wait outside until the instance is woken.
    pub(crate) fn is_shut(&self) -> bool {
        self.0.load(Ordering::SeqCst) & SHUT != 0
    }

    /// How many are inside.
    pub(crate) fn inside(&self) -> u64 {
        self.0.load(Ordering::SeqCst) & COUNT
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
        assert_eq!(gate.enter(), Err(Closed::Gone));
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

    #[test]
    fn a_request_at_a_closing_gate_calls_it_off_and_one_at_a_shut_gate_waits() {
        let gate = Gate::default();
        gate.enter().expect("open");
        gate.begin_closing();
        assert_eq!(gate.finish_closing(), Closing::Busy);
        assert!(gate.leave(), "the closer waits for this");
        assert_eq!(gate.enter(), Ok(1));
        assert_eq!(gate.finish_closing(), Closing::CalledOff);
        assert!(!gate.leave());
        gate.begin_closing();
        assert_eq!(gate.finish_closing(), Closing::Shut);
        assert_eq!(gate.enter(), Err(Closed::Asleep));
        gate.begin_closing();
        assert_eq!(gate.finish_closing(), Closing::Shut, "once more for whoever asks again");
        assert!(gate.wake());
        assert!(!gate.wake());
        assert_eq!(gate.enter(), Ok(1));
    }

    #[test]
    fn who_goes_in_at_a_closing_gate_is_never_inside_a_shut_one() {
        for _ in 0..200 {
            let gate = Gate::default();
            let is_shut = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while gate.enter().is_ok() {
                        assert!(!is_shut.load(Ordering::SeqCst), "inside a shut gate");
                        gate.leave();
                    }
                });
                loop {
                    gate.begin_closing();
                    if gate.finish_closing() == Closing::Shut {
                        break;
                    }
                }
                is_shut.store(true, Ordering::SeqCst);
            });
        }
    }
}
