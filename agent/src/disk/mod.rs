//! Disks of sandboxes: what an instance or a build writes is in an image of a fixed size, sparse, with
//! a fixed number of files. The launcher mounts it; this makes it, and finds out whether the host can.
//!
//! It knows nothing of what is written. A new image is a copy of an empty one of the same size, since
//! copying its few hundred KiB takes a tenth of the time of making it.

mod spare;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use drowse_api::MemoryBytes;
use drowse_api::instance::Limits;
use drowse_launcher::disk::Disk;
use drowse_launcher::rules::Rule;
use rustix::fs::{SeekFrom as Part, seek};
use serde::Deserialize;

use crate::rules;

/// `[disk] limit`: how the disk of an instance is limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// By an image, where the host can do that.
    #[default]
    Auto,
    /// By an image; without one no agent starts.
    Image,
    /// Not at all: whoever writes most has most.
    Off,
}

/// Why a disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The program is missing or cannot be run.
    #[error("cannot run mke2fs (Debian: e2fsprogs)")]
    Program(#[source] io::Error),
    /// The program does not make it.
    #[error("mke2fs makes no disk of {size}: {said}")]
    Refused {
        /// Of which size.
        size: MemoryBytes,
        /// What it said.
        said: String,
    },
    /// A file.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel does not mount it.
    #[error("cannot {0}")]
    Mount(#[from] drowse_launcher::Failure),
}

/// The disks of this host. Every call is blocking.
#[derive(Debug, Clone)]
pub struct Disks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Empty images, by size and number of files.
    folder: PathBuf,
    is_limited: bool,
    // A std lock, held while an empty image is made: two of one size would be in each other's way.
    making: Mutex<()>,
    spares: spare::Spares,
}

impl Disks {
    /// Finds out whether the host can, in `folder`, which is emptied: another release's program may
    /// have made what is in it.
    ///
    /// # Errors
    /// In [`Mode::Image`], if it cannot.
    pub fn open(mode: Mode, folder: PathBuf) -> Result<Self, DiskError> {
        let disks = |is_limited| {
            Self(Arc::new(Inner {
                folder: folder.clone(),
                is_limited,
                making: Mutex::new(()),
                spares: spare::Spares::default(),
            }))
        };
        let failed = |action, source| DiskError::Io { action, path: folder.clone(), source };
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("empty", error)),
            _ => {}
        }
        std::fs::create_dir_all(&folder).map_err(|error| failed("make", error))?;
        match (mode, probe(&folder)) {
            (Mode::Off, _) => Ok(disks(false)),
            (Mode::Auto | Mode::Image, Ok(())) => Ok(disks(true)),
            (Mode::Image, Err(error)) => Err(error),
            (Mode::Auto, Err(error)) => {
                let why = crate::host::error::chain(&error);
                tracing::warn!("what apps write to disk has no limit on this host: {why}");
                Ok(disks(false))
            }
        }
    }

    /// Whether new sandboxes get a disk of their own.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.0.is_limited && rules::in_force(Rule::LimitDisk)
    }

    /// Makes an empty disk at `image`, unless one is there: all of it or nothing. One that nobody let go of
    /// as it should, since the host went down, is checked; where that does not make it whole it is put aside
    /// as `NAME.damaged`, and an empty one takes its place: an app without what it wrote can at least run.
    ///
    /// # Errors
    /// Says what the host lacks, or which file could not be written.
    pub fn make(&self, image: &Path, limits: &Limits) -> Result<(), DiskError> {
        if image.exists() {
            let Some(said) = mend(image)? else { return Ok(()) };
            let damaged = image.with_extension("damaged");
            std::fs::rename(image, &damaged).map_err(|source| DiskError::Io {
                action: "put aside",
                path: image.to_owned(),
                source,
            })?;
            tracing::error!(
                "a disk cannot be mended and is empty from now on; what was on it is in {}: {said}",
                damaged.display()
            );
        }
        let empty = self.empty(limits)?;
        let half = image.with_extension("half-made");
        let copied = copy_sparse(&empty, &half).map_err(|source| DiskError::Io {
            action: "copy an empty disk to",
            path: half.clone(),
            source,
        });
        let renamed = copied.and_then(|()| {
            std::fs::rename(&half, image).map_err(|source| DiskError::Io {
                action: "make",
                path: image.to_owned(),
                source,
            })
        });
        renamed.inspect_err(|_| drop(std::fs::remove_file(&half)))
    }

    /// The empty image of that size, made if it is the first.
    fn empty(&self, limits: &Limits) -> Result<PathBuf, DiskError> {
        let files = files(limits);
        let path = self.0.folder.join(format!("{}-{files}", limits.disk.0));
        let _making = self.0.making.lock().unwrap_or_else(PoisonError::into_inner);
        if !path.exists() {
            let half = path.with_extension("half-made");
            format(&half, limits.disk, files)?;
            std::fs::rename(&half, &path).map_err(|source| DiskError::Io {
                action: "make",
                path: path.clone(),
                source,
            })?;
        }
        Ok(path)
    }
}

