//! The part of the state machine that is about sleep: falling asleep in two steps, and waking.
//!
//! First every router lets go of the instance, then it sleeps. A demand calls off the first step and
//! undoes the second; it is heard in every state, and heard twice it changes nothing more. Since what
//! sleeps gets nothing from any router until it is shown as ready, a request can only wait, never be lost.

use std::time::Duration;

use drowse_api::MemoryBytes;
use drowse_api::event::EventKind;
use drowse_api::instance::FailureReason;
use drowse_api::sleep::Depth;
use jiff::{SignedDuration, Timestamp};

use super::machine::{after, clear, end, launch, remove};
use super::state::{Bed, Effect, End, Life, Next, NotDumped, Rest, Running, State, Then, Verdict, Woken};
use crate::snapshot::Taken;

/// How long an app may take to end that was being put to disk when it was told to.
const GRACE: Duration = Duration::from_secs(30);
/// How long the routers may take to let go of an instance: a request in flight may last that long.
const LETTING_GO: Duration = Duration::from_secs(10);

fn tell(effects: &mut Vec<Effect>, text: String) {
    effects.push(Effect::Tell(EventKind::Sleep, text));
}

/// It is to sleep.
pub(super) fn asked(state: State, bed: Bed, ticket: u64, now: Timestamp, effects: &mut Vec<Effect>) -> State {
    match state {
        State::Ready { running: running @ Running::Process(_), since } => {
            State::FallingAsleep { running, since, bed, ticket, deadline: now + LETTING_GO }
        }
        // Nobody sends it anything: it need not be let go of again.
        State::Frozen { rest: Rest::Paused { running }, since, reason } if bed.depth == Depth::Paged => {
            effects.push(Effect::PageOut);
            State::Frozen { rest: Rest::Paused { running }, since, reason }
        }
        State::Frozen { rest: Rest::Paused { running } | Rest::Paged { running, .. }, since, .. }
            if bed.depth == Depth::Snapshot =>
        {
            dump(running, since, bed.reason, effects)
        }
        State::Frozen { rest: Rest::Snapshot { .. }, since, .. } if bed.depth == Depth::Cold => {
            tell(effects, format!("sleeps deeper (cold): {}", bed.reason));
            clear(End::Sleep { since, reason: bed.reason }, effects)
        }
        State::Frozen { rest: Rest::Paused { running } | Rest::Paged { running, .. }, since, .. }
            if bed.depth == Depth::Cold =>
        {
            tell(effects, format!("sleeps deeper (cold): {}", bed.reason));
            end(running, bed.grace, Then::Sleep { since, reason: bed.reason }, now, effects)
        }
        other => other,
    }
}

/// Every router has let go of it.
pub(super) fn quiet(state: State, ticket: u64, now: Timestamp, effects: &mut Vec<Effect>) -> State {
    match state {
        State::FallingAsleep { running, bed, ticket: asked, .. } if asked == ticket => {
            // Paged is what it becomes when it is.
            let depth = if bed.depth == Depth::Paged { Depth::Paused } else { bed.depth };
            tell(effects, format!("asleep ({depth}): {}", bed.reason));
            let reason = bed.reason;
            match bed.depth {
                Depth::Cold => end(running, bed.grace, Then::Sleep { since: now, reason }, now, effects),
                Depth::Snapshot => dump(running, now, reason, effects),
                Depth::Paused | Depth::Paged => {
                    effects.push(Effect::Freeze);
                    if bed.depth == Depth::Paged {
                        effects.push(Effect::PageOut);
                    }
                    State::Frozen { rest: Rest::Paused { running }, since: now, reason }
                }
            }
        }
        other => other,
    }
}

/// It is put to disk: frozen first, which is no other piece of work.
fn dump(running: Running, since: Timestamp, reason: String, effects: &mut Vec<Effect>) -> State {
    effects.push(Effect::Dump);
    State::Dumping { running, since, reason, next: Next::Sleep }
}

