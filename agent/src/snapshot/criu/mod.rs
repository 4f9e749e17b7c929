//! CRIU as the engine. It is executed and linked on the host, and enters a sandbox before its `main`
//! (`drowse-nsenter`); one that has done so far waits, so that a wake does not pay for it.

mod rpc;
mod worker;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use drowse_nsenter::message::Entry;
use rpc::{Inherit, Kind, Options, Request, Response};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use worker::{FURTHER, IMAGES, KERNEL, Waiting, kept_number, kept_path};

use super::{Abort, DumpRequest, RestoreRequest, SnapshotEngine, SnapshotError};

/// Errors only: the whole log of a gunicorn costs 35 ms.
const LOG_LEVEL: i32 = 1;
/// The largest file that is unlinked and still open.
const GHOST_LIMIT: u32 = 64 << 20;
/// CRIU's own limit for seizing all processes of a dump, in seconds.
const SEIZE_LIMIT: u32 = 10;
/// The file beside the images that it writes errors into.
pub const LOG: &str = "criu.log";

/// CRIU, by its program.
pub struct Criu {
    program: PathBuf,
    object: PathBuf,
    /// A memory file system of root's that is mounted nowhere: what CRIU found out about the kernel.
    kernel: OwnedFd,
    has_resource_capability: bool,
    // A std lock, held over taking one out or putting one in.
    waiting: Mutex<Option<Waiting>>,
}

impl Criu {
    /// By the program at `program`, with the object at `object` preloaded. One is started at once.
    ///
    /// # Errors
    /// If it cannot be started, or the kernel makes no memory file system.
    pub fn new(program: &Path, object: &Path) -> Result<Self, SnapshotError> {
        let kernel = memory_folder().map_err(super::io("make a folder for", program))?;
        let has_resource_capability =
            caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_RESOURCE).unwrap_or_default();
        let waiting = Mutex::new(Some(Waiting::start(program, object)?));
        let (program, object) = (program.to_owned(), object.to_owned());
        Ok(Self { program, object, kernel, has_resource_capability, waiting })
    }

    fn take(&self) -> Result<Waiting, SnapshotError> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        waiting.map_or_else(|| Waiting::start(&self.program, &self.object), Ok)
    }

    /// Has the next one wait. That it does not start is found out when it is needed.
    fn refill(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_none() {
            *waiting = Waiting::start(&self.program, &self.object).ok();
        }
    }

    fn options() -> Options {
        Options {
            images_descriptor: -1,
            images: Some(kept_path(IMAGES)),
            log_level: Some(LOG_LEVEL),
            log_file: Some(LOG.to_owned()),
            cgroups: Some(rpc::CGROUPS_IGNORE),
            network_lock: Some(rpc::NETWORK_LOCK_SKIP),
            ghost_limit: Some(GHOST_LIMIT),
            file_locks: Some(true),
            tcp_close: Some(true),
            unprivileged: Some(true),
            ..Options::default()
        }
    }

    fn kept<'a>(
        &'a self,
        images: BorrowedFd<'a>,
        further: impl Iterator<Item = BorrowedFd<'a>>,
    ) -> Vec<BorrowedFd<'a>> {
        let mut kept = vec![self.kernel.as_fd(); FURTHER];
        kept[KERNEL] = self.kernel.as_fd();
        kept[IMAGES] = images;
        kept.extend(further);
        kept
    }
}

impl SnapshotEngine for Criu {
    fn dump(&self, request: &DumpRequest<'_>, abort: &Abort) -> Result<(), SnapshotError> {
        const ACTION: &str = "the dump";
        let kept = self.kept(request.images, [request.group].into_iter());
        let entry = Entry {
            kept: count(&kept),
            groups: 0,
            is_own_root: false,
            is_abortable: true,
            real_ids: (!self.has_resource_capability).then_some(request.ids),
        };
        let inside = self.take()?.enter(entry, request.app, &kept, &[])?;
        let process = inside.process.try_clone().map_err(|source| SnapshotError::Talk { source })?;
        if !abort.dumping(process) {
            // It has touched nothing yet, and ends when its socket closes.
            return Err(SnapshotError::Aborted);
        }
        let options = Options {
            pid: Some(request.pid_inside),
            leave_running: Some(true),
            freeze_cgroup: Some(kept_path(FURTHER)),
            timeout: Some(SEIZE_LIMIT),
            ..Self::options()
        };
        // No limit: killed in the middle of a dump it might take the app along.
        let answer = inside.ask(&Request { kind: Kind::Dump.into(), options: Some(options) }, None);
        self.refill();
        match answer {
            Ok(Some(response)) if response.success => Ok(()),
            _ if abort.is_asked() => Err(SnapshotError::Aborted),
            Ok(Some(response)) => Err(refused(ACTION, &response, request.images)),
            Ok(None) => Err(SnapshotError::Refused { action: ACTION, message: "no answer in an hour".to_owned() }),
            Err(error) => Err(error),
        }
    }

    fn restore(&self, request: RestoreRequest<'_>) -> Result<(), SnapshotError> {
        const ACTION: &str = "the restore";
        let kept = self.kept(request.images, request.streams.iter().map(|(_, end)| end.as_fd()));
        let groups: Vec<_> = request.groups.iter().map(AsFd::as_fd).collect();
        let entry = Entry {
            kept: count(&kept),
            groups: count(&groups),
            is_own_root: true,
            is_abortable: false,
            real_ids: None,
        };
        let inside = self.take()?.enter(entry, request.init, &kept, &groups)?;
        let streams = request.streams.iter().enumerate();
        let inherit = streams
            .map(|(at, (inode, _))| Inherit { key: format!("pipe:[{inode}]"), descriptor: kept_number(FURTHER + at) });
        let options = Options { inherit: inherit.collect(), ..Self::options() };
        let answer = inside.ask(&Request { kind: Kind::Restore.into(), options: Some(options) }, Some(request.limit));
        self.refill();
        match answer? {
            Some(response) if response.success => Ok(()),
            Some(response) => Err(refused(ACTION, &response, request.images)),
            None => Err(SnapshotError::Deadline { action: ACTION, waited: request.limit }),
        }
    }
}

fn count(descriptors: &[BorrowedFd<'_>]) -> u8 {
    u8::try_from(descriptors.len()).unwrap_or(u8::MAX)
}

/// What CRIU said, from its log where that is more than the answer.
fn refused(action: &'static str, response: &Response, images: BorrowedFd<'_>) -> SnapshotError {
    let log = rustix::fs::openat(images, LOG, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    let log = log.ok().and_then(|log| io::read_to_string(std::fs::File::from(log)).ok()).unwrap_or_default();
    let errors: Vec<&str> =
        log.lines().filter_map(|line| line.split_once("Error ")).map(|(_, said)| said.trim()).collect();
    let message = match (errors.is_empty(), &response.message) {
        (false, _) => errors.iter().take(3).copied().collect::<Vec<_>>().join("; "),
        (true, Some(message)) => message.trim().to_owned(),
        (true, None) => format!("error {}", response.errno.unwrap_or_default()),
    };
    SnapshotError::Refused { action, message }
}

fn memory_folder() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "mode", "0700")?;
    fsconfig_set_string(context.as_fd(), "size", "1m")?;
    fsconfig_create(context.as_fd())?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
