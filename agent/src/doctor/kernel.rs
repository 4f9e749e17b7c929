//! Namespaces, control groups, process descriptors and system call filters.

use drowse_api::agent::Check;
use nix::sched::{CloneFlags, unshare};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::{failure, ok};
use crate::cgroup::{self, CgroupError};

/// Not in libc for every C library, and the same on all architectures (clone(2)).
const CLONE_NEWTIME: i32 = 0x80;

/// What no other check names, tried: paths are resolved as if a folder were the root.
pub(super) fn release() -> Check {
    const ADVICE: &str = "use Linux 5.14 or newer";
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let (mode, resolve) = (rustix::fs::Mode::empty(), rustix::fs::ResolveFlags::IN_ROOT);
    let tried =
        rustix::fs::open("/", flags, mode).and_then(|root| rustix::fs::openat2(root, "/", flags, mode, resolve));
    match tried {
        Ok(_) => ok("kernel", release),
        Err(error) => failure("kernel", format!("{release} resolves no paths inside a root: {error}"), ADVICE),
    }
}

/// Tries each on a thread of its own, which takes the namespace with it when it ends.
pub(super) fn namespaces() -> Check {
    let all = [
        ("mount", CloneFlags::CLONE_NEWNS),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("network", CloneFlags::CLONE_NEWNET),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("time", CloneFlags::from_bits_retain(CLONE_NEWTIME)),
    ];
    let refused: Vec<String> = all
        .into_iter()
        .filter_map(|(name, flag)| match std::thread::spawn(move || unshare(flag)).join() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{name} ({error})")),
            Err(_) => Some(name.to_owned()),
        })
        .collect();
    if refused.is_empty() {
        return ok("namespaces", "mount, pid, network, ipc, uts, cgroup and time can be made");
    }
    failure(
        "namespaces",
        format!("cannot make: {}", refused.join(", ")),
        "run the agent as root on the host, on a kernel with these namespaces (time needs Linux 5.6)",
    )
}

pub(super) fn control_groups() -> Check {
    match cgroup::probe() {
        Ok(layout) => ok("control groups", format!("layout {}", layout.as_str())),
        Err(CgroupError::Unusable { found, advice }) => failure("control groups", found, advice),
        Err(error) => failure("control groups", error.to_string(), "mount /proc"),
    }
}

pub(super) fn process_descriptors() -> Check {
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => ok("pidfd", "processes can be held by descriptor"),
        Err(error) => failure("pidfd", error.to_string(), "use Linux 5.3 or newer"),
    }
}

pub(super) fn seccomp() -> Check {
    let path = "/proc/sys/kernel/seccomp/actions_avail";
    match std::fs::read_to_string(path) {
        Ok(actions) if actions.split_ascii_whitespace().any(|action| action == "errno") => {
            ok("seccomp", "system calls can be filtered")
        }
        _ => failure("seccomp", format!("{path} does not offer errno"), "use a kernel with CONFIG_SECCOMP_FILTER"),
    }
}
