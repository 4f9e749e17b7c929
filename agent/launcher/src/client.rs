//! The agent's side of the launcher.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use drowse_rootfs::IdRange;
use rustix::event::{PollFd, PollFlags};

use crate::disk::Disk;
use crate::failure::{Failure, Step};
use crate::message::{ProcessRequest, SandboxRequest, Task, WindowSize};
use crate::wire::{self, Answer, Done, Kind, Request, Streams};

/// How long an answer may take. The launcher itself gives up on a builder earlier.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Ranges whose namespaces are kept: as many users have started something lately.
const MOST_MAPS: usize = 256;
/// Namespaces that are made ahead: net, ipc, uts.
const READY_SPACES: usize = 3;
/// How long the launcher may take to leave before it is killed.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// A running launcher. Calls may come from several threads at once and block until answered.
///
/// It ends when this is dropped, or when the process that holds it ends; sandboxes live on.
#[derive(Debug)]
pub struct Launcher {
    socket: OwnedFd,
    /// Shared only to be ended once; a call never waits for it.
    child: Mutex<Child>,
    /// Steps whose shortfall was logged already.
    told: Mutex<Vec<Step>>,
    /// Held over one look or change, never over a call.
    maps: Mutex<HashMap<IdRange, Arc<OwnedFd>>>,
}

/// What can go wrong with a call.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it, the fields are their parts")]
pub enum LauncherError {
    #[error("starting {}", .program.display())]
    Spawn { program: PathBuf, source: io::Error },
    #[error("reading the program of init, {}", .program.display())]
    Init { program: PathBuf, source: io::Error },
    #[error("{count} descriptors are more than the {} of one message", wire::MAX_DESCRIPTORS)]
    TooManyDescriptors { count: usize },
    #[error("handing the request to the launcher")]
    Send { source: io::Error },
    #[error("reading the launcher's answer")]
    Receive { source: io::Error },
    #[error("the launcher is gone")]
    Gone,
    #[error("no answer from the launcher within {limit:?}")]
    TimedOut { limit: Duration },
    #[error("the launcher could not {0}")]
    Failed(#[source] Failure),
}

/// The descriptors of a new sandbox.
#[derive(Debug)]
pub struct SandboxFds {
    /// Init's cgroup in every hierarchy: `cgroup.procs` (or `tasks`) open for writing, or the folder of a
    /// version 2 one in which nobody was ever killed, which it is born in.
    pub init_cgroups: Vec<OwnedFd>,
    /// The two log files, for appending.
    pub log: [OwnedFd; 2],
    /// The file of exit records, for writing; init empties it.
    pub exits: OwnedFd,
    /// Bound and listening, SOCK_SEQPACKET; see [`crate::init::listen`].
    pub socket: OwnedFd,
}

/// Namespaces that were made ahead, for one sandbox: whoever builds it drops them.
#[derive(Debug)]
pub struct Ready(Vec<OwnedFd>);

impl Ready {
    /// The one of the network. Nothing runs in it before a sandbox is built.
    #[must_use]
    pub fn network(&self) -> BorrowedFd<'_> {
        self.0[0].as_fd()
    }
}

/// A sandbox that was built: its init. The host's pid and the start time name it for ever, the
/// descriptor becomes readable when it ends.
#[derive(Debug)]
pub struct Sandbox {
    /// Of init, on the host.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
    pub start_time: u64,
    /// Of init.
    pub pidfd: OwnedFd,
    /// What was asked for and could only be had in part.
    pub shortfalls: Vec<Failure>,
}

/// The descriptors of a new process.
#[derive(Debug)]
pub struct ProcessFds<'a> {
    /// The pidfd of the sandbox's init.
    pub init: BorrowedFd<'a>,
    /// The app's cgroup in every hierarchy, as those of init.
    pub app_cgroups: Vec<OwnedFd>,
    /// Its standard input; without it, /dev/null of the sandbox.
    pub stdin: Option<OwnedFd>,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
}

/// The descriptors of the first process of a new sandbox.
#[derive(Debug)]
pub struct AppFds {
    /// Its cgroup in every hierarchy, as those of init.
    pub cgroups: Vec<OwnedFd>,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
    /// The reading ends of the two, for init: it has them from its beginning, as those of incarnation 1.
    pub read: [OwnedFd; 2],
}

/// A sandbox and its first process, on their way. The process does not execute its program before it is
/// let go; if this is dropped instead it never does.
#[derive(Debug)]
pub struct Launching<'a> {
    launcher: &'a Launcher,
    answer: OwnedFd,
    gate: OwnedFd,
}

