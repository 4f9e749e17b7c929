//! Builds a sandbox, seen from outside: namespaces are made, the rest happens in them.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use drowse_rootfs::IdRange;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::app::Prepared;
use super::channel::{CHILD_LIMIT, Channel, Heard, Word, is_readable};
use super::idmap::IdMaps;
use super::process::{self, First, Lines};
use super::{groups, idmap, inside, ready, spec};
use crate::disk::Disk;
use crate::failure::{Failure, OrFail, Step};
use crate::message::{Clock, ClockOffset, ProcessRequest, SandboxRequest, Task};
use crate::process::start_time;
use crate::rules::Rule;
use crate::sys::{self, Cloned};
use crate::wire::Done;

/// The kernel should take anybody before init, which would take the sandbox along.
const INIT_OOM_SCORE: i32 = -900;

/// The descriptors that came with the request.
pub(super) struct Given {
    pub(super) cgroups: Vec<OwnedFd>,
    pub(super) log: [OwnedFd; 2],
    pub(super) exits: OwnedFd,
    pub(super) socket: OwnedFd,
    /// The namespaces that were made ahead, if any were.
    pub(super) ready: Vec<OwnedFd>,
    /// The disk that was made ahead, if one was.
    pub(super) disk: Option<OwnedFd>,
    /// The reading ends of the first process's pipes, if there is to be one.
    pub(super) pipes: Option<[OwnedFd; 2]>,
    /// The namespaces that map ranges, of those that were made before.
    pub(super) maps: Vec<(IdRange, OwnedFd)>,
}

/// Everything that is known and checked before the first namespace is made.
pub(super) struct Blueprint<'a> {
    pub(super) request: &'a SandboxRequest,
    pub(super) plan: spec::Plan,
    pub(super) maps: IdMaps,
    /// The user namespace of its processes, if root is inside.
    pub(super) own_ids: Option<OwnedFd>,
    /// Where what is written goes, if that is a disk of its own.
    pub(super) disk: Option<Disk>,
    /// The disks among the binds, in their order.
    pub(super) bound: Vec<Disk>,
    pub(super) given: Given,
    pub(super) init: &'a OwnedFd,
    pub(super) filter: Vec<libc::sock_filter>,
    /// What init starts on its way.
    pub(super) first: Option<First<'a>>,
}

/// A sandbox with init in it.
pub(super) struct Built {
    pub(super) done: Done,
    pub(super) init: OwnedFd,
    /// What became of its first process, if one was asked for.
    pub(super) first: Option<Result<process::Made, Failure>>,
}

/// Builds it, runs init in it, and the first process if there is one.
pub(super) fn build(
    request: &SandboxRequest,
    mut given: Given,
    first: Option<(&ProcessRequest, process::Given)>,
    init: &OwnedFd,
) -> Result<Built, Failure> {
    let plan = spec::plan(&request.spec)?;
    let mut maps = IdMaps::of(std::mem::take(&mut given.maps));
    maps.add(request.overlay.ids)?;
    for ids in request.binds.iter().filter_map(|bind| bind.idmap) {
        maps.add(ids)?;
    }
    let own_ids = request.root_inside.then(|| idmap::of_processes(request.overlay.ids)).transpose()?;
    let (disk, reserves) = open_disk(request, given.disk.take())?;
    let disks = request.binds.iter().filter(|bind| bind.is_disk);
    let bound = disks.map(|bind| Disk::open(&bind.source)).collect::<Result<_, _>>()?;
    let filter = crate::seccomp::default_filter();
    let first = first.map(|(process, given)| first_of(process, given, own_ids.as_ref())).transpose()?;
    let mut blueprint = Blueprint { request, plan, maps, own_ids, disk, bound, given, init, filter, first };
    if let Clock::Own { monotonic, boottime } = request.clock
        && Rule::NamespaceTime.in_force()
    {
        new_clock(monotonic, boottime).or_fail(Step::TimeNamespace, "the sandbox")?;
    }
    let spaces = [(Rule::NamespacePid, libc::CLONE_NEWPID), (Rule::NamespaceMount, libc::CLONE_NEWNS)];
    let mut spaces = spaces.iter().filter(|(rule, _)| rule.in_force()).fold(0, |all, (_, space)| all | space);
    if blueprint.given.ready.is_empty() {
        spaces = ready::in_force().fold(spaces, |all, (_, space, _)| all | space);
    } else {
        ready::enter(&blueprint.given.ready)?;
    }
    let run = match run_init(&mut blueprint, spaces) {
        Err(Ended::AtBirth(failure)) => {
            let would_be_born =
                groups::attach_instead(&mut blueprint.given.cgroups).or_fail(Step::AttachCgroup, "init")?;
            if would_be_born { run_init(&mut blueprint, spaces).map_err(Ended::failure) } else { Err(failure) }
        }
        other => other.map_err(Ended::failure),
    };
    let (mut done, init, lines) = run?;
    if reserves {
        let reserved = blueprint.disk.as_ref().map_or(Ok(()), Disk::reserve);
        done.shortfalls.extend(reserved.err());
    }
    let first = blueprint.first.zip(lines).map(|(first, lines)| first.see_off(&lines, &init));
    Ok(Built { done, init, first })
}

