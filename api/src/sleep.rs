//! Sleep: how deeply an instance sleeps, and what is asked and told about it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Epoch;
use crate::event::Event;

/// How deeply an instance sleeps; the deeper, the less it holds and the longer it takes to wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    /// Its processes stand still and hold all their memory.
    Paused,
    /// They stand still, and most of their memory is swapped out.
    Paged,
    /// Its processes are on disk.
    Snapshot,
    /// Nothing of it runs: its image and the files it wrote are kept, and it is started on demand.
    Cold,
}

impl Depth {
    /// The word on the wire and the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Paged => "paged",
            Self::Snapshot => "snapshot",
            Self::Cold => "cold",
        }
    }

    /// Whether a visitor does not notice that it slept: the processes are still in memory.
    #[must_use]
    pub fn wakes_unnoticed(self) -> bool {
        matches!(self, Self::Paused | Self::Paged)
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a browser gets that asks for an app which sleeps too deeply to wake unnoticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wake {
    /// The Wake Up page with a button; only the button wakes the app.
    #[default]
    Page,
    /// Asking wakes it. The page is shown only if that takes longer than a moment.
    Auto,
}

/// What somebody gets who only looks by an app that sleeps deeply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Glance {
    /// An answer of the router's; the app sleeps on.
    #[default]
    Answer,
    /// An answer of the router's; the app is woken for the next one.
    Wake,
    /// The app's own answer: it is woken, and waited for.
    Hold,
}

/// What those get who only look by, by who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Glances {
    /// Browsers that guess what may be looked at next, and those that want an icon.
    pub prefetch: Glance,
    /// Crawlers, and what they read first.
    pub crawlers: Glance,
    /// Monitors.
    pub monitors: Glance,
}

/// Puts an instance to sleep, once every router has let go of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SleepRequest {
    /// The decision that what runs belongs to.
    pub epoch: Epoch,
    /// How deeply.
    pub depth: Depth,
    /// How long it may take to end by itself, in seconds, where it has to end.
    pub grace_seconds: u32,
    /// Why, as the rest of a sentence: `no request for 15 s`.
    pub reason: String,
    /// Not if it holds a lease: it was taken for idle, and nobody told it to.
    #[serde(default)]
    pub unless_leased: bool,
}

/// Wakes an instance, or keeps it awake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// By what, as the rest of a sentence: `GET /feed, from curl/8.5`.
    pub cause: String,
}

/// A router has closed its gate to an instance, and nothing of it is in flight any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    /// The router's stream of pictures, by the number in them.
    pub follower: u64,
    /// The attempt to put the instance to sleep, by the number in the picture.
    pub ticket: u64,
}

/// An instance that sleeps or is being woken, as a router sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sleeper {
    /// Where it will be reached.
    pub address: SocketAddr,
    /// How deeply it sleeps, or slept.
    pub depth: Depth,
    /// Since when.
    pub since: Timestamp,
    /// It is on its way up.
    #[serde(default)]
    pub is_waking: bool,
    /// How long waking took the last time, in milliseconds, where that is known.
    #[serde(default)]
    pub takes: Option<u32>,
}

/// What an instance has used since it was started, for whoever decides whether it is idle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Processor time, in milliseconds.
    pub cpu: u64,
    /// Bytes that passed its network link, in both directions.
    pub traffic: u64,
    /// How long its main process has been there, in milliseconds.
    #[serde(default)]
    pub age: u64,
    /// Until when it holds a lease, if it does.
    #[serde(default)]
    pub lease: Option<Timestamp>,
}

/// After which time something happens, if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    /// It does not happen.
    Never,
    /// After so many seconds.
    Seconds(u32),
}

impl After {
    /// The time, if it happens.
    #[must_use]
    pub fn seconds(self) -> Option<u32> {
        match self {
            Self::Never => None,
            Self::Seconds(seconds) => Some(seconds),
        }
    }
}

/// How an app sleeps, as its user set it. What is absent is as the platform has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SleepSettings {
    /// It never sleeps, whatever else is set.
    #[serde(default)]
    pub pinned: bool,
    /// How long it is idle before it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_after: Option<After>,
    /// How long it is idle before its memory goes to swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paged_after: Option<After>,
    /// How long it is idle before it is put to disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_after: Option<After>,
    /// How long it is idle before nothing of it runs any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_after: Option<After>,
    /// What a browser gets that asks for it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake: Option<Wake>,
    /// What a browser's prefetch gets then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<Glance>,
    /// What a crawler gets then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crawlers: Option<Glance>,
    /// What a monitor gets then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitors: Option<Glance>,
}

/// The shortest time of being idle that can be set, in seconds: shorter ones would be spent on sleeping.
pub const SHORTEST: u32 = 1;

impl SleepSettings {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These, and where they say nothing, those of `base`.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            pinned: self.pinned || base.pinned,
            paused_after: self.paused_after.or(base.paused_after),
            paged_after: self.paged_after.or(base.paged_after),
            snapshot_after: self.snapshot_after.or(base.snapshot_after),
            cold_after: self.cold_after.or(base.cold_after),
            wake: self.wake.or(base.wake),
            prefetch: self.prefetch.or(base.prefetch),
            crawlers: self.crawlers.or(base.crawlers),
            monitors: self.monitors.or(base.monitors),
        }
    }

    /// Whether every time that is set can be.
    #[must_use]
    pub fn is_long_enough(&self) -> bool {
        let times = [self.paused_after, self.paged_after, self.snapshot_after, self.cold_after].into_iter().flatten();
        times.filter_map(After::seconds).all(|seconds| seconds >= SHORTEST)
    }
}

/// Puts an app to sleep now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SleepCommand {
    /// How deeply.
    pub depth: Depth,
}

/// Why an app is awake or asleep, and what came before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// One sentence for each instance: what it does, and why.
    pub now: Vec<String>,
    /// When it sleeps, in a sentence.
    pub policy: String,
    /// The last times that it fell asleep, woke or was kept awake, oldest first.
    pub recent: Vec<Event>,
    /// How it would have slept, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal: Option<Rehearsal>,
}

/// How an app would have slept, by what was seen of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// How long it would have had to be idle, in seconds.
    pub after: u32,
    /// For how long it was watched, in seconds.
    pub watched: u64,
    /// For how much of that it would have slept, in seconds.
    pub slept: u64,
    /// How often it would have fallen asleep.
    pub times: u32,
    /// What would have woken it, and how often.
    pub woken_by: BTreeMap<String, u32>,
}
