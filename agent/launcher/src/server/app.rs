//! The last steps of a new process before it becomes the app: its cgroups, session, user, limits,
//! capabilities, filter, descriptors, and the exec.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libc::sock_filter;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use oci_spec::runtime::{PosixRlimit, PosixRlimitType, Process};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::DumpableBehavior;

use super::capabilities::Sets;
use super::channel::{self, Channel, Word};
use super::process::{Given, Streams};
use super::terminal::Terminal;
use super::{copying, devices, groups, inside};
use crate::failure::{Failure, OrFail, Step};
use crate::message::{ProcessRequest, SeccompProfile, Task};
use crate::rules::Rule;
use crate::seccomp;
use crate::sys::{self, Strings};

/// What Linux searches if there is no PATH, as execvp does.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
const DEFAULT_UMASK: u32 = 0o022;
/// The channel's number until the exec closes it.
const REPORT: i32 = 3;

/// A checked request, in the form in which the kernel wants it. Nothing is looked up in a file.
pub(super) struct Prepared<'a> {
    task: &'a Task,
    /// Its user and group on the host.
    owner: (u32, u32),
    /// The user namespace that it joins, if root is inside.
    own_ids: Option<OwnedFd>,
    /// Whether it gets a mount namespace of its own, which its user namespace owns. Everything that is
    /// mounted there by then is locked: it cannot be taken away, nor made writable.
    own_mounts: bool,
    /// Its ids as that namespace has them; the host's without.
    uid: u32,
    gid: u32,
    groups: Vec<Gid>,
    umask: u32,
    working_folder: PathBuf,
    programs: Vec<CString>,
    arguments: Strings,
    environment: Strings,
    limits: Vec<(&'static str, u32, PosixRlimit)>,
    capabilities: Sets,
    filter: Vec<sock_filter>,
    pub(super) oom_score: Option<i32>,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(
        request: &ProcessRequest,
        task: &'a Task,
        streams: &Streams,
        own_ids: Option<OwnedFd>,
    ) -> Result<Self, Failure> {
        let process = &request.process;
        if process.terminal().unwrap_or(false) && matches!(streams, Streams::Passed { .. }) {
            return Err(refused("process.terminal", "its streams are passed to it"));
        }
        let user = process.user();
        let additional = user.additional_gids().clone().unwrap_or_default();
        let ids = [user.uid(), user.gid()].into_iter().chain(additional.iter().copied());
        for id in ids.filter(|_| Rule::UserInRange.in_force()) {
            if id == 0 {
                return Err(refused("process.user", "it would be the host's root"));
            }
            if request.ids.to_image(id).is_none() {
                return Err(refused("process.user", format!("{id} is not in the range of the sandbox")));
            }
        }
        let strings = |field: &str, strings: &[String]| -> Result<Vec<CString>, Failure> {
            strings.iter().map(|string| plain(field, string)).collect()
        };
        let args = process.args().as_deref().unwrap_or_default();
        let environment = process.env().as_deref().unwrap_or_default();
        let is_inside = own_ids.is_some();
        let profile = request.seccomp;
        if profile == SeccompProfile::Builder && !is_inside {
            return Err(refused("process", "builders of images are for sandboxes with root inside"));
        }
        let id = |id: u32| if is_inside { request.ids.to_image(id).unwrap_or(id) } else { id };
        let mut capabilities = Sets::asked(process.capabilities().as_ref());
        if is_inside && Rule::RootCapabilities.in_force() {
            capabilities = capabilities.of_root_inside(profile);
        }
        Ok(Self {
            task,
            owner: (user.uid(), user.gid()),
            own_ids,
            uid: id(user.uid()),
            gid: id(user.gid()),
            groups: additional.into_iter().map(|gid| Gid::from_raw(id(gid))).collect(),
            umask: user.umask().unwrap_or(DEFAULT_UMASK),
            working_folder: working_folder(process)?,
            programs: if *task == Task::Execute { programs(args, environment)? } else { Vec::new() },
            arguments: Strings::new(strings("process.args", args)?),
            environment: Strings::new(strings("process.env", environment)?),
            limits: limits(process.rlimits().as_deref().unwrap_or_default())?,
            capabilities,
            own_mounts: profile == SeccompProfile::Builder,
            filter: match profile {
                SeccompProfile::Default => seccomp::default_filter(),
                SeccompProfile::Builder => seccomp::builder_filter(),
            },
            oom_score: process.oom_score_adj(),
        })
    }
}

fn working_folder(process: &Process) -> Result<PathBuf, Failure> {
    match process.cwd() {
        cwd if cwd.as_os_str().is_empty() => Ok(PathBuf::from("/")),
        cwd if cwd.is_absolute() => Ok(cwd.clone()),
        _ => Err(refused("process.cwd", "it is not absolute")),
    }
}

/// Where the program may be: as named, or in every folder of PATH.
fn programs(args: &[String], environment: &[String]) -> Result<Vec<CString>, Failure> {
    let name = args.first().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| refused("process.args", "there is no program"))?;
    if name.contains('/') {
        return Ok(vec![plain("process.args", name)?]);
    }
    let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let folders = path.split(':').map(|folder| if folder.is_empty() { "." } else { folder });
    folders.map(|folder| plain("process.args", &format!("{folder}/{name}"))).collect()
}