/// A process that was started; it is executing its program now.
#[derive(Debug)]
pub struct Started {
    /// On the host.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
    pub start_time: u64,
    /// In the sandbox's pid namespace, as in the exit records.
    pub pid_inside: i32,
    /// Of the process.
    pub pidfd: OwnedFd,
    /// What was asked for and could only be had in part.
    pub shortfalls: Vec<Failure>,
}

impl Launcher {
    /// Starts the launcher `binary`, which will run `init_binary` as pid 1 of sandboxes. The latter
    /// is read once, now: replacing the file later changes nothing.
    ///
    /// # Errors
    /// One of the programs cannot be read or run, or they are of different releases.
    pub fn spawn(binary: &Path, init_binary: &Path) -> Result<Self, LauncherError> {
        let init = File::open(init_binary)
            .map_err(|source| LauncherError::Init { program: init_binary.to_owned(), source })?;
        let (socket, theirs) = wire::pair().map_err(|source| LauncherError::Send { source })?;
        let child = Command::new(binary)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .current_dir("/")
            .spawn()
            .map_err(|source| LauncherError::Spawn { program: binary.to_owned(), source })?;
        let launcher = Self { socket, child: Mutex::new(child), told: Mutex::default(), maps: Mutex::default() };
        launcher.call(&Request::Hello, &[init.as_fd()])?;
        Ok(launcher)
    }

    /// Makes namespaces ahead for a sandbox that is built later.
    ///
    /// # Errors
    /// [`LauncherError::Failed`] names the step, and what it failed on.
    pub fn prepare(&self) -> Result<Ready, LauncherError> {
        let (_, spaces) = self.call(&Request::Prepare, &[])?;
        if spaces.len() == READY_SPACES {
            Ok(Ready(spaces))
        } else {
            Err(LauncherError::Receive { source: io::Error::other("an answer without its namespaces") })
        }
    }

    /// Builds a sandbox and runs init in it. If it fails nothing of it is left.
    ///
    /// # Errors
    /// [`LauncherError::Failed`] names the step, and what it failed on.
    pub fn build(&self, request: &SandboxRequest, descriptors: SandboxFds) -> Result<Sandbox, LauncherError> {
        self.build_in(None, request, descriptors)
    }

