//! What becomes of an instance: a pure state machine.
//!
//! It knows nothing of the kernel, of tasks or of files. Every event gives the next state and the
//! effects that bring it about; `actor.rs` carries them out and answers with events.

use std::time::Duration;

use drowse_api::event::EventKind;
use drowse_api::instance::{Failure, FailureReason, InstanceSpec, OnBootFailure};
use jiff::Timestamp;

use super::state::{Effect, End, Event, Exit, Lack, LaunchFailure, Life, Next, Rest, Running, State, Then, Verdict};
use super::{budget, sleep};

/// How long the app may take to end by itself when a newer spec replaces what runs.
const REPLACE_GRACE: Duration = Duration::from_secs(30);

impl Life {
    /// A new instance, and what to do first.
    #[must_use]
    pub fn new(spec: InstanceSpec) -> (Self, Vec<Effect>) {
        let life = Self {
            spec,
            tries: 0,
            proven: false,
            state: State::Launching { then: Then::Proceed },
            woken: None,
            slept: None,
            start_took: None,
            restore_took: None,
            no_snapshot: None,
            no_room: None,
            no_paging: None,
        };
        (life, vec![Effect::Launch])
    }

    /// When `Due` is to be sent, if at all.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        match &self.state {
            State::Booting { deadline, .. }
            | State::FallingAsleep { deadline, .. }
            | State::Stopping { deadline, .. } => Some(*deadline),
            State::Backoff { retry_at, .. } => Some(*retry_at),
            State::Ready { since, .. } if self.tries > 0 => Some(*since + budget::GOOD_TIME),
            _ => None,
        }
    }

    /// Whether it is being removed, which nothing that comes later calls off: whoever asked for it waits.
    #[must_use]
    pub fn is_being_removed(&self) -> bool {
        match &self.state {
            State::Removing
            | State::Clearing { then: End::Remove }
            | State::Dumping { next: Next::End(Then::Remove), .. } => true,
            State::Launching { then } | State::Exiting { then, .. } | State::Stopping { then, .. } => {
                *then == Then::Remove
            }
            _ => false,
        }
    }

    /// What runs, if anything does.
    #[must_use]
    pub fn running(&self) -> Option<Running> {
        match &self.state {
            State::Booting { running, .. }
            | State::Ready { running, .. }
            | State::FallingAsleep { running, .. }
            | State::Frozen { rest: Rest::Paused { running } | Rest::Paged { running, .. }, .. }
            | State::Exiting { running, .. }
            | State::Stopping { running, .. } => Some(*running),
            _ => None,
        }
    }

    /// The next state and what brings it about. `jitter` is a random number from 0 to 1.
    #[must_use]
    pub fn on(mut self, event: Event, now: Timestamp, jitter: f64) -> (Self, Vec<Effect>) {
        let mut effects = Vec::new();
        if self.is_being_removed() && matches!(event, Event::Put(_) | Event::Stop { .. }) {
            return (self, effects);
        }
        let state = std::mem::replace(&mut self.state, State::Removing);
        self.state = match event {
            Event::Put(spec) => self.put(state, *spec, now, &mut effects),
            Event::Stop { epoch, grace, reason } => {
                self.spec.epoch = epoch;
                self.woken = None;
                stop(state, grace, reason, now, &mut effects)
            }
            Event::Delete(epoch) => {
                self.spec.epoch = epoch;
                delete(state, &mut effects)
            }
            Event::Sleep { bed, ticket } => sleep::asked(state, bed, ticket, now, &mut effects),
            Event::Quiet { ticket } => sleep::quiet(state, ticket, now, &mut effects),
            Event::Demand(cause) => self.demanded(state, cause, now, &mut effects),
            Event::Dumped(taken) => self.dumped(state, taken, now, &mut effects),
            Event::DumpFailed(why) => self.not_dumped(state, why, now, &mut effects),
            Event::Restored(running) => self.restored(state, running, now, &mut effects),
            Event::RestoreFailed(why) => self.not_restored(state, &why, &mut effects),
            Event::Paged(swapped) => sleep::paged(state, swapped, &mut effects),
            Event::PageOutFailed(why) => self.not_paged(state, why, &mut effects),
            Event::FreezeFailed(why) => sleep::not_frozen(state, &why, now, &mut effects),
            Event::ThawFailed(why) => sleep::not_thawed(state, why, &mut effects),
            Event::Launched(running) => self.launched(state, running, now, &mut effects),
            Event::LaunchFailed(failure) => self.launch_failed(state, failure, now, jitter, &mut effects),
            Event::Accepted => match state {
                State::Booting { running, since, .. } => {
                    self.proven = true;
                    let took = now.duration_since(since).as_millis();
                    let what = match &self.spec.boot.path {
                        Some(path) => format!("GET {path} was answered"),
                        None => "its port accepted".to_owned(),
                    };
                    effects.push(Effect::Tell(EventKind::Instance, format!("ready: {what} after {took} ms")));
                    self.awake(since, now, &mut effects);
                    State::Ready { running, since: now }
                }
                other => other,
            },
            Event::Gone => match state {
                State::Booting { running, .. }
                | State::Ready { running, .. }
                | State::FallingAsleep { running, .. }
                | State::Frozen { rest: Rest::Paused { running } | Rest::Paged { running, .. }, .. } => {
                    effects.push(Effect::Collect);
                    State::Exiting { running, verdict: None, then: Then::Proceed }
                }
                State::Stopping { running, then, .. } => {
                    effects.push(Effect::Collect);
                    State::Exiting { running, verdict: None, then }
                }
                other => other,
            },
            Event::Collected(exit) => self.collected(state, exit, now, jitter, &mut effects),
            Event::Due { lack } => self.due_passed(state, lack, now, &mut effects),
            Event::Cleared => match state {
                State::Clearing { then: End::Stopped(reason) } => State::Stopped { reason },
                State::Clearing { then: End::Failed(failure) } => State::Failed { failure },
                State::Clearing { then: End::Start } => launch(&mut effects),
                State::Clearing { then: End::Sleep { since, reason } } => {
                    State::Frozen { rest: Rest::Cold, since, reason }
                }
                State::Clearing { then: End::Remove } => remove(&mut effects),
                other => other,
            },
        };
        (self, effects)
    }

    fn put(&mut self, state: State, spec: InstanceSpec, now: Timestamp, effects: &mut Vec<Effect>) -> State {
        let same_app = runs_the_same(&self.spec, &spec);
        self.spec = spec;
        self.tries = 0;
        self.proven &= same_app;
        self.woken = self.woken.take().filter(|_| same_app);
        match state {
            // What sleeps serves as it is: it runs by the new spec when it is woken.
            State::Frozen { rest: Rest::Cold | Rest::Snapshot { .. }, .. }
            | State::Dumping { next: Next::Sleep | Next::Wake(_), .. }
            | State::Stopping { then: Then::Sleep { .. }, .. }
            | State::Exiting { then: Then::Sleep { .. }, .. }
            | State::Clearing { then: End::Sleep { .. } }
                if same_app =>
            {
                state
            }
            State::Stopped { .. } | State::Failed { .. } | State::Backoff { .. } if same_app => launch(effects),
            dumping @ State::Dumping { .. } => sleep::broken_off(dumping, Then::Start, effects),
            // The old layers must leave the sandbox before the new ones can enter.
            State::Frozen { rest: Rest::Cold | Rest::Snapshot { .. }, .. }
            | State::Stopped { .. }
            | State::Failed { .. }
            | State::Backoff { .. } => clear(End::Start, effects),
            State::Launching { then: Then::Proceed } if same_app => State::Launching { then: Then::Proceed },
            // What is being launched may be of an older spec than the one before this.
            State::Launching { .. } => State::Launching { then: Then::Start },
            State::Booting { .. } | State::Ready { .. } | State::FallingAsleep { .. } | State::Frozen { .. }
                if same_app =>
            {
                effects.push(Effect::Limit);
                state
            }
            State::Booting { running, .. }
            | State::Ready { running, .. }
            | State::FallingAsleep { running, .. }
            | State::Frozen { rest: Rest::Paused { running } | Rest::Paged { running, .. }, .. } => {
                end(running, REPLACE_GRACE, Then::Start, now, effects)
            }
            State::Stopping { running, deadline, .. } => State::Stopping { running, deadline, then: Then::Start },
            State::Exiting { running, verdict, .. } => State::Exiting { running, verdict, then: Then::Start },
            State::Clearing { .. } => State::Clearing { then: End::Start },
            State::Removing => State::Removing,
        }
    }

    fn launched(&mut self, state: State, running: Running, now: Timestamp, effects: &mut Vec<Effect>) -> State {
        (self.no_snapshot, self.no_room, self.no_paging) = (None, None, None);
        match state {
            State::Launching { then: Then::Proceed } => {
                effects.push(Effect::Probe);
                let deadline = now + Duration::from_secs(self.spec.boot.timeout_seconds.into());
                State::Booting { running, since: now, deadline }
            }
            State::Launching { then } => {
                effects.push(Effect::Collect);
                State::Exiting { running, verdict: None, then }
            }
            other => other,
        }
    }

    fn launch_failed(
        &mut self,
        state: State,
        failure: LaunchFailure,
        now: Timestamp,
        jitter: f64,
        effects: &mut Vec<Effect>,
    ) -> State {
        let State::Launching { then } = state else { return state };
        match then {
            Then::Proceed => {
                let reason = if failure.by_app { FailureReason::Exited } else { FailureReason::Host };
                self.fallen(Failure { reason, detail: failure.detail, log: Vec::new() }, now, jitter, effects)
            }
            then => after(then, effects),
        }
    }

    fn collected(&mut self, state: State, exit: Exit, now: Timestamp, jitter: f64, effects: &mut Vec<Effect>) -> State {
        let State::Exiting { verdict, then, .. } = state else { return state };
        if then != Then::Proceed {
            return after(then, effects);
        }
        let what = match exit.because {
            Some(because) => format!("{}: {because}", exit.what),
            None => exit.what,
        };
        let failure = match verdict {
            Some(Verdict { reason, detail }) => Failure { reason, detail, log: exit.log },
            None if exit.out_of_memory => Failure {
                reason: FailureReason::OutOfMemory,
                detail: format!("it used up its {} of memory and {what}", self.spec.limits.memory),
                log: exit.log,
            },
            None => Failure { reason: FailureReason::Exited, detail: format!("it {what}"), log: exit.log },
        };
        self.fallen(failure, now, jitter, effects)
    }

    /// It is down without having been told to be: the first boot of a deploy fails, all else is tried again.
    fn fallen(&mut self, failure: Failure, now: Timestamp, jitter: f64, effects: &mut Vec<Effect>) -> State {
        self.woken = None;
        if !self.proven && self.spec.on_boot_failure == OnBootFailure::Fail {
            effects.push(Effect::Tell(EventKind::Instance, format!("did not become ready: {}", failure.detail)));
            return clear(End::Failed(failure), effects);
        }
        if self.tries >= budget::TRIES {
            let detail =
                format!("it was started {} times in a row and never stayed up; at last {}", self.tries, failure.detail);
            effects.push(Effect::Tell(EventKind::Instance, format!("given up: {detail}")));
            return clear(End::Failed(Failure { reason: FailureReason::CrashLoop, detail, log: failure.log }), effects);
        }
        self.tries += 1;
        let delay = budget::delay(self.tries, jitter);
        let when = if delay.is_zero() { "at once".to_owned() } else { format!("in {:.1} s", delay.as_secs_f64()) };
        effects.push(Effect::Tell(
            EventKind::Restart,
            format!("{}; try {} of {} {when}", failure.detail, self.tries, budget::TRIES),
        ));
        State::Backoff { retry_at: now + delay, cause: failure }
    }

    fn due_passed(&mut self, state: State, lack: Option<Lack>, now: Timestamp, effects: &mut Vec<Effect>) -> State {
        if self.due_of(&state).is_none_or(|due| now < due) {
            return state;
        }
        match state {
            State::Booting { running, .. } => {
                effects.push(Effect::Collect);
                let seconds = self.spec.boot.timeout_seconds;
                let detail = match lack {
                    Some(Lack::Connection { instead }) => {
                        format!("no connection to its port in {seconds} s: {instead}")
                    }
                    Some(Lack::Answer { path, instead }) => {
                        format!("GET {path} was not answered with 2xx or 3xx in {seconds} s: {instead}")
                    }
                    None => format!("not ready in {seconds} s"),
                };
                State::Exiting {
                    running,
                    verdict: Some(Verdict { reason: FailureReason::TimeoutError, detail }),
                    then: Then::Proceed,
                }
            }
            State::Ready { .. } => {
                self.tries = 0;
                state
            }
            State::Backoff { .. } => launch(effects),
            State::FallingAsleep { running, since, .. } => sleep::not_let_go(running, since, effects),
            State::Stopping { running, then, .. } => {
                effects.push(Effect::Collect);
                State::Exiting { running, verdict: None, then }
            }
            other => other,
        }
    }

    fn due_of(&self, state: &State) -> Option<Timestamp> {
        Self { state: state.clone(), ..self.clone() }.due()
    }
}

