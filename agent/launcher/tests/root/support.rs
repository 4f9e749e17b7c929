//! A launcher with a root of busybox, and what tests ask of both. Everything that was made is gone
//! when this is dropped.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use drowse_launcher::init::{self, ExitRecord, InitClient};
use drowse_launcher::{
    Clock, Launcher, LauncherError, ProcessFds, ProcessRequest, Sandbox, SandboxFds, SandboxRequest, SeccompProfile,
    Started,
};
use drowse_rootfs::{IdRange, OverlayPlan};
use oci_spec::runtime::Spec;

/// Ids of nobody on the machine.
pub const IDS: IdRange = IdRange { first: 1_900_544_000, count: 65_536 };
/// The app's user, as an id of the image.
pub const APP: u32 = 1000;
/// Long enough for a busy machine, short enough to notice.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Waits until `holds`; panics with `what` if it never does.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < LIMIT, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Why these tests cannot run here, if they cannot.
fn obstacle() -> Option<String> {
    if !rustix::process::getuid().is_root() {
        return Some("not root".to_owned());
    }
    busybox().is_none().then(|| "no static busybox (Debian: busybox-static)".to_owned())
}

fn busybox() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|path| {
        let Ok(program) = std::fs::read(path) else { return false };
        !program.windows(8).any(|window| window == b"/ld-linu")
    })
}

