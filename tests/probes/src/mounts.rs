//! What is mounted, how, and what is behind the masks.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::report::{Outcome, tell};
use crate::sys;

/// What is masked, and by which rule.
const MASKED: [(&str, &str); 14] = [
    ("/proc/keys", "mask-keys"),
    ("/proc/key-users", "mask-keys"),
    ("/proc/kcore", "mask-kernel"),
    ("/proc/kallsyms", "mask-kernel"),
    ("/proc/timer_list", "mask-kernel"),
    ("/proc/timer_stats", "mask-kernel"),
    ("/proc/sched_debug", "mask-kernel"),
    ("/proc/latency_stats", "mask-kernel"),
    ("/proc/acpi", "mask-hardware"),
    ("/proc/asound", "mask-hardware"),
    ("/proc/scsi", "mask-hardware"),
    ("/proc/interrupts", "mask-hardware"),
    ("/sys/firmware", "mask-sys"),
    ("/sys/devices/virtual/powercap", "mask-sys"),
];
const READ_ONLY: [(&str, &str); 7] = [
    ("/proc/sys", "proc-read-only"),
    ("/proc/bus", "proc-read-only"),
    ("/proc/fs", "proc-read-only"),
    ("/proc/irq", "proc-read-only"),
    ("/proc/sysrq-trigger", "proc-read-only"),
    ("/sys", "sys-read-only"),
    ("/dev", "dev-read-only"),
];
/// Mount point, and the options that it must have.
const FLAGS: [(&str, &str); 7] = [
    ("/", "nosuid nodev"),
    ("/proc", "nosuid nodev noexec"),
    ("/sys", "nosuid nodev noexec"),
    ("/dev", "nosuid noexec"),
    ("/dev/pts", "nosuid noexec"),
    ("/dev/shm", "nosuid nodev noexec"),
    ("/dev/mqueue", "nosuid nodev noexec"),
];

pub fn tries() {
    for (path, rule) in MASKED {
        tell(&format!("read {path}"), rule, &behind(path));
    }
    let heat = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    for path in heat.map(|cpu| cpu.path().join("thermal_throttle")).filter(|path| path.exists()) {
        let path = path.to_string_lossy().into_owned();
        tell(&format!("read {path}"), "mask-sys", &behind(&path));
    }
    for (path, rule) in READ_ONLY {
        let outcome = match sys::is_read_only(path) {
            Ok(is_read_only) => Outcome::fine_if(is_read_only, ""),
            Err(error) => Outcome::Refused(error.raw_os_error().unwrap_or_default()),
        };
        tell(&format!("{path} is read-only"), rule, &outcome);
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    flags(&mounts);
    let roots = mounts.lines().filter(|line| point(line) == "/").count();
    tell("one root is mounted", "old-root-gone", &Outcome::fine_if(roots == 1, format!("{roots} roots")));
    let shared: Vec<&str> = mounts.lines().filter(|line| spreads(line)).map(point).collect();
    tell("mounts are private", "private-mounts", &Outcome::fine_if(shared.is_empty(), shared.join(" ")));
    let foreign: Vec<&str> = mounts.lines().filter(|line| is_foreign(line)).map(point).collect();
    tell("no file system of the host", "old-root-gone", &Outcome::fine_if(foreign.is_empty(), foreign.join(" ")));
}

/// Nothing, the null device, or an empty folder.
fn behind(path: &str) -> Outcome {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) => return Outcome::Refused(error.raw_os_error().unwrap_or_default()),
    };
    if found.is_dir() {
        let entries = fs::read_dir(path).map_or(0, Iterator::count);
        let is_fresh =
            found.dev() != Path::new(path).parent().and_then(|up| fs::metadata(up).ok()).map_or(0, |up| up.dev());
        return Outcome::fine_if(entries == 0 && is_fresh, format!("a folder with {entries} entries"));
    }
    let is_null = found.file_type().is_char_device() && found.rdev() == libc::makedev(1, 3);
    Outcome::fine_if(is_null, if is_null { "the null device" } else { "a file" })
}

fn flags(mounts: &str) {
    for (path, wanted) in FLAGS {
        // What is mounted last is what is seen.
        let line = mounts.lines().rev().find(|line| point(line) == path).unwrap_or_default();
        let options: Vec<&str> = line.split(' ').nth(5).unwrap_or_default().split(',').collect();
        for flag in wanted.split(' ') {
            let outcome = Outcome::fine_if(options.contains(&flag), options.join(","));
            tell(&format!("{path} is {flag}"), &format!("mounts-{flag}"), &outcome);
        }
    }
}

/// Fields of a line of mountinfo: see proc(5).
fn point(line: &str) -> &str {
    line.split(' ').nth(4).unwrap_or_default()
}

fn spreads(line: &str) -> bool {
    let tags = line.split(' ').skip(6).take_while(|field| *field != "-");
    tags.into_iter().any(|tag| tag.starts_with("shared:") || tag.starts_with("master:"))
}

/// What only a host has mounted.
fn is_foreign(line: &str) -> bool {
    let kind = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    ["cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "bpf", "pstore", "configfs", "efivarfs"].contains(&kind)
}
