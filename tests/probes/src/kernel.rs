//! What the kernel tells and takes through files: addresses, logs, parameters, devices.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};

use crate::report::{Outcome, tell};
use crate::sys;

/// The whole /dev of a sandbox.
const DEVICES: [&str; 14] = [
    "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
    "zero",
];
const UNWANTED: [&str; 22] = [
    "mem",
    "kmem",
    "port",
    "kmsg",
    "kvm",
    "fuse",
    "loop-control",
    "loop0",
    "sda",
    "vda",
    "nvme0n1",
    "net/tun",
    "vhost-net",
    "userfaultfd",
    "mapper/control",
    "dri/card0",
    "snapshot",
    "btrfs-control",
    "cuse",
    "uinput",
    "vfio/vfio",
    "console",
];
/// Written by a host's root to run programs, reboot, or make the host slow.
const SWITCHES: [&str; 9] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity",
    "/sys/kernel/uevent_helper",
    "/sys/power/state",
];
/// Read by root alone, and not at all from here.
const SECRETS: [&str; 10] = [
    "/proc/kmsg",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/vmallocinfo",
    "/proc/slabinfo",
    "/proc/pagetypeinfo",
    "/sys/kernel/debug/sched",
    "/sys/kernel/tracing/trace",
    "/sys/kernel/security/lockdown",
    "/sys/fs/bpf/x",
];

pub fn tries() {
    for path in SWITCHES {
        let rule = if path.starts_with("/sys") { "sys-read-only" } else { "proc-read-only" };
        tell(&format!("open {path} for writing"), rule, &Outcome::must_fail(sys::open(path, libc::O_WRONLY)));
    }
    for path in SECRETS {
        let read = sys::open(path, libc::O_RDONLY);
        tell(&format!("open {path}"), "app-user", &Outcome::must_fail(read));
    }
    for path in ["/proc/kallsyms", "/proc/iomem", "/proc/modules"] {
        let text = fs::read_to_string(path).unwrap_or_default();
        let tells = text.lines().any(|line| shows_address(path, line));
        let rule = if path == "/proc/kallsyms" { "mask-kernel" } else { "capabilities-ambient" };
        tell(
            &format!("addresses in {path}"),
            rule,
            &Outcome::fine_if(!tells, format!("{} lines", text.lines().count())),
        );
    }
    tell("physical page of an own page", "capabilities-ambient", &own_frame());
    devices();
}

fn shows_address(path: &str, line: &str) -> bool {
    let word = match path {
        "/proc/modules" => line.split(' ').nth(5).unwrap_or_default().trim_start_matches("0x"),
        "/proc/iomem" => line.trim().split(['-', ' ']).nth(1).unwrap_or_default(),
        _ => line.split(' ').next().unwrap_or_default(),
    };
    word.bytes().any(|digit| digit != b'0')
}

/// The kernel shows zero to those without CAP_SYS_ADMIN: rowhammer wants to know.
fn own_frame() -> Outcome {
    let page = Box::new([1_u8; 4096]);
    let read = || -> io::Result<u64> {
        let mut file = fs::File::open("/proc/self/pagemap")?;
        file.seek(SeekFrom::Start((&raw const *page) as u64 / 4096 * 8))?;
        let mut entry = [0; 8];
        file.read_exact(&mut entry)?;
        Ok(u64::from_ne_bytes(entry) & ((1 << 55) - 1))
    };
    match read() {
        Ok(frame) => Outcome::fine_if(frame == 0, format!("{frame:x}")),
        Err(error) => Outcome::Refused(error.raw_os_error().unwrap_or_default()),
    }
}

fn devices() {
    let mut found: Vec<String> = fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let more: Vec<&String> = found.iter().filter(|name| !DEVICES.contains(&name.as_str())).collect();
    tell("devices besides the list", "device-list", &Outcome::fine_if(more.is_empty(), format!("{more:?}")));
    for name in UNWANTED {
        let opened = sys::open(&format!("/dev/{name}"), libc::O_RDONLY);
        tell(&format!("open /dev/{name}"), "device-list", &Outcome::must_fail(opened));
    }
    for (what, mode, major, minor) in [
        ("block device", libc::S_IFBLK, 8, 0),
        ("memory device", libc::S_IFCHR, 1, 1),
        ("log device", libc::S_IFCHR, 1, 11),
    ] {
        for folder in ["/tmp", "/dev", "/dev/shm"] {
            let path = format!("{folder}/probe-node");
            let made = sys::make_node(&path, mode, major, minor);
            let _ = fs::remove_file(&path);
            tell(&format!("make a {what} in {folder}"), "capabilities-ambient", &Outcome::must_fail(made));
        }
    }
}
