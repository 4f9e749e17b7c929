//! A launcher, an image with nothing in it but the probe, and cgroups of their own. Everything that
//! was made is gone when this is dropped.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use drowse_launcher::rules::Rule;
use drowse_launcher::{
    AppFds, Clock, InjectedFile, Launcher, LauncherError, ProcessFds, ProcessRequest, Sandbox, SandboxFds,
    SandboxRequest, SeccompProfile, Started, WindowSize, init,
};
use drowse_rootfs::{IdRange, OverlayPlan, bundle};
use oci_spec::runtime::Spec;
use rustix::process::{Signal, pidfd_send_signal};

use crate::machine;

/// Ids of nobody on the machine.
pub(super) const IDS: IdRange = IdRange { first: 1_800_011_776, count: 65_536 };
/// The app's user, as an id of the image.
const APP: u32 = 1000;
/// Asked for every process.
const OPEN_FILES: u64 = 512;
/// The name of every sandbox.
pub(super) const HOST_NAME: &str = "isolated";
const LIMIT: Duration = Duration::from_secs(20);

/// What the launcher is started by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapper {
    /// Nothing.
    Nothing,
    /// On a host whose /dev/null is a plain file.
    FalseNull,
    /// Without one capability in its bounding set.
    FewerCapabilities,
}

/// What root inside asks for beside what it may have.
const MORE_CAPABILITIES: [&str; 8] = [
    "CAP_SYS_ADMIN",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_SYS_PTRACE",
    "CAP_SYS_CHROOT",
    "CAP_DAC_READ_SEARCH",
    "CAP_MKNOD",
    "CAP_SETFCAP",
];

/// Who the attempts are made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// An unprivileged user without a user namespace, as nearly every app is.
    App,
    /// Root inside, which asks for more than it may have.
    Root,
}

/// What the attempts run on.
pub struct Bench {
    /// The launcher.
    pub launcher: Launcher,
    folder: tempfile::TempDir,
    group: Group,
    /// Sandboxes get namespaces that were made ahead, are born in their groups, and have a first process that
    /// their init makes.
    pub(super) is_ahead: bool,
}

