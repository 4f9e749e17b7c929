//! What must hold of the state machine whatever happens in whatever order.

use std::time::Duration;

use drowse_api::Epoch;
use drowse_api::instance::{OnBootFailure, ProcessIdentity};
use drowse_api::sleep::Depth;
use jiff::Timestamp;
use proptest::prelude::*;

use super::budget;
use super::fake::spec;
use super::state::{App, Bed, Effect, Event, Exit, LaunchFailure, Life, NotDumped, Running, State};
use crate::snapshot::Taken;

/// What may happen; results of work come only while that work is under way.
#[derive(Debug, Clone, Copy)]
enum Step {
    PutSame,
    PutOther,
    Stop,
    Delete,
    Work {
        well: bool,
    },
    Accept,
    Gone,
    Wait {
        seconds: u32,
    },
    Sleep {
        depth: Depth,
    },
    /// Paging goes on beside everything, and its end may come at any time.
    PageOut {
        well: bool,
    },
    Quiet,
    Demand,
}

fn sleep_step() -> impl Strategy<Value = Step> {
    prop_oneof![Just(Depth::Paused), Just(Depth::Paged), Just(Depth::Snapshot), Just(Depth::Cold)]
        .prop_map(|depth| Step::Sleep { depth })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::PutSame),
        1 => Just(Step::PutOther),
        1 => Just(Step::Stop),
        1 => prop::bool::weighted(0.2).prop_map(|really| if really { Step::Delete } else { Step::Accept }),
        8 => prop::bool::weighted(0.8).prop_map(|well| Step::Work { well }),
        3 => Just(Step::Accept),
        3 => Just(Step::Gone),
        4 => (0_u32..700).prop_map(|seconds| Step::Wait { seconds }),
        3 => sleep_step(),
        2 => any::<bool>().prop_map(|well| Step::PageOut { well }),
        3 => Just(Step::Quiet),
        2 => Just(Step::Demand),
    ]
}

/// The machine with an executor that does as it is told.
struct Run {
    life: Life,
    work: Option<Effect>,
    now: Timestamp,
    launched: i32,
    epoch: u64,
    image: u8,
    /// The image of the newest launch.
    launching: Option<drowse_api::Digest>,
    /// Whether the app stands still.
    is_frozen: bool,
    ticket: u64,
}

impl Run {
    fn new(on_boot_failure: OnBootFailure) -> Self {
        let (life, effects) = Life::new(spec(1, on_boot_failure));
        let now = Timestamp::UNIX_EPOCH;
        let mut run = Self {
            life,
            work: None,
            now,
            launched: 0,
            epoch: 1,
            image: 7,
            launching: None,
            is_frozen: false,
            ticket: 0,
        };
        run.take(effects);
        run
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Freeze | Effect::Dump => self.is_frozen = true,
                Effect::Thaw | Effect::Terminate | Effect::Launch | Effect::Restore(_) => self.is_frozen = false,
                _ => {}
            }
            let is_work = matches!(
                effect,
                Effect::Launch | Effect::Dump | Effect::Restore(_) | Effect::Collect | Effect::Clear | Effect::Remove
            );
            if is_work {
                assert_eq!(self.work, None, "two pieces of work at once in {:?}", self.life.state);
                if effect == Effect::Launch {
                    self.launching = Some(self.life.spec.image.clone());
                }
                self.work = Some(effect);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        let was_removing = matches!(self.life.state, State::Removing);
        let (life, effects) = self.life.clone().on(event, self.now, 0.5);
        self.life = life;
        self.take(effects);
        assert!(!was_removing || matches!(self.life.state, State::Removing), "what is removed stays so");
        assert!(self.life.tries <= budget::TRIES);
        let needs_work = matches!(
            self.life.state,
            State::Launching { .. }
                | State::Dumping { .. }
                | State::Exiting { .. }
                | State::Clearing { .. }
                | State::Removing
        );
        assert_eq!(needs_work, self.work.is_some(), "{:?} with {:?}", self.life.state, self.work);
        let runs_on = self.life.running().is_some() && !matches!(self.life.state, State::Exiting { .. });
        assert!(!runs_on || self.life.is_paused() == self.is_frozen, "{:?}: still {}", self.life.state, self.is_frozen);
    }

