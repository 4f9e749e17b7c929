//! Sandboxes on this host: raised, given a process, emptied, taken down. For instances, builds and
//! the file server alike; it knows nothing of what they are for.
//!
//! Every step may be repeated: after a crash of the agent the same call finds what is there.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drowse_api::instance::{Limits, ProcessIdentity};
use drowse_api::{Digest, MemoryBytes};
use drowse_launcher::disk::Disk;
use drowse_launcher::init::InitClient;
use drowse_launcher::{
    Bind, Clock, InjectedFile, Launcher, LauncherError, ProcessFds, ProcessRequest, Ready, SandboxFds, SandboxRequest,
    SeccompProfile, Step,
};
use drowse_rootfs::{IdRange, OverlayPlan};
use fail::fail_point;
use oci_spec::runtime::Spec;

use super::clock;
use super::error::SandboxError;
use super::home::{Home, remove_file, remove_folder};
use super::kept::Kept;
use super::process;
use super::ready::{Member, Pool};
use crate::cgroup::{Cgroups, Leaf, Made};
use crate::disk::{DiskError, Disks};
use crate::instance::state::App;
use crate::network::{Network, namespace_of};

/// What a sandbox is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where it is.
    pub home: Home,
    /// The image, for telling whether what is there was made from it.
    pub image: Digest,
    /// Its unpacked layers, the bottom one first.
    pub layers: Vec<PathBuf>,
    /// The host ids of everything in it.
    pub ids: IdRange,
    /// What all of it may use.
    pub limits: Limits,
    /// Its address.
    pub address: Ipv4Addr,
    /// The OCI configuration, with the process in it.
    pub spec: Spec,
    /// Files shown in place of the image's.
    pub files: Vec<InjectedFile>,
    /// Folders of the host shown inside.
    pub binds: Vec<Bind>,
    /// Whether the image wants root: its processes are then in a user namespace of these ids.
    pub root_inside: bool,
    /// What its process may ask of the kernel.
    pub profile: SeccompProfile,
}

/// What is there when a sandbox is to be.
#[derive(Debug)]
pub(super) enum Room {
    /// It stands, with this init.
    Standing(ProcessIdentity),
    /// Nothing of it.
    Empty {
        /// Whether its groups were there.
        made: Made,
        /// Its disk, if it got one that was made ahead.
        disk: Option<Disk>,
    },
}

/// What was written in a sandbox: a folder, for as long as this is held.
#[derive(Debug)]
pub struct Written {
    folder: PathBuf,
    _disk: Option<Disk>,
}

impl Written {
    /// The upper folder of its overlay; its files have host ids.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The sandboxes of this host.
#[derive(Clone)]
pub struct Sandboxes {
    /// Builds them.
    pub launcher: Arc<Launcher>,
    /// Holds their processes.
    pub cgroups: Arc<dyn Cgroups>,
    /// Links them.
    pub network: Network,
    /// Holds what they write.
    pub disks: Disks,
    /// The boot that what runs belongs to.
    pub boot_id: String,
    /// What was made ahead of them.
    pub pool: Arc<Pool>,
    /// The kernel makes no time namespaces: sandboxes have the host's clocks. Found out by the first.
    pub host_clocks: Arc<AtomicBool>,
}

impl Sandboxes {
    /// Makes what is missing of a sandbox; one that is there and of the same image is kept, with
    /// what was written in it. Files written over another image's layers are removed.
    ///
    /// # Errors
    /// Names the step that failed; what was made is left for the next try or for [`clear`](Self::clear).
    pub async fn raise(&self, plan: &Plan) -> Result<(), SandboxError> {
        let (this, plan) = (self.clone(), plan.clone());
        blocking(move || this.make(&plan)).await
    }

    /// As [`raise`](Self::raise). The clocks of one that has to be made go on from `clocks`, the monotonic
    /// and the boot-time one in nanoseconds: for processes that have seen these clocks before.
    ///
    /// # Errors
    /// Also if the kernel makes no time namespaces.
    pub async fn raise_at(&self, plan: &Plan, clocks: [i128; 2]) -> Result<(), SandboxError> {
        let (this, plan) = (self.clone(), plan.clone());
        blocking(move || {
            let init = match this.make_room(&plan)? {
                Room::Standing(init) => init,
                Room::Empty { .. } => {
                    let clock = clock::going_on_from(clocks);
                    this.build_by(&plan, None, SandboxRequest { clock, ..this.request(&plan) })?
                }
            };
            this.attach(&plan, init)
        })
        .await
    }

