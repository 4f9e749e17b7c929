//! Sandboxes in namespaces that were made ahead are like those that are built whole.

use std::fs;
use std::os::fd::AsFd;

use crate::support::{Bench, Running, whole};

fn namespace(pid: i32, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

/// What a process finds in it that namespaces decide.
fn seen(bench: &Bench, sandbox: &Running) -> String {
    let script = "hostname; ip -o addr; ls /sys/class/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
        cat /proc/sysvipc/shm | wc -l; ls /dev/mqueue | wc -l; ls /; grep -v ' / ' /proc/mounts; echo $$";
    let (status, text) = bench.run(sandbox, script);
    assert_eq!(status, 0, "{text}");
    text
}

fn build_ahead(bench: &Bench, name: &str) -> Running {
    let ready = bench.launcher.prepare().unwrap();
    let built = bench.launcher.build_in(Some(&ready), &bench.request(name), bench.descriptors_in(name));
    bench.connect(built.unwrap_or_else(|error| panic!("{}", whole(&error))), name)
}

#[test]
fn a_sandbox_that_was_made_ahead_is_seen_as_one_that_was_not() {
    let Some(bench) = Bench::new() else { return };
    let (whole, ahead) = (bench.sandbox("one"), build_ahead(&bench, "two"));
    assert_eq!(seen(&bench, &ahead), seen(&bench, &whole));
}

#[test]
fn no_two_sandboxes_have_a_namespace_in_common_nor_the_hosts() {
    let Some(bench) = Bench::new() else { return };
    let (one, two) = (build_ahead(&bench, "one"), build_ahead(&bench, "two"));
    let own = i32::try_from(std::process::id()).unwrap();
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "uts"] {
        let of = [one.sandbox.pid, two.sandbox.pid, own].map(|pid| namespace(pid, kind));
        let is_apart = |a: usize, b: usize| of[a] != of[b];
        assert!(is_apart(0, 2) && is_apart(1, 2) && is_apart(0, 1), "{kind}: {of:?}");
    }
}

#[test]
fn what_a_configuration_wants_of_the_network_is_set_in_a_sandbox_that_was_made_ahead() {
    let Some(bench) = Bench::new() else { return };
    let mut request = bench.request("one");
    let parameters = [("net.core.somaxconn".to_owned(), "77".to_owned())];
    request.spec.linux_mut().as_mut().unwrap().set_sysctl(Some(parameters.into_iter().collect()));
    let ready = bench.launcher.prepare().unwrap();
    let built = bench.launcher.build_in(Some(&ready), &request, bench.descriptors_in("one")).unwrap();
    let sandbox = bench.connect(built, "one");
    let (_, text) = bench.run(&sandbox, "cat /proc/sys/net/core/somaxconn");
    assert_eq!(text, "77\n");
}

#[test]
fn the_network_of_a_sandbox_is_the_one_that_was_made_ahead() {
    let Some(bench) = Bench::new() else { return };
    let ready = bench.launcher.prepare().unwrap();
    let built = bench.launcher.build_in(Some(&ready), &bench.request("one"), bench.descriptors_in("one")).unwrap();
    let sandbox = bench.connect(built, "one");
    let inode = rustix::fs::fstat(ready.network().as_fd()).unwrap().st_ino;
    assert_eq!(namespace(sandbox.sandbox.pid, "net"), format!("net:[{inode}]"));
}