    /// As [`build`](Self::build), in namespaces that were made ahead if there are any.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_in(
        &self,
        ready: Option<&Ready>,
        request: &SandboxRequest,
        descriptors: SandboxFds,
    ) -> Result<Sandbox, LauncherError> {
        let maps = self.maps(request);
        let payload = Request::Build {
            sandbox: Box::new(request.clone()),
            cgroups: descriptors.init_cgroups.len(),
            ready: ready.is_some(),
            maps: maps.iter().map(|(ids, _)| *ids).collect(),
        };
        let mut passed: Vec<_> = descriptors.init_cgroups.iter().map(AsFd::as_fd).collect();
        passed.extend(descriptors.log.iter().map(AsFd::as_fd));
        passed.extend([descriptors.exits.as_fd(), descriptors.socket.as_fd()]);
        passed.extend(ready.iter().flat_map(|ready| &ready.0).map(AsFd::as_fd));
        passed.extend(maps.iter().map(|(_, namespace)| namespace.as_fd()));
        let (done, pidfd, _) = self.make(&payload, &passed)?;
        Ok(Sandbox::new(done, pidfd))
    }

    /// Begins to build a sandbox with a first process in it, which is quicker than [`build`](Self::build)
    /// and [`start`](Self::start) one after the other, and leaves the caller free meanwhile. `disk` is the
    /// overlay's, if it was opened and prepared ahead.
    ///
    /// # Errors
    /// The launcher could not be asked.
    pub fn launch(
        &self,
        ready: &Ready,
        disk: Option<&Disk>,
        sandbox: &SandboxRequest,
        descriptors: SandboxFds,
        process: &ProcessRequest,
        app: AppFds,
    ) -> Result<Launching<'_>, LauncherError> {
        let maps = self.maps(sandbox);
        let payload = Request::Launch {
            sandbox: Box::new(sandbox.clone()),
            cgroups: descriptors.init_cgroups.len(),
            ready: true,
            disk: disk.is_some(),
            maps: maps.iter().map(|(ids, _)| *ids).collect(),
            process: Box::new(process.clone()),
            app_cgroups: app.cgroups.len(),
        };
        let (gate, theirs) = wire::pair().map_err(|source| LauncherError::Send { source })?;
        let mut passed: Vec<_> = descriptors.init_cgroups.iter().map(AsFd::as_fd).collect();
        passed.extend(descriptors.log.iter().map(AsFd::as_fd));
        passed.extend([descriptors.exits.as_fd(), descriptors.socket.as_fd()]);
        passed.extend(ready.0.iter().map(AsFd::as_fd));
        passed.extend(disk.map(AsFd::as_fd));
        passed.extend(maps.iter().map(|(_, namespace)| namespace.as_fd()));
        passed.extend(app.cgroups.iter().map(AsFd::as_fd));
        passed.extend([app.stdout.as_fd(), app.stderr.as_fd(), theirs.as_fd()]);
        passed.extend(app.read.iter().map(AsFd::as_fd));
        Ok(Launching { launcher: self, answer: self.ask(&payload, &passed)?, gate })
    }

    /// Starts a process in a sandbox. When this returns it is past its `execve`. After a failure the
    /// caller ends whatever is left in the app's cgroup.
    ///
    /// # Errors
    /// [`LauncherError::Failed`] names the step, and what it failed on; with [`Step::Exec`] that is
    /// the program.
    pub fn start(&self, request: &ProcessRequest, descriptors: ProcessFds<'_>) -> Result<Started, LauncherError> {
        self.start_task(request, Task::Execute, descriptors)
    }

    /// As [`start`](Self::start), with another task than the request's program: the process has all
    /// that the program would have, and does this instead of executing it.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_task(
        &self,
        request: &ProcessRequest,
        task: Task,
        descriptors: ProcessFds<'_>,
    ) -> Result<Started, LauncherError> {
        let payload = Request::Start {
            process: Box::new(request.clone()),
            cgroups: descriptors.app_cgroups.len(),
            streams: Streams::Passed { stdin: descriptors.stdin.is_some() },
            task,
        };
        let mut passed = vec![descriptors.init];
        passed.extend(descriptors.app_cgroups.iter().map(AsFd::as_fd));
        passed.extend([descriptors.stdout.as_fd(), descriptors.stderr.as_fd()]);
        passed.extend(descriptors.stdin.as_ref().map(AsFd::as_fd));
        let (done, pidfd, _) = self.make(&payload, &passed)?;
        Ok(Started::new(done, pidfd))
    }

    /// The namespaces that map the ranges of a sandbox. Each is made once and kept: files are seen by it, and
    /// nothing runs in it. One that cannot be made is the builder's to tell of.
    fn maps(&self, request: &SandboxRequest) -> Vec<(IdRange, Arc<OwnedFd>)> {
        let of_binds = request.binds.iter().filter_map(|bind| bind.idmap);
        let mut wanted: Vec<IdRange> = std::iter::once(request.overlay.ids).chain(of_binds).collect();
        wanted.retain(|ids| *ids != IdRange::IDENTITY);
        wanted.dedup();
        wanted.into_iter().filter_map(|ids| Some((ids, self.map(ids)?))).collect()
    }

    fn map(&self, ids: IdRange) -> Option<Arc<OwnedFd>> {
        let known = || self.maps.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(namespace) = known().get(&ids) {
            return Some(Arc::clone(namespace));
        }
        let (_, made) = self.call(&Request::Map { ids }, &[]).ok()?;
        let namespace = Arc::new(made.into_iter().next()?);
        let mut known = known();
        if known.len() >= MOST_MAPS {
            known.clear();
        }
        known.insert(ids, Arc::clone(&namespace));
        Some(namespace)
    }

    /// Starts a process on a terminal of the sandbox's own, and returns the terminal's controlling end
    /// with it. Closing that end hangs the terminal up.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_on_terminal(
        &self,
        request: &ProcessRequest,
        size: WindowSize,
        init: BorrowedFd<'_>,
        app_cgroups: &[OwnedFd],
    ) -> Result<(Started, OwnedFd), LauncherError> {
        let payload = Request::Start {
            process: Box::new(request.clone()),
            cgroups: app_cgroups.len(),
            streams: Streams::Terminal(size),
            task: Task::Execute,
        };
        let passed: Vec<_> = std::iter::once(init).chain(app_cgroups.iter().map(AsFd::as_fd)).collect();
        let (done, pidfd, terminal) = self.make(&payload, &passed)?;
        let terminal = terminal.ok_or_else(|| LauncherError::Receive {
            source: io::Error::other("an answer without the terminal that was asked for"),
        })?;
        Ok((Started::new(done, pidfd), terminal))
    }

    /// The launcher's own pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner).id()
    }

    /// What was made, its pidfd, and its terminal if it has one.
    fn make(
        &self,
        request: &Request,
        passed: &[BorrowedFd<'_>],
    ) -> Result<(Done, OwnedFd, Option<OwnedFd>), LauncherError> {
        let (done, descriptors) = self.call(request, passed)?;
        let mut descriptors = descriptors.into_iter();
        for shortfall in &done.shortfalls {
            self.tell_once(shortfall);
        }
        match descriptors.next() {
            Some(pidfd) => Ok((done, pidfd, descriptors.next())),
            None => Err(LauncherError::Receive { source: io::Error::other("an answer without a descriptor") }),
        }
    }

    fn call(&self, request: &Request, passed: &[BorrowedFd<'_>]) -> Result<(Done, Vec<OwnedFd>), LauncherError> {
        hear(&self.ask(request, passed)?)
    }

    /// Sends a request; the socket that the answer comes to.
    fn ask(&self, request: &Request, passed: &[BorrowedFd<'_>]) -> Result<OwnedFd, LauncherError> {
        let count = passed.len() + 2;
        if count > wire::MAX_DESCRIPTORS {
            return Err(LauncherError::TooManyDescriptors { count });
        }
        let payload = wire::payload(request).map_err(|source| LauncherError::Send { source })?;
        let (answer, theirs) = wire::pair().map_err(|source| LauncherError::Send { source })?;
        let mut descriptors = vec![payload.as_fd(), theirs.as_fd()];
        descriptors.extend(passed);
        let kind = if matches!(request, Request::Hello) { Kind::Hello } else { Kind::Build };
        wire::send(&self.socket, &wire::header(kind), &descriptors).map_err(|source| match source.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => LauncherError::Gone,
            _ => LauncherError::Send { source },
        })?;
        Ok(answer)
    }

    fn tell_once(&self, shortfall: &Failure) {
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !told.contains(&shortfall.step) {
            told.push(shortfall.step);
            tracing::warn!("this host cannot {shortfall}; going on without, and not saying so again");
        }
    }
}

impl Launching<'_> {
    /// Lets the process execute its program.
    pub fn let_go(&self) {
        // If nobody waits for it any more, the answer says why.
        let _ = wire::send(&self.gate, &[0], &[]);
    }

    /// Waits until the process executes its program, or it is known that it will not. The sandbox, and the
    /// process in it: where only that failed the sandbox stands, and what is left in the app's cgroup is the
    /// caller's to end.
    ///
    /// # Errors
    /// As [`Launcher::build`].
    pub fn finish(self) -> Result<(Sandbox, Result<Started, LauncherError>), LauncherError> {
        // If it was not let go by now, it is told that it never will be.
        drop(self.gate);
        let (mut done, descriptors) = hear(&self.answer)?;
        let mut descriptors = descriptors.into_iter();
        let incomplete = || LauncherError::Receive { source: io::Error::other("an answer without what was made") };
        let app = done.app.take().ok_or_else(incomplete)?;
        done.shortfalls.iter().for_each(|shortfall| self.launcher.tell_once(shortfall));
        let sandbox = Sandbox::new(done, descriptors.next().ok_or_else(incomplete)?);
        let app = match *app {
            Ok(done) => {
                done.shortfalls.iter().for_each(|shortfall| self.launcher.tell_once(shortfall));
                Ok(Started::new(done, descriptors.next().ok_or_else(incomplete)?))
            }
            Err(failure) => Err(LauncherError::Failed(failure)),
        };
        Ok((sandbox, app))
    }
}