/// Whether what runs for one spec also is what the other asks for.
fn runs_the_same(a: &InstanceSpec, b: &InstanceSpec) -> bool {
    (&a.deployment, a.workload, &a.image, &a.env, &a.secrets, &a.user)
        == (&b.deployment, b.workload, &b.image, &b.env, &b.secrets, &b.user)
}

pub(super) fn launch(effects: &mut Vec<Effect>) -> State {
    effects.push(Effect::Launch);
    State::Launching { then: Then::Proceed }
}

pub(super) fn clear(then: End, effects: &mut Vec<Effect>) -> State {
    effects.push(Effect::Clear);
    State::Clearing { then }
}

pub(super) fn remove(effects: &mut Vec<Effect>) -> State {
    effects.push(Effect::Remove);
    State::Removing
}

/// What runs nothing any more goes on to this.
pub(super) fn after(then: Then, effects: &mut Vec<Effect>) -> State {
    match then {
        Then::Stop(reason) => clear(End::Stopped(reason), effects),
        Then::Start | Then::Proceed => clear(End::Start, effects),
        Then::Sleep { since, reason } => clear(End::Sleep { since, reason }, effects),
        Then::Remove => remove(effects),
    }
}

pub(super) fn end(running: Running, grace: Duration, then: Then, now: Timestamp, effects: &mut Vec<Effect>) -> State {
    match running {
        Running::Process(_) => {
            effects.push(Effect::Terminate);
            State::Stopping { running, deadline: now + grace, then }
        }
        Running::Published => {
            effects.push(Effect::Collect);
            State::Exiting { running, verdict: None, then }
        }
    }
}