/// The static init: from `DROWSE_BIN_DIR`, or built now.
pub fn init_binary() -> PathBuf {
    if let Some(folder) = std::env::var_os("DROWSE_BIN_DIR") {
        return PathBuf::from(folder).join("drowse-init");
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let built = Command::new(repository.join("scripts/build")).args(["--quiet", "drowse-init"]).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    PathBuf::from(String::from_utf8(built.stdout).unwrap().trim()).join("drowse-init")
}

/// A launcher, and a folder with an image's layer and an instance's state.
pub struct Bench {
    pub launcher: Launcher,
    pub folder: tempfile::TempDir,
}

impl Bench {
    /// None where root-only tests cannot run; says so.
    pub fn new() -> Option<Self> {
        if let Some(why) = obstacle() {
            eprintln!("SKIPPED: {why}");
            return None;
        }
        let launcher = Launcher::spawn(Path::new(env!("CARGO_BIN_EXE_drowse-launcher")), &init_binary()).unwrap();
        let bench = Self { launcher, folder: tempfile::tempdir().unwrap() };
        bench.make_layer();
        Some(bench)
    }

    fn make_layer(&self) {
        let layer = self.layer();
        for folder in ["bin", "etc", "app", "tmp"] {
            std::fs::create_dir_all(layer.join(folder)).unwrap();
        }
        std::fs::copy(busybox().unwrap(), layer.join("bin/busybox")).unwrap();
        let applets = Command::new(layer.join("bin/busybox")).arg("--list").output().unwrap();
        for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
            symlink("busybox", layer.join("bin").join(applet)).unwrap();
        }
        std::os::unix::fs::chown(layer.join("app"), Some(APP), Some(APP)).unwrap();
        std::fs::set_permissions(layer.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    }

    /// Unpacked, with the image's ids. Tests may plant things in it.
    pub fn layer(&self) -> PathBuf {
        self.folder.path().join("layer")
    }

    /// The state of an instance of this name.
    pub fn instance(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A request for a sandbox with nothing special.
    pub fn request(&self, name: &str) -> SandboxRequest {
        let folder = self.instance(name);
        let overlay = OverlayPlan::new(&[self.layer()], &folder, IDS);
        for part in [&overlay.upper, &overlay.work] {
            std::fs::create_dir_all(part).unwrap();
        }
        std::os::unix::fs::chown(&overlay.upper, Some(IDS.first), Some(IDS.first)).unwrap();
        let mut spec = Spec::default();
        spec.set_hostname(Some("tested".to_owned()));
        spec.root_mut().as_mut().unwrap().set_readonly(Some(false));
        SandboxRequest {
            spec,
            overlay,
            files: Vec::new(),
            binds: Vec::new(),
            clock: Clock::default(),
            log_limit: 1 << 20,
            root_inside: false,
        }
    }

    /// The descriptors of a sandbox, which are files of the instance.
    pub fn descriptors_in(&self, name: &str) -> SandboxFds {
        let folder = self.instance(name);
        let open = |name: &str| -> OwnedFd {
            File::options().create(true).append(true).open(folder.join(name)).unwrap().into()
        };
        SandboxFds {
            init_cgroups: Vec::new(),
            log: [open("log.0"), open("log.1")],
            exits: open("exits"),
            socket: init::listen(&folder.join("init.sock")).unwrap(),
        }
    }

    pub fn build(&self, request: &SandboxRequest, name: &str) -> Result<Running, LauncherError> {
        Ok(self.connect(self.launcher.build(request, self.descriptors_in(name))?, name))
    }

    /// Connects to the init of a sandbox.
    pub fn connect(&self, sandbox: Sandbox, name: &str) -> Running {
        let init = InitClient::connect(&self.instance(name).join("init.sock")).unwrap();
        Running { sandbox, init, folder: self.instance(name) }
    }

    /// A sandbox with nothing special.
    pub fn sandbox(&self, name: &str) -> Running {
        self.build(&self.request(name), name).unwrap_or_else(|error| panic!("{}", whole(&error)))
    }

    /// Starts a process, with pipes that init drains.
    pub fn start(&self, running: &Running, request: &ProcessRequest) -> Result<Started, LauncherError> {
        let (stdout_read, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (stderr_read, stderr) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        running.init.attach(1, stdout_read, stderr_read).unwrap();
        let descriptors =
            ProcessFds { init: running.sandbox.pidfd.as_fd(), app_cgroups: Vec::new(), stdin: None, stdout, stderr };
        let started = self.launcher.start(request, descriptors)?;
        running.init.watch(started.pid_inside).unwrap();
        Ok(started)
    }

    /// Runs a script to its end: its exit status and what it wrote.
    pub fn run(&self, running: &Running, script: &str) -> (i32, String) {
        self.run_as(running, process(&["/bin/sh", "-c", script]))
    }

    /// Runs a process to its end: its exit status and what it wrote.
    pub fn run_as(&self, running: &Running, request: ProcessRequest) -> (i32, String) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let descriptors = ProcessFds {
            init: running.sandbox.pidfd.as_fd(),
            app_cgroups: Vec::new(),
            stdin: None,
            stdout: write.try_clone().unwrap(),
            stderr: write,
        };
        let started = self.launcher.start(&request, descriptors).unwrap_or_else(|error| panic!("{}", whole(&error)));
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        (running.exit_of(started.pid_inside).status, text)
    }
}

/// An error with its causes.
pub fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// A process of the app's user.
pub fn process(args: &[&str]) -> ProcessRequest {
    let process = serde_json::json!({
        "user": {"uid": IDS.first + APP, "gid": IDS.first + APP},
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/app",
    });
    ProcessRequest { process: serde_json::from_value(process).unwrap(), ids: IDS, seccomp: SeccompProfile::Default }
}

/// A sandbox, ended when dropped.
pub struct Running {
    pub sandbox: Sandbox,
    pub init: InitClient,
    pub folder: PathBuf,
}

impl Running {
    pub fn exits(&self) -> Vec<ExitRecord> {
        init::read_exits(&File::open(self.folder.join("exits")).unwrap()).unwrap()
    }

    /// Waits for the end of a process.
    pub fn exit_of(&self, pid_inside: i32) -> ExitRecord {
        let mut found = None;
        wait_until(&format!("the exit of {pid_inside} is recorded"), || {
            found = self.exits().into_iter().find(|record| record.pid_inside == pid_inside);
            found.is_some()
        });
        found.unwrap()
    }

    /// Both log files, the older records first.
    pub fn log(&self) -> String {
        let mut lines: Vec<String> = ["log.0", "log.1"]
            .iter()
            .flat_map(|name| io::read_to_string(File::open(self.folder.join(name)).unwrap()))
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        lines.sort();
        lines.join("\n")
    }

    /// A field of `/proc/PID/status` of init, as the host sees it.
    pub fn status(pid: i32, field: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
        line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
    }

    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.sandbox.pidfd, rustix::process::Signal::KILL);
        wait_ended(&self.sandbox.pidfd);
    }
}

/// Waits until a process is gone.
pub fn wait_ended(pidfd: &OwnedFd) {
    let mut waited = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut waited, Some(&limit)), Ok(1), "the process ends");
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = rustix::process::pidfd_send_signal(&self.sandbox.pidfd, rustix::process::Signal::KILL);
        let mut waited = [rustix::event::PollFd::new(&self.sandbox.pidfd, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        let _ = rustix::event::poll(&mut waited, Some(&limit));
    }
}
