//! Sleep: how deeply an instance sleeps, and what is asked and told about it.

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
}