/// A first process that is to be.
fn first_of<'a>(
    process: &ProcessRequest,
    given: process::Given,
    own_ids: Option<&OwnedFd>,
) -> Result<First<'a>, Failure> {
    let own_ids = own_ids.map(OwnedFd::try_clone).transpose().or_fail(Step::Descriptors, "the new process")?;
    let prepared = Prepared::new(process, &Task::Execute, &given.streams, own_ids)?;
    Ok(First { prepared, given })
}

/// How an init did not come to be.
enum Ended {
    /// It was killed before it could say a word.
    AtBirth(Failure),
    /// In any other way.
    Later(Failure),
}

impl Ended {
    fn failure(self) -> Failure {
        match self {
            Self::AtBirth(failure) | Self::Later(failure) => failure,
        }
    }
}

fn run_init(blueprint: &mut Blueprint<'_>, spaces: i32) -> Result<(Done, OwnedFd, Option<Lines>), Ended> {
    let (ours, theirs) = Channel::pair().map_err(Ended::Later)?;
    let lines = blueprint.first.as_ref().map(|_| Lines::pair()).transpose().map_err(Ended::Later)?;
    let (lines, its_lines) = lines.unzip();
    match groups::clone(spaces, &mut blueprint.given.cgroups).or_fail(Step::Clone, "init").map_err(Ended::Later)? {
        Cloned::Child => {
            drop((ours, lines));
            let Err(failure) = inside::become_init(blueprint, its_lines, &theirs);
            theirs.say(&Word::Failed(failure));
            sys::exit_now(1)
        }
        Cloned::Parent(pid, pidfd) => {
            drop((theirs, its_lines));
            let finished = await_init(pid, &pidfd, &ours);
            if finished.is_err() {
                // The kernel takes all of the sandbox with its pid 1.
                let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
                let _ = waitpid(Pid::from_raw(pid), None);
            }
            Ok((finished?, pidfd, lines))
        }
    }
}

/// The disk, if it has one, and whether room is to be reserved on it: not on one that was made ahead.
fn open_disk(request: &SandboxRequest, ready: Option<OwnedFd>) -> Result<(Option<Disk>, bool), Failure> {
    let Some(image) = &request.overlay.disk else { return Ok((None, false)) };
    let owner = request.overlay.ids.to_host(0).unwrap_or(0);
    if let Some(ready) = ready {
        let disk = Disk::from(ready);
        disk.give_to(owner)?;
        return Ok((Some(disk), false));
    }
    let disk = Disk::open(image)?;
    disk.prepare(owner)?;
    Ok((Some(disk), true))
}

/// Children of this process will be born in a new time namespace.
fn new_clock(monotonic: ClockOffset, boottime: ClockOffset) -> std::io::Result<()> {
    sys::unshare(libc::CLONE_NEWTIME)?;
    if monotonic == ClockOffset::default() && boottime == ClockOffset::default() {
        return Ok(());
    }
    let offsets = format!(
        "monotonic {} {}\nboottime {} {}\n",
        monotonic.seconds, monotonic.nanoseconds, boottime.seconds, boottime.nanoseconds
    );
    File::options().write(true).open("/proc/self/timens_offsets")?.write_all(offsets.as_bytes())
}

fn await_init(pid: i32, pidfd: &OwnedFd, channel: &Channel) -> Result<Done, Ended> {
    let deadline = Instant::now() + CHILD_LIMIT;
    let (mut shortfalls, mut is_ready) = (Vec::new(), false);
    loop {
        match channel.hear(deadline).or_fail(Step::Report, "the new sandbox").map_err(Ended::Later)? {
            Heard::Word(Word::Failed(failure)) => return Err(Ended::Later(failure)),
            Heard::Word(Word::Shortfall(failure)) => shortfalls.push(failure),
            Heard::Word(Word::Ready) => is_ready = true,
            // Init has no terminal; whoever says so has nothing else to say.
            Heard::Terminal(_) => {}
            Heard::Closed => break,
        }
    }
    // What ends lets go of the channel before its pidfd tells: a look at that alone may come too early.
    let has_ended =
        is_readable(pidfd, Duration::ZERO).or_fail(Step::Report, "the new sandbox").map_err(Ended::Later)?;
    if !is_ready || has_ended {
        return Err(Ended::AtBirth(Failure::refused(Step::Builder, "init", "it ended before it was running")));
    }
    shortfalls.extend(set_oom_score(pid, INIT_OOM_SCORE));
    let start_time = start_time(pid).or_fail(Step::Report, "init").map_err(Ended::Later)?;
    Ok(Done { pid, start_time, pid_inside: 1, shortfalls, app: None })
}

/// Sets the out-of-memory score of a process, seen from outside; the failure if it could not.
pub(super) fn set_oom_score(pid: i32, score: i32) -> Option<Failure> {
    let written = std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string());
    written.err().map(|error| Failure::os(Step::OomScore, "a process", error))
}