/// Most of its memory is in swap.
pub(super) fn paged(state: State, swapped: u64, effects: &mut Vec<Effect>) -> State {
    match state {
        State::Frozen { rest: Rest::Paused { running }, since, reason } => {
            tell(effects, format!("sleeps deeper (paged): {} in swap", MemoryBytes(swapped)));
            State::Frozen { rest: Rest::Paged { running, swapped }, since, reason }
        }
        // It was needed meanwhile.
        other => other,
    }
}

/// What it is being put to disk for does not matter any more.
pub(super) fn broken_off(state: State, then: Then, effects: &mut Vec<Effect>) -> State {
    match state {
        State::Dumping { running, since, reason, .. } => {
            effects.push(Effect::AbortDump);
            State::Dumping { running, since, reason, next: Next::End(then) }
        }
        other => other,
    }
}

/// A router still has requests of it in flight.
pub(super) fn not_let_go(running: Running, since: Timestamp, effects: &mut Vec<Effect>) -> State {
    let seconds = LETTING_GO.as_secs();
    tell(effects, format!("stays awake: requests were still in flight after {seconds} s"));
    State::Ready { running, since }
}

/// It does not stand still: half of it might.
pub(super) fn not_frozen(state: State, why: &str, now: Timestamp, effects: &mut Vec<Effect>) -> State {
    match state {
        State::Frozen { rest: Rest::Paused { running } | Rest::Paged { running, .. }, .. } => {
            tell(effects, format!("stays awake: its processes could not be paused: {why}"));
            effects.push(Effect::Thaw);
            State::Ready { running, since: now }
        }
        other => other,
    }
}

/// It does not go on: what cannot be woken is started anew.
pub(super) fn not_thawed(state: State, why: String, effects: &mut Vec<Effect>) -> State {
    match state {
        State::Ready { running, .. } | State::FallingAsleep { running, .. } => {
            effects.push(Effect::Collect);
            let detail = format!("its paused processes could not go on: {why}");
            let verdict = Some(Verdict { reason: FailureReason::Host, detail });
            State::Exiting { running, verdict, then: Then::Proceed }
        }
        other => other,
    }
}

impl Life {
    /// Somebody needs it.
    pub(super) fn demanded(&mut self, state: State, cause: String, now: Timestamp, effects: &mut Vec<Effect>) -> State {
        match state {
            State::FallingAsleep { running, since, .. } => {
                tell(effects, format!("stays awake: {cause}"));
                State::Ready { running, since }
            }
            State::Frozen { rest: Rest::Paused { running }, since, .. } => {
                tell(effects, format!("woken by {cause}: slept {} (paused)", span(since, now)));
                self.slept = Some(Woken { depth: Depth::Paused, slept_since: since, at: now, cause });
                (self.no_room, self.no_paging) = (None, None);
                effects.push(Effect::Thaw);
                State::Ready { running, since: now }
            }
            State::Frozen { rest: Rest::Paged { running, .. }, since, .. } => {
                tell(effects, format!("woken by {cause}: slept {} (paged)", span(since, now)));
                self.slept = Some(Woken { depth: Depth::Paged, slept_since: since, at: now, cause });
                (self.no_room, self.no_paging) = (None, None);
                effects.extend([Effect::PageIn, Effect::Thaw]);
                State::Ready { running, since: now }
            }
            State::Dumping { running, since, reason, next: Next::Sleep } => {
                effects.push(Effect::AbortDump);
                State::Dumping { running, since, reason, next: Next::Wake(cause) }
            }
            State::Frozen { rest: Rest::Snapshot { taken }, since, .. } => {
                self.restores(taken, since, cause, now, effects)
            }
            State::Frozen { rest: Rest::Cold, since, .. } => {
                self.starts(since, cause, now, effects);
                launch(effects)
            }
            // It is ended first: two of it would be one too many.
            State::Stopping { running, deadline, then: Then::Sleep { since, .. } } => {
                self.starts(since, cause, now, effects);
                State::Stopping { running, deadline, then: Then::Start }
            }
            State::Exiting { running, verdict, then: Then::Sleep { since, .. } } => {
                self.starts(since, cause, now, effects);
                State::Exiting { running, verdict, then: Then::Start }
            }
            State::Clearing { then: End::Sleep { since, .. } } => {
                self.starts(since, cause, now, effects);
                State::Clearing { then: End::Start }
            }
            other => other,
        }
    }