    /// Sees to groups and folders, and says what is there.
    pub(super) fn make_room(&self, plan: &Plan) -> Result<Room, SandboxError> {
        let home = &plan.home;
        let made = self.cgroups.create(&home.place, &plan.limits)?;
        let kept = self.kept(home);
        if let Some(kept) = &kept
            && kept.image == plan.image
            && process::is_alive(kept.init)
            && InitClient::connect(&home.socket()).and_then(|init| init.state()).is_ok()
        {
            return Ok(Room::Standing(kept.init));
        }
        // A new place has nothing in it, and stays one that processes can be born in.
        if kept.is_some() || (made == Made::Kept && self.is_populated(home)?) {
            self.empty(home)?;
        }
        Ok(Room::Empty { made, disk: self.prepare_folders(plan)? })
    }

    fn make(&self, plan: &Plan) -> Result<(), SandboxError> {
        let home = &plan.home;
        let _start = self.pool.start();
        if let Room::Standing(init) = self.make_room(plan)? {
            return self.attach(plan, init);
        }
        let Some(Member { spaces, link }) = self.pool.take() else {
            let init = self.build(plan, None)?;
            return self.attach(plan, init);
        };
        fail_point!("ready-taken");
        let (init, given) = std::thread::scope(|scope| {
            let give = || self.network.give_spare(link, &home.owner, plan.address);
            let giving = std::thread::Builder::new().name("link".to_owned()).spawn_scoped(scope, give);
            let init = self.build(plan, Some(spaces));
            let given = giving.ok().and_then(|giving| giving.join().ok());
            (init, given)
        });
        fail_point!("ready-given");
        match given {
            Some(Ok(())) => init.map(drop),
            // It may have been taken away by hand: the namespace is as good, and gets another link.
            failed => {
                let why = failed.and_then(Result::err).map(|error| error.to_string()).unwrap_or_default();
                tracing::warn!(owner = %home.owner, "a link that was made ahead could not be used: {why}");
                self.attach(plan, init?)
            }
        }
    }

    /// Gives a standing sandbox its link and its address, unless it has them.
    pub(super) fn attach(&self, plan: &Plan, init: ProcessIdentity) -> Result<(), SandboxError> {
        let netns = namespace_of(init.pid)?;
        // The namespace is of this process only if it still is the same one.
        if !process::is_alive(init) {
            return Err(SandboxError::InitGone);
        }
        Ok(self.network.attach(netns.as_fd(), &plan.home.owner, plan.address)?)
    }

    pub(super) fn build(&self, plan: &Plan, spaces: Option<Ready>) -> Result<ProcessIdentity, SandboxError> {
        self.build_by(plan, spaces, self.request(plan))
    }

    fn build_by(
        &self,
        plan: &Plan,
        spaces: Option<Ready>,
        mut request: SandboxRequest,
    ) -> Result<ProcessIdentity, SandboxError> {
        let home = &plan.home;
        fail_point!("sandbox-build");
        let mut built = self.launcher.build_in(spaces.as_ref(), &request, self.descriptors(home)?);
        // Clocks that are to go on from somewhere are not done without.
        if request.clock == Clock::default() && built.as_ref().is_err_and(lacks_time_namespaces) {
            if !self.host_clocks.swap(true, Ordering::Relaxed) {
                tracing::warn!("the kernel makes no time namespaces: apps see the host's clocks (CONFIG_TIME_NS)");
            }
            request.clock = Clock::Host;
            built = self.launcher.build_in(spaces.as_ref(), &request, self.descriptors(home)?);
        }
        let sandbox = built?;
        fail_point!("sandbox-built");
        let init = ProcessIdentity { pid: sandbox.pid, start_time: sandbox.start_time };
        let kills_before = self.cgroups.oom_kills(&home.place)?;
        let image = plan.image.clone();
        self.keep(
            home,
            &Kept { init, boot_id: self.boot_id.clone(), image, incarnation: 0, kills_before, streams: [0; 2] },
        )?;
        Ok(init)
    }

