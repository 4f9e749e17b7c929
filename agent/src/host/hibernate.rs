//! An app's way to the disk and back, in the sandbox that is kept for it.
//!
//! To the disk: frozen, dumped into a folder beside, sealed, renamed, and only then killed, so that at no
//! moment neither the app nor a whole snapshot is there. Back: the folder is taken by a rename, so that it
//! is used once; it is checked, restored, and what came back is held against what was dumped.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drowse_api::MemoryBytes;
use drowse_api::instance::ProcessIdentity;
use drowse_launcher::init::InitClient;
use drowse_launcher::process::start_time;
use fail::fail_point;

use super::clock;
use super::error::SandboxError;
use super::home::{Home, remove_folder};
use super::process;
use super::sandbox::{Sandboxes, blocking};
use crate::cgroup::Leaf;
use crate::config::Room;
use crate::instance::state::App;
use crate::snapshot::tasks::Tasks;
use crate::snapshot::{
    Abort, DumpRequest, Key, Manifest, RestoreRequest, SnapshotEngine, SnapshotError, Subject, Taken,
};

/// How long a dump that an earlier agent began may go on.
const TRACED_WAIT: Duration = Duration::from_secs(60);
/// How long a restore may take: it grows with the memory that comes back.
const RESTORE_LIMIT: Duration = Duration::from_secs(15);

/// What is left on a disk that is full: less than any file of a dump.
const NOTHING: u64 = 1 << 20;

/// What snapshots are made with.
#[derive(Clone)]
pub struct Snapshots {
    /// Dumps and restores.
    pub engine: Arc<dyn SnapshotEngine>,
    /// Proves that this node wrote them.
    pub key: Arc<Key>,
    /// How much of the disk they may take.
    pub room: Room,
}

/// The app's snapshot, whole or not there.
#[must_use]
pub fn snapshot(home: &Home) -> PathBuf {
    home.folder.join("snapshot")
}

/// One that is being written.
fn unfinished(home: &Home) -> PathBuf {
    home.folder.join("snapshot.new")
}

/// One that is being used, or was.
fn taken(home: &Home) -> PathBuf {
    home.folder.join("snapshot.used")
}

/// Where the clocks of the sandbox were when the app was put to disk, if there is a snapshot of `subject`: a
/// sandbox that is made anew goes on from there.
#[must_use]
pub fn clocks(home: &Home, subject: &Subject, snapshots: &Snapshots) -> Option<[i128; 2]> {
    Manifest::open(&snapshot(home), &snapshots.key, subject).ok().map(|manifest| manifest.clocks)
}

/// Removes what a crash left of a snapshot that was written or used when it came; a whole one stays.
///
/// # Errors
/// If something cannot be removed.
pub fn clean_up(home: &Home) -> Result<(), SandboxError> {
    [unfinished(home), taken(home)].iter().try_for_each(|folder| remove(folder))
}

/// Removes the snapshot, also a whole one.
///
/// # Errors
/// If something cannot be removed.
pub fn forget(home: &Home) -> Result<(), SandboxError> {
    clean_up(home)?;
    remove(&snapshot(home))
}

fn remove(folder: &Path) -> Result<(), SandboxError> {
    remove_folder(folder).map_err(|source| SandboxError::io("remove", folder, source))
}

/// A rename that is on the disk when it returns.
fn rename(home: &Home, from: &Path, to: &Path) -> Result<(), SandboxError> {
    std::fs::rename(from, to).map_err(|source| SandboxError::io("rename", from, source))?;
    let synced = File::open(&home.folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| SandboxError::io("sync", &home.folder, source))
}

impl Sandboxes {
    /// Puts the app to disk. Its processes are gone then, its sandbox stands.
    ///
    /// # Errors
    /// The app is frozen and whole then, and there is no snapshot.
    pub async fn hibernate(
        &self,
        home: &Home,
        app: App,
        subject: Subject,
        snapshots: &Snapshots,
        abort: Arc<Abort>,
    ) -> Result<Taken, SandboxError> {
        let (this, home, snapshots) = (self.clone(), home.clone(), snapshots.clone());
        blocking(move || {
            this.wait_until_untraced(&home)?;
            // The agent before this one came so far.
            if let Ok(whole) = Manifest::open(&snapshot(&home), &snapshots.key, &subject) {
                this.let_go(&home)?;
                return Ok(whole.taken());
            }
            let dumped = this.dump(&home, app, subject, &snapshots, &abort);
            if let Err(error) = dumped {
                let is_full = free(&home.folder).is_ok_and(|free| free < NOTHING);
                clean_up(&home)?;
                return Err(if is_full && !abort.is_asked() { no_room(error.in_full()) } else { error });
            }
            this.let_go(&home)?;
            dumped
        })
        .await
    }

