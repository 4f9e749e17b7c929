//! Who the probe is, who pid 1 is, and whether either can become more.

use std::fs;
use std::io;

use crate::facts::Facts;
use crate::report::{Outcome, tell};
use crate::sys;

/// Chown, DacOverride, Fowner, Fsetid, Kill, Setgid, Setuid, Setpcap, NetBindService.
const ROOT_INSIDE: &str = "00000000000005fb";

pub fn tries(facts: &Facts) {
    own_power(facts);
    init(facts);
    becoming_another(facts);
    let session = sys::session();
    let is_own = i64::from(session) == i64::from(std::process::id());
    tell("own session", "own-session", &Outcome::fine_if(is_own, format!("session {session}")));
    let files = sys::hard_limit(libc::RLIMIT_NOFILE);
    tell("limit of open files", "resource-limits", &Outcome::fine_if(files == facts.open_files, files.to_string()));
    let cores = sys::hard_limit(libc::RLIMIT_CORE);
    tell("limit of core files", "resource-limits", &Outcome::fine_if(cores == 0, cores.to_string()));
    descriptors();
}

fn own_power(facts: &Facts) {
    let status = Status::of("self");
    for (set, rule) in [
        ("CapBnd", "capabilities-bounding"),
        ("CapInh", "capabilities-inheritable"),
        ("CapAmb", "capabilities-ambient"),
        ("CapPrm", "capabilities-ambient"),
        ("CapEff", "capabilities-ambient"),
    ] {
        let is_given = facts.is_root && !["CapInh", "CapAmb"].contains(&set);
        let (rule, wanted) = if is_given { ("root-capabilities", ROOT_INSIDE) } else { (rule, "0000000000000000") };
        tell(&format!("own {set}"), rule, &status.must_be(set, wanted));
    }
    if facts.is_root {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let map = map.split_whitespace().collect::<Vec<_>>().join(" ");
        tell("own ids", "root-mapped", &Outcome::fine_if(map.starts_with(&facts.map), map));
    }
    tell("own no_new_privs", "no-new-privileges", &status.must_be("NoNewPrivs", "1"));
    tell("own filter", "filter", &status.must_be("Seccomp", "2"));
    let four = [facts.uid.to_string().as_str(); 4].join("\t");
    tell("own users", "app-user", &status.must_be("Uid", &four));
    tell("own group", "app-user", &status.must_be("Gid", &four));
    tell("own groups", "app-groups", &status.must_be("Groups", &facts.groups));
}

fn init(facts: &Facts) {
    let status = Status::of("1");
    tell("pid 1 is our init", "namespace-pid", &status.must_be("Name", "drowse-init"));
    for set in ["CapBnd", "CapInh", "CapAmb", "CapPrm", "CapEff"] {
        tell(&format!("init's {set}"), "init-capabilities", &status.must_be(set, "0000000000000000"));
    }
    tell("init's no_new_privs", "init-filter", &status.must_be("NoNewPrivs", "1"));
    tell("init's filter", "init-filter", &status.must_be("Seccomp", "2"));
    let seen = facts.init.to_string();
    tell("init's users", "init-user", &status.must_be("Uid", &[seen.as_str(); 4].join("\t")));
    tell("init's groups", "init-user", &status.must_be("Groups", ""));
    tell("signal init", "init-user", &Outcome::must_fail(sys::may_signal(1)));
    tell("trace init", "init-user", &Outcome::must_fail(sys::seize(1)));
    for file in ["mem", "environ", "maps", "auxv", "syscall", "stack", "io", "pagemap", "clear_refs"] {
        let flags = if file == "clear_refs" { libc::O_WRONLY } else { libc::O_RDONLY };
        let read = sys::open(&format!("/proc/1/{file}"), flags).and_then(|open| {
            let mut text = [0; 1];
            io::Read::read(&mut fs::File::from(open), &mut text).map(drop)
        });
        tell(&format!("open /proc/1/{file}"), "init-user", &Outcome::must_fail(read));
    }
    tell("overwrite init's program", "init-user", &Outcome::must_fail(sys::open("/proc/1/exe", libc::O_WRONLY)));
    for link in ["exe", "root", "cwd", "ns/mnt"] {
        let read = fs::read_link(format!("/proc/1/{link}"));
        tell(&format!("follow /proc/1/{link}"), "init-user", &Outcome::must_fail(read));
    }
    for folder in ["fd", "map_files", "root/"] {
        tell(
            &format!("list /proc/1/{folder}"),
            "init-user",
            &Outcome::must_fail(fs::read_dir(format!("/proc/1/{folder}"))),
        );
    }
}

