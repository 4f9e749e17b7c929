//! Which leaves this agent has made and never killed anything in.
//!
//! What is to be born in a version 2 group (`CLONE_INTO_CGROUP`) must find one like that: after one
//! `cgroup.kill` every later birth in the group ends at once.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::files::failed;
use super::{CgroupError, Leaf, Place};

/// The leaves. A std lock, held over one look or change.
#[derive(Debug, Default)]
pub(super) struct Fresh(Mutex<BTreeSet<(Place, Leaf)>>);

impl Fresh {
    /// The leaf was made just now.
    pub fn made(&self, place: &Place, leaf: Leaf) {
        self.lock().insert((place.clone(), leaf));
    }

    /// Something is about to be killed in the leaf, or it goes.
    pub fn spoiled(&self, place: &Place, leaf: Leaf) {
        self.lock().remove(&(place.clone(), leaf));
    }

    /// Whether processes can be born in it.
    pub fn has(&self, place: &Place, leaf: Leaf) -> bool {
        self.lock().contains(&(place.clone(), leaf))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(Place, Leaf)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The folder of a group, open for being born in.
pub(super) fn open_folder(folder: &Path) -> Result<OwnedFd, CgroupError> {
    use rustix::fs::{CWD, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, folder, flags, Mode::empty()).map_err(|errno| failed("open", folder)(errno.into()))
}
