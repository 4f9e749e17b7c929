//! When apps sleep: what their users and the operator want, and a vote on whether one is idle. Pure:
//! values in, a verdict with its cause out, which is what `drowse explain` shows.

use std::collections::BTreeMap;

use drowse_api::instance::{InstanceState, InstanceStatus};
use drowse_api::platform::Wanted;
use drowse_api::routing::RouterStatus;
use drowse_api::sleep::{After, Depth, Glances, Wake};
use drowse_api::{InstanceId, NodeName};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::activity::Sign;
use crate::desired::Desired;
use crate::model::{App, Deployment, Instance, Life, User};
use crate::picture::NodeView;

/// `[sleep]`: how apps sleep where their users set nothing. Without it they do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SleepDefaults {
    /// How long an app is idle before it is paused, in seconds; never if absent.
    pub paused_after_seconds: Option<u32>,
    /// How long an app is idle before its memory goes to swap, in seconds; never if absent.
    pub paged_after_seconds: Option<u32>,
    /// How long an app is idle before it is put to disk, in seconds; never if absent.
    pub snapshot_after_seconds: Option<u32>,
    /// How long an app is idle before nothing of it runs, in seconds; never if absent.
    pub cold_after_seconds: Option<u32>,
    /// What a browser gets that asks for an app then.
    pub wake: Wake,
    /// Over how long processor time and traffic are measured, in seconds.
    pub look_seconds: u32,
}

impl Default for SleepDefaults {
    fn default() -> Self {
        Self {
            paused_after_seconds: None,
            paged_after_seconds: None,
            snapshot_after_seconds: None,
            cold_after_seconds: None,
            wake: Wake::Page,
            look_seconds: 10,
        }
    }
}

/// How one app sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// It never does, whatever else is set.
    pub is_pinned: bool,
    /// How long it is idle before it is paused, in seconds.
    pub paused_after: Option<u32>,
    /// How long it is idle before its memory goes to swap, in seconds; it is paused then where that cannot be.
    pub paged_after: Option<u32>,
    /// How long it is idle before it is put to disk, in seconds.
    pub snapshot_after: Option<u32>,
    /// How long it is idle before nothing of it runs, in seconds.
    pub cold_after: Option<u32>,
    /// What a browser gets that asks for it then.
    pub wake: Wake,
    /// What those get then who only look by.
    pub glances: Glances,
}

/// The one place that turns what a user asked for into how an app sleeps: what was set by `drowse idle`,
/// then what the folder of the live deployment pins, then the operator's. What the user is entitled to
/// will be looked at here.
#[must_use]
pub fn sleep_policy(app: &App, live: Option<&Deployment>, _user: Option<&User>, settings: &SleepDefaults) -> Policy {
    let seconds = |asked: Option<After>, default: Option<u32>| asked.map_or(default, After::seconds);
    let asked = app.sleep.over(live.map(|live| live.manifest.sleep).unwrap_or_default());
    Policy {
        is_pinned: asked.pinned,
        paused_after: seconds(asked.paused_after, settings.paused_after_seconds),
        paged_after: seconds(asked.paged_after, settings.paged_after_seconds),
        snapshot_after: seconds(asked.snapshot_after, settings.snapshot_after_seconds),
        cold_after: seconds(asked.cold_after, settings.cold_after_seconds),
        wake: asked.wake.unwrap_or(settings.wake),
        glances: Glances {
            prefetch: asked.prefetch.unwrap_or_default(),
            crawlers: asked.crawlers.unwrap_or_default(),
            monitors: asked.monitors.unwrap_or_default(),
        },
    }
}

/// The deployment that an app serves by.
#[must_use]
pub fn live_deployment<'a>(desired: &'a Desired, app: &App) -> Option<&'a Deployment> {
    let live = app.live.as_ref()?;
    desired.deployments.get(live.deployment.as_str()).map(AsRef::as_ref)
}

