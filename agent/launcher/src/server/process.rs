//! Starts a process in a sandbox, seen from outside: the first one is made by init itself, on its way to
//! its program. Later ones are forked twice inside, so that their parent is gone and init adopts them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{Signal, pidfd_send_signal, set_parent_process_death_signal};

use super::app::{self, Prepared};
use super::channel::{CHILD_LIMIT, Channel, Heard, Word, await_leave};
use super::sandbox::set_oom_score;
use super::terminal::Terminal;
use super::{groups, idmap};
use crate::failure::{Failure, OrFail, Step};
use crate::message::{ProcessRequest, Task, WindowSize};
use crate::process::start_time;
use crate::rules::Rule;
use crate::sys::{self, Cloned};
use crate::wire::Done;

/// The descriptors that came with the request.
pub(super) struct Given {
    pub(super) cgroups: Vec<OwnedFd>,
    pub(super) streams: Streams,
    /// Says when it may execute, if that is not at once.
    pub(super) gate: Option<OwnedFd>,
}

/// What its streams are.
pub(super) enum Streams {
    Passed {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// Made inside; one of the host in the program that leaves out the rule against it.
    Terminal {
        size: WindowSize,
        of_host: Option<Terminal>,
    },
}

impl Streams {
    pub(super) fn terminal(size: WindowSize) -> Result<Self, Failure> {
        let of_host = if Rule::OwnTerminal.in_force() { None } else { Some(Terminal::open(size)?) };
        Ok(Self::Terminal { size, of_host })
    }
}

/// What was made: what is told of it, its pidfd, and the controlling end of its terminal if it has one.
pub(super) type Made = (Done, Vec<OwnedFd>);

/// One side's ends of what a builder and the makers of a process talk over.
#[derive(Debug)]
pub(super) struct Lines {
    /// With the new process.
    words: Channel,
    /// With whoever makes it: its pid inside, and its pidfd.
    birth: Channel,
}

impl Lines {
    /// The builder's side, and the other.
    pub(super) fn pair() -> Result<(Self, Self), Failure> {
        let ((words, word_ends), (birth, birth_end)) = (Channel::pair()?, Channel::pair()?);
        Ok((Self { words, birth }, Self { words: word_ends, birth: birth_end }))
    }
}

/// The first process of a sandbox, before there is one.
pub(super) struct First<'a> {
    pub(super) prepared: Prepared<'a>,
    pub(super) given: Given,
}

impl First<'_> {
    /// Makes it, as a child of the caller: an init that has not executed its program.
    pub(super) fn make(&mut self, lines: &Lines) -> Result<(), Failure> {
        make(&self.prepared, &mut self.given, lines)
    }

    /// Sees it to its program, in the builder. When this returns it is there.
    pub(super) fn see_off(mut self, lines: &Lines, init: &OwnedFd) -> Result<Made, Failure> {
        match see_off(&self.prepared, self.given.gate.as_ref(), lines) {
            Err(failure) if failure == at_birth() && attaches_instead(&mut self.given) => {
                enter_pids(init)?;
                attempt(&self.prepared, &mut self.given, init)
            }
            other => other,
        }
    }
}

/// Starts one in a sandbox that stands; when this returns it is at its task.
pub(super) fn start(request: &ProcessRequest, task: &Task, init: &OwnedFd, mut given: Given) -> Result<Made, Failure> {
    let prepared = Prepared::new(request, task, &given.streams, idmap::held_by(init)?)?;
    enter_pids(init)?;
    match attempt(&prepared, &mut given, init) {
        Err(failure) if failure == at_birth() && attaches_instead(&mut given) => attempt(&prepared, &mut given, init),
        other => other,
    }
}

/// Only children are affected, so /proc goes on to mean the host's.
fn enter_pids(init: &OwnedFd) -> Result<(), Failure> {
    sys::enter(init, libc::CLONE_NEWPID).or_fail(Step::EnterNamespace, "pid")
}

fn attaches_instead(given: &mut Given) -> bool {
    groups::attach_instead(&mut given.cgroups).unwrap_or(false)
}

/// Of a process that was gone before it said a word.
fn at_birth() -> Failure {
    Failure::refused(Step::Builder, "the new process", "it ended before it could execute")
}

fn attempt(prepared: &Prepared<'_>, given: &mut Given, init: &OwnedFd) -> Result<Made, Failure> {
    let (ours, theirs) = Lines::pair()?;
    match sys::clone_process(0).or_fail(Step::Clone, "the way into the sandbox")? {
        Cloned::Child => {
            drop(ours);
            let code = match go_between(prepared, given, init, &theirs) {
                Ok(()) => 0,
                Err(failure) => {
                    theirs.words.say(&Word::Failed(failure));
                    1
                }
            };
            sys::exit_now(code)
        }
        Cloned::Parent(between, _pidfd) => {
            drop(theirs);
            let status = waitpid(Pid::from_raw(between), None).or_fail(Step::Clone, "the way into the sandbox")?;
            if !matches!(status, WaitStatus::Exited(_, 0)) {
                return Err(heard_failure(&ours.words));
            }
            see_off(prepared, given.gate.as_ref(), &ours)
        }
    }
}

