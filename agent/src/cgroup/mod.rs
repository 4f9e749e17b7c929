//! Control groups: where the processes of an instance are held, limited, frozen, counted and killed.
//!
//! One trait, [`Cgroups`], with three implementations: [`V2`] for the unified hierarchy, [`Hybrid`]
//! for hosts whose memory, pids and cpu controllers are version 1 while freezing, killing and events
//! are version 2, and [`Fake`], which records. One conformance suite is run against all of them.
//!
//! The tree is `ROOT/user-USER/ID/{init,app}`. Limits are on `ID`; our pid 1 is in `init`, everything
//! the app starts in `app`, so that freezing or killing the app never reaches pid 1. Commands that users
//! run beside it are below `app`, each in a group of its own.

mod controllers;
mod detect;
mod fake;
mod files;
mod fresh;
mod hybrid;
mod place;
mod strays;
mod tree;
mod unified;
mod v2;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod rules;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

pub use detect::{detect, probe};
use drowse_api::instance::Limits;
pub use fake::{Call, Fake};
pub use hybrid::{Hybrid, Mounts};
pub use place::{CommandGroup, Leaf, Place, PlaceError, Slice};
pub use v2::V2;

/// What the host's control groups look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One version 2 hierarchy with the memory, pids and cpu controllers.
    V2,
    /// Version 1 hierarchies for memory, pids and cpu, and a version 2 one without controllers.
    Hybrid,
    /// No kernel behind it: for tests.
    Fake,
}

impl Layout {
    /// The word that `NodeInfo::cgroups` carries.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
            Self::Fake => "fake",
        }
    }
}

/// Why a control group could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host's layout cannot hold instances.
    #[error("the control groups of this host cannot hold apps: {found}; {advice}")]
    Unusable {
        /// What was found.
        found: String,
        /// What to do.
        advice: String,
    },
    /// A file or folder of a group could not be read, written, made or removed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried: `write "1" to`.
        action: String,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A limit was refused.
    #[error("cannot write {value} to {path}")]
    Limit {
        /// Which file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// Why not.
        source: cgroups_rs::fs::error::Error,
    },
    /// The kernel took a limit and shows another.
    #[error("{path} reads {found:?} after {wanted:?} was written to it")]
    NotTaken {
        /// Which file.
        path: PathBuf,
        /// What was written.
        wanted: String,
        /// What it reads.
        found: String,
    },
    /// A file of a group does not read as the kernel documents it.
    #[error("{path} reads {found:?}, which is not what the kernel documents")]
    Form {
        /// Which file.
        path: PathBuf,
        /// What it reads.
        found: String,
    },
    /// A group did not become frozen, thawed or empty in time.
    #[error("{path} did not become {wanted} in {waited:?}")]
    Deadline {
        /// Which group.
        path: PathBuf,
        /// `frozen`, `thawed`, `empty`.
        wanted: &'static str,
        /// How long was waited.
        waited: Duration,
    },
}

/// Whether the groups of a place were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Not one of them: nothing has ever run in them.
    New,
    /// Some of them.
    Kept,
}

impl Made {
    fn new(all: bool) -> Self {
        if all { Self::New } else { Self::Kept }
    }
}

/// What a place uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory charged to it, in bytes, page cache included.
    pub memory: u64,
    /// The most it ever was, in bytes, where the kernel counts it.
    pub peak: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Processor time used by all of it since it was made.
    pub cpu: Duration,
}

/// The control groups of one host under one root. Every call is blocking and safe from any thread.
pub trait Cgroups: Send + Sync {
    /// What the host has.
    fn layout(&self) -> Layout;

    /// Makes the groups of `place`, or updates the limits of those that are there.
    ///
    /// # Errors
    /// If a group cannot be made, or the kernel does not show the limits afterwards.
    fn create(&self, place: &Place, limits: &Limits) -> Result<Made, CgroupError>;

    /// `cgroup.procs` (`tasks` in version 1) of one leaf in every hierarchy, open for writing: a process of
    /// one thread that writes `0` to each is in it, with all that it will start.
    ///
    /// # Errors
    /// If the place was not made.
    fn open_procs(&self, place: &Place, leaf: Leaf) -> Result<Vec<OwnedFd>, CgroupError>;

    /// As [`open_procs`](Self::open_procs), for the launcher: where nobody was killed in the leaf since it was
    /// made, its version 2 folder is open in place of the file, for processes to be born in.
    ///
    /// # Errors
    /// If the place was not made.
    fn open_groups(&self, place: &Place, leaf: Leaf) -> Result<Vec<OwnedFd>, CgroupError> {
        self.open_procs(place, leaf)
    }

    /// SIGKILL to everything in `app`, frozen or not; `init` is not touched. Nothing to kill is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn kill_app(&self, place: &Place) -> Result<(), CgroupError>;

    /// The same for both leaves: the end of a sandbox.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn kill_all(&self, place: &Place) -> Result<(), CgroupError>;

    /// The pids in one leaf, as the host sees them; none if the place is not there.
    ///
    /// # Errors
    /// If the group is there and cannot be read.
    fn processes(&self, place: &Place, leaf: Leaf) -> Result<Vec<i32>, CgroupError>;

    /// Whether a process is in the leaf; false if the place is not there.
    ///
    /// # Errors
    /// If the group is there and cannot be read.
    fn is_populated(&self, place: &Place, leaf: Leaf) -> Result<bool, CgroupError>;

