//! Disks made ahead, for whoever starts next: mounted nowhere, with the folders of an overlay and the room
//! that it needs, and nobody's yet. With the agent they are unmounted; the next one removes their images.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drowse_api::instance::Limits;
use drowse_launcher::disk::Disk;

use super::{DiskError, Disks};

/// An overlay needs some files itself: so small a disk is made when it is known what runs on it.
const FEWEST_FILES: u32 = 256;

/// The spare disks, all of one size.
#[derive(Debug, Default)]
pub(super) struct Spares(Mutex<State>);

// Held over one look or change.
#[derive(Debug, Default)]
struct State {
    limits: Limits,
    /// Another size, that was asked for last.
    other: Option<Limits>,
    ready: Vec<Spare>,
    made: u64,
}

#[derive(Debug)]
struct Spare {
    image: PathBuf,
    disk: Disk,
}

impl Spares {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Somebody needs such a disk. A size that is asked for twice in a row is the one to keep ahead.
    fn asked(&mut self, limits: &Limits) -> Vec<Spare> {
        if alike(&self.limits, limits) {
            self.other = None;
        } else if self.other.as_ref().is_some_and(|other| alike(other, limits)) {
            self.limits = *limits;
            self.other = None;
            return std::mem::take(&mut self.ready);
        } else {
            self.other = Some(*limits);
        }
        Vec::new()
    }
}

fn alike(one: &Limits, other: &Limits) -> bool {
    (one.disk, one.files) == (other.disk, other.files)
}

impl Disks {
    /// Whether there are fewer than `most` spare disks.
    #[must_use]
    pub fn lacks_spare(&self, most: usize) -> bool {
        let state = self.0.spares.lock();
        self.is_limited() && state.limits.files >= FEWEST_FILES && state.ready.len() < most
    }

    /// Makes one more, of the size that is asked for. Blocking.
    ///
    /// # Errors
    /// As [`make`](Self::make), or if it cannot be mounted; nothing of it is left.
    pub fn make_spare(&self) -> Result<(), DiskError> {
        let (limits, image) = {
            let mut state = self.0.spares.lock();
            state.made += 1;
            (state.limits, self.0.folder.join(format!("spare-{}", state.made)))
        };
        let made = self.make(&image, &limits).and_then(|()| {
            let disk = Disk::open(&image)?;
            disk.prepare(0)?;
            disk.reserve()?;
            Ok(disk)
        });
        let mut state = self.0.spares.lock();
        match made {
            Ok(disk) if alike(&state.limits, &limits) => {
                state.ready.push(Spare { image, disk });
                Ok(())
            }
            other => {
                drop(state);
                remove(&image);
                other.map(drop)
            }
        }
    }

    /// A spare disk of that size, as the one of `image`, if there is one. Blocking.
    #[must_use]
    pub fn take_spare(&self, limits: &Limits, image: &Path) -> Option<Disk> {
        let (unwanted, spare) = {
            let mut state = self.0.spares.lock();
            let unwanted = state.asked(limits);
            (unwanted, if alike(&state.limits, limits) { state.ready.pop() } else { None })
        };
        unwanted.iter().for_each(|spare| remove(&spare.image));
        let spare = spare.filter(|_| self.is_limited())?;
        match std::fs::rename(&spare.image, image) {
            Ok(()) => Some(spare.disk),
            Err(error) => {
                tracing::warn!(image = %image.display(), "a disk that was made ahead could not be used: {error}");
                remove(&spare.image);
                None
            }
        }
    }
}

fn remove(image: &Path) {
    let _ = std::fs::remove_file(image);
}

#[cfg(test)]
mod tests {
    use drowse_api::MemoryBytes;
    use drowse_launcher::disk::{UPPER, WORK};

    use super::*;
    use crate::disk::Mode;

    fn disks(folder: &tempfile::TempDir) -> Option<Disks> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: disks can only be mounted by root");
            return None;
        }
        Some(Disks::open(Mode::Image, folder.path().join("disks")).expect("this host can"))
    }

    fn images(folder: &tempfile::TempDir) -> usize {
        let entries = std::fs::read_dir(folder.path().join("disks")).expect("list").flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("spare-")).count()
    }

    #[test]
    fn a_spare_disk_is_taken_once_and_is_ready_for_an_overlay() {
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let Some(disks) = disks(&folder) else { return };
        let image = folder.path().join("disk");
        assert!(disks.lacks_spare(1) && disks.take_spare(&Limits::default(), &image).is_none());
        disks.make_spare().expect("made");
        assert!(!disks.lacks_spare(1));
        let disk = disks.take_spare(&Limits::default(), &image).expect("there");
        assert!(disks.lacks_spare(1));
        assert!(disk.path().join(UPPER).is_dir() && disk.path().join(WORK).is_dir());
        std::fs::write(disk.path().join(UPPER).join("kept"), "mine").expect("written");
        drop(disk);
        assert_eq!(std::fs::metadata(&image).expect("there").len(), Limits::default().disk.0);
        let again = Disk::open(&image).expect("mounts");
        assert_eq!(std::fs::read(again.path().join(UPPER).join("kept")).expect("kept"), b"mine");
        assert_eq!(images(&folder), 0);
    }

    #[test]
    fn a_size_that_is_asked_for_twice_takes_the_place_of_the_other() {
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let Some(disks) = disks(&folder) else { return };
        let (small, image) = (Limits { disk: MemoryBytes::mib(64), ..Limits::default() }, folder.path().join("disk"));
        disks.make_spare().expect("made");
        assert!(disks.take_spare(&small, &image).is_none());
        assert!(!disks.lacks_spare(1), "once is no reason");
        assert!(disks.take_spare(&small, &image).is_none());
        assert!(disks.lacks_spare(1));
        assert_eq!(images(&folder), 0, "the other size is gone");
        disks.make_spare().expect("made");
        assert!(disks.take_spare(&small, &image).is_some());
        assert_eq!(std::fs::metadata(&image).expect("there").len(), small.disk.0);
    }

    #[test]
    fn a_spare_disk_that_cannot_be_moved_is_no_disk_and_leaves_nothing() {
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let Some(disks) = disks(&folder) else { return };
        disks.make_spare().expect("made");
        assert!(disks.take_spare(&Limits::default(), &folder.path().join("missing/disk")).is_none());
        assert_eq!(images(&folder), 0);
    }

    #[test]
    fn so_small_a_disk_is_not_made_ahead() {
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let Some(disks) = disks(&folder) else { return };
        let (tiny, image) = (Limits { files: 64, ..Limits::default() }, folder.path().join("disk"));
        for _ in 0..2 {
            assert!(disks.take_spare(&tiny, &image).is_none());
        }
        assert!(!disks.lacks_spare(1));
    }
}