    /// What the launcher is to build.
    pub(super) fn request(&self, plan: &Plan) -> SandboxRequest {
        SandboxRequest {
            spec: plan.spec.clone(),
            overlay: self.overlay(plan),
            files: plan.files.clone(),
            binds: plan.binds.clone(),
            clock: if self.host_clocks.load(Ordering::Relaxed) { Clock::Host } else { Clock::default() },
            log_limit: crate::logs::FILE_CAP,
            root_inside: plan.root_inside,
        }
    }

    /// What init is handed: its groups, the log, the exit records, its socket.
    pub(super) fn descriptors(&self, home: &Home) -> Result<SandboxFds, SandboxError> {
        let open = |name: &str| -> Result<OwnedFd, SandboxError> {
            let path = home.folder.join(name);
            let file = std::fs::File::options().create(true).append(true).open(&path);
            Ok(file.map_err(|source| SandboxError::io("open", &path, source))?.into())
        };
        let exits = std::fs::File::options().create(true).truncate(true).read(true).write(true).open(home.exits());
        Ok(SandboxFds {
            init_cgroups: self.cgroups.open_groups(&home.place, Leaf::Init)?,
            log: [open("log.0")?, open("log.1")?],
            exits: exits.map_err(|source| SandboxError::io("open", &home.exits(), source))?.into(),
            socket: drowse_launcher::init::listen(&home.socket())?,
        })
    }

    /// The sandbox's root, once its folders are prepared.
    fn overlay(&self, plan: &Plan) -> OverlayPlan {
        let overlay = OverlayPlan::new(&plan.layers, &plan.home.folder, plan.ids);
        let disk = plan.home.disk();
        if disk.exists() { overlay.on_disk(disk) } else { overlay }
    }

    /// Where the sandbox writes: a disk of its own, or folders of the host where it began with these or
    /// the host makes no disks.
    fn prepare_folders(&self, plan: &Plan) -> Result<Option<Disk>, SandboxError> {
        let home = &plan.home;
        let upper = home.folder.join("upper");
        let marker = home.folder.join("upper-of");
        let io = |action, path: &std::path::Path| {
            let path = path.to_owned();
            move |source| SandboxError::io(action, &path, source)
        };
        // overlayfs has no meaning for an upper layer over other lower ones.
        if std::fs::read_to_string(&marker).is_ok_and(|image| image != plan.image.as_str()) {
            remove_folder(&upper).map_err(io("remove", &upper))?;
            remove_file(&home.disk()).map_err(io("remove", &home.disk()))?;
        }
        let is_disk = home.disk().exists() || (self.disks.is_limited() && !upper.exists());
        std::fs::create_dir_all(&home.run).map_err(io("make", &home.run))?;
        let mark = || std::fs::write(&marker, plan.image.as_str()).map_err(io("write", &marker));
        if is_disk {
            let spare = if home.disk().exists() { None } else { self.disks.take_spare(&plan.limits, &home.disk()) };
            if spare.is_none() {
                self.disks.make(&home.disk(), &plan.limits)?;
            }
            mark()?;
            return Ok(spare);
        }
        let work = home.folder.join("work");
        remove_folder(&work).map_err(io("remove", &work))?;
        for folder in [&upper, &work] {
            std::fs::create_dir_all(folder).map_err(io("make", folder))?;
        }
        let root = plan.ids.to_host(0);
        std::os::unix::fs::chown(&upper, root, root).map_err(io("change the owner of", &upper))?;
        mark()?;
        Ok(None)
    }

    /// What was written in a sandbox that stands no more.
    ///
    /// # Errors
    /// If its disk cannot be mounted.
    pub fn written(&self, home: &Home) -> Result<Written, SandboxError> {
        if !home.disk().exists() {
            return Ok(Written { folder: home.folder.join("upper"), _disk: None });
        }
        let disk = Disk::open(&home.disk()).map_err(DiskError::from)?;
        Ok(Written { folder: disk.path().join(drowse_launcher::disk::UPPER), _disk: Some(disk) })
    }

    /// Starts the plan's process; whatever ran there before is killed first.
    ///
    /// # Errors
    /// Names the step that failed; nothing of the process is left then.
    pub async fn run(&self, plan: &Plan) -> Result<App, SandboxError> {
        let (this, plan) = (self.clone(), plan.clone());
        blocking(move || this.start(&plan)).await
    }