    fn starts(&mut self, slept_since: Timestamp, cause: String, now: Timestamp, effects: &mut Vec<Effect>) {
        tell(effects, format!("woken by {cause}: slept {} (cold), is being started", span(slept_since, now)));
        self.woken = Some(Woken { depth: Depth::Cold, slept_since, at: now, cause });
        self.slept.clone_from(&self.woken);
    }

    fn restores(
        &mut self,
        taken: Taken,
        since: Timestamp,
        cause: String,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> State {
        tell(effects, format!("woken by {cause}: slept {} (snapshot), comes back from disk", span(since, now)));
        self.woken = Some(Woken { depth: Depth::Snapshot, slept_since: since, at: now, cause });
        self.slept.clone_from(&self.woken);
        effects.push(Effect::Restore(taken));
        State::Launching { then: Then::Proceed }
    }

    /// It is on disk.
    pub(super) fn dumped(&mut self, state: State, taken: Taken, now: Timestamp, effects: &mut Vec<Effect>) -> State {
        let State::Dumping { since, reason, next, .. } = state else { return state };
        match next {
            Next::Sleep => {
                tell(effects, format!("sleeps deeper (snapshot): {} on disk", MemoryBytes(taken.size)));
                State::Frozen { rest: Rest::Snapshot { taken }, since, reason }
            }
            Next::Wake(cause) => self.restores(taken, since, cause, now, effects),
            Next::End(then) => after(then, effects),
        }
    }

    /// It is not, and stands still.
    pub(super) fn not_dumped(
        &mut self,
        state: State,
        refusal: NotDumped,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> State {
        let State::Dumping { running, since, reason, next } = state else { return state };
        match next {
            Next::Sleep => {
                let (NotDumped::Never(why) | NotDumped::NoRoom(why)) = &refusal;
                tell(effects, format!("stays paused: it could not be put to disk: {why}"));
                match refusal {
                    NotDumped::Never(why) => self.no_snapshot = Some(why),
                    NotDumped::NoRoom(why) => self.no_room = Some(why),
                }
                State::Frozen { rest: Rest::Paused { running }, since, reason }
            }
            Next::Wake(cause) => {
                self.demanded(State::Frozen { rest: Rest::Paused { running }, since, reason }, cause, now, effects)
            }
            Next::End(Then::Remove) => remove(effects),
            Next::End(then) => end(running, GRACE, then, now, effects),
        }
    }

    /// Its memory is where it was.
    pub(super) fn not_paged(&mut self, state: State, why: String, effects: &mut Vec<Effect>) -> State {
        let is_told = self.no_paging.as_deref() == Some(why.as_str());
        match state {
            State::Frozen { rest: Rest::Paused { .. }, .. } if !is_told => {
                tell(effects, format!("stays paused: its memory could not be paged out: {why}"));
                self.no_paging = Some(why);
            }
            State::Ready { .. } => self.no_paging = Some(why),
            _ => {}
        }
        state
    }

    /// It came back from disk, with its port as it was.
    pub(super) fn restored(
        &mut self,
        state: State,
        running: Running,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> State {
        match state {
            State::Launching { then: Then::Proceed } => {
                self.awake(now, now, effects);
                State::Ready { running, since: now }
            }
            State::Launching { then } => {
                effects.push(Effect::Collect);
                State::Exiting { running, verdict: None, then }
            }
            other => other,
        }
    }

    /// It did not: it is started anew, which its visitor only notices by the time.
    pub(super) fn not_restored(&mut self, state: State, why: &str, effects: &mut Vec<Effect>) -> State {
        match state {
            State::Launching { then: Then::Proceed } => {
                tell(effects, format!("could not come back from disk, is started anew: {why}"));
                if let Some(woken) = &mut self.woken {
                    woken.depth = Depth::Cold;
                }
                self.slept.clone_from(&self.woken);
                launch(effects)
            }
            State::Launching { then } => after(then, effects),
            other => other,
        }
    }

    /// It is ready: how long that took is what the next wake is expected to take.
    pub(super) fn awake(&mut self, launched: Timestamp, now: Timestamp, effects: &mut Vec<Effect>) {
        let woken = self.woken.take();
        let began = woken.as_ref().map_or(launched, |woken| woken.at);
        let took = u32::try_from(now.duration_since(began).as_millis()).unwrap_or_default();
        match woken.map(|woken| woken.depth) {
            Some(Depth::Snapshot) => {
                self.restore_took = Some(took);
                tell(effects, format!("awake after {took} ms (restored)"));
            }
            Some(_) => {
                self.start_took = Some(took);
                tell(effects, format!("awake after {took} ms (cold start)"));
            }
            None => self.start_took = Some(took),
        }
    }

    /// After a restart of the agent: whether routers had let go of it is not known any more.
    pub(super) fn not_asleep_yet(&mut self) {
        if let State::FallingAsleep { running, since, .. } = self.state {
            self.state = State::Ready { running, since };
        }
    }

    /// Whether its processes are to stand still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        matches!(self.state, State::Frozen { rest: Rest::Paused { .. } | Rest::Paged { .. }, .. })
    }

    /// What is being put to disk, if it is not to end after that.
    #[must_use]
    pub fn is_dumped(&self) -> Option<Running> {
        match self.state {
            State::Dumping { running, next: Next::Sleep | Next::Wake(_), .. } => Some(running),
            _ => None,
        }
    }

    /// The kernel knows better than the record whether a paused app stands still: it is made to go on
    /// before that is written down. Without a word about it, since nobody asked anything.
    pub(super) fn goes_on(&mut self, now: Timestamp) {
        if let State::Frozen { rest: Rest::Paused { running } | Rest::Paged { running, .. }, .. }
        | State::Dumping { running, .. } = self.state
        {
            self.state = State::Ready { running, since: now };
        }
    }

    /// Nothing of it runs any more, and nobody misses that. What is on disk is so after a reboot too.
    pub(super) fn sleeps_on(&self) -> Option<State> {
        let (since, reason) = match &self.state {
            on_disk @ State::Frozen { rest: Rest::Snapshot { .. }, .. } => return Some(on_disk.clone()),
            State::Dumping { since, reason, next: Next::Sleep, .. } => (*since, reason.clone()),
            State::Frozen { rest: Rest::Cold, since, reason }
            | State::Stopping { then: Then::Sleep { since, reason }, .. }
            | State::Exiting { then: Then::Sleep { since, reason }, .. }
            | State::Clearing { then: End::Sleep { since, reason } } => (*since, reason.clone()),
            _ => return None,
        };
        Some(State::Frozen { rest: Rest::Cold, since, reason })
    }
}

/// How long something lasted, in words.
fn span(since: Timestamp, now: Timestamp) -> String {
    let lasted = now.duration_since(since).max(SignedDuration::ZERO);
    match lasted.as_secs() {
        0 => format!("{} ms", lasted.as_millis()),
        1..120 => format!("{} s", lasted.as_secs()),
        120..7200 => format!("{} min", lasted.as_secs() / 60),
        _ => format!("{} h", lasted.as_secs() / 3600),
    }
}
