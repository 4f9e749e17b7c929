//! What a process sees of its sandbox, and that it is not more.

use std::fs;

use drowse_launcher::{Bind, Clock, ClockOffset, InjectedFile};
use drowse_rootfs::IdRange;
use drowse_rootfs::bundle::{SpecInput, runtime_spec};

use crate::support::{APP, Bench, IDS, process};

#[test]
fn the_root_is_the_images_with_our_file_systems_and_nothing_of_the_host() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    let (status, text) = bench.run(
        &sandbox,
        "echo $(ls /); echo $(ls /dev); hostname; ip -o addr | grep -c 127.0.0.1; stat -c %u:%a /app /bin/sh; \
         echo $(ls /proc/self/fd); cut -d' ' -f2 /proc/mounts | grep -v ^/[pds] ",
    );
    assert_eq!(status, 0, "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "app bin dev etc proc sys tmp");
    assert_eq!(lines[1], "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero");
    assert_eq!(lines[2], "tested");
    assert_eq!(lines[3], "1", "loopback is up");
    assert_eq!(lines[4], format!("{}:755", IDS.first + APP));
    assert!(lines[5].starts_with(&IDS.first.to_string()), "{}", lines[5]);
    assert_eq!(lines[6], "0 1 2 3", "the last one is the listing itself");
    assert_eq!(lines[7..], ["/"], "{text}");
}

#[test]
fn devices_work() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    let (status, text) = bench.run(
        &sandbox,
        "set -e; echo x > /dev/null; head -c 4 /dev/zero | od -An -tx1; head -c 8 /dev/urandom | wc -c; \
         echo hi > /dev/stdout; echo y > /dev/shm/f; cat /dev/shm/f; \
         (echo z > /dev/full) 2>&1 | grep -o 'No space.*'; (mknod /dev/sda b 8 0) 2>&1 | grep -o 'Read-only.*'; \
         (mknod /tmp/sda b 8 0) 2>&1 | grep -o 'Operation not.*'; script -qc 'tty' /dev/null || true; df -k /dev/shm | tail -1",
    );
    assert_eq!(status, 0, "{text}");
    for wanted in ["00 00 00 00", "8", "hi", "y", "No space", "Read-only", "Operation not permitted", "65536"] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
}

#[test]
fn what_tells_of_the_host_is_masked_and_what_changes_it_is_read_only() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/latency_stats; do \
        [ ! -e $f ] || wc -c < $f; done; \
        for d in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do [ ! -e $d ] || ls $d | wc -l; done";
    let (status, text) = bench.run(&sandbox, script);
    assert_eq!(status, 0, "{text}");
    assert!(text.lines().count() >= 2 && text.lines().all(|line| line.trim() == "0"), "{text}");
    let (_, text) = bench.run(
        &sandbox,
        "echo 1 > /proc/sys/net/ipv4/ip_forward; echo b > /proc/sysrq-trigger; echo x > /sys/kernel/x; mkdir /proc/x",
    );
    assert_eq!(text.lines().count(), 4, "{text}");
    let refusals = ["Read-only", "denied", "not permitted", "nonexistent", "No such"];
    assert!(text.lines().all(|line| refusals.iter().any(|refusal| line.contains(refusal))), "{text}");
    for (pid, path) in [(sandbox.sandbox.pid, "proc/keys"), (sandbox.sandbox.pid, "proc/timer_list")] {
        let mask = format!("/proc/{pid}/root/{path}");
        if let Ok(found) = fs::metadata(&mask) {
            use std::os::unix::fs::MetadataExt;
            assert_eq!(found.rdev(), rustix::fs::makedev(1, 3), "{mask} is the null device");
        }
    }
}

#[test]
fn parameters_of_the_network_are_set() {
    let Some(bench) = Bench::new() else { return };
    let mut request = bench.request("one");
    let parameters = [("net.core.somaxconn".to_owned(), "77".to_owned())];
    request.spec.linux_mut().as_mut().unwrap().set_sysctl(Some(parameters.into_iter().collect()));
    let sandbox = bench.build(&request, "one").unwrap();
    let (_, text) = bench.run(
        &sandbox,
        "cd /proc/sys/net; cat ipv4/ip_unprivileged_port_start core/somaxconn; [ ! -e mptcp/enabled ] || cat mptcp/enabled",
    );
    assert!(matches!(text.lines().collect::<Vec<_>>()[..], ["0", "77"] | ["0", "77", "0"]), "{text}");
    let (status, text) = bench.run(&sandbox, "nc -l -p 80 & sleep 0.2; kill %1 2>/dev/null; nc -z 127.0.0.1 81; true");
    assert_eq!(status, 0);
    assert!(!text.contains("bind"), "port 80 is free to use: {text}");
}