impl Policy {
    /// In a sentence.
    #[must_use]
    pub fn in_words(&self) -> String {
        let wakes = match self.wake {
            Wake::Page => "a browser gets the Wake Up page then",
            Wake::Auto => "a browser wakes it by asking",
        };
        let depths = [
            ("paused", self.paused_after),
            ("paged", self.paged_after),
            ("on disk", self.snapshot_after),
            ("cold", self.cold_after),
        ];
        let times: Vec<String> =
            depths.iter().filter_map(|(depth, after)| Some(format!("{depth} when idle for {} s", (*after)?))).collect();
        match (self.is_pinned, times.is_empty()) {
            (true, _) => "it is pinned: it never sleeps".to_owned(),
            (_, true) => "it sleeps only when it is told to (drowse sleep)".to_owned(),
            _ if self.snapshot_after.is_some() || self.cold_after.is_some() => format!("{}; {wakes}", times.join(", ")),
            _ => times.join(", "),
        }
    }

    /// The deepest sleep for who is idle for so long. What cannot be put to disk is passed over, what cannot be
    /// paged is paused.
    fn depth(&self, idle: SignedDuration, status: &InstanceStatus) -> Option<(Depth, u32)> {
        let is_over = |after: &u32| idle.as_secs() >= i64::from(*after);
        let depths = [
            (Depth::Cold, self.cold_after),
            (Depth::Snapshot, self.snapshot_after.filter(|_| status.no_snapshot.is_none())),
            (if status.no_paging.is_none() { Depth::Paged } else { Depth::Paused }, self.paged_after),
            (Depth::Paused, self.paused_after),
        ];
        depths.into_iter().find_map(|(depth, after)| Some((depth, after.filter(is_over)?)))
    }
}

/// What the vote on one instance came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It stays awake, for this reason.
    Awake(String),
    /// It is to sleep (or to sleep deeper), for this reason.
    Sleep(Depth, String),
    /// It sleeps, so.
    Asleep(String),
    /// It sleeps and is to be awake, for this reason.
    Wake(String),
}

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Vote<'a> {
    /// The app.
    pub app: &'a App,
    /// The deployment that it serves by.
    pub live: Option<&'a Deployment>,
    /// Whose it is.
    pub user: Option<&'a User>,
    /// The instance.
    pub instance: &'a Instance,
    /// What its node reports, if that is what is.
    pub node: Option<&'a NodeView>,
    /// What the routers report.
    pub routers: &'a BTreeMap<NodeName, Option<RouterStatus>>,
    /// The operator's settings.
    pub settings: &'a SleepDefaults,
    /// The time.
    pub now: Timestamp,
}

