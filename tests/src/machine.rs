//! What the machine offers to tests, and what is on it: processes, cgroups, links, mounts, tables.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Ends a test that cannot run here, loudly: `scripts/test` finds and counts the line.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        eprintln!("SKIPPED: {}", format!($($why)*));
        return;
    }};
}

/// Ends the test, loudly, unless this machine can run a [`World`](crate::world::World).
#[macro_export]
macro_rules! needs_a_world {
    () => {
        if let Err(why) = $crate::machine::can_run_worlds() {
            $crate::skip!("{why}");
        }
    };
}

/// Whether this process may make namespaces and cgroups.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether a world can be started, or why not.
///
/// # Errors
/// One sentence on what is missing and how to get it.
pub fn can_run_worlds() -> Result<(), String> {
    if !is_root() {
        return Err("needs root: the agent makes namespaces and cgroups".to_owned());
    }
    let agent = bin_dir().join("drowse-agent");
    if !agent.exists() {
        return Err(format!("{} is missing: run scripts/build", agent.display()));
    }
    if !stacks_dir().join("images/index.json").exists() {
        return Err("the base images are missing: run scripts/stacks".to_owned());
    }
    Ok(())
}

/// The repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository").to_owned()
}

/// Where `scripts/build` left the programs.
#[must_use]
pub fn bin_dir() -> PathBuf {
    if let Some(set) = std::env::var_os("DROWSE_BIN_DIR") {
        return set.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
    target.join("drowse/debug")
}

/// Where `scripts/stacks` keeps the base images.
#[must_use]
pub fn stacks_dir() -> PathBuf {
    "/var/tmp/drowse-stacks".into()
}

/// A process, told apart from a later one with the same pid by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// In clock ticks since boot; field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

impl Process {
    /// The process that has this pid now, unless it is dead or a zombie.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let (state, process) = Self::look(pid)?;
        (!matches!(state.as_str(), "Z" | "X")).then_some(process)
    }

    /// A child that we have not waited for: it has its pid, even if it has ended already.
    ///
    /// # Panics
    /// When it is no child of ours.
    #[must_use]
    pub fn of_child(child: &std::process::Child) -> Self {
        let pid = i32::try_from(child.id()).expect("pids are positive");
        Self::look(pid).expect("an unreaped child is in /proc").1
    }

    fn look(pid: i32) -> Option<(String, Self)> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let mut fields = stat[stat.rfind(')')? + 2..].split(' ');
        let state = fields.next()?.to_owned();
        Some((state, Self { pid, start_time: fields.nth(18)?.parse().ok()? }))
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if it still runs.
    pub fn signal(self, signal: nix::sys::signal::Signal) {
        if self.is_alive() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal);
        }
    }

    /// Its resident memory in bytes.
    #[must_use]
    pub fn resident(self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
    }
}

/// The folders called `name` right under the roots of all cgroup hierarchies, v1 and v2.
#[must_use]
pub fn cgroups(name: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let roots = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (target, kind) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then(|| PathBuf::from(target))
    });
    roots.map(|root| root.join(name)).filter(|path| path.exists()).collect()
}

/// Every process in a cgroup folder and below it.
#[must_use]
pub fn processes_below(cgroup: &Path) -> Vec<i32> {
    let mut found: Vec<i32> = fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    for child in children(cgroup) {
        found.extend(processes_below(&child));
    }
    found
}

/// The groups right below a group.
#[must_use]
pub fn children(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// The network links whose name begins with `prefix`.
#[must_use]
pub fn links(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|e| e.file_name().into_string().ok()).filter(|name| name.starts_with(prefix)).collect()
}

/// The mount points below any of these folders, in the order of mounting.
#[must_use]
pub fn mounts_below(folders: &[&Path]) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| folders.iter().any(|folder| point.starts_with(folder))).collect()
}

/// The files below a folder that are the content of a loop device.
#[must_use]
pub fn attached_below(folder: &Path) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files = devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.map(|file| PathBuf::from(file.trim())).filter(|file| file.starts_with(folder)).collect()
}

/// Whether nftables has the table `inet NAME`.
#[must_use]
pub fn has_table(name: &str) -> bool {
    let listed = Command::new("nft").args(["list", "tables", "inet"]).output();
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().any(|line| line == format!("table inet {name}"))
}

/// Every process whose command line, with a zero byte after each argument, holds `word`.
#[must_use]
pub fn processes_mentioning(word: &str) -> Vec<Process> {
    let pids = fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let own = i32::try_from(std::process::id()).ok() == Some(pid);
        (!own && String::from_utf8_lossy(&line).contains(word)).then_some(pid)
    });
    pids.filter_map(Process::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_pid_and_its_start() {
        let own = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.is_alive());
        assert!(own.resident() > 1024 * 1024);
        assert!(!Process { start_time: own.start_time + 1, ..own }.is_alive());
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        while Process::of(pid).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
