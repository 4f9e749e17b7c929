//! Every system call that is refused. A call is told apart from one that the filter let through by
//! its errno: where the kernel itself would say the same, another call of the group tells.

use libc::{EAFNOSUPPORT, ENOSYS, EPERM};

use crate::report::{Outcome, tell};
use crate::sys::{self, Ended};

/// A path that is there; its address is passed to the kernel.
const ROOT: &std::ffi::CStr = c"/";
const NOWHERE: &std::ffi::CStr = c"/nowhere";
/// No address of any program.
const BAD: i64 = 8;

/// Name, number, arguments.
type Call = (&'static str, i64, [i64; 5]);

pub fn tries() {
    let here = i64::from(libc::AT_FDCWD);
    let (root, nowhere) = (ROOT.as_ptr() as i64, NOWHERE.as_ptr() as i64);
    let own = i64::from(std::process::id());
    group(
        "filter-mounts",
        EPERM,
        &[
            ("mount", libc::SYS_mount, [BAD, BAD, BAD, 0, 0]),
            ("umount2", libc::SYS_umount2, [root, 0x7fff_0000, 0, 0, 0]),
            ("pivot_root", libc::SYS_pivot_root, [root, root, 0, 0, 0]),
            ("chroot", libc::SYS_chroot, [nowhere, 0, 0, 0, 0]),
            ("fsopen", libc::SYS_fsopen, [BAD, 0x7fff_0000, 0, 0, 0]),
            ("fsconfig", libc::SYS_fsconfig, [-1, 0x7fff, 0, 0, 0]),
            ("fsmount", libc::SYS_fsmount, [-1, 0, 0, 0, 0]),
            ("fspick", libc::SYS_fspick, [here, root, 0, 0, 0]),
            ("open_tree", libc::SYS_open_tree, [here, root, 0, 0, 0]),
            ("open_tree of a copy", libc::SYS_open_tree, [here, root, 1, 0, 0]),
            ("move_mount", libc::SYS_move_mount, [-1, root, -1, root, 0]),
            ("mount_setattr", libc::SYS_mount_setattr, [here, root, 0, 0, 0]),
            ("statmount", 457, [0, 0, 0, 0, 0]),
            ("listmount", 458, [0, 0, 0, 0, 0]),
            ("open_tree_attr", 467, [here, root, 0, 0, 0]),
        ],
    );
    for (name, flag) in [
        ("user", libc::CLONE_NEWUSER),
        ("mount", libc::CLONE_NEWNS),
        ("network", libc::CLONE_NEWNET),
        ("pid", libc::CLONE_NEWPID),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
        ("time", 0x80),
    ] {
        let result = sys::call_in_child(libc::SYS_unshare, [flag.into(), 0, 0, 0, 0]);
        judge(&format!("unshare {name}"), "filter-namespaces", EPERM, result);
    }
    judge("clone into a user namespace", "filter-namespaces", EPERM, sys::clone_with(libc::CLONE_NEWUSER));
    group("filter-namespaces", EPERM, &[("setns", libc::SYS_setns, [-1, 0, 0, 0, 0])]);
    group("filter-namespaces", ENOSYS, &[("clone3", libc::SYS_clone3, [0, 0, 0, 0, 0])]);
    group(
        "filter-keys",
        EPERM,
        &[
            ("keyctl", libc::SYS_keyctl, [0, -3, 0, 0, 0]),
            ("add_key", libc::SYS_add_key, [BAD, BAD, 0, 0, -3]),
            ("request_key", libc::SYS_request_key, [BAD, BAD, 0, 0, 0]),
        ],
    );
    group(
        "filter-tracing",
        EPERM,
        &[
            ("bpf", libc::SYS_bpf, [0x7fff, 0, 0, 0, 0]),
            ("perf_event_open", libc::SYS_perf_event_open, [0, 0, -1, -1, 0]),
            ("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0]),
        ],
    );
    group(
        "filter-uring",
        ENOSYS,
        &[
            ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
            ("io_uring_enter", libc::SYS_io_uring_enter, [-1, 0, 0, 0, 0]),
            ("io_uring_register", libc::SYS_io_uring_register, [-1, 0, 0, 0, 0]),
        ],
    );
    group(
        "filter-handles",
        EPERM,
        &[
            ("open_by_handle_at", libc::SYS_open_by_handle_at, [here, 0, 0, 0, 0]),
            ("fanotify_init", libc::SYS_fanotify_init, [0x200, 0, 0, 0, 0]),
        ],
    );
    group(
        "filter-peeking",
        EPERM,
        &[
            ("pidfd_getfd", libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0]),
            ("kcmp", libc::SYS_kcmp, [own, own, 0, 0, 0]),
            ("process_madvise", libc::SYS_process_madvise, [-1, 0, 0, 0, 0]),
            ("move_pages", libc::SYS_move_pages, [0, 0, 0, 0, 0]),
            ("migrate_pages", libc::SYS_migrate_pages, [0, 0, 0, 0, 0]),
        ],
    );
    group(
        "filter-machinery",
        EPERM,
        &[
            ("init_module", libc::SYS_init_module, [0, 0, 0, 0, 0]),
            ("finit_module", libc::SYS_finit_module, [-1, 0, 0, 0, 0]),
            ("delete_module", libc::SYS_delete_module, [BAD, 0, 0, 0, 0]),
            ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0x7fff, 0]),
            ("kexec_file_load", libc::SYS_kexec_file_load, [-1, -1, 0, 0, 0x7fff]),
            ("reboot with a wrong magic", libc::SYS_reboot, [0, 0, 0, 0, 0]),
            ("swapon", libc::SYS_swapon, [BAD, 0, 0, 0, 0]),
            ("swapoff", libc::SYS_swapoff, [BAD, 0, 0, 0, 0]),
            ("iopl", libc::SYS_iopl, [0, 0, 0, 0, 0]),
            ("ioperm", libc::SYS_ioperm, [0, 0, 0, 0, 0]),
            ("settimeofday", libc::SYS_settimeofday, [BAD, 0, 0, 0, 0]),
            ("clock_settime", libc::SYS_clock_settime, [0x7fff, BAD, 0, 0, 0]),
            ("syslog", libc::SYS_syslog, [10, 0, 0, 0, 0]),
            ("acct", libc::SYS_acct, [BAD, 0, 0, 0, 0]),
            ("quotactl", libc::SYS_quotactl, [0x7fff_0000, 0, 0, 0, 0]),
            ("vhangup", libc::SYS_vhangup, [0, 0, 0, 0, 0]),
            ("sethostname", libc::SYS_sethostname, [BAD, -1, 0, 0, 0]),
            ("setdomainname", libc::SYS_setdomainname, [BAD, -1, 0, 0, 0]),
        ],
    );
    for (name, family) in [
        ("packet", libc::AF_PACKET),
        ("vsock", libc::AF_VSOCK),
        ("alg", libc::AF_ALG),
        ("key", libc::AF_KEY),
        ("bluetooth", libc::AF_BLUETOOTH),
        ("can", libc::AF_CAN),
        ("tipc", libc::AF_TIPC),
        ("rds", libc::AF_RDS),
        ("xdp", libc::AF_XDP),
        ("nfc", libc::AF_NFC),
    ] {
        let result = sys::call_in_child(libc::SYS_socket, [family.into(), libc::SOCK_RAW.into(), 0, 0, 0]);
        judge(&format!("socket of family {name}"), "filter-families", EAFNOSUPPORT, result);
    }
    group(
        "filter-personality",
        EPERM,
        &[
            ("personality without randomised addresses", libc::SYS_personality, [0x004_0000, 0, 0, 0, 0]),
            ("personality that maps page 0", libc::SYS_personality, [0x010_0000, 0, 0, 0, 0]),
        ],
    );
    group(
        "filter-rest",
        EPERM,
        &[
            ("ustat", libc::SYS_ustat, [0, 0, 0, 0, 0]),
            ("sysfs", libc::SYS_sysfs, [3, 0, 0, 0, 0]),
            ("get_mempolicy", libc::SYS_get_mempolicy, [0, 0, 0, 0, 0]),
            ("uselib", libc::SYS_uselib, [BAD, 0, 0, 0, 0]),
        ],
    );
    group(
        "filter-rest",
        ENOSYS,
        &[
            ("a call of the x32 table", 0x4000_0000 + libc::SYS_getpid, [0; 5]),
            ("a call that is newer than the list", 500, [0; 5]),
        ],
    );
    let outcome = match sys::call_of_another_machine() {
        Ended::Killed(libc::SIGSYS) => Outcome::Refused(EPERM),
        Ended::Killed(signal) => Outcome::Escaped(format!("the kernel ended it with signal {signal}, not the filter")),
        Ended::Returned(result) => Outcome::Escaped(format!("it returned {result}")),
    };
    tell("a call of 32-bit programs", "filter-machine", &outcome);
}

fn group(rule: &str, errno: i32, calls: &[Call]) {
    for (name, number, arguments) in calls {
        judge(name, rule, errno, sys::call_in_child(*number, *arguments));
    }
}

fn judge(name: &str, rule: &str, errno: i32, result: i64) {
    let outcome = if result == -i64::from(errno) {
        Outcome::Refused(errno)
    } else {
        Outcome::Escaped(format!("the kernel answered {result}, the filter would have answered -{errno}"))
    };
    tell(name, rule, &outcome);
}