impl Bench {
    /// With the launcher that is built for it if a rule is to be left out.
    #[must_use]
    pub fn new(dropped: Option<Rule>, wrapper: Wrapper) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let program = wrap(folder.path(), dropped, wrapper);
        let launcher = Launcher::spawn(&program, &machine::bin_dir().join("drowse-init")).expect("a launcher");
        let bench = Self { launcher, folder, group: Group::new(), is_ahead: false };
        bench.make_layer();
        bench
    }

    /// One whose sandboxes are made the fast way.
    #[must_use]
    pub fn ahead() -> Self {
        Self { is_ahead: true, ..Self::new(None, Wrapper::Nothing) }
    }

    /// Why attempts cannot be made here, if they cannot.
    ///
    /// # Errors
    /// One sentence on what is missing and how to get it.
    pub fn is_possible() -> Result<(), String> {
        if !machine::is_root() {
            return Err("needs root: sandboxes are made of namespaces".to_owned());
        }
        let programs = [
            (machine::bin_dir().join("drowse-launcher"), "scripts/build"),
            (machine::bin_dir().join("drowse-init"), "scripts/build"),
            (machine::bin_dir().join("probe-escape"), "scripts/build probe-escape drop-rules"),
            (drop_rules_launcher(), "scripts/build probe-escape drop-rules"),
        ];
        match programs.iter().find(|(path, _)| !path.exists()) {
            Some((path, how)) => Err(format!("{} is missing: run {how}", path.display())),
            None => Ok(()),
        }
    }

    fn make_layer(&self) {
        let layer = self.layer();
        for folder in ["etc", "app", "tmp", "planted"] {
            fs::create_dir_all(layer.join(folder)).expect("a folder of the image");
        }
        fs::copy(machine::bin_dir().join("probe-escape"), layer.join("probe")).expect("the probe");
        fs::write(layer.join("planted/file"), "the image's").expect("a file of the image");
        fs::write(self.folder.path().join("hosts"), "127.0.0.1 localhost\n").expect("a file to inject");
        let kind = nix::sys::stat::SFlag::S_IFCHR;
        let (mode, device) = (nix::sys::stat::Mode::from_bits_truncate(0o666), nix::sys::stat::makedev(1, 3));
        nix::sys::stat::mknod(&layer.join("planted/null"), kind, mode, device).expect("a device node of the image");
        fs::set_permissions(layer.join("planted/null"), PermissionsExt::from_mode(0o666)).expect("rights");
        chown(layer.join("app"), Some(APP), Some(APP)).expect("an owner");
        fs::set_permissions(layer.join("tmp"), PermissionsExt::from_mode(0o1777)).expect("rights");
    }

    /// The image's only layer, unpacked. Attempts plant things in it.
    pub(super) fn layer(&self) -> PathBuf {
        self.folder.path().join("layer")
    }

    pub(super) fn group(&self) -> &Group {
        &self.group
    }

    /// A request for an ordinary sandbox.
    pub(super) fn request(&self) -> SandboxRequest {
        self.request_of("instance", Variant::App)
    }

    /// A request for one of several.
    pub(super) fn request_of(&self, name: &str, variant: Variant) -> SandboxRequest {
        let folder = self.folder.path().join(name);
        let overlay = OverlayPlan::new(&[self.layer()], &folder, IDS);
        let _ = fs::remove_dir_all(&folder);
        for part in [&overlay.upper, &overlay.work] {
            fs::create_dir_all(part).expect("a folder of the instance");
        }
        chown(&overlay.upper, Some(IDS.first), Some(IDS.first)).expect("an owner");
        let mut spec = Spec::default();
        spec.set_hostname(Some(HOST_NAME.to_owned()));
        if let Some(root) = spec.root_mut() {
            root.set_readonly(Some(false));
        }
        if let Some(linux) = spec.linux_mut() {
            linux.set_masked_paths(Some(bundle::masked_paths()));
            linux.set_readonly_paths(Some(bundle::read_only_paths()));
        }
        let hosts = InjectedFile { path: "/etc/hosts".into(), host_path: self.folder.path().join("hosts") };
        SandboxRequest {
            spec,
            overlay,
            files: vec![hosts],
            binds: Vec::new(),
            clock: Clock::default(),
            log_limit: 1 << 20,
            root_inside: variant == Variant::Root,
        }
    }

    fn descriptors(&self, request: &SandboxRequest) -> SandboxFds {
        let folder = request.overlay.upper.parent().expect("a folder of the instance");
        let open = |name: &str| -> OwnedFd {
            File::options().create(true).append(true).open(folder.join(name)).expect("a file of the instance").into()
        };
        SandboxFds {
            init_cgroups: self.group.open("init", self.is_ahead),
            log: [open("log.0"), open("log.1")],
            exits: open("exits"),
            socket: init::listen(&folder.join("init.sock")).expect("a socket for init"),
        }
    }

    pub(super) fn build(&self, request: &SandboxRequest) -> Result<Running, LauncherError> {
        let descriptors = self.descriptors(request);
        let ready = if self.is_ahead { Some(self.launcher.prepare()?) } else { None };
        let sandbox = self.launcher.build_in(ready.as_ref(), request, descriptors)?;
        Ok(Running { sandbox, processes: Vec::new() })
    }

    /// Builds a sandbox with a first process in it, as instances are started.
    pub(super) fn launch(
        &self,
        request: &SandboxRequest,
        process: &ProcessRequest,
    ) -> Result<(Running, Lines), LauncherError> {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        let (read, write) = pipe();
        let app = AppFds {
            cgroups: self.group.open("app", true),
            stdout: write,
            stderr: File::options().write(true).open("/dev/null").expect("null").into(),
            read: [pipe().0, pipe().0],
        };
        let ready = self.launcher.prepare()?;
        let launching = self.launcher.launch(&ready, None, request, self.descriptors(request), process, app)?;
        launching.let_go();
        let (sandbox, started) = launching.finish()?;
        let running = Running { sandbox, processes: vec![started?] };
        Ok((running, Lines(BufReader::new(File::from(read)))))
    }

    /// Starts a process; what it writes to its standard output can be read.
    pub(super) fn start<'a>(
        &self,
        running: &'a mut Running,
        request: &ProcessRequest,
        stdin: Option<OwnedFd>,
    ) -> Result<(&'a Started, Lines), LauncherError> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        let descriptors = ProcessFds {
            init: running.sandbox.pidfd.as_fd(),
            app_cgroups: self.group.open("app", self.is_ahead),
            stdin,
            stdout: write,
            stderr: File::options().write(true).open("/dev/null").expect("null").into(),
        };
        let started = self.launcher.start(request, descriptors)?;
        running.processes.push(started);
        let started = running.processes.last().expect("just put there");
        Ok((started, Lines(BufReader::new(File::from(read)))))
    }
}