impl Sandbox {
    fn new(done: Done, pidfd: OwnedFd) -> Self {
        let Done { pid, start_time, shortfalls, .. } = done;
        Self { pid, start_time, pidfd, shortfalls }
    }
}

impl Started {
    fn new(done: Done, pidfd: OwnedFd) -> Self {
        let Done { pid, start_time, pid_inside, shortfalls, .. } = done;
        Self { pid, start_time, pid_inside, pidfd, shortfalls }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // The launcher leaves when it reads the end of its socket.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let child = self.child.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let started = Instant::now();
        while started.elapsed() < LEAVE_LIMIT {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                _ => return,
            }
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Waits for an answer: what was made, and the descriptors that came with it.
fn hear(answer: &OwnedFd) -> Result<(Done, Vec<OwnedFd>), LauncherError> {
    wait_readable(answer, ANSWER_LIMIT)?;
    let mut buffer = vec![0; wire::MAX_ANSWER];
    let received = wire::receive(answer, &mut buffer).map_err(|source| LauncherError::Receive { source })?;
    let Some((length, descriptors)) = received else { return Err(LauncherError::Gone) };
    let answer =
        serde_json::from_slice(&buffer[..length]).map_err(|source| LauncherError::Receive { source: source.into() })?;
    match answer {
        Answer::Done(done) => Ok((done, descriptors)),
        Answer::Failed(failure) => Err(LauncherError::Failed(failure)),
    }
}

fn wait_readable(socket: &OwnedFd, limit: Duration) -> Result<(), LauncherError> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            rustix::event::Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        match rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(LauncherError::TimedOut { limit }),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(LauncherError::Receive { source: error.into() }),
        }
    }
}