#[test]
fn injected_files_replace_those_of_the_image_and_cannot_be_written() {
    let Some(bench) = Bench::new() else { return };
    fs::write(bench.layer().join("etc/hosts"), "the image's").unwrap();
    let hosts = bench.folder.path().join("hosts");
    fs::write(&hosts, "ours\n").unwrap();
    let mut request = bench.request("one");
    request.files = ["/etc/hosts", "/etc/resolv.conf", "/new/folder/file"]
        .map(|path| InjectedFile { path: path.into(), host_path: hosts.clone() })
        .into();
    let sandbox = bench.build(&request, "one").unwrap();
    let (_, text) = bench.run(
        &sandbox,
        "cat /etc/hosts /etc/resolv.conf /new/folder/file; echo no > /etc/hosts; rm -f /etc/hosts; cat /etc/hosts",
    );
    assert_eq!(text.matches("ours").count(), 4, "{text}");
    fs::write(&hosts, "changed\n").unwrap();
    let (_, text) = bench.run(&sandbox, "cat /etc/hosts");
    assert_eq!(text, "changed\n");
}

#[test]
fn bound_folders_appear_with_the_owner_and_the_rights_asked_for() {
    let Some(bench) = Bench::new() else { return };
    let cache = bench.folder.path().join("cache");
    fs::create_dir(&cache).unwrap();
    std::os::unix::fs::chown(&cache, Some(APP), Some(APP)).unwrap();
    let mut request = bench.request("one");
    let bind = |target: &str, read_only, idmap: Option<IdRange>| Bind {
        source: cache.clone(),
        target: target.into(),
        read_only,
        idmap,
        is_disk: false,
    };
    request.binds =
        vec![bind("/cache", false, Some(IDS)), bind("/sites/deep", true, Some(IDS)), bind("/plain", false, None)];
    let sandbox = bench.build(&request, "one").unwrap();
    let (_, text) = bench.run(
        &sandbox,
        "stat -c %u /cache /plain; echo made > /cache/f && cat /sites/deep/f; echo x > /sites/deep/g; echo x > /plain/g",
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], (IDS.first + APP).to_string());
    assert_eq!(lines[1], APP.to_string());
    assert_eq!(lines[2], "made");
    assert!(lines[3].contains("Read-only") && lines[4].contains("denied"), "{text}");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(cache.join("f")).unwrap().uid(), APP, "on the host it has the image's id");
}

#[test]
fn the_clock_of_a_sandbox_can_run_ahead() {
    let Some(bench) = Bench::new() else { return };
    let mut request = bench.request("one");
    let offset = ClockOffset { seconds: 5_000_000, nanoseconds: 0 };
    request.clock = Clock::Own { monotonic: offset, boottime: offset };
    let ahead = bench.build(&request, "one").unwrap();
    let uptime = |text: String| text.split('.').next().unwrap().parse::<i64>().unwrap();
    let host = uptime(fs::read_to_string("/proc/uptime").unwrap());
    let inside = uptime(bench.run(&ahead, "cat /proc/uptime").1);
    assert!((host + 5_000_000..host + 5_000_060).contains(&inside), "{host} and {inside}");
    let mut request = bench.request("two");
    request.clock = Clock::Host;
    let same = bench.build(&request, "two").unwrap();
    let inside = uptime(bench.run(&same, "cat /proc/uptime").1);
    assert!((host..host + 60).contains(&inside), "{host} and {inside}");
}

#[test]
fn a_read_only_root_is_read_only_and_tmpfs_is_not() {
    let Some(bench) = Bench::new() else { return };
    let mut request = bench.request("one");
    request.spec.root_mut().as_mut().unwrap().set_readonly(Some(true));
    let mounts = serde_json::json!([{"destination": "/scratch", "type": "tmpfs", "options": ["size=1m"]}]);
    request.spec.set_mounts(Some(serde_json::from_value(mounts).unwrap()));
    let sandbox = bench.build(&request, "one").unwrap();
    let (_, text) = bench.run(&sandbox, "echo x > /app/f; echo fine > /scratch/f; cat /scratch/f");
    assert!(text.contains("Read-only") && text.ends_with("fine\n"), "{text}");
}

#[test]
fn the_configuration_that_we_write_ourselves_is_honoured_whole() {
    let Some(bench) = Bench::new() else { return };
    let input = SpecInput {
        hostname: "ours".to_owned(),
        args: ["/bin/sh", "-c", "exit 3"].map(str::to_owned).into(),
        env: [("PATH".to_owned(), "/bin".to_owned())].into(),
        cwd: "/app".into(),
        uid: APP,
        gid: APP,
        additional_gids: vec![7],
        ids: IDS,
        memory: Some(1 << 28),
        pids: Some(100),
        cgroups_path: None,
        annotations: Default::default(),
    };
    let spec = runtime_spec(&input).unwrap();
    let mut started = process(&[]);
    started.process = spec.process().clone().unwrap();
    let mut request = bench.request("one");
    request.spec = spec;
    let sandbox = bench.build(&request, "one").unwrap();
    let app = bench.start(&sandbox, &started).unwrap();
    assert_eq!(sandbox.exit_of(app.pid_inside).status, 3 << 8);
}