fn limits(asked: &[PosixRlimit]) -> Result<Vec<(&'static str, u32, PosixRlimit)>, Failure> {
    let known = |limit: &PosixRlimit| {
        Some(match limit.typ() {
            PosixRlimitType::RlimitCpu => ("RLIMIT_CPU", libc::RLIMIT_CPU),
            PosixRlimitType::RlimitFsize => ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
            PosixRlimitType::RlimitData => ("RLIMIT_DATA", libc::RLIMIT_DATA),
            PosixRlimitType::RlimitStack => ("RLIMIT_STACK", libc::RLIMIT_STACK),
            PosixRlimitType::RlimitCore => ("RLIMIT_CORE", libc::RLIMIT_CORE),
            PosixRlimitType::RlimitRss => ("RLIMIT_RSS", libc::RLIMIT_RSS),
            PosixRlimitType::RlimitNproc => ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
            PosixRlimitType::RlimitNofile => ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
            PosixRlimitType::RlimitMemlock => ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
            PosixRlimitType::RlimitAs => ("RLIMIT_AS", libc::RLIMIT_AS),
            PosixRlimitType::RlimitLocks => ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
            PosixRlimitType::RlimitSigpending => ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
            PosixRlimitType::RlimitMsgqueue => ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
            PosixRlimitType::RlimitNice => ("RLIMIT_NICE", libc::RLIMIT_NICE),
            PosixRlimitType::RlimitRtprio => ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
            PosixRlimitType::RlimitRttime => ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
        })
    };
    asked
        .iter()
        .map(|limit| {
            if limit.soft() > limit.hard() {
                return Err(refused("process.rlimits", "a soft limit is above its hard one"));
            }
            let (name, number) = known(limit).ok_or_else(|| refused("process.rlimits", "a limit is not known"))?;
            Ok((name, number, *limit))
        })
        .collect()
}

fn plain(field: &str, string: &str) -> Result<CString, Failure> {
    CString::new(string).map_err(|_| refused(field, "it holds a zero byte"))
}

fn refused(field: &str, why: impl Into<String>) -> Failure {
    Failure::refused(Step::Spec, field, why)
}

/// Everything between the fork and the app.
pub(super) fn become_app(prepared: &Prepared<'_>, given: &Given, channel: &Channel) -> Result<Infallible, Failure> {
    groups::enter(&given.cgroups)?;
    if Rule::OwnSession.in_force() {
        rustix::process::setsid().or_fail(Step::Session, "the process")?;
    }
    set_limits(prepared, channel)?;
    let null;
    let passed = match &given.streams {
        Streams::Passed { stdin: Some(stdin), stdout, stderr } => Some([stdin, stdout, stderr]),
        Streams::Passed { stdin: None, stdout, stderr } => {
            null = devices::own_null(open_root()?)?;
            Some([&null, stdout, stderr])
        }
        Streams::Terminal { .. } => None,
    };
    for stream in passed.iter().flatten() {
        hand_over(stream, prepared)?;
    }
    become_user(prepared)?;
    hide()?;
    let terminal;
    let [stdin, stdout, stderr] = match (passed, &given.streams) {
        (None, Streams::Terminal { of_host: Some(foreign), .. }) => {
            take_over(foreign, channel)?;
            [&foreign.streams; 3]
        }
        (None, Streams::Terminal { size, of_host: None }) => {
            terminal = Terminal::open(*size)?;
            take_over(&terminal, channel)?;
            [&terminal.streams; 3]
        }
        (passed, _) => passed.ok_or_else(|| refused("process", "it has no streams"))?,
    };
    enter_folder(&prepared.working_folder)?;
    rustix::process::umask(Mode::from_raw_mode(prepared.umask & 0o777));
    sys::reset_signals();
    inside::arrange(&[
        (stdin, 0, false),
        (stdout, 1, false),
        (stderr, 2, false),
        (channel.descriptor(), REPORT, true),
    ])?;
    // From here on the channel has another number, and the caller's way of reporting would miss it.
    let report = sys::placed(REPORT);
    let failure = match finish(prepared, report) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    channel::say(report, &Word::Failed(failure));
    sys::exit_now(1)
}

/// Makes the terminal the one that controls this process; its other end goes to the builder.
fn take_over(terminal: &Terminal, channel: &Channel) -> Result<(), Failure> {
    terminal.take_control()?;
    channel.pass(0, Some(&terminal.controlling)).or_fail(Step::Report, "the terminal")
}