/// In children, which an attempt that works would change.
fn becoming_another(facts: &Facts) {
    let other = i64::from(facts.first_id) + i64::from(facts.id_count) + 1000;
    let root = i64::from(facts.first_id);
    let own = i64::from(facts.uid);
    for (name, number, id) in [
        ("become the host's root", libc::SYS_setuid, 0),
        ("become the image's root", libc::SYS_setuid, root),
        ("become another tenant", libc::SYS_setuid, other),
        ("join the host's root group", libc::SYS_setgid, 0),
    ] {
        // To root inside 0 is itself.
        if id != own {
            let result = sys::call_in_child(number, [id, 0, 0, 0, 0]);
            tell(name, if facts.is_root { "root-mapped" } else { "app-user" }, &by_result(result));
        }
    }
    let group = if facts.is_root { facts.id_count + 1000 } else { 0 };
    let result = sys::call_in_child(libc::SYS_setgroups, [1, (&raw const group) as i64, 0, 0, 0]);
    tell("add a group", if facts.is_root { "root-mapped" } else { "app-user" }, &by_result(result));
    if facts.is_root {
        let last = i64::from(facts.id_count) - 1;
        for (name, act) in [("signal", libc::SYS_kill), ("trace", libc::SYS_ptrace)] {
            let ended = sys::in_child(|| match sys::call(libc::SYS_setuid, [last, 0, 0, 0, 0]) {
                // Signal 0 to pid 1, or PTRACE_SEIZE of it.
                0 if act == libc::SYS_kill => sys::call(act, [1, 0, 0, 0, 0]),
                0 => sys::call(act, [0x4206, 1, 0, 0, 0]),
                refused => refused,
            });
            let result = match ended {
                sys::Ended::Returned(result) => result,
                sys::Ended::Killed(signal) => -1000 - i64::from(signal),
            };
            tell(&format!("become init's user and {name} it"), "root-spares-init", &by_result(result));
        }
    }
    // PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN.
    let result = sys::call_in_child(libc::SYS_prctl, [47, 2, 21, 0, 0]);
    tell("raise a capability", "capabilities-ambient", &by_result(result));
    let raw = i64::from(libc::SOCK_RAW);
    let result = sys::call_in_child(libc::SYS_socket, [libc::AF_INET.into(), raw, libc::IPPROTO_ICMP.into(), 0, 0]);
    tell("open a raw socket", "capabilities-ambient", &by_result(result));
    let priority = 1_i32;
    let scheduler = [0, libc::SCHED_FIFO.into(), (&raw const priority) as i64, 0, 0];
    let result = sys::call_in_child(libc::SYS_sched_setscheduler, scheduler);
    tell("run before everybody else", "capabilities-ambient", &by_result(result));
    let result = sys::call_in_child(libc::SYS_setpriority, [libc::PRIO_PROCESS.into(), 0, -10, 0, 0]);
    tell("run with more weight", "capabilities-ambient", &by_result(result));
    let written = fs::write("/proc/self/oom_score_adj", "-1000");
    tell("be spared when memory is short", "capabilities-ambient", &Outcome::must_fail(written));
    // PR_SET_NO_NEW_PRIVS.
    let result = sys::call_in_child(libc::SYS_prctl, [38, 0, 0, 0, 0]);
    tell("take no_new_privs back", "no-new-privileges", &by_result(result));
    // PR_SET_SECCOMP, SECCOMP_MODE_DISABLED.
    let result = sys::call_in_child(libc::SYS_prctl, [22, 0, 0, 0, 0]);
    tell("take the filter back", "filter", &by_result(result));
}

fn by_result(result: i64) -> Outcome {
    match i32::try_from(-result) {
        Ok(errno) if errno > 0 => Outcome::Refused(errno),
        _ => Outcome::Escaped(format!("it returned {result}")),
    }
}

/// The listing's own descriptor is among them.
fn descriptors() {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let more: Vec<String> = entries
        .filter(|entry| entry.file_name().to_string_lossy().parse::<i32>().is_ok_and(|number| number > 2))
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .filter(|target| !(target.starts_with("/proc/") && target.ends_with("/fd")))
        .collect();
    tell("descriptors besides the streams", "descriptors-closed", &Outcome::fine_if(more.is_empty(), more.join(" ")));
    let device = |path: &str| fs::metadata(path).map(|found| std::os::unix::fs::MetadataExt::dev(&found)).ok();
    let is_own = device("/proc/self/fd/0").is_some() && device("/proc/self/fd/0") == device("/dev");
    tell("standard input is of the own /dev", "descriptors-closed", &Outcome::fine_if(is_own, ""));
}

/// `/proc/PID/status`.
struct Status(String);

impl Status {
    fn of(pid: &str) -> Self {
        Self(fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default())
    }

    fn must_be(&self, field: &str, wanted: &str) -> Outcome {
        let value = self.0.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::trim);
        Outcome::fine_if(value == Some(wanted), value.unwrap_or("it is not told"))
    }
}