/// That the host makes and mounts a disk in `folder`, which is as it was afterwards.
///
/// # Errors
/// What it lacks.
pub fn probe(folder: &Path) -> Result<(), DiskError> {
    let image = folder.join("probe");
    let tried = format(&image, Limits::SMALLEST_DISK, 64).and_then(|()| Ok(Disk::open(&image).map(drop)?));
    let _ = std::fs::remove_file(&image);
    tried
}

/// Inodes have their place from the start: more than one for 8 KiB would leave no room for what is in files.
fn files(limits: &Limits) -> u32 {
    let most = u32::try_from(limits.disk.0 / 8192).unwrap_or(u32::MAX);
    if rules::in_force(Rule::LimitFiles) { limits.files.clamp(16, most) } else { most }
}

fn format(image: &Path, size: MemoryBytes, files: u32) -> Result<(), DiskError> {
    let made = File::create(image).and_then(|file| file.set_len(size.0));
    made.map_err(|source| DiskError::Io { action: "make", path: image.to_owned(), source })?;
    // A journal, so that a power cut leaves it whole; inode tables are zeroed when they are used. What
    // is not written stays a hole of the image.
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-J", "size=4", "-O", "^resize_inode"])
        .args(["-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", "-N", &files.to_string()])
        .arg(image)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .output()
        .map_err(DiskError::Program)?;
    if output.status.success() {
        return Ok(());
    }
    let _ = std::fs::remove_file(image);
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    Err(DiskError::Refused { size, said })
}

/// Checks a disk that is not mounted and was not left as it should. What is still wrong with it, if anything.
fn mend(image: &Path) -> Result<Option<String>, DiskError> {
    let held = drowse_launcher::disk::hold(image)?;
    if was_let_go(&held) {
        return Ok(None);
    }
    let checked = Command::new("e2fsck").arg("-p").arg(image).env("PATH", search_path()).stdin(Stdio::null()).output();
    let Ok(output) = checked else {
        // The kernel replays its journal, and says what else is wrong.
        return Ok(None);
    };
    // 1: there was something, and it is right now.
    if matches!(output.status.code(), Some(0 | 1)) {
        tracing::info!("a disk that the host went down with was checked: {}", image.display());
        return Ok(None);
    }
    let said = [output.stdout, output.stderr].concat();
    let lines: Vec<_> = String::from_utf8_lossy(&said).lines().map(|line| line.trim().to_owned()).collect();
    Ok(Some(lines.join("; ")))
}

/// Whether the last who had it mounted unmounted it, and found no fault: what its superblock says.
fn was_let_go(image: &File) -> bool {
    let mut block = [0; 1024];
    let short = |at: usize, block: &[u8; 1024]| u16::from_le_bytes([block[at], block[at + 1]]);
    const MAGIC: (usize, u16) = (0x38, 0xEF53);
    const STATE: (usize, u16) = (0x3A, 1);
    /// Of the features that a reader must know: there is something in the journal.
    const RECOVER: (usize, u16) = (0x60, 4);
    image.read_exact_at(&mut block, 1024).is_ok()
        && short(MAGIC.0, &block) == MAGIC.1
        && short(STATE.0, &block) == STATE.1
        && short(RECOVER.0, &block) & RECOVER.1 == 0
}