fn finish(prepared: &Prepared<'_>, report: impl AsFd + Copy) -> Result<Infallible, Failure> {
    // The kernel takes a filter only from those who can gain nothing by an exec.
    if Rule::NoNewPrivileges.in_force() {
        rustix::thread::set_no_new_privs(true).or_fail(Step::NoNewPrivileges, "the process")?;
        if Rule::Filter.in_force() {
            sys::load_filter(&prepared.filter).or_fail(Step::Seccomp, "the process")?;
        }
    }
    channel::say(report, &Word::Ready);
    channel::await_leave(report).or_fail(Step::Report, "the process")?;
    match prepared.task {
        Task::Execute => execute(prepared),
        task => {
            // As an exec would: that nothing was said is the news that it worked.
            sys::close_from(REPORT).or_fail(Step::Descriptors, "the process")?;
            sys::exit_now(copying::carry_out(task))
        }
    }
}

/// As execvp: the next folder is tried where a program is missing or may not be executed.
fn execute(prepared: &Prepared<'_>) -> Result<Infallible, Failure> {
    let mut worst: Option<Failure> = None;
    for program in &prepared.programs {
        let Err(error) = sys::execute(program, &prepared.arguments, &prepared.environment);
        let path = Path::new(OsStr::from_bytes(program.as_bytes()));
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) if worst.is_some() => {}
            Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES) => worst = Some(Failure::os(Step::Exec, path, error)),
            _ => return Err(Failure::os(Step::Exec, path, error)),
        }
    }
    Err(worst.unwrap_or_else(|| refused("process.args", "there is no program")))
}

fn open_root() -> Result<OwnedFd, Failure> {
    rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .or_fail(Step::Descriptors, "/")
}

/// A pipe belongs to the app, so that it can be opened once more by way of /dev/stdout.
fn hand_over(stream: &OwnedFd, prepared: &Prepared<'_>) -> Result<(), Failure> {
    let found = rustix::fs::fstat(stream).or_fail(Step::Descriptors, "the streams")?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Fifo {
        return Ok(());
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(prepared.owner.0), rustix::fs::Gid::from_raw(prepared.owner.1));
    rustix::fs::fchown(stream, Some(uid), Some(gid)).or_fail(Step::Descriptors, "the streams")
}

/// A hard limit above the host's is cut to it where the right to raise it is missing.
fn set_limits(prepared: &Prepared<'_>, channel: &Channel) -> Result<(), Failure> {
    for (name, number, limit) in prepared.limits.iter().filter(|_| Rule::ResourceLimits.in_force()) {
        match sys::set_limit(*number, limit.soft(), limit.hard()) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                let most = sys::hard_limit(*number).or_fail(Step::ResourceLimit, name)?;
                let (soft, hard) = (limit.soft().min(most), limit.hard().min(most));
                sys::set_limit(*number, soft, hard).or_fail(Step::ResourceLimit, name)?;
                channel.say(&Word::Shortfall(Failure::os(Step::ResourceLimit, name, error)));
            }
            other => other.or_fail(Step::ResourceLimit, name)?,
        }
    }
    Ok(())
}

fn become_user(prepared: &Prepared<'_>) -> Result<(), Failure> {
    let name = prepared.uid.to_string();
    if let Some(own_ids) = &prepared.own_ids {
        // With all capabilities over its ids, and none over anything else: from here on also ours.
        sys::enter(own_ids, libc::CLONE_NEWUSER).or_fail(Step::EnterNamespace, "user")?;
        if prepared.own_mounts {
            sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUTS).or_fail(Step::EnterNamespace, "mount")?;
        }
    }
    prepared.capabilities.limit_bounding()?;
    if Rule::AppGroups.in_force() {
        setgroups(&prepared.groups).or_fail(Step::Identity, &name)?;
    }
    if !Rule::AppUser.in_force() {
        return prepared.capabilities.apply();
    }
    let gid = Gid::from_raw(prepared.gid);
    setresgid(gid, gid, gid).or_fail(Step::Identity, &name)?;
    // What may be kept is cut to what was asked for right after.
    let keeps = prepared.capabilities.permitted != 0;
    rustix::thread::set_keep_capabilities(keeps).or_fail(Step::Capabilities, "the process")?;
    let uid = Uid::from_raw(prepared.uid);
    setresuid(uid, uid, uid).or_fail(Step::Identity, &name)?;
    prepared.capabilities.apply()?;
    rustix::thread::set_keep_capabilities(false).or_fail(Step::Capabilities, "the process")
}

/// From the change of user to the exec this process has the app's user and the launcher's memory and
/// descriptors. What the kernel makes of that by itself depends on the host's `fs.suid_dumpable`.
fn hide() -> Result<(), Failure> {
    let behavior =
        if Rule::StartingHidden.in_force() { DumpableBehavior::NotDumpable } else { DumpableBehavior::Dumpable };
    rustix::process::set_dumpable_behavior(behavior).or_fail(Step::Identity, "the process")
}

/// Changes the folder as the app's user, and makes sure that it is one inside the root.
fn enter_folder(folder: &Path) -> Result<(), Failure> {
    rustix::process::chdir(folder).or_fail(Step::WorkingFolder, folder)?;
    let found = sys::working_folder().or_fail(Step::WorkingFolder, folder)?;
    if Rule::WorkingFolderInside.in_force() && found.first() != Some(&b'/') {
        return Err(Failure::refused(Step::WorkingFolder, folder, "it is outside of the root"));
    }
    Ok(())
}
