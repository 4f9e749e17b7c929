//! An app that stands still, out to the node's swap and back.
//!
//! Out: what its processes alone have is advised out piece by piece, so that who needs it need not wait; then
//! its group is reclaimed, which takes what they share, the swap's own cache and the page cache. Only for
//! that time the group may swap. Back: the working set of an earlier wake, before the app goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drowse_api::MemoryBytes;
use fail::fail_point;

use super::error::SandboxError;
use super::home::Home;
use super::sandbox::Sandboxes;
use crate::cgroup::{Leaf, Place};
use crate::durable;
use crate::pages::{self, WorkingSet};

const MAGIC: &str = "drowse-working-set";
const VERSION: u32 = 1;
/// How long after a wake its working set is looked at: the first requests are answered by then.
pub(super) const SETTLES: Duration = Duration::from_secs(2);
/// How often a group is reclaimed: what is still being written out when it is looked at first goes the next time.
const PASSES: usize = 3;
/// Less than this is not worth a sleep of its own.
const LITTLE: u64 = 64 << 10;

/// Where the working set is kept, until the host's next boot.
fn file(home: &Home) -> PathBuf {
    home.folder.join("working-set")
}

/// The group may swap for as long as this lives.
struct MaySwap<'a> {
    sandboxes: &'a Sandboxes,
    place: &'a Place,
}

impl Drop for MaySwap<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.sandboxes.cgroups.let_swap(self.place, false) {
            tracing::error!(place = %self.place, "it may go on swapping: {error}");
        }
    }
}

impl Sandboxes {
    /// Pages the app out, as it stands still: the bytes of it that are in swap then. Blocking.
    ///
    /// # Errors
    /// If the kernel pages (almost) nothing out. The app stands still as before, whatever was paged out.
    pub fn page_out(&self, home: &Home, stop: &AtomicBool) -> Result<u64, SandboxError> {
        let (cgroups, place) = (&self.cgroups, &home.place);
        fail_point!("paging-begins");
        let held = cgroups.usage(place)?.memory;
        let open = MaySwap { sandboxes: self, place };
        cgroups.let_swap(place, true)?;
        pages::out(&cgroups.processes(place, Leaf::App)?, stop);
        fail_point!("paging-done");
        let mut before = u64::MAX;
        for _ in 0..PASSES {
            let now = cgroups.usage(place)?.memory;
            if stop.load(Ordering::Relaxed) || now >= before {
                break;
            }
            before = now;
            cgroups.drop_cache(place)?;
        }
        drop(open);
        let swapped = cgroups.swapped(place)?;
        if swapped < LITTLE && held > LITTLE {
            let (held, swapped) = (MemoryBytes(held), MemoryBytes(swapped));
            return Err(SandboxError::NotPaged(format!("{swapped} of its {held} went to swap")));
        }
        Ok(swapped)
    }

    /// Reads the working set back, if an earlier wake left one. Blocking.
    pub fn page_in(&self, home: &Home) {
        fail_point!("paging-back");
        match durable::load::<WorkingSet>(&file(home), MAGIC, VERSION) {
            Ok(Some(set)) => {
                set.fetch();
                tracing::debug!(place = %home.place, size = %MemoryBytes(set.size()), "its working set was read back");
            }
            Ok(None) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Remembers what the app has touched since it was woken. Blocking.
    pub fn note_working_set(&self, home: &Home) {
        let Ok(pids) = self.cgroups.processes(&home.place, Leaf::App) else { return };
        let set = WorkingSet::of(&pids);
        // One that was taken away meanwhile has no folder any more.
        if set.size() > 0 && home.sandbox_record().exists() {
            let _ = durable::save_until_reboot(&file(home), MAGIC, VERSION, &set);
        }
    }
}

/// One app is paged out at a time: it is work for the processors and the disk that nobody waits for.
pub type Turn = Arc<tokio::sync::Semaphore>;