impl Bench {
    /// Starts a process on a terminal; what it shows can be read.
    pub(super) fn start_on_terminal(
        &self,
        running: &mut Running,
        request: &ProcessRequest,
    ) -> Result<Lines, LauncherError> {
        let (init, groups) = (running.sandbox.pidfd.as_fd(), self.group.open("app", self.is_ahead));
        let size = WindowSize { rows: 24, columns: 80 };
        let (started, terminal) = self.launcher.start_on_terminal(request, size, init, &groups)?;
        running.processes.push(started);
        Ok(Lines(BufReader::new(File::from(terminal))))
    }
}

/// A process of the app's user.
pub(super) fn process(args: &[String]) -> ProcessRequest {
    let process = serde_json::json!({
        "user": {"uid": IDS.first + APP, "gid": IDS.first + APP, "additionalGids": [IDS.first + 7]},
        "args": args,
        "env": ["PATH=/"],
        "cwd": "/app",
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": OPEN_FILES, "hard": OPEN_FILES},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ],
    });
    let process = serde_json::from_value(process).expect("a process");
    ProcessRequest { process, ids: IDS, seccomp: SeccompProfile::Default }
}

/// A process of that variant.
pub(super) fn process_of(variant: Variant, args: &[String]) -> ProcessRequest {
    let mut request = process(args);
    if variant == Variant::Root {
        request.process.user_mut().set_uid(IDS.first);
        request.process.user_mut().set_gid(IDS.first);
        let given = serde_json::to_value(bundle::ROOT_INSIDE).expect("names");
        let mut all: Vec<String> = serde_json::from_value(given).expect("names");
        all.extend(MORE_CAPABILITIES.map(str::to_owned));
        let sets = serde_json::json!({"bounding": all, "effective": all, "permitted": all});
        request.process.set_capabilities(serde_json::from_value(sets).expect("capabilities"));
    }
    request
}

/// What the probe is to know of a sandbox of this bench.
pub(super) fn facts_of_sandbox(variant: Variant) -> Vec<String> {
    let seen = match variant {
        Variant::App => {
            let init = IDS.first + IDS.count - 1;
            vec![
                format!("first={}", IDS.first),
                format!("uid={}", IDS.first + APP),
                format!("groups={}", IDS.first + 7),
                format!("init={init}"),
            ]
        }
        // The ids of the image; whoever is not in the namespace is seen as 65534.
        Variant::Root => vec![
            "root=yes".to_owned(),
            "first=0".to_owned(),
            "uid=0".to_owned(),
            "groups=7".to_owned(),
            "init=65534".to_owned(),
            format!("map=0 {} ", IDS.first),
        ],
    };
    let same = [
        format!("count={}", IDS.count),
        format!("hostname={HOST_NAME}"),
        format!("nofile={OPEN_FILES}"),
        format!("group={GROUP}"),
    ];
    seen.into_iter().chain(same).collect()
}

