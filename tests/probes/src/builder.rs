//! What builders of images may do beyond root inside: mount, in a namespace of their own. Tried is all that would
//! be more than that.

use libc::EPERM;

use crate::report::{Outcome, tell};
use crate::sys;

pub fn tries() {
    for (name, flag) in [
        ("user", libc::CLONE_NEWUSER),
        ("network", libc::CLONE_NEWNET),
        ("pid", libc::CLONE_NEWPID),
        ("ipc", libc::CLONE_NEWIPC),
        ("cgroup", libc::CLONE_NEWCGROUP),
        ("time", 0x80),
    ] {
        let result = sys::call_in_child(libc::SYS_unshare, [flag.into(), 0, 0, 0, 0]);
        let outcome = match i32::try_from(-result) {
            Ok(EPERM) => Outcome::Refused(EPERM),
            _ => Outcome::Escaped(format!("it returned {result}")),
        };
        tell(&format!("unshare {name}"), "filter-builder", &outcome);
    }
    let flags = i64::try_from(libc::MS_BIND | libc::MS_REMOUNT).unwrap_or_default();
    let text = |text: &'static std::ffi::CStr| text.as_ptr() as i64;
    for (name, number, arguments) in [
        ("uncover /proc/keys", libc::SYS_umount2, [text(c"/proc/keys"), 0, 0, 0, 0]),
        ("uncover /proc/kcore", libc::SYS_umount2, [text(c"/proc/kcore"), i64::from(libc::MNT_DETACH), 0, 0, 0]),
        ("make /proc/sys writable", libc::SYS_mount, [0, text(c"/proc/sys"), 0, flags, 0]),
        ("make /sys writable", libc::SYS_mount, [0, text(c"/sys"), 0, flags, 0]),
        ("make an injected file writable", libc::SYS_mount, [0, text(c"/etc/hosts"), 0, flags, 0]),
        ("honour setuid bits", libc::SYS_mount, [0, text(c"/"), 0, flags, 0]),
        ("mount another proc", libc::SYS_mount, [text(c"proc"), text(c"/tmp"), text(c"proc"), 0, 0]),
        ("mount another sysfs", libc::SYS_mount, [text(c"sysfs"), text(c"/tmp"), text(c"sysfs"), 0, 0]),
        ("mount cgroups", libc::SYS_mount, [text(c"none"), text(c"/tmp"), text(c"cgroup2"), 0, 0]),
        ("mount a disk", libc::SYS_mount, [text(c"/dev/null"), text(c"/tmp"), text(c"ext4"), 0, 0]),
        ("name the host", libc::SYS_setdomainname, [text(c"x"), 1, 0, 0, 0]),
        ("join a namespace", libc::SYS_setns, [-1, 0, 0, 0, 0]),
    ] {
        let result = sys::call_in_child(number, arguments);
        let outcome = match i32::try_from(-result) {
            Ok(errno) if errno > 0 => Outcome::Refused(errno),
            _ => Outcome::Escaped(format!("it returned {result}")),
        };
        tell(name, "root-mapped", &outcome);
    }
    // What it is for.
    let mounted = sys::call_in_child(libc::SYS_mount, [text(c"none"), text(c"/tmp"), text(c"tmpfs"), 0, 0]);
    tell("mount a file system in memory", "root-mapped", &Outcome::fine_if(mounted == 0, mounted.to_string()));
}
