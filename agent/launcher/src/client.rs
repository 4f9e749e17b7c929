//! The agent's side of the launcher.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::failure::{Failure, Step};
use crate::message::{ProcessRequest, SandboxRequest};
use crate::wire::{self, Answer, Done, Kind, Request};

/// How long an answer may take. The launcher itself gives up on a builder earlier.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
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
    /// `cgroup.procs` of init's cgroup in every hierarchy, for writing.
    pub init_cgroups: Vec<OwnedFd>,
    /// The two log files, for appending.
    pub log: [OwnedFd; 2],
    /// The file of exit records, for writing; init empties it.
    pub exits: OwnedFd,
    /// Bound and listening, SOCK_SEQPACKET; see [`crate::init::listen`].
    pub socket: OwnedFd,
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
    /// `cgroup.procs` of the app's cgroup in every hierarchy, for writing.
    pub app_cgroups: Vec<OwnedFd>,
    /// Its standard input; without it, /dev/null of the sandbox.
    pub stdin: Option<OwnedFd>,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
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
        let launcher = Self { socket, child: Mutex::new(child), told: Mutex::default() };
        launcher.call(&Request::Hello, &[init.as_fd()])?;
        Ok(launcher)
    }

    /// Builds a sandbox and runs init in it. If it fails nothing of it is left.
    ///
    /// # Errors
    /// [`LauncherError::Failed`] names the step, and what it failed on.
    pub fn build(&self, request: &SandboxRequest, descriptors: SandboxFds) -> Result<Sandbox, LauncherError> {
        let payload = Request::Build { sandbox: Box::new(request.clone()), cgroups: descriptors.init_cgroups.len() };
        let mut passed: Vec<_> = descriptors.init_cgroups.iter().map(AsFd::as_fd).collect();
        passed.extend(descriptors.log.iter().map(AsFd::as_fd));
        passed.extend([descriptors.exits.as_fd(), descriptors.socket.as_fd()]);
        let (done, pidfd) = self.make(&payload, &passed)?;
        Ok(Sandbox { pid: done.pid, start_time: done.start_time, pidfd, shortfalls: done.shortfalls })
    }

    /// Starts a process in a sandbox. When this returns it is past its `execve`. After a failure the
    /// caller ends whatever is left in the app's cgroup.
    ///
    /// # Errors
    /// [`LauncherError::Failed`] names the step, and what it failed on; with [`Step::Exec`] that is
    /// the program.
    pub fn start(&self, request: &ProcessRequest, descriptors: ProcessFds<'_>) -> Result<Started, LauncherError> {
        let payload = Request::Start {
            process: Box::new(request.clone()),
            cgroups: descriptors.app_cgroups.len(),
            stdin: descriptors.stdin.is_some(),
        };
        let mut passed = vec![descriptors.init];
        passed.extend(descriptors.app_cgroups.iter().map(AsFd::as_fd));
        passed.extend([descriptors.stdout.as_fd(), descriptors.stderr.as_fd()]);
        passed.extend(descriptors.stdin.as_ref().map(AsFd::as_fd));
        let (done, pidfd) = self.make(&payload, &passed)?;
        Ok(Started {
            pid: done.pid,
            start_time: done.start_time,
            pid_inside: done.pid_inside,
            pidfd,
            shortfalls: done.shortfalls,
        })
    }

    /// The launcher's own pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner).id()
    }

    fn make(&self, request: &Request, passed: &[BorrowedFd<'_>]) -> Result<(Done, OwnedFd), LauncherError> {
        let (done, mut descriptors) = self.call(request, passed)?;
        for shortfall in &done.shortfalls {
            self.tell_once(shortfall);
        }
        match descriptors.pop() {
            Some(pidfd) => Ok((done, pidfd)),
            None => Err(LauncherError::Receive { source: io::Error::other("an answer without a descriptor") }),
        }
    }

    fn call(&self, request: &Request, passed: &[BorrowedFd<'_>]) -> Result<(Done, Vec<OwnedFd>), LauncherError> {
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
        drop(theirs);
        wait_readable(&answer, ANSWER_LIMIT)?;
        let mut buffer = vec![0; wire::MAX_ANSWER];
        let received = wire::receive(&answer, &mut buffer).map_err(|source| LauncherError::Receive { source })?;
        let Some((length, descriptors)) = received else { return Err(LauncherError::Gone) };
        let answer = serde_json::from_slice(&buffer[..length])
            .map_err(|source| LauncherError::Receive { source: source.into() })?;
        match answer {
            Answer::Done(done) => Ok((done, descriptors)),
            Answer::Failed(failure) => Err(LauncherError::Failed(failure)),
        }
    }

    fn tell_once(&self, shortfall: &Failure) {
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !told.contains(&shortfall.step) {
            told.push(shortfall.step);
            tracing::warn!("this host cannot {shortfall}; going on without, and not saying so again");
        }
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