    /// Stops everything in `app`, and returns once all of it stands still.
    ///
    /// # Errors
    /// [`CgroupError::Deadline`] if a process does not stop in ten seconds; the request then stands.
    fn freeze(&self, place: &Place) -> Result<(), CgroupError>;

    /// Lets `app` go on.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    fn thaw(&self, place: &Place) -> Result<(), CgroupError>;

    /// Whether all of `app` stands still (the result, not the request).
    ///
    /// # Errors
    /// If the place is not there.
    fn is_frozen(&self, place: &Place) -> Result<bool, CgroupError>;

    /// The folder of a leaf in the version 2 tree, open: how a checkpoint finds what it freezes.
    ///
    /// # Errors
    /// If the place was not made.
    fn open_folder(&self, place: &Place, leaf: Leaf) -> Result<OwnedFd, CgroupError>;

    /// Gives back the page cache that is charged to `app`: files that its processes read, when no process
    /// is left to read them. As much as the kernel lets go; where it has no way to be asked, nothing.
    ///
    /// # Errors
    /// If the place is not there.
    fn drop_cache(&self, place: &Place) -> Result<(), CgroupError>;

    /// Whether memory of `app` may go to swap, which it may not when it was made. For the time in which an app that
    /// stands still is paged out.
    ///
    /// # Errors
    /// If the place is not there.
    fn let_swap(&self, place: &Place, may: bool) -> Result<(), CgroupError>;

    /// Bytes of the place in swap, without what is in memory as well where the kernel tells them apart; none
    /// where the kernel has no swap.
    ///
    /// # Errors
    /// If the place is not there.
    fn swapped(&self, place: &Place) -> Result<u64, CgroupError>;

    /// How many processes of the place the kernel has killed for want of memory since it was made, but for
    /// those of commands.
    /// On a hybrid host the kernel kills one and leaves the rest: whoever sees the count move calls
    /// [`kill_app`](Self::kill_app). A version 2 kernel kills all of the app itself.
    ///
    /// # Errors
    /// If the place is not there.
    fn oom_kills(&self, place: &Place) -> Result<u64, CgroupError>;

    /// How many processes of the place the kernel has not started, since it had as many as it may.
    ///
    /// # Errors
    /// If the place is not there.
    fn refused_forks(&self, place: &Place) -> Result<u64, CgroupError>;

    /// A descriptor that becomes readable when [`oom_kills`](Self::oom_kills) may be about to move,
    /// and may also do so for nothing. Read up to 4096 bytes to arm it again; the count follows
    /// within milliseconds, so look a few times. The descriptor does not block.
    ///
    /// # Errors
    /// If the place is not there, or the kernel has no such notice: then poll the count.
    fn watch_oom(&self, place: &Place) -> Result<OwnedFd, CgroupError>;

    /// What the place uses.
    ///
    /// # Errors
    /// If the place is not there.
    fn usage(&self, place: &Place) -> Result<Usage, CgroupError>;

    /// The limits that the kernel shows; the largest number of the type where there is none. Those
    /// of the disk are no group's: they read as the defaults.
    ///
    /// # Errors
    /// If the place is not there.
    fn limits(&self, place: &Place) -> Result<Limits, CgroupError>;

    /// Makes a group for a command inside `app`, and opens its `cgroup.procs` as
    /// [`open_procs`](Self::open_procs) does.
    ///
    /// # Errors
    /// If the place was not made.
    fn make_command(&self, place: &Place, command: &CommandGroup) -> Result<Vec<OwnedFd>, CgroupError>;

    /// The pids of a command, as the host sees them; none if its group is not there.
    ///
    /// # Errors
    /// If the group is there and cannot be read.
    fn command_processes(&self, place: &Place, command: &CommandGroup) -> Result<Vec<i32>, CgroupError>;

    /// SIGKILL to everything of a command. Nothing to kill is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn kill_command(&self, place: &Place, command: &CommandGroup) -> Result<(), CgroupError>;

    /// [`oom_kills`](Self::oom_kills) with those of a command, which are counted apart: the kernel kills a
    /// greedy command alone.
    ///
    /// # Errors
    /// If the place is not there.
    fn oom_kills_with(&self, place: &Place, command: &CommandGroup) -> Result<u64, CgroupError>;

    /// Removes the group of a command, as [`remove`](Self::remove) does a place.
    ///
    /// # Errors
    /// If a process stays in it.
    fn remove_command(&self, place: &Place, command: &CommandGroup) -> Result<(), CgroupError>;

    /// Every command of a place.
    ///
    /// # Errors
    /// If a hierarchy cannot be read.
    fn commands(&self, place: &Place) -> Result<Vec<CommandGroup>, CgroupError>;

    /// Removes the groups of an emptied place, and its slice's when it was the last. What is not
    /// there is no error; what is still dying is waited for, for up to two seconds.
    ///
    /// # Errors
    /// If a process stays in it.
    fn remove(&self, place: &Place) -> Result<(), CgroupError>;

    /// Every place under the root, also half-made ones.
    ///
    /// # Errors
    /// If a hierarchy cannot be read.
    fn list(&self) -> Result<Vec<Place>, CgroupError>;

    /// Removes the root's own folders, when nothing is left in them.
    ///
    /// # Errors
    /// If a place is left.
    fn remove_root(&self) -> Result<(), CgroupError>;
}