    fn finish_work(&mut self, well: bool) {
        let event = match self.work.take() {
            Some(Effect::Launch) if well => {
                self.launched += 1;
                let identity = ProcessIdentity { pid: self.launched, start_time: 1 };
                Event::Launched(Running::Process(App { identity, pid_inside: 1 }))
            }
            Some(Effect::Dump) if well => Event::Dumped(Taken { size: 4096, mark: "first".to_owned() }),
            Some(Effect::Dump) => Event::DumpFailed(NotDumped::Never("no".to_owned())),
            Some(Effect::Restore(_)) if well => {
                self.launched += 1;
                let identity = ProcessIdentity { pid: self.launched, start_time: 1 };
                Event::Restored(Running::Process(App { identity, pid_inside: 1 }))
            }
            Some(Effect::Restore(_)) => Event::RestoreFailed("no".to_owned()),
            Some(Effect::Launch) => Event::LaunchFailed(LaunchFailure { detail: "no".to_owned(), by_app: false }),
            Some(Effect::Collect) => Event::Collected(Exit {
                what: "ended".to_owned(),
                out_of_memory: !well,
                because: None,
                log: Vec::new(),
            }),
            Some(Effect::Clear) => Event::Cleared,
            // The task ends with the removal.
            other => return self.work = other,
        };
        self.happen(event);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::PutSame | Step::PutOther => {
                self.epoch += 1;
                self.image += u8::from(matches!(step, Step::PutOther)) % 200;
                let mut next = spec(self.epoch, self.life.spec.on_boot_failure);
                next.image = drowse_api::Digest::from_sha256([self.image; 32]);
                self.happen(Event::Put(Box::new(next)));
            }
            Step::Stop => {
                self.epoch += 1;
                let grace = Duration::from_secs(30);
                self.happen(Event::Stop { epoch: Epoch(self.epoch), grace, reason: "told to".to_owned() });
            }
            Step::Delete => self.happen(Event::Delete(Epoch(self.epoch))),
            Step::Work { well } => self.finish_work(well),
            Step::Sleep { depth } => {
                self.ticket += 1;
                let bed = Bed { depth, grace: Duration::from_secs(30), reason: "idle".to_owned() };
                self.happen(Event::Sleep { bed, ticket: self.ticket });
            }
            Step::PageOut { well: true } => self.happen(Event::Paged(8192)),
            Step::PageOut { well: false } => self.happen(Event::PageOutFailed("no".to_owned())),
            Step::Quiet => self.happen(Event::Quiet { ticket: self.ticket }),
            Step::Demand => self.happen(Event::Demand("a visitor".to_owned())),
            Step::Accept => self.happen(Event::Accepted),
            Step::Gone => self.happen(Event::Gone),
            Step::Wait { seconds } => {
                self.now += Duration::from_secs(seconds.into());
                self.happen(Event::Due { lack: None });
            }
        }
    }

    /// Nothing more comes from outside: work ends, time passes.
    fn settle(&mut self) {
        for _ in 0..200 {
            if self.work.is_some() && !matches!(self.life.state, State::Removing) {
                self.finish_work(true);
            } else if let Some(due) = self.life.due() {
                self.now = self.now.max(due);
                self.happen(Event::Due { lack: None });
            }
        }
    }
}

fn policy() -> impl Strategy<Value = OnBootFailure> {
    prop_oneof![Just(OnBootFailure::Fail), Just(OnBootFailure::Retry)]
}

proptest! {
    #[test]
    fn at_most_one_piece_of_work_is_under_way(policy in policy(), steps in prop::collection::vec(step(), 0..80)) {
        let mut run = Run::new(policy);
        for step in steps {
            run.step(step);
        }
    }

    #[test]
    fn a_stop_ends_in_nothing_running(policy in policy(), steps in prop::collection::vec(step(), 0..60)) {
        let mut run = Run::new(policy);
        for step in steps {
            run.step(step);
        }
        run.step(Step::Stop);
        run.settle();
        prop_assert!(
            matches!(run.life.state, State::Stopped { .. } | State::Failed { .. } | State::Removing),
            "{:?}", run.life.state
        );
    }

    #[test]
    fn what_is_needed_is_awake_in_the_end(policy in policy(), steps in prop::collection::vec(step(), 0..60)) {
        let mut run = Run::new(policy);
        for step in steps {
            run.step(step);
        }
        let was_over = matches!(run.life.state, State::Stopped { .. } | State::Failed { .. });
        run.step(Step::Demand);
        prop_assert!(!run.life.is_paused());
        run.settle();
        let sleeps = matches!(run.life.state, State::Frozen { .. } | State::FallingAsleep { .. });
        prop_assert!(!sleeps, "{:?}", run.life.state);
        prop_assert!(!was_over || run.life.running().is_none(), "what was stopped is woken by nobody");
    }

    #[test]
    fn a_removal_ends_in_the_removal(policy in policy(), steps in prop::collection::vec(step(), 0..60)) {
        let mut run = Run::new(policy);
        for step in steps {
            run.step(step);
        }
        run.step(Step::Delete);
        run.settle();
        prop_assert!(matches!(run.life.state, State::Removing), "{:?}", run.life.state);
    }

    #[test]
    fn what_is_to_be_removed_is_removed_whatever_comes_after(
        policy in policy(),
        before in prop::collection::vec(step(), 0..40),
        after in prop::collection::vec(step(), 0..40),
    ) {
        let mut run = Run::new(policy);
        for step in before.into_iter().chain([Step::Delete]).chain(after) {
            run.step(step);
        }
        run.settle();
        prop_assert!(matches!(run.life.state, State::Removing), "{:?}", run.life.state);
    }

    #[test]
    fn what_runs_in_the_end_is_of_the_newest_spec(policy in policy(), steps in prop::collection::vec(step(), 0..60)) {
        let mut run = Run::new(policy);
        for step in steps {
            run.step(step);
        }
        run.settle();
        if run.life.running().is_some() {
            prop_assert_eq!(run.launching.as_ref(), Some(&run.life.spec.image));
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written(policy in policy(), steps in prop::collection::vec(step(), 0..30)) {
        let mut run = Run::new(policy);
        for step in steps {
            run.step(step);
        }
        let text = serde_json::to_string(&run.life).expect("serialises");
        prop_assert_eq!(serde_json::from_str::<Life>(&text).expect("reads"), run.life);
    }
}
