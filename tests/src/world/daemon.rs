//! One daemon of a world as a process: started, asked to end, killed.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::machine::Process;

/// How long a daemon has to end after SIGTERM; the router drains for up to 30 s.
const PATIENCE: Duration = Duration::from_secs(40);

/// How a daemon is started, each time.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file.
    pub file: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The user it runs as, and its only group; root if absent.
    pub ids: Option<(u32, u32)>,
    /// Where it writes; every run of it appends.
    pub log: PathBuf,
    /// A command that prepares something for it and then executes it; nothing as a rule.
    pub before: Vec<String>,
}

/// A daemon that runs.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    process: Process,
    log: PathBuf,
}

impl Program {
    /// With `script`, a line of shell, run before it in a mount namespace of its own: what the script
    /// mounts is seen by this program alone. `$1` and so on are the `words`.
    pub fn after_mounting(&mut self, script: &str, words: &[&str]) {
        let exec = format!("{script} && shift {} && exec \"$@\"", words.len());
        let unshare = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", &exec, "sh"];
        self.before = unshare.iter().chain(words).map(|word| (*word).to_owned()).collect();
    }

    /// Starts it.
    ///
    /// # Panics
    /// When the file cannot be executed.
    #[must_use]
    pub fn start(&self) -> Daemon {
        let log = self.open_log();
        let mut words = self.before.iter().map(OsStr::new).chain([self.file.as_os_str()]);
        let mut command = Command::new(words.next().expect("the file at least"));
        command.args(words);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        // Signals that end the test (Ctrl-C) do not reach it: the world ends it in order.
        command.process_group(0);
        // The proxies and hints of the shell that runs the tests are none of its business.
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DROWSE_LOG", std::env::var("DROWSE_LOG").unwrap_or_else(|_| "debug".to_owned()));
        if let Some(failpoints) = std::env::var_os("FAILPOINTS") {
            command.env("FAILPOINTS", failpoints);
        }
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", self.file.display()));
        let process = Process::of_child(&child);
        Daemon { child, process, log: self.log.clone() }
    }

    fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(&self.log).expect("a log file")
    }
}

impl Daemon {
    /// Its process.
    #[must_use]
    pub fn process(&self) -> Process {
        self.process
    }

    /// Where it writes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child")
    }

    /// `kill -9`, and waits until it and its own helper processes (the launcher) are gone.
    pub fn kill(mut self) {
        let helpers = self.helpers();
        let _ = self.child.kill();
        let _ = self.child.wait();
        wait_until_gone(&helpers);
    }

    /// SIGTERM, and waits until it has ended.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(mut self) -> ExitStatus {
        let helpers = self.helpers();
        self.process.signal(Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended() {
                wait_until_gone(&helpers);
                return status;
            }
            if Instant::now() > deadline {
                let log = tail(&self.log, 30);
                self.kill();
                panic!("a daemon did not end after SIGTERM; its log ends with\n{log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Processes that must not outlive it.
    fn helpers(&self) -> Vec<Process> {
        let pid = self.process.pid;
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
        let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let pids: Vec<i32> =
            children.flat_map(|text| text.split(' ').filter_map(|p| p.parse().ok()).collect::<Vec<_>>()).collect();
        pids.into_iter().filter_map(Process::of).collect()
    }
}

fn wait_until_gone(processes: &[Process]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Some(left) = processes.iter().find(|process| process.is_alive()) {
        assert!(Instant::now() < deadline, "process {} outlives the daemon that started it", left.pid);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The last lines of a file, for messages.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