/// Learns who was made, and sees it to its task.
fn see_off(prepared: &Prepared<'_>, gate: Option<&OwnedFd>, lines: &Lines) -> Result<Made, Failure> {
    let (pid_inside, pidfd) = lines.birth.take().or_fail(Step::Report, "the new process")?;
    let pidfd = pidfd.ok_or_else(|| Failure::refused(Step::Report, "the new process", "it has no pidfd"))?;
    let started = oversee(prepared, gate, pid_inside, &pidfd, &lines.words);
    if started.is_err() {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
    let (done, terminal) = started?;
    Ok((done, std::iter::once(pidfd).chain(terminal).collect()))
}

/// Why the one in between could not do its work.
fn heard_failure(channel: &Channel) -> Failure {
    match channel.hear(Instant::now()) {
        Ok(Heard::Word(Word::Failed(failure))) => failure,
        _ => Failure::refused(Step::Builder, "the new process", "its parent died"),
    }
}

/// Enters what is left to enter, and makes the process proper.
fn go_between(prepared: &Prepared<'_>, given: &mut Given, init: &OwnedFd, lines: &Lines) -> Result<(), Failure> {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let spaces = [
        (libc::CLONE_NEWTIME, "time"),
        (libc::CLONE_NEWNET, "net"),
        (libc::CLONE_NEWIPC, "ipc"),
        (libc::CLONE_NEWUTS, "uts"),
        (libc::CLONE_NEWNS, "mount"),
    ];
    let all = spaces.iter().fold(0, |all, (flag, _)| all | flag);
    sys::enter(init, all).or_fail(Step::EnterNamespace, spaces.map(|(_, name)| name).join(", "))?;
    make(prepared, given, lines)
}

/// Clones the caller, which is in all the namespaces that the process is to be in.
fn make(prepared: &Prepared<'_>, given: &mut Given, lines: &Lines) -> Result<(), Failure> {
    match groups::clone(0, &mut given.cgroups).or_fail(Step::Clone, "the new process")? {
        Cloned::Child => {
            let Err(failure) = app::become_app(prepared, given, &lines.words);
            lines.words.say(&Word::Failed(failure));
            sys::exit_now(1)
        }
        Cloned::Parent(pid_inside, pidfd) => {
            lines.birth.pass(pid_inside, Some(&pidfd)).or_fail(Step::Report, "the new process")
        }
    }
}

/// Hears how the new process gets on, and lets it execute once it is known by pid and start time.
fn oversee(
    prepared: &Prepared<'_>,
    gate: Option<&OwnedFd>,
    pid_inside: i32,
    pidfd: &OwnedFd,
    channel: &Channel,
) -> Result<(Done, Option<OwnedFd>), Failure> {
    let deadline = Instant::now() + CHILD_LIMIT;
    let (mut shortfalls, mut terminal) = (Vec::new(), None);
    loop {
        match channel.hear(deadline).or_fail(Step::Report, "the new process")? {
            Heard::Word(Word::Failed(failure)) => return Err(failure),
            Heard::Word(Word::Shortfall(failure)) => shortfalls.push(failure),
            Heard::Word(Word::Ready) => break,
            Heard::Terminal(end) => terminal = Some(end),
            Heard::Closed => return Err(at_birth()),
        }
    }
    let pid = pid_of(pidfd).or_fail(Step::Report, "the new process")?;
    let start_time = start_time(pid).or_fail(Step::Report, "the new process")?;
    // Otherwise the app would inherit the daemon's, and be spared where it should not be.
    shortfalls.extend(set_oom_score(pid, prepared.oom_score.unwrap_or(0)));
    if let Some(gate) = gate {
        await_leave(gate).or_fail(Step::Report, "the sandbox, without its network")?;
    }
    channel.pass(0, None).or_fail(Step::Report, "the new process")?;
    match channel.hear(deadline).or_fail(Step::Report, "the new process")? {
        Heard::Word(Word::Failed(failure)) => Err(failure),
        Heard::Word(_) | Heard::Terminal(_) => {
            Err(Failure::refused(Step::Report, "the new process", "it said more than it should"))
        }
        Heard::Closed => Ok((Done { pid, start_time, pid_inside, shortfalls, app: None }, terminal)),
    }
}

/// The host's pid of a process that has not been reaped.
pub(super) fn pid_of(pidfd: &OwnedFd) -> std::io::Result<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse().ok());
    pid.filter(|pid| *pid > 0).ok_or_else(|| std::io::Error::from_raw_os_error(libc::ESRCH))
}
