//! Starts a command: the app's process, with other words, streams and task. All calls block.

use std::os::fd::{AsFd, OwnedFd};

use drowse_api::exec::{ExecRequest, Job};
use drowse_api::instance::ProcessIdentity;
use drowse_api::{ErrorCode, Problem};
use drowse_launcher::init::InitClient;
use drowse_launcher::{
    Failure, LauncherError, ProcessFds, ProcessRequest, SeccompProfile, Started, Step, Task, WindowSize,
};
use oci_spec::runtime::Process;
use rustix::pipe::{PipeFlags, pipe_with};

use super::cage::{Cage, Main};
use super::run::Lease;
use super::{shown, terminal_kind};
use crate::cgroup::{Cgroups, CommandGroup, Leaf};
use crate::host::error::SandboxError;
use crate::host::image::command_beside;
use crate::host::sandbox::Plan;
use crate::host::{Node, plan, process};
use crate::instance::host::Record;
use crate::instance::state::Running as AppRunning;
use crate::problem;

/// A command that runs and has no client yet. Whoever has it ends it.
#[must_use = "it runs until it is ended"]
pub struct Running {
    pub(super) cage: Cage,
    pub(super) main: Main,
    /// Taken by the session.
    pub(super) ends: Option<Ends>,
    /// The app's main process that it runs beside.
    pub(super) app: Option<ProcessIdentity>,
    /// Of a sandbox of its own.
    pub(super) lease: Option<Lease>,
}

/// Our ends of its streams.
pub(super) enum Ends {
    Pipes { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    Terminal(OwnedFd),
}

/// Starts a command beside the app of `record`.
pub(super) fn beside(node: &Node, record: &Record, request: &ExecRequest) -> Result<Running, Problem> {
    let app = match record.life.running() {
        Some(AppRunning::Process(app)) if process::is_alive(app.identity) => app,
        _ => return Err(not_running(record)),
    };
    let plan = plan::of_instance(node, record).map_err(|error| problem::of_sandbox(&error))?;
    let mut own = plan.spec.process().clone().ok_or_else(|| problem::of_sandbox(&SandboxError::NoProcess))?;
    if let Job::Command(words) = &request.job {
        let image = node.store.image(&record.life.spec.image).map_err(|error| problem::of_store(&error))?;
        let as_it_is = plan::is_bundle(&image).map_err(|error| problem::of_sandbox(&error))?;
        let words = command_beside(words, &plan.layers, as_it_is);
        own.set_args(Some(words.map_err(|detail| Problem::new(ErrorCode::BadRequest, detail))?));
    }
    let group = CommandGroup::generate();
    let cage = Cage::Beside { home: plan.home.clone(), group: group.clone() };
    let cgroups = &*node.sandboxes.cgroups;
    fail::fail_point!("command-start");
    let made = cgroups.make_command(&plan.home.place, &group);
    let started = made
        .map_err(|error| problem::of_sandbox(&error.into()))
        .and_then(|groups| launch(node, &plan, own, request, &cage, groups));
    let (main, ends) = started.inspect_err(|_| {
        if let Err(error) = cage.kill(cgroups).and_then(|()| cgroups.remove_command(&plan.home.place, &group)) {
            tracing::warn!(place = %plan.home.place, "cannot clean up after a command that failed to start: {error}");
        }
    })?;
    Ok(Running { cage, main, ends: Some(ends), app: Some(app.identity), lease: None })
}

fn not_running(record: &Record) -> Problem {
    let spec = &record.life.spec;
    let detail = format!("instance {} of {} does not run now", spec.id, spec.app);
    Problem::new(ErrorCode::NotRunning, detail)
        .hint(format!("`drowse info {app}` tells why; `drowse run {app}` needs no running instance", app = spec.app))
}

/// Starts the command of `plan` in the sandbox that was raised for it alone.
pub(super) fn alone(node: &Node, plan: &Plan, request: &ExecRequest) -> Result<(Cage, Main, Ends), Problem> {
    let own = plan.spec.process().clone().ok_or_else(|| problem::of_sandbox(&SandboxError::NoProcess))?;
    let cage = Cage::Own { home: plan.home.clone() };
    let groups = node.sandboxes.cgroups.open_procs(&plan.home.place, Leaf::App);
    let groups = groups.map_err(|error| problem::of_sandbox(&error.into()))?;
    let (main, ends) = launch(node, plan, own, request, &cage, groups)?;
    Ok((cage, main, ends))
}

fn launch(
    node: &Node,
    plan: &Plan,
    mut own: Process,
    request: &ExecRequest,
    cage: &Cage,
    groups: Vec<OwnedFd>,
) -> Result<(Main, Ends), Problem> {
    let of_sandbox = |error: SandboxError| problem::of_sandbox(&error);
    let cgroups = &*node.sandboxes.cgroups;
    let init = node.sandboxes.init_of(&plan.home).and_then(process::open).ok_or(SandboxError::InitGone);
    let init = init.map_err(of_sandbox)?;
    let client = InitClient::connect(&plan.home.socket()).map_err(|error| of_sandbox(error.into()))?;
    let exits_before = client.state().map_err(|error| of_sandbox(error.into()))?.exits;
    let kills_before = cage.oom_kills(cgroups).map_err(|error| of_sandbox(error.into()))?;
    if let Some(terminal) = &request.terminal {
        let mut env = own.env().clone().unwrap_or_default();
        env.retain(|pair| !pair.starts_with("TERM="));
        env.push(format!("TERM={}", terminal_kind(terminal)));
        own.set_env(Some(env));
        own.set_terminal(Some(true));
    }
    let task = match &request.job {
        Job::Command(_) => Task::Execute,
        Job::Read { path } => Task::Pack(path.clone()),
        Job::Write { path, name } => Task::Unpack { path: path.clone(), name: name.clone() },
    };
    let what = own.clone();
    let asked = ProcessRequest { process: own, ids: plan.ids, seccomp: SeccompProfile::Default };
    let launcher = &node.sandboxes.launcher;
    let (started, ends) = match &request.terminal {
        Some(terminal) => {
            let size = WindowSize { rows: terminal.size.rows, columns: terminal.size.columns };
            let started = launcher.start_on_terminal(&asked, size, init.as_fd(), &groups);
            started.map(|(started, terminal)| (started, Ends::Terminal(terminal)))
        }
        None => {
            let (passed, ends) = pipes().map_err(|error| of_sandbox(SandboxError::Pipe(error)))?;
            let [stdin, stdout, stderr] = passed;
            let descriptors =
                ProcessFds { init: init.as_fd(), app_cgroups: groups, stdin: Some(stdin), stdout, stderr };
            launcher.start_task(&asked, task, descriptors).map(|started| (started, ends))
        }
    }
    .map_err(|error| explained(error, &what, request))?;
    fail::fail_point!("command-started");
    let Started { pid, start_time, pid_inside, .. } = started;
    Ok((Main { identity: ProcessIdentity { pid, start_time }, pid_inside, exits_before, kills_before }, ends))
}

/// The command's ends, and ours.
fn pipes() -> std::io::Result<([OwnedFd; 3], Ends)> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC);
    let ((its_in, stdin), (stdout, its_out), (stderr, its_err)) = (pipe()?, pipe()?, pipe()?);
    Ok(([its_in, its_out, its_err], Ends::Pipes { stdin, stdout, stderr }))
}

