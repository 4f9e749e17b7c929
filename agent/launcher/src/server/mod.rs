//! The launcher itself: takes requests, forks a builder for each, and outlives whatever becomes of
//! them. It looks into no payload and never waits for anything but its next event.

mod app;
mod builder;
mod capabilities;
mod channel;
mod copying;
mod devices;
mod groups;
mod idmap;
mod inside;
mod mask;
mod mounts;
mod overlay;
mod process;
mod ready;
mod root;
mod sandbox;
mod shield;
mod spec;
mod terminal;

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec};
use tracing_subscriber::EnvFilter;

use crate::failure::{Failure, OrFail, Step};
use crate::rules::Rule;
use crate::sys::{self, Cloned};
use crate::wire::{self, Answer, Done, Kind};

/// How long a builder may take before it is killed. It gives up on its own children earlier.
const BUILDER_LIMIT: Duration = Duration::from_secs(10);
/// Builders at once; further requests wait in the socket.
const MOST_BUILDERS: usize = 64;

/// Why the launcher ended.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it, the fields are their parts")]
pub enum ServeError {
    #[error("{call} failed")]
    SetUp { call: &'static str, source: io::Error },
    #[error("waiting for events failed")]
    Wait { source: io::Error },
}

/// A builder at work.
struct Running {
    pid: i32,
    deadline: Instant,
    killed: bool,
    /// A copy of the builder's, to answer for it if it cannot.
    answer: OwnedFd,
}

/// Whether a sandbox of this configuration would be planned at all.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn plan_of(spec: &oci_spec::runtime::Spec) -> bool {
    spec::plan(spec).is_ok()
}

/// The launcher's program: prepares what is its own, then serves the socket that is its standard
/// input. It logs to stderr.
#[must_use]
pub fn main(prepare: impl FnOnce() -> io::Result<()>) -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_env_filter(EnvFilter::try_from_env("DROWSE_LOG").unwrap_or_else(|_| EnvFilter::new("info")))
        .init();
    if let Err(error) = shield::program() {
        tracing::error!("the launcher's program cannot be made read-only: {error}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = prepare() {
        tracing::error!("the launcher cannot be prepared: {error}");
        return ExitCode::FAILURE;
    }
    let socket: OwnedFd = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!("standard input cannot be used: {error}");
            return ExitCode::FAILURE;
        }
    };
    match serve(socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::error!("{error}: {cause}");
            ExitCode::FAILURE
        }
    }
}

/// Serves requests until the agent's end of `socket` is closed.
///
/// # Errors
/// The launcher could not be set up, or cannot wait for events.
pub fn serve(socket: OwnedFd) -> Result<(), ServeError> {
    let set_up = |call| move |source: io::Error| ServeError::SetUp { call, source };
    // Run from a mount without a path it would be called by a number.
    let _ = rustix::thread::set_name(c"drowse-launcher");
    // A session of its own: Ctrl-C on the agent's terminal is the agent's to handle.
    let _ = nix::unistd::setsid();
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|error| set_up("making the process undumpable")(error.into()))?;
    // Inits become children of the launcher, which reaps them for as long as it lives.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| set_up("becoming a subreaper")(error.into()))?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&children), None)
        .map_err(|error| set_up("blocking SIGCHLD")(error.into()))?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| set_up("making a signal descriptor")(error.into()))?;
    // Compiled before the first builder is forked, and not in each of them.
    drop(crate::seccomp::default_filter());
    Server { socket, signals, init: None, running: Vec::new() }.run()
}

struct Server {
    socket: OwnedFd,
    signals: SignalFd,
    /// The program of init, sealed.
    init: Option<OwnedFd>,
    running: Vec<Running>,
}

impl Server {
    fn run(mut self) -> Result<(), ServeError> {
        loop {
            let takes_requests = self.running.len() < MOST_BUILDERS;
            let mut waited = [
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::new(&self.socket, if takes_requests { PollFlags::IN } else { PollFlags::empty() }),
            ];
            match rustix::event::poll(&mut waited, self.until_deadline().as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(ServeError::Wait { source: error.into() }),
            }
            let [signals, socket] = waited.map(|descriptor| descriptor.revents());
            if !signals.is_empty() {
                while matches!(self.signals.read_signal(), Ok(Some(_))) {}
                self.reap();
            }
            self.kill_the_late();
            if !socket.is_empty() && takes_requests && !self.take_request() {
                self.running.iter().for_each(|builder| kill(builder.pid));
                return Ok(());
            }
        }
    }