    fn dump(
        &self,
        home: &Home,
        app: App,
        subject: Subject,
        snapshots: &Snapshots,
        abort: &Abort,
    ) -> Result<Taken, SandboxError> {
        let kept = self.kept(home).ok_or(SandboxError::InitGone)?;
        let main = process::open(app.identity).ok_or(SandboxError::InitGone)?;
        forget(home)?;
        self.cgroups.freeze(&home.place)?;
        let (tasks, _) = Tasks::read(&self.cgroups.processes(&home.place, Leaf::App)?)?;
        if !tasks.share_our_user_namespace()? {
            let what = "root is inside, and its user namespace cannot be put to disk yet".to_owned();
            return Err(SnapshotError::Unusable { what }.into());
        }
        self.look_for_room(home, &snapshots.room)?;
        let folder = unfinished(home);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|source| SandboxError::io("make", &folder, source))?;
        let images = File::open(&folder).map_err(|source| SandboxError::io("open", &folder, source))?;
        let (uid, gid) = ids_of(app.identity)?;
        let group = self.cgroups.open_folder(&home.place, Leaf::App)?;
        let request = DumpRequest {
            images: images.as_fd(),
            app: main.as_fd(),
            pid_inside: app.pid_inside,
            group: group.as_fd(),
            ids: (uid, gid),
        };
        fail_point!("snapshot-dump");
        let dumped = snapshots.engine.dump(&request, abort);
        // Whatever came of it: CRIU thaws what it dumps, and may have ended before it froze it again.
        self.cgroups.freeze(&home.place)?;
        dumped?;
        fail_point!("snapshot-dumped");
        if abort.is_asked() {
            return Err(SnapshotError::Aborted.into());
        }
        let clocks = clock::inside(kept.init);
        let main = (app.pid_inside, kept.streams);
        let manifest = Manifest::seal(&folder, &snapshots.key, subject, main, tasks, clocks)?;
        let taken = manifest.taken();
        if taken.size > snapshots.room.user.0 {
            let (size, most) = (MemoryBytes(taken.size), snapshots.room.user);
            return Err(no_room(format!("it takes {size}, and all snapshots of one user may take {most}")));
        }
        images.sync_all().map_err(|source| SandboxError::io("sync", &folder, source))?;
        if abort.is_asked() {
            return Err(SnapshotError::Aborted.into());
        }
        rename(home, &folder, &snapshot(home))?;
        fail_point!("snapshot-kept");
        Ok(taken)
    }

    /// That the disk will not be fuller than it may be, as far as can be told before.
    fn look_for_room(&self, home: &Home, room: &Room) -> Result<(), SandboxError> {
        let (charged, free) = (self.cgroups.usage(&home.place)?.memory, free(&home.folder)?);
        if free >= charged.saturating_add(room.keep_free.0) {
            return Ok(());
        }
        let (charged, free, kept) = (MemoryBytes(charged), MemoryBytes(free), room.keep_free);
        Err(no_room(format!("it holds {charged}, {free} are free, and {kept} of them are not for snapshots")))
    }

    /// Whether somebody dumps the app.
    pub(super) fn is_traced(&self, home: &Home) -> Result<bool, SandboxError> {
        Ok(self.cgroups.processes(&home.place, Leaf::App)?.into_iter().any(is_traced))
    }

    /// A dump outlives its agent and ends by itself; until then nothing else may be done to the app.
    fn wait_until_untraced(&self, home: &Home) -> Result<(), SandboxError> {
        let began = Instant::now();
        loop {
            if !self.is_traced(home)? {
                return Ok(());
            }
            if began.elapsed() > TRACED_WAIT {
                return Err(SandboxError::StillThere { place: home.place.clone(), waited: TRACED_WAIT });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the frozen original of a snapshot that is whole, and gives back what it held.
    ///
    /// # Errors
    /// If it does not die.
    pub fn let_go(&self, home: &Home) -> Result<(), SandboxError> {
        self.kill_app(home)?;
        fail_point!("snapshot-killed");
        // What is born there next must run.
        self.cgroups.thaw(&home.place)?;
        Ok(self.cgroups.drop_cache(&home.place)?)
    }

    /// Brings the app back from what was taken, and from no other snapshot, into its standing sandbox.
    ///
    /// # Errors
    /// Nothing of the app runs then, and the snapshot is gone: it is to be started cold.
    pub async fn restore(
        &self,
        home: &Home,
        subject: Subject,
        taken: &Taken,
        snapshots: &Snapshots,
    ) -> Result<App, SandboxError> {
        let (this, home, taken, snapshots) = (self.clone(), home.clone(), taken.clone(), snapshots.clone());
        blocking(move || {
            let restored = this.bring_back(&home, &subject, &taken, &snapshots);
            if restored.is_err() {
                this.kill_app(&home)?;
            }
            forget(&home)?;
            restored
        })
        .await
    }

    fn bring_back(
        &self,
        home: &Home,
        subject: &Subject,
        wanted: &Taken,
        snapshots: &Snapshots,
    ) -> Result<App, SandboxError> {
        let folder = taken(home);
        remove(&folder)?;
        rename(home, &snapshot(home), &folder)?;
        fail_point!("snapshot-taken");
        let manifest = Manifest::open(&folder, &snapshots.key, subject)?;
        manifest.is(wanted)?;
        manifest.check(&folder, &snapshots.key, false)?;
        let mut kept = self.kept(home).ok_or(SandboxError::InitGone)?;
        let init = process::open(kept.init).ok_or(SandboxError::InitGone)?;
        self.kill_app(home)?;
        self.cgroups.thaw(&home.place)?;
        let client = InitClient::connect(&home.socket())?;
        let [out, err] = self.connect_streams(home, &mut kept, &client)?;
        let images = File::open(&folder).map_err(|source| SandboxError::io("open", &folder, source))?;
        let request = RestoreRequest {
            images: images.as_fd(),
            init: init.as_fd(),
            groups: self.cgroups.open_procs(&home.place, Leaf::App)?,
            streams: manifest.streams.into_iter().zip([out, err]).collect(),
            limit: RESTORE_LIMIT,
        };
        // Hashing the pages takes about as long as restoring them: at the same time it costs little.
        let (checked, restored) = std::thread::scope(|scope| {
            let check = scope.spawn(|| manifest.check(&folder, &snapshots.key, true));
            let restored = snapshots.engine.restore(request);
            (check.join(), restored)
        });
        restored?;
        checked.map_err(|_| SandboxError::Broken)??;
        fail_point!("snapshot-restored");
        let (tasks, hosts) = Tasks::read(&self.cgroups.processes(&home.place, Leaf::App)?)?;
        manifest.tasks.expect(&tasks, manifest.pid_inside)?;
        expect_streams(manifest.streams, kept.streams, &hosts)?;
        client.watch(manifest.pid_inside)?;
        let pid = *hosts.get(&manifest.pid_inside).ok_or(SandboxError::InitGone)?;
        let start_time = start_time(pid).map_err(|source| SandboxError::io("read", Path::new("/proc"), source))?;
        Ok(App { identity: ProcessIdentity { pid, start_time }, pid_inside: manifest.pid_inside })
    }
}

/// Bytes that are free where `folder` is.
fn free(folder: &Path) -> Result<u64, SandboxError> {
    let found = rustix::fs::statvfs(folder).map_err(|source| SandboxError::io("look at", folder, source.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

fn no_room(what: String) -> SandboxError {
    SnapshotError::NoRoom { what }.into()
}

fn is_traced(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("TracerPid:")).is_some_and(|tracer| tracer.trim() != "0")
}

/// That nobody writes into the pipes of before: without being told of ours CRIU would make some that
/// nobody reads, and the app would die at its first line.
fn expect_streams(old: [u64; 2], new: [u64; 2], hosts: &BTreeMap<i32, i32>) -> Result<(), SandboxError> {
    let pipes = |inodes: [u64; 2]| inodes.map(|inode| format!("pipe:[{inode}]"));
    let (old, new) = (pipes(old), pipes(new));
    for (inside, pid) in hosts {
        for (number, (old, new)) in [1, 2].into_iter().zip(old.iter().zip(&new)) {
            let link = std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
            let link = link.to_string_lossy();
            // Swapped or closed by the app itself is its own affair.
            if link.starts_with("pipe:") && *link == **old && old != new {
                let what = format!("descriptor {number} of process {inside} is not connected to its log");
                return Err(SnapshotError::Changed { what }.into());
            }
        }
    }
    Ok(())
}

fn ids_of(identity: ProcessIdentity) -> Result<(u32, u32), SandboxError> {
    let path = PathBuf::from(format!("/proc/{}/status", identity.pid));
    let status = std::fs::read_to_string(&path).map_err(|source| SandboxError::io("read", &path, source))?;
    let id = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|id| id.parse().ok())
    };
    id("Uid:").zip(id("Gid:")).ok_or(SandboxError::InitGone)
}
