//! Other processes, and what they hold open: the host's and other tenants'.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self, UnixStream};
use std::time::Duration;

use crate::facts::Facts;
use crate::report::{Outcome, tell};
use crate::sys;

const LIMIT: Duration = Duration::from_millis(500);

pub fn tries(facts: &Facts) {
    processes(facts);
    cgroups(facts);
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    tell("host name", "namespace-uts", &Outcome::fine_if(name.trim() == facts.host_name, name.trim()));
    let by_name = UnixStream::connect(&facts.host_socket);
    tell("socket of the host", "old-root-gone", &Outcome::must_fail(by_name));
    let by_abstract = net::SocketAddr::from_abstract_name(&facts.host_abstract)
        .and_then(|address| UnixStream::connect_addr(&address));
    tell("abstract socket of the host", "namespace-network", &Outcome::must_fail(by_abstract));
    let loopback = SocketAddr::from(([127, 0, 0, 1], facts.host_port));
    let connected = TcpStream::connect_timeout(&loopback, LIMIT);
    tell("port of the host's loopback", "namespace-network", &Outcome::must_fail(connected));
    let links = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let links: Vec<&str> = links.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    let are_own = links.iter().all(|link| ["lo", "eth0"].contains(link));
    tell("links", "namespace-network", &Outcome::fine_if(are_own, links.join(" ")));
    let listed: Vec<_> =
        fs::read_dir("/sys/class/net").into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    let are_own = listed.iter().all(|link| link == "lo" || link == "eth0");
    tell("links in sysfs", "namespace-network", &Outcome::fine_if(are_own, format!("{listed:?}")));
    tell("shared memory of the host", "namespace-ipc", &Outcome::must_fail(sys::shared_memory(facts.host_shm)));
    let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default().lines().count();
    tell("list of shared memory", "namespace-ipc", &Outcome::fine_if(segments <= 1, format!("{segments} lines")));
    tell("message queue of the host", "namespace-ipc", &Outcome::must_fail(sys::message_queue(&facts.host_queue)));
}

fn processes(facts: &Facts) {
    let own = std::process::id();
    let others: Vec<String> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != 1 && *pid != own)
        .map(|pid| pid.to_string())
        .collect();
    let found = format!("{} others", others.len());
    tell("processes in /proc", "namespace-pid", &Outcome::fine_if(others.is_empty(), found));
    for (whose, pid) in [("the host", facts.host_pid), ("a neighbour", facts.neighbour_pid)] {
        tell(&format!("signal a process of {whose}"), "namespace-pid", &must_not_exist(sys::may_signal(pid)));
        let traced = sys::seize(pid);
        tell(&format!("trace a process of {whose}"), "namespace-pid", &must_not_exist(traced));
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline"));
        tell(&format!("command line of a process of {whose}"), "namespace-pid", &Outcome::must_fail(command));
        let files = fs::read_dir(format!("/proc/{pid}/root/"));
        tell(&format!("root of a process of {whose}"), "namespace-pid", &Outcome::must_fail(files));
    }
    let read = fs::read(&facts.neighbour_file);
    tell("file of a neighbour", "old-root-gone", &Outcome::must_fail(read));
    let all = sys::may_signal(-1);
    tell("signal everybody", "namespace-pid", &must_not_exist(all));
}

/// Not allowed would mean that it is there.
fn must_not_exist(result: io::Result<()>) -> Outcome {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Outcome::Refused(libc::ESRCH),
        Err(error) => Outcome::Escaped(format!("it is seen: {error}")),
        Ok(()) => Outcome::Escaped("it could be signalled".to_owned()),
    }
}

fn cgroups(facts: &Facts) {
    for process in ["self", "1"] {
        let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
        let tells = !facts.group.is_empty() && groups.contains(&facts.group);
        let outcome = Outcome::fine_if(!tells && !groups.is_empty(), groups.lines().next().unwrap_or_default());
        tell(&format!("path of the cgroup of {process}"), "namespace-cgroup", &outcome);
    }
    let tree = fs::read_dir("/sys/fs/cgroup").map_or(0, Iterator::count);
    tell("tree of cgroups", "namespace-mount", &Outcome::fine_if(tree == 0, format!("{tree} entries")));
}
