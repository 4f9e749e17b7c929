//! The part of the state machine that is about sleep: falling asleep in two steps, and waking.
//!
//! First every router lets go of the instance, then it sleeps. A demand calls off the first step and
//! undoes the second; it is heard in every state, and heard twice it changes nothing more. Since what
//! sleeps gets nothing from any router until it is shown as ready, a request can only wait, never be lost.

use std::time::Duration;

use drowse_api::event::EventKind;
use drowse_api::instance::FailureReason;
use drowse_api::sleep::Depth;
use jiff::{SignedDuration, Timestamp};

use super::machine::{end, launch};
use super::state::{Bed, Effect, End, Life, Rest, Running, State, Then, Verdict, Woken};

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
        State::Frozen { rest: Rest::Paused { running }, since, .. } if bed.depth == Depth::Cold => {
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
            tell(effects, format!("asleep ({}): {}", bed.depth, bed.reason));
            let reason = bed.reason;
            match bed.depth {
                Depth::Cold => end(running, bed.grace, Then::Sleep { since: now, reason }, now, effects),
                Depth::Paused | Depth::Paged | Depth::Snapshot => {
                    effects.push(Effect::Freeze);
                    State::Frozen { rest: Rest::Paused { running }, since: now, reason }
                }
            }
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
        State::Frozen { rest: Rest::Paused { running }, .. } => {
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
                effects.push(Effect::Thaw);
                State::Ready { running, since: now }
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
        self.woken = Some(Woken { slept_since, at: now, cause });
    }

    /// It is ready: how long that took is what the next wake is expected to take.
    pub(super) fn awake(&mut self, launched: Timestamp, now: Timestamp, effects: &mut Vec<Effect>) {
        let woken = self.woken.take();
        let began = woken.as_ref().map_or(launched, |woken| woken.at);
        let took = u32::try_from(now.duration_since(began).as_millis()).unwrap_or_default();
        self.start_took = Some(took);
        if woken.is_some() {
            tell(effects, format!("awake after {took} ms (cold start)"));
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
        matches!(self.state, State::Frozen { rest: Rest::Paused { .. }, .. })
    }

    /// The kernel knows better than the record whether a paused app stands still: it is made to go on
    /// before that is written down. Without a word about it, since nobody asked anything.
    pub(super) fn goes_on(&mut self, now: Timestamp) {
        if let State::Frozen { rest: Rest::Paused { running }, .. } = self.state {
            self.state = State::Ready { running, since: now };
        }
    }

    /// Nothing of it runs any more, and nobody misses that.
    pub(super) fn stays_cold(&self) -> Option<State> {
        let (since, reason) = match &self.state {
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