/// What of it is the command's own fault.
fn explained(error: LauncherError, process: &Process, request: &ExecRequest) -> Problem {
    let LauncherError::Failed(Failure { step, target, .. }) = &error else {
        return problem::of_sandbox(&error.into());
    };
    let name = process.args().as_ref().and_then(|args| args.first()).cloned().unwrap_or_default();
    let errno = match &error {
        LauncherError::Failed(failure) => failure.errno(),
        _ => None,
    };
    match (step, errno) {
        (Step::Exec, Some(libc::ENOENT | libc::ENOTDIR)) => {
            Problem::new(ErrorCode::CommandNotFound, format!("there is no command {name} in the image"))
        }
        (Step::Exec, Some(libc::E2BIG)) => Problem::new(ErrorCode::BadRequest, "the command is too long"),
        (Step::Exec, _) => Problem::new(ErrorCode::NotExecutable, format!("{name} cannot be executed: {error}")),
        (Step::WorkingFolder, _) => {
            let detail = format!("the app's working folder {} cannot be entered", shown(target.as_ref()));
            Problem::new(ErrorCode::Conflict, detail)
        }
        (Step::Terminal, _) if request.terminal.is_some() => {
            let failure = SandboxError::Launcher(error).in_full();
            Problem::new(ErrorCode::Exhausted, format!("no terminal can be made: {failure}"))
                .hint("run it without one (-T)")
        }
        _ => problem::of_sandbox(&error.into()),
    }
}

/// Whether the kernel has killed for want of memory since the command was started.
pub(super) fn counts_kills(cgroups: &dyn Cgroups, cage: &Cage, main: Main) -> bool {
    cage.oom_kills(cgroups).is_ok_and(|count| count > main.kills_before)
}
