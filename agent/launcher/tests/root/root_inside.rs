//! Root inside: root over the ids of its own user namespace, and over nothing else.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use drowse_launcher::{Launcher, LauncherError, ProcessRequest, Step};

use crate::support::{Bench, IDS, Running, init_binary, process, whole};

/// What root inside has: see `bundle::ROOT_INSIDE`.
const CAPABILITIES: &str = "00000000000005fb";

/// A process of the image's root, which asks for more than it may have.
fn as_root(args: &[&str]) -> ProcessRequest {
    let mut request = process(args);
    request.process.user_mut().set_uid(IDS.first);
    request.process.user_mut().set_gid(IDS.first);
    request.process.set_cwd("/".into());
    let mut asked: Vec<String> = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"]
        .map(|name| format!("CAP_{name}"))
        .into();
    asked.extend(["CAP_NET_BIND_SERVICE", "CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"].map(str::to_owned));
    let sets = ["bounding", "effective", "permitted"].map(|set| (set.to_owned(), serde_json::json!(asked)));
    let sets = serde_json::Value::Object(sets.into_iter().collect());
    request.process.set_capabilities(serde_json::from_value(sets).unwrap());
    request
}

fn sandbox(bench: &Bench) -> Running {
    std::fs::write(bench.layer().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n").unwrap();
    std::fs::write(bench.layer().join("etc/group"), "root:x:0:\nwww-data:x:33:\n").unwrap();
    let mut request = bench.request("one");
    request.root_inside = true;
    bench.build(&request, "one").unwrap_or_else(|error| panic!("{}", whole(&error)))
}

#[test]
fn root_inside_owns_the_image_and_hands_files_and_processes_to_its_users() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = sandbox(&bench);
    let (status, text) = bench.run_as(
        &sandbox,
        as_root(&[
            "/bin/sh",
            "-c",
            "id -u; stat -c %u:%g /bin/busybox /etc; touch /given /kept && chown 33:33 /given && stat -c %u:%g /given
             sleep 1000 & su -s /bin/ash www-data -c \
                 'id -u; grep CapEff /proc/self/status; touch /no; kill '$!
             kill $! && echo ended; cat /proc/self/uid_map | tr -s ' '",
        ]),
    );
    assert_eq!(status, 0, "{text}");
    let expected = format!(
        "0\n0:0\n0:0\n33:33\n33\nCapEff:\t0000000000000000\ntouch: /no: Permission denied\n\
         ash: can't kill pid 2: Operation not permitted\nended\n 0 {} 65535\n",
        IDS.first
    );
    let pid = text.lines().find_map(|line| line.strip_prefix("ash: can't kill pid ")?.split(':').next()).unwrap_or("2");
    assert_eq!(text.replace(&format!("pid {pid}:"), "pid 2:"), expected);
    let owner = |name: &str| std::fs::metadata(bench.instance("one").join("upper").join(name)).unwrap().uid();
    assert_eq!((owner("given"), owner("kept")), (IDS.first + 33, IDS.first), "on the host: ids of the range");
}

#[test]
fn root_inside_is_nobody_to_the_host_its_init_and_its_namespaces() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = sandbox(&bench);
    let app = bench.start(&sandbox, &as_root(&["/bin/sleep", "1000"])).unwrap();
    let root = [IDS.first.to_string().as_str(); 4].join("\t");
    assert_eq!((Running::status(app.pid, "Uid"), Running::status(app.pid, "Gid")), (root.clone(), root));
    for field in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(Running::status(app.pid, field), CAPABILITIES, "{field}");
    }
    for field in ["CapInh", "CapAmb"] {
        assert_eq!(Running::status(app.pid, field), "0000000000000000", "{field}");
    }
    assert_eq!((Running::status(app.pid, "NoNewPrivs"), Running::status(app.pid, "Seccomp")), ("1".into(), "2".into()));
    let users = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    let host = std::fs::read_link("/proc/self/ns/user").unwrap();
    assert_ne!(users(app.pid), host);
    assert_eq!(users(sandbox.sandbox.pid), host, "init is out of its reach");
    let tries = [
        "chown 65535 /etc/passwd",
        "chown 4000000000 /etc/passwd",
        "kill -0 1",
        "mount -t tmpfs none /tmp",
        "chroot / true",
        "ip link set lo down",
        "ip address add 10.0.0.1/8 dev lo",
        "hostname other",
        "mknod /tmp/disk b 8 0",
        "cat /proc/1/environ",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo -1000 > /proc/self/oom_score_adj",
        "renice -n -5 $$",
    ];
    for attempt in tries {
        let (status, text) = bench.run_as(&sandbox, as_root(&["/bin/sh", "-c", attempt]));
        assert_ne!(status, 0, "{attempt} worked: {text}");
    }
    let (status, text) =
        bench.run_as(&sandbox, as_root(&["/bin/sh", "-c", "kill -9 1; kill -STOP 1; sleep 0.1; ls /"]));
    assert_eq!(status, 0, "{text}");
    assert!(sandbox.init.state().is_ok(), "init answers as before");
}

#[test]
fn a_later_launcher_finds_the_namespace_of_a_standing_sandbox() {
    let Some(mut bench) = Bench::new() else { return };
    let sandbox = sandbox(&bench);
    let first = bench.run_as(&sandbox, as_root(&["/bin/readlink", "/proc/self/ns/user"]));
    bench.launcher = Launcher::spawn(Path::new(env!("CARGO_BIN_EXE_drowse-launcher")), &init_binary()).unwrap();
    assert_eq!(bench.run_as(&sandbox, as_root(&["/bin/readlink", "/proc/self/ns/user"])), first);
    assert_eq!(first.0, 0, "{}", first.1);
    // Any other user of the image is in it too, without a capability.
    let (_, text) = bench.run(&sandbox, "id -u; readlink /proc/self/ns/user; grep CapBnd /proc/self/status");
    assert_eq!(text, format!("1000\n{}CapBnd:\t0000000000000000\n", first.1));
}

#[test]
fn the_id_of_init_is_not_in_the_namespace() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = sandbox(&bench);
    let mut request = process(&["/bin/true"]);
    request.process.user_mut().set_uid(IDS.first + IDS.count - 1);
    let error = bench.start(&sandbox, &request).unwrap_err();
    let LauncherError::Failed(failure) = &error else { panic!("{}", whole(&error)) };
    assert_eq!(failure.step, Step::Identity, "{failure}");
}