impl Vote<'_> {
    /// Whether it is to sleep, and why (not).
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let policy = sleep_policy(self.app, self.live, self.user, self.settings);
        let awake = |why: &str| Verdict::Awake(why.to_owned());
        let Some(node) = self.node else { return awake("its node does not answer") };
        let Some(status) = node.instances.get(&self.instance.id) else { return awake("its node does not know it yet") };
        match &status.state {
            InstanceState::Frozen { depth, since, reason, .. } => {
                self.asleep(&policy, status, (*depth, *since), reason)
            }
            InstanceState::Ready { since } => self.ready(&policy, node, status, *since),
            InstanceState::FallingAsleep { .. } => awake("it falls asleep as soon as its requests are finished"),
            InstanceState::Waking { .. } => awake("it is being woken"),
            _ => awake("it is not ready"),
        }
    }

    fn asleep(
        &self,
        policy: &Policy,
        status: &InstanceStatus,
        (depth, since): (Depth, Timestamp),
        reason: &str,
    ) -> Verdict {
        if policy.is_pinned {
            return Verdict::Wake("it is pinned".to_owned());
        }
        // It was idle for so long already when it fell asleep.
        let before = policy.paused_after.unwrap_or(0);
        let idle = self.now.duration_since(since) + SignedDuration::from_secs(i64::from(before));
        match policy.depth(idle, status) {
            Some((deeper, after)) if deeper > depth && self.may_sleep().is_ok() => {
                Verdict::Sleep(deeper, format!("nobody asked for it for {after} s"))
            }
            _ => {
                let no_disk = status.no_snapshot.as_ref().filter(|_| policy.snapshot_after.is_some());
                let no_disk = no_disk.map_or_else(String::new, |why| format!("; it cannot be put to disk: {why}"));
                let no_swap = status.no_paging.as_ref().filter(|_| policy.paged_after.is_some());
                let no_swap = no_swap.map_or_else(String::new, |why| format!("; it cannot be paged: {why}"));
                let holds = match (status.in_swap, status.on_disk) {
                    (Some(size), _) => format!(", {size} in swap"),
                    (None, Some(size)) => format!(", {size} on disk"),
                    (None, None) => String::new(),
                };
                let ago = seconds_ago(since, self.now);
                Verdict::Asleep(format!("{depth} since {ago}{holds}: {reason}{no_swap}{no_disk}"))
            }
        }
    }

    fn ready(&self, policy: &Policy, node: &NodeView, status: &InstanceStatus, since: Timestamp) -> Verdict {
        if let Err(why) = self.may_sleep() {
            return Verdict::Awake(why.to_owned());
        }
        if policy.is_pinned {
            return Verdict::Awake("it is pinned".to_owned());
        }
        let last = match self.last_sign(node, &status.id, since) {
            Ok(last) => last,
            Err(held) => return Verdict::Awake(held.why),
        };
        let (last, what) = (last.at, last.what);
        match policy.depth(self.now.duration_since(last), status) {
            Some((depth, after)) => Verdict::Sleep(depth, format!("idle for {after} s")),
            None => Verdict::Awake(format!("{what} {}; {}", seconds_ago(last, self.now), policy.in_words())),
        }
    }

    /// What of it was seen last that keeps it awake for a time; `Err` keeps it awake whatever the time.
    ///
    /// # Errors
    /// The reason, where it is needed now or not enough is known of it.
    pub fn last_sign(&self, node: &NodeView, id: &InstanceId, since: Timestamp) -> Result<Seen, Held> {
        let in_flight: u64 = self.routers.values().flatten().filter_map(|router| router.in_flight.get(id)).sum();
        if in_flight > 0 {
            let what = if in_flight == 1 { "request or stream is" } else { "requests or streams are" };
            return Err(Held { why: format!("{in_flight} {what} in flight"), by: Some(Sign::Request) });
        }
        let measured = node.measured.get(id);
        if let Some(until) = measured.and_then(|measured| measured.lease).filter(|until| *until > self.now) {
            let why = format!("it holds a lease for {}", for_more(until.duration_since(self.now)));
            return Err(Held { why, by: Some(Sign::Lease) });
        }
        let unknown = |why: &str| Held { why: why.to_owned(), by: None };
        if self.routers.is_empty() || self.routers.values().any(Option::is_none) {
            return Err(unknown("not every router has told what it serves"));
        }
        let asked = self.routers.values().flatten().filter_map(|router| router.active.get(id)).max();
        let asked = *asked.ok_or_else(|| unknown("no router has told when it was last asked for"))?;
        let measured = measured.ok_or_else(|| unknown("it is not known yet how much it does by itself"))?;
        let signs = [
            Seen { at: asked, what: "the last request was".to_owned(), sign: Sign::Request },
            Seen { at: since, what: "it has been awake only since".to_owned(), sign: Sign::Awake },
            Seen { at: measured.busy_at.unwrap_or(Timestamp::MIN), what: measured.why.clone(), sign: measured.sign },
        ];
        let none = Seen { at: self.now, what: String::new(), sign: Sign::Awake };
        Ok(signs.into_iter().max_by_key(|seen| seen.at).unwrap_or(none))
    }

    /// Whether it is of those that may sleep at all.
    fn may_sleep(&self) -> Result<(), &'static str> {
        let live = self.app.live.as_ref();
        if self.app.wanted == Wanted::Stopped {
            return Err("its app is being stopped");
        }
        if self.app.pending.is_some() {
            return Err("a release of its app is under way");
        }
        if self.instance.life != Life::Serving || live.is_none_or(|release| !release.has(self.instance)) {
            return Err("it does not serve yet, or not any more");
        }
        Ok(())
    }
}

/// Why an app stays awake, however long ago anything was seen of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// As a sentence.
    pub why: String,
    /// What it does at this moment, if that is known.
    pub by: Option<Sign>,
}

/// What was seen of an app that keeps it awake for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: Timestamp,
    /// As the beginning of a sentence that ends in the time.
    pub what: String,
    /// What kind of thing.
    pub sign: Sign,
}

fn for_more(left: SignedDuration) -> String {
    match left.as_secs().max(1) {
        seconds @ ..120 => format!("{seconds} more s"),
        seconds @ 120..7200 => format!("{} more min", seconds.div_euclid(60)),
        seconds => format!("{} more h", seconds.div_euclid(3600)),
    }
}

fn seconds_ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().max(0);
    match seconds {
        ..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        _ => format!("{} h ago", seconds / 3600),
    }
}

#[cfg(test)]
mod tests;
