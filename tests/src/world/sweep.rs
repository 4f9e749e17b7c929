//! Finds what a world has left on the machine, and removes it by force.
//!
//! It asks the kernel and no daemon of ours: it must find what those forgot, and clean up when they
//! cannot.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use super::slot::Names;
use crate::machine::{self, Process};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// One line for everything of this world that is still on the machine, its folder on disk apart.
#[must_use]
pub fn leftovers(names: &Names) -> Vec<String> {
    let mut found = Vec::new();
    for process in processes(names) {
        let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        found.push(format!("process {}: {line}", process.pid));
    }
    found.extend(machine::cgroups(&names.cgroup_root).iter().map(|path| format!("cgroup {}", path.display())));
    found.extend(machine::links(&names.link_prefix).iter().map(|link| format!("link {link}")));
    // The small disk of some worlds is the harness's own.
    let own = names.base.join("agent");
    let mounts = machine::mounts_below(&[&names.base, &names.run]).into_iter().filter(|point| *point != own);
    found.extend(mounts.map(|point| format!("mount {}", point.display())));
    found.extend(attached(names).iter().map(|file| format!("loop device with {}", file.display())));
    if machine::has_table(&names.table) {
        found.push(format!("table inet {}", names.table));
    }
    found
}

/// Disks that loop devices have: the kernel writes out what is left after a sandbox's end, and lets go then.
fn attached(names: &Names) -> Vec<std::path::PathBuf> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = machine::attached_below(&names.base);
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Removes everything of this world that a reboot would: all but its folder on disk.
pub fn forget_boot(names: &Names) {
    kill_all(names);
    for point in machine::mounts_below(&[&names.run]).into_iter().rev() {
        let _ = umount2(&point, MntFlags::MNT_DETACH);
    }
    remove_groups(names);
    for link in machine::links(&names.link_prefix) {
        run("ip", &["link", "delete", &link]);
    }
    if machine::has_table(&names.table) {
        run("nft", &["delete", "table", "inet", &names.table]);
    }
    let _ = fs::remove_dir_all(&names.run);
}

/// Kills, unmounts and deletes everything of this world, whoever made it.
pub fn remove_all(names: &Names) {
    forget_boot(names);
    for point in machine::mounts_below(&[&names.base]).into_iter().rev() {
        let _ = umount2(&point, MntFlags::MNT_DETACH);
    }
    let _ = fs::remove_dir_all(&names.base);
}

/// The world's daemons, and everything in its cgroups.
#[must_use]
pub fn processes(names: &Names) -> Vec<Process> {
    let mut found = machine::processes_mentioning(&format!("--config\0{}/", names.base.display()));
    for root in machine::cgroups(&names.cgroup_root) {
        found.extend(machine::processes_below(&root).into_iter().filter_map(Process::of));
    }
    found.sort_by_key(|process| process.pid);
    found.dedup();
    found
}

/// Kills every process of the world and waits until they are gone.
fn kill_all(names: &Names) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = processes(names);
        if left.is_empty() || Instant::now() > deadline {
            return;
        }
        thaw(names);
        for process in left {
            process.signal(Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Removes the world's cgroups in all hierarchies, the deepest first.
fn remove_groups(names: &Names) {
    for root in machine::cgroups(&names.cgroup_root) {
        remove_group(&root);
    }
}

/// A process in a frozen group of version 1 dies only when it is thawed.
fn thaw(names: &Names) {
    fn thaw_below(group: &Path) {
        let _ = fs::write(group.join("freezer.state"), "THAWED");
        machine::children(group).iter().for_each(|child| thaw_below(child));
    }
    machine::cgroups(&names.cgroup_root).iter().for_each(|root| thaw_below(root));
}

fn remove_group(group: &Path) {
    machine::children(group).iter().for_each(|child| remove_group(child));
    let deadline = Instant::now() + PATIENCE;
    // A group is busy until the kernel has let go of its last process.
    while fs::remove_dir(group).is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn run(program: &str, arguments: &[&str]) {
    let _ = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