/// Whoever started the agent may not have the folders of root's programs in its path.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Copies what is in a file and leaves out its holes.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let (mut source, mut target) = (File::open(from)?, File::create(to)?);
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut at = 0;
    while at < length {
        at = match seek(&source, Part::Data(at)) {
            Ok(at) => at,
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = seek(&source, Part::Hole(at))?;
        source.seek(SeekFrom::Start(at))?;
        target.seek(SeekFrom::Start(at))?;
        io::copy(&mut (&source).take(end - at), &mut target)?;
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::rules::left_out;

    const LIMITS: Limits =
        Limits { memory: MemoryBytes::mib(64), pids: 64, cpu_weight: 100, disk: MemoryBytes::mib(32), files: 100 };

    fn is_root() -> bool {
        let is_root = nix::unistd::geteuid().is_root();
        if !is_root {
            eprintln!("SKIPPED: disks can only be mounted by root");
        }
        is_root
    }

    fn disks(folder: &tempfile::TempDir) -> Disks {
        Disks::open(Mode::Image, folder.path().join("disks")).expect("this host can")
    }

    #[test]
    fn a_new_disk_is_sparse_and_one_that_is_there_is_kept() {
        if !is_root() {
            return;
        }
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let (disks, image) = (disks(&folder), folder.path().join("disk"));
        let limits = Limits { disk: MemoryBytes::gib(8), ..LIMITS };
        disks.make(&image, &limits).expect("made");
        let made = std::fs::metadata(&image).expect("there");
        assert_eq!(made.len(), MemoryBytes::gib(8).0);
        assert!(made.blocks() * 512 < 8 << 20, "{} KiB", made.blocks() / 2);
        std::fs::write(Disk::open(&image).expect("mounts").path().join("kept"), "mine").expect("written");
        disks.make(&image, &limits).expect("kept");
        assert_eq!(std::fs::read(Disk::open(&image).expect("mounts").path().join("kept")).expect("kept"), b"mine");
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).expect("list").flatten().map(|e| e.file_name()).collect();
        names.sort();
        assert_eq!(names, ["disk", "disks"]);
    }

    #[test]
    fn a_disk_that_the_host_went_down_with_is_whole_again_or_makes_room_for_an_empty_one() {
        if !is_root() {
            return;
        }
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let (disks, image) = (disks(&folder), folder.path().join("disk"));
        disks.make(&image, &LIMITS).expect("made");
        let mounted = Disk::open(&image).expect("mounts");
        std::fs::write(mounted.path().join("kept"), "mine").expect("written");
        File::open(mounted.path().join("kept")).and_then(|file| file.sync_all()).expect("on the disk");
        // As a power cut leaves it: it says that it is mounted, and nobody has it.
        let cut = folder.path().join("cut");
        copy_sparse(&image, &cut).expect("copied");
        drop(mounted);
        assert!(!was_let_go(&File::open(&cut).expect("opens")));
        disks.make(&cut, &LIMITS).expect("mended");
        assert!(was_let_go(&File::open(&cut).expect("opens")), "checked before anybody mounts it");
        assert_eq!(std::fs::read(Disk::open(&cut).expect("mounts").path().join("kept")).expect("kept"), b"mine");

        drop(drowse_launcher::disk::hold(&cut).expect("let go"));
        File::options().write(true).open(&cut).and_then(|file| file.write_all_at(&[7; 64 << 10], 0)).expect("damaged");
        disks.make(&cut, &LIMITS).expect("an empty one");
        assert!(!Disk::open(&cut).expect("mounts").path().join("kept").exists());
        let aside = std::fs::read(cut.with_extension("damaged")).expect("what was there is put aside");
        assert_eq!(aside[..16], [7; 16]);
    }

    /// Whether as much as that can be written, with the rule and without it.
    fn stops(rule: Rule, too_much: impl Fn(&Path) -> io::Result<()>) {
        if !is_root() {
            return;
        }
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let disks = disks(&folder);
        for is_left_out in [false, true] {
            left_out::set(is_left_out.then_some(rule));
            let image = folder.path().join(format!("disk-{is_left_out}"));
            // Without a disk what is written goes to the folder, as in a sandbox.
            let disk = disks.is_limited().then(|| {
                disks.make(&image, &LIMITS).expect("made");
                Disk::open(&image).expect("mounts")
            });
            left_out::set(None);
            let place = disk.as_ref().map_or_else(|| folder.path().to_owned(), Disk::path);
            let written = too_much(&place);
            assert_eq!(written.is_ok(), is_left_out, "left out: {is_left_out}");
            if let Err(error) = written {
                assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            }
        }
    }

    #[test]
    fn what_is_written_is_bounded_by_its_rule() {
        stops(Rule::LimitDisk, |folder| std::fs::write(folder.join("big"), vec![1; 33 << 20]));
    }

    #[test]
    fn the_number_of_files_is_bounded_by_its_rule() {
        stops(Rule::LimitFiles, |folder| (0..300).try_for_each(|n| File::create(folder.join(n.to_string())).map(drop)));
    }

    #[test]
    fn what_the_host_lacks_is_told_and_nothing_is_left() {
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let image = folder.path().join("disk");
        let error = format(&image, MemoryBytes::kib(8), 64).expect_err("nothing fits").to_string();
        assert!(error.contains("8 KiB"), "{error}");
        assert!(!image.exists());
        let blocked = folder.path().join("file");
        std::fs::write(&blocked, "").expect("written");
        let error = Disks::open(Mode::Image, blocked).expect_err("no folder").to_string();
        assert!(error.contains("file"), "{error}");
        Disks::open(Mode::Off, folder.path().join("off")).expect("not needed");
    }
}
