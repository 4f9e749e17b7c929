//! What apps would sleep if they did: when each was seen doing something, and what follows from that
//! for a time of being idle. Nothing is acted on, and nothing is kept over a restart.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drowse_api::AppName;
use drowse_api::sleep::Rehearsal;
use jiff::{SignedDuration, Timestamp};

use crate::activity::Sign;
use crate::desired::Desired;
use crate::ledger::Ledger;
use crate::nodes::Node;
use crate::reconcile::Nodes;
use crate::routers::Routers;
use crate::sleep::{SleepDefaults, Vote, live_deployment};

/// How often apps are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Signs that are not further apart are one.
const TOGETHER: SignedDuration = SignedDuration::from_secs(5);
/// How many times of activity are remembered of an app; the oldest are forgotten first.
const MOST: usize = 1_000;

/// What was seen of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Since when it is watched.
    since: Timestamp,
    active: VecDeque<Active>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Active {
    from: Timestamp,
    to: Timestamp,
    /// What began it.
    by: Sign,
}

impl History {
    /// Of an app that is watched from now on.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { since: now, active: VecDeque::new() }
    }

    /// It did something. What was noted already changes nothing.
    pub fn note(&mut self, at: Timestamp, by: Sign) {
        if at < self.since {
            return;
        }
        match self.active.back_mut() {
            Some(last) if at.duration_since(last.to) <= TOGETHER => last.to = last.to.max(at),
            _ => self.active.push_back(Active { from: at, to: at, by }),
        }
        if self.active.len() > MOST
            && let Some(forgotten) = self.active.pop_front()
        {
            self.since = forgotten.to;
        }
    }

    /// How it would have slept, had it been put to sleep whenever it was idle for so many seconds.
    #[must_use]
    pub fn rehearse(&self, after: u32, now: Timestamp) -> Rehearsal {
        let seconds = |time: SignedDuration| u64::try_from(time.as_secs()).unwrap_or_default();
        let mut found = Rehearsal { after, watched: seconds(now.duration_since(self.since)), ..Rehearsal::default() };
        let mut idle_since = self.since;
        let ends = self.active.iter().map(|active| (active.from, active.to, Some(active.by)));
        for (from, to, by) in ends.chain([(now, now, None)]) {
            let slept = from.duration_since(idle_since) - SignedDuration::from_secs(after.into());
            if slept.is_positive() {
                found.slept += seconds(slept);
                found.times += 1;
                if let Some(by) = by {
                    *found.woken_by.entry(by.as_str().to_owned()).or_default() += 1;
                }
            }
            idle_since = to;
        }
        found
    }
}

/// What was seen of all apps.
#[derive(Debug, Default)]
pub struct Histories(
    // Held for map operations and one calculation.
    Mutex<BTreeMap<AppName, History>>,
);

impl Histories {
    /// How an app would have slept; nothing of one that was not seen yet.
    #[must_use]
    pub fn rehearse(&self, app: &AppName, after: u32, now: Timestamp) -> Option<Rehearsal> {
        self.lock().get(app).map(|history| history.rehearse(after, now))
    }

    fn look(&self, desired: &Desired, nodes: &Nodes, routers: &Routers, settings: &SleepDefaults, now: Timestamp) {
        let routers = routers.all();
        let mut known = self.lock();
        known.retain(|name, _| desired.apps.get(name.as_str()).is_some_and(|app| app.live.is_some()));
        for app in desired.apps.iter().filter(|app| app.live.is_some()) {
            let history = known.entry(app.name.clone()).or_insert_with(|| History::new(now));
            for instance in desired.instances_of(&app.name) {
                let view = nodes.get(&instance.node).map(Node::view).filter(|view| view.is_connected);
                let Some(node) = &view else { continue };
                let Some(status) = node.instances.get(&instance.id) else { continue };
                let drowse_api::instance::InstanceState::Ready { since } = status.state else { continue };
                let live = live_deployment(desired, app);
                let vote = Vote { app, live, user: None, instance, node: Some(node), routers: &routers, settings, now };
                match vote.last_sign(node, &instance.id, since) {
                    Ok(seen) => history.note(seen.at, seen.sign),
                    Err(held) => held.by.into_iter().for_each(|by| history.note(now, by)),
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AppName, History>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches all apps, again and again.
pub async fn watch(
    histories: Arc<Histories>,
    ledger: Ledger,
    nodes: Arc<Nodes>,
    routers: Arc<Routers>,
    settings: SleepDefaults,
) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        histories.look(&ledger.desired(), &nodes, &routers, &settings, Timestamp::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn every_gap_that_is_long_enough_is_a_sleep_and_what_ended_it_would_have_woken_it() {
        let mut history = History::new(at(0));
        history.note(at(-5), Sign::Awake);
        for second in [10, 12, 14] {
            history.note(at(second), Sign::Request);
        }
        history.note(at(100), Sign::Processor);
        history.note(at(100), Sign::Processor);
        history.note(at(130), Sign::Request);
        let found = history.rehearse(60, at(300));
        let woken_by = BTreeMap::from([("work of its own".to_owned(), 1)]);
        // From 14 to 100, and from 130 to now.
        assert_eq!(found, Rehearsal { after: 60, watched: 300, slept: 26 + 110, times: 2, woken_by });
        assert_eq!(history.rehearse(5, at(300)).times, 4);
        let never = history.rehearse(3600, at(300));
        assert_eq!((never.slept, never.times, never.woken_by.len()), (0, 0, 0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut history = History::new(at(0));
        for number in 0..3_000 {
            history.note(at(100 * number), Sign::Request);
        }
        let found = history.rehearse(60, at(300_000));
        assert!(found.watched <= 100_100 && found.times <= 1_001, "{found:?}");
    }
}