fn drop_rules_launcher() -> PathBuf {
    let bin = machine::bin_dir();
    bin.parent().unwrap_or(&bin).join("drop-rules/drowse-launcher")
}

/// The launcher, or a script that becomes it.
fn wrap(folder: &Path, dropped: Option<Rule>, wrapper: Wrapper) -> PathBuf {
    let launcher = if dropped.is_some() { drop_rules_launcher() } else { machine::bin_dir().join("drowse-launcher") };
    let variable = dropped.map_or_else(String::new, |rule| format!("export DROWSE_DROP_RULE={rule}\n"));
    let (launcher, false_null) = (launcher.display(), folder.join("false-null"));
    let command = match wrapper {
        Wrapper::Nothing => format!("exec {launcher}"),
        Wrapper::FalseNull => {
            fs::write(&false_null, "not the null device").expect("a file");
            let mount = format!("mount --bind {} /dev/null", false_null.display());
            format!("exec unshare --mount sh -c '{mount} && exec {launcher}'")
        }
        Wrapper::FewerCapabilities => format!("exec setpriv --bounding-set=-net_raw {launcher}"),
    };
    let script = folder.join("launcher");
    fs::write(&script, format!("#!/bin/sh\n{variable}{command}\n")).expect("a script");
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("rights");
    script
}

/// What a process writes, line by line until it ends.
pub(super) struct Lines(BufReader<File>);

impl Iterator for Lines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(length) if length > 0 => Some(line),
            _ => None,
        }
    }
}

/// A sandbox and what was started in it, ended when dropped.
pub(super) struct Running {
    pub(super) sandbox: Sandbox,
    processes: Vec<Started>,
}

impl Running {
    /// What was started first in it.
    pub(super) fn first(&self) -> &Started {
        self.processes.first().expect("something was started")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Each by itself: without a pid namespace they do not end with their init.
        for process in &self.processes {
            let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
            wait_ended(&process.pidfd);
        }
        let _ = pidfd_send_signal(&self.sandbox.pidfd, Signal::KILL);
        wait_ended(&self.sandbox.pidfd);
    }
}

fn wait_ended(pidfd: &OwnedFd) {
    let mut waited = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: LIMIT.as_secs().cast_signed(), tv_nsec: 0 };
    let _ = rustix::event::poll(&mut waited, Some(&limit));
}

/// What every cgroup of a bench is called.
const GROUP: &str = "drowse-isolation";

/// A cgroup with two leaves, in one hierarchy.
pub(super) struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        let top = Path::new("/sys/fs/cgroup");
        let hierarchy = if top.join("unified").exists() { top.join("unified") } else { top.to_owned() };
        let number = std::process::id();
        let folder = (0..).map(|n| hierarchy.join(format!("{GROUP}-{number}-{n}"))).find(|folder| !folder.exists());
        let folder = folder.expect("numbers do not end");
        for leaf in ["init", "app"] {
            fs::create_dir_all(folder.join(leaf)).expect("a cgroup");
        }
        Self(folder)
    }

    /// To attach to, or to be born in.
    fn open(&self, leaf: &str, to_be_born_in: bool) -> Vec<OwnedFd> {
        let folder = self.0.join(leaf);
        let mut options = File::options();
        let opened = if to_be_born_in {
            options.read(true).open(folder)
        } else {
            options.write(true).open(folder.join("cgroup.procs"))
        };
        vec![opened.expect("a cgroup").into()]
    }

    /// Whether the process is in a leaf.
    pub(super) fn has(&self, leaf: &str, pid: i32) -> bool {
        let text = fs::read_to_string(self.0.join(leaf).join("cgroup.procs")).unwrap_or_default();
        text.lines().any(|line| line == pid.to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let started = Instant::now();
        let remove = || ["init", "app", ""].iter().all(|leaf| fs::remove_dir(self.0.join(leaf)).is_ok());
        while !remove() && self.0.exists() && started.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