    pub(super) fn start(&self, plan: &Plan) -> Result<App, SandboxError> {
        let home = &plan.home;
        let mut kept = self.kept(home).ok_or(SandboxError::InitGone)?;
        self.kill_app(home)?;
        // What is started must not stand still because what was there before it slept.
        if self.cgroups.is_frozen(&home.place)? {
            self.cgroups.thaw(&home.place)?;
        }
        let process = plan.spec.process().clone().ok_or(SandboxError::NoProcess)?;
        let init = process::open(kept.init).ok_or(SandboxError::InitGone)?;
        let client = InitClient::connect(&home.socket())?;
        let [out, err] = self.connect_streams(home, &mut kept, &client)?;
        let request = ProcessRequest { process, ids: plan.ids, seccomp: plan.profile };
        let descriptors = ProcessFds {
            init: init.as_fd(),
            app_cgroups: self.cgroups.open_groups(&home.place, Leaf::App)?,
            stdin: None,
            stdout: out,
            stderr: err,
        };
        fail_point!("process-start");
        let started = self.launcher.start(&request, descriptors).inspect_err(|_| {
            if let Err(error) = self.kill_app(home) {
                tracing::warn!(place = %home.place, "cannot clean up after a failed start: {error}");
            }
        })?;
        fail_point!("process-started");
        client.watch(started.pid_inside)?;
        let identity = ProcessIdentity { pid: started.pid, start_time: started.start_time };
        Ok(App { identity, pid_inside: started.pid_inside })
    }

    /// New pipes for the next app, whose other ends init drains from now on.
    pub(super) fn connect_streams(
        &self,
        home: &Home,
        kept: &mut Kept,
        client: &InitClient,
    ) -> Result<[OwnedFd; 2], SandboxError> {
        let [(out_read, out), (err_read, err)] = pipes()?;
        kept.streams = inodes([&out, &err])?;
        kept.incarnation += 1;
        kept.kills_before = self.cgroups.oom_kills(&home.place)?;
        self.keep(home, kept)?;
        client.attach(kept.incarnation, out_read, err_read)?;
        Ok([out, err])
    }

    /// Whether a failure to start is the image's own: its command cannot be executed.
    #[must_use]
    pub fn is_by_app(error: &SandboxError) -> bool {
        matches!(error, SandboxError::Launcher(LauncherError::Failed(failure))
            if matches!(failure.step, Step::Exec | Step::WorkingFolder))
    }

    /// Limits of a helper of ours, which writes nothing.
    #[must_use]
    pub fn helper_limits(memory: MemoryBytes) -> Limits {
        Limits { memory, pids: 64, cpu_weight: 100, disk: Limits::SMALLEST_DISK, files: 64 }
    }
}

pub(super) fn lacks_time_namespaces(error: &LauncherError) -> bool {
    matches!(error, LauncherError::Failed(failure) if failure.step == Step::TimeNamespace)
}

/// Those of an app's two streams, each with its reading end first.
pub(super) fn pipes() -> Result<[(OwnedFd, OwnedFd); 2], SandboxError> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    pipe().and_then(|out| Ok([out, pipe()?])).map_err(|errno| SandboxError::Pipe(errno.into()))
}

/// By which the kernel tells the pipes of an app's streams from others.
pub(super) fn inodes(streams: [&OwnedFd; 2]) -> Result<[u64; 2], SandboxError> {
    let inode = |end: &OwnedFd| rustix::fs::fstat(end).map(|found| found.st_ino);
    let [out, err] = streams;
    inode(out).and_then(|out| Ok([out, inode(err)?])).map_err(|errno| SandboxError::Pipe(errno.into()))
}

/// Runs what blocks beside the runtime.
///
/// # Errors
/// Those of `work`.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SandboxError> + Send + 'static,
) -> Result<T, SandboxError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(SandboxError::Broken))
}

#[cfg(test)]
mod tests {
    use super::*;
    use drowse_launcher::{Cause, Failure};

    #[test]
    fn only_a_missing_time_namespace_is_done_without() {
        let failed = |step| LauncherError::Failed(Failure { step, target: String::new(), cause: Cause::Errno(22) });
        assert!(lacks_time_namespaces(&failed(Step::TimeNamespace)));
        assert!(!lacks_time_namespaces(&failed(Step::Clone)));
        assert!(!lacks_time_namespaces(&LauncherError::Gone));
    }
}