    fn until_deadline(&self) -> Option<Timespec> {
        let next = self.running.iter().filter(|builder| !builder.killed).map(|builder| builder.deadline).min()?;
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Some(Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() })
    }

    /// Handles one request; whether there can be more.
    fn take_request(&mut self) -> bool {
        let mut header = [0; 64];
        let (length, descriptors) = match wire::receive(&self.socket, &mut header) {
            Ok(Some(received)) => received,
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!("a request was lost: {error}");
                return true;
            }
        };
        let mut descriptors = descriptors.into_iter();
        let (Some(payload), Some(answer)) = (descriptors.next(), descriptors.next()) else {
            tracing::warn!("a request came without its descriptors");
            return true;
        };
        match wire::read_header(&header[..length]) {
            Ok(Kind::Hello) => self.greet(descriptors.next(), &answer),
            Ok(Kind::Build) => self.fork_builder(payload, answer, descriptors.collect()),
            Err(why) => reply_failure(&answer, Failure::refused(Step::Request, "header", why)),
        }
        true
    }

    fn greet(&mut self, init: Option<OwnedFd>, answer: &OwnedFd) {
        let kept = match init {
            Some(init) => keep_init(init),
            None => Err(Failure::refused(Step::Request, "the program of init", "it is missing")),
        };
        match kept {
            Ok(init) => {
                self.init = Some(init);
                reply(answer, &Answer::Done(Done::default()));
            }
            Err(failure) => reply_failure(answer, failure),
        }
    }

    fn fork_builder(&mut self, payload: OwnedFd, answer: OwnedFd, descriptors: Vec<OwnedFd>) {
        let Some(init) = &self.init else {
            return reply_failure(&answer, Failure::refused(Step::Request, "order", "no program of init came before"));
        };
        match sys::clone_process(0) {
            Ok(Cloned::Child) => {
                let code = builder::run(payload, &answer, descriptors, init);
                sys::exit_now(code)
            }
            Ok(Cloned::Parent(pid, _pidfd)) => {
                self.running.push(Running { pid, deadline: Instant::now() + BUILDER_LIMIT, killed: false, answer });
            }
            Err(error) => reply_failure(&answer, Failure::os(Step::Clone, "a builder", error)),
        }
    }

    /// Takes leave of every child that has ended: builders, and inits of sandboxes.
    fn reap(&mut self) {
        while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            let Some(pid) = status.pid() else { return };
            let Some(at) = self.running.iter().position(|builder| builder.pid == pid.as_raw()) else { continue };
            let builder = self.running.swap_remove(at);
            let why = match status {
                WaitStatus::Exited(_, 0) => continue,
                _ if builder.killed => format!("it took longer than {BUILDER_LIMIT:?} and was killed"),
                WaitStatus::Exited(_, code) => format!("it ended with code {code}"),
                WaitStatus::Signaled(_, signal, _) => format!("it was killed by {signal}"),
                _ => continue,
            };
            reply_failure(&builder.answer, Failure::refused(Step::Builder, "the request", why));
        }
    }

    fn kill_the_late(&mut self) {
        let now = Instant::now();
        for builder in self.running.iter_mut().filter(|builder| !builder.killed && builder.deadline <= now) {
            kill(builder.pid);
            builder.killed = true;
        }
    }
}

/// A sealed copy in memory: no file of the host is executed in a sandbox, where what is executed can
/// be opened by way of /proc.
fn keep_init(program: OwnedFd) -> Result<OwnedFd, Failure> {
    if !Rule::InitFromMemory.in_force() {
        return Ok(program);
    }
    wire::sealed("drowse-init", &mut std::fs::File::from(program), true).or_fail(Step::Request, "the program of init")
}

/// Kills a child that was not reaped yet, so that its pid is nobody else's.
fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
}

fn reply(to: &OwnedFd, answer: &Answer) {
    send_answer(to, answer, &[]);
}

fn reply_failure(to: &OwnedFd, failure: Failure) {
    reply(to, &Answer::Failed(failure));
}

/// Sends an answer; that nobody waits for it any more is not the launcher's concern.
fn send_answer(to: &OwnedFd, answer: &Answer, descriptors: &[OwnedFd]) {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    if let Ok(bytes) = serde_json::to_vec(answer) {
        let _ = wire::send(to, &bytes, &descriptors);
    }
}