fn stop(state: State, grace: Duration, reason: String, now: Timestamp, effects: &mut Vec<Effect>) -> State {
    match state {
        State::Booting { running, .. }
        | State::Ready { running, .. }
        | State::FallingAsleep { running, .. }
        | State::Frozen { rest: Rest::Paused { running } | Rest::Paged { running, .. }, .. } => {
            effects.push(Effect::Tell(EventKind::Instance, format!("stopping: {reason}")));
            end(running, grace, Then::Stop(reason), now, effects)
        }
        dumping @ State::Dumping { .. } => sleep::broken_off(dumping, Then::Stop(reason), effects),
        State::Backoff { .. } | State::Frozen { rest: Rest::Cold | Rest::Snapshot { .. }, .. } => {
            clear(End::Stopped(reason), effects)
        }
        State::Launching { .. } => State::Launching { then: Then::Stop(reason) },
        State::Exiting { running, verdict, .. } => State::Exiting { running, verdict, then: Then::Stop(reason) },
        // A stop that is asked for again may shorten what is left, never lengthen it.
        State::Stopping { running, deadline, .. } => {
            State::Stopping { running, deadline: deadline.min(now + grace), then: Then::Stop(reason) }
        }
        State::Clearing { then: End::Start | End::Sleep { .. } } => State::Clearing { then: End::Stopped(reason) },
        over @ (State::Clearing { .. } | State::Stopped { .. } | State::Failed { .. } | State::Removing) => over,
    }
}

fn delete(state: State, effects: &mut Vec<Effect>) -> State {
    match state {
        State::Launching { .. } => State::Launching { then: Then::Remove },
        State::Exiting { running, verdict, .. } => State::Exiting { running, verdict, then: Then::Remove },
        State::Clearing { .. } => State::Clearing { then: End::Remove },
        dumping @ State::Dumping { .. } => sleep::broken_off(dumping, Then::Remove, effects),
        State::Removing => State::Removing,
        _ => remove(effects),
    }
}
