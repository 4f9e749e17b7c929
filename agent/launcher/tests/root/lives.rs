//! How sandboxes and the launcher begin and end, and that nothing stays.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use drowse_launcher::{Launcher, LauncherError, ProcessFds, Step};

use crate::support::{Bench, Running, process, wait_ended, wait_until, whole};

fn descriptors_of(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn nothing_stays_when_init_is_killed() {
    let Some(bench) = Bench::new() else { return };
    let before = mounts();
    let sandbox = bench.sandbox("one");
    let app = bench.start(&sandbox, &process(&["/bin/sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000"])).unwrap();
    let namespace = fs::read_link(format!("/proc/{}/ns/net", app.pid)).unwrap();
    sandbox.kill();
    wait_ended(&app.pidfd);
    wait_until("the launcher has reaped init", || !exists(sandbox.sandbox.pid) && !exists(app.pid));
    let left = fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .any(|entry| fs::read_link(entry.path().join("ns/net")).is_ok_and(|other| other == namespace));
    assert!(!left, "nobody is in the network namespace");
    assert_eq!(mounts(), before, "no mount is left or was seen on the host");
}

#[test]
fn the_upper_folder_is_kept_for_the_next_sandbox_at_once() {
    let Some(bench) = Bench::new() else { return };
    let old = bench.layer().join("app/old");
    fs::write(&old, "").unwrap();
    let first = bench.sandbox("one");
    bench.run(&first, "echo kept > /app/file; rm -f /app/old; mkdir /tmp/d");
    first.kill();
    drop(first);
    let second = bench.sandbox("one");
    let (_, text) = bench.run(&second, "cat /app/file; ls /app/old; ls -d /tmp/d");
    assert!(text.starts_with("kept\n") && text.contains("No such file") && text.contains("/tmp/d\n"), "{text}");
    assert!(old.exists(), "the layer is untouched");
    assert!(!bench.layer().join("app/file").exists());
}

#[test]
fn shutdown_ends_everything() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    let app = bench.start(&sandbox, &process(&["/bin/sleep", "1000"])).unwrap();
    sandbox.init.shutdown().unwrap();
    wait_ended(&app.pidfd);
    wait_ended(&sandbox.sandbox.pidfd);
    assert!(matches!(sandbox.init.state(), Err(drowse_launcher::init::InitError::Gone)));
    sandbox.init.shutdown().unwrap();
}

#[test]
fn fifty_sandboxes_leave_the_launcher_as_it_was() {
    let Some(bench) = Bench::new() else { return };
    let launcher = bench.launcher.pid();
    // Its first request may leave something for later ones.
    drop(bench.sandbox("warm"));
    wait_until("the first one is reaped", || children_of(launcher) == 0);
    let (before, mounted) = (descriptors_of(launcher), mounts());
    let started = Instant::now();
    for _ in 0..50 {
        let sandbox = bench.sandbox("one");
        let app = bench.start(&sandbox, &process(&["/bin/true"])).unwrap();
        sandbox.exit_of(app.pid_inside);
        sandbox.kill();
    }
    eprintln!("50 lives in {:?}", started.elapsed());
    wait_until("all are reaped", || children_of(launcher) == 0);
    assert_eq!(descriptors_of(launcher), before);
    assert_eq!(mounts(), mounted);
}

fn children_of(pid: u32) -> usize {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap().split_whitespace().count()
}

#[test]
fn sandboxes_outlive_their_launcher_and_another_one_starts_processes_in_them() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    let app = bench.start(&sandbox, &process(&["/bin/sleep", "1000"])).unwrap();
    let Bench { launcher, folder } = bench;
    let pid = launcher.pid();
    drop(launcher);
    assert!(!exists(pid as i32), "the launcher left with its agent");
    assert!(exists(app.pid) && exists(sandbox.sandbox.pid));
    wait_until("it sleeps, as it was told to", || Running::status(app.pid, "State").starts_with('S'));
    let next = Bench { launcher: Bench::new().unwrap().launcher, folder };
    assert_eq!(next.run(&sandbox, "echo again"), (0, "again\n".to_owned()));
}

#[test]
fn a_killed_launcher_is_an_error_and_no_hang() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(bench.launcher.pid() as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let started = Instant::now();
    let error = bench.start(&sandbox, &process(&["/bin/true"])).unwrap_err();
    assert!(matches!(error, LauncherError::Gone), "{}", whole(&error));
    assert!(started.elapsed() < Duration::from_secs(5));
    sandbox.init.state().unwrap();
}

#[test]
fn a_failed_build_leaves_nothing_and_names_what_failed() {
    let Some(bench) = Bench::new() else { return };
    let before = mounts();
    let mut request = bench.request("one");
    request.overlay.lowers.push(PathBuf::from("/no/such/layer"));
    let error = bench.build(&request, "one").map(drop).unwrap_err();
    let LauncherError::Failed(failure) = &error else { panic!("{}", whole(&error)) };
    assert_eq!(
        (failure.step, failure.target.as_str(), failure.errno()),
        (Step::OpenLayer, "/no/such/layer", Some(libc::ENOENT))
    );
    let mut descriptors = bench.descriptors_in("one");
    descriptors.init_cgroups.push(fs::File::options().write(true).open("/dev/full").unwrap().into());
    let error = bench.launcher.build(&bench.request("one"), descriptors).map(drop).unwrap_err();
    let LauncherError::Failed(failure) = &error else { panic!("{}", whole(&error)) };
    assert_eq!((failure.step, failure.target.as_str()), (Step::AttachCgroup, "/dev/full"));
    wait_until("nothing is left", || children_of(bench.launcher.pid()) == 0);
    assert_eq!(mounts(), before);
    drop(bench.sandbox("one"));
}

#[test]
fn starting_in_a_sandbox_that_is_gone_is_an_error() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    sandbox.kill();
    wait_until("it is reaped", || children_of(bench.launcher.pid()) == 0);
    let null = || -> std::os::fd::OwnedFd { fs::File::options().write(true).open("/dev/null").unwrap().into() };
    let descriptors = ProcessFds {
        init: sandbox.sandbox.pidfd.as_fd(),
        app_cgroups: Vec::new(),
        stdin: None,
        stdout: null(),
        stderr: null(),
    };
    let error = bench.launcher.start(&process(&["/bin/true"]), descriptors).map(drop).unwrap_err();
    let LauncherError::Failed(failure) = &error else { panic!("{}", whole(&error)) };
    assert_eq!((failure.step, failure.errno()), (Step::EnterNamespace, Some(libc::ESRCH)));
}

#[test]
fn many_requests_at_once_are_answered() {
    let Some(bench) = Bench::new() else { return };
    std::thread::scope(|scope| {
        for at in 0..8 {
            let bench = &bench;
            scope.spawn(move || {
                let sandbox = bench.sandbox(&format!("many-{at}"));
                assert_eq!(bench.run(&sandbox, &format!("echo {at}")), (0, format!("{at}\n")));
            });
        }
    });
}

#[test]
fn a_process_can_be_given_input() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    let (input, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (reader, output) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let descriptors = ProcessFds {
        init: sandbox.sandbox.pidfd.as_fd(),
        app_cgroups: Vec::new(),
        stdin: Some(input),
        stdout: output.try_clone().unwrap(),
        stderr: output,
    };
    bench.launcher.start(&process(&["/bin/tr", "a-z", "A-Z"]), descriptors).unwrap();
    rustix::io::write(&writer, b"shout").unwrap();
    drop(writer);
    assert_eq!(std::io::read_to_string(fs::File::from(reader)).unwrap(), "SHOUT");
}

#[test]
fn a_program_that_is_no_launcher_is_an_error() {
    let error = Launcher::spawn(Path::new("/bin/true"), Path::new("/bin/true")).unwrap_err();
    assert!(matches!(error, LauncherError::Gone | LauncherError::Receive { .. }), "{}", whole(&error));
    let error = Launcher::spawn(Path::new("/no/launcher"), Path::new("/no/init")).unwrap_err();
    assert!(matches!(error, LauncherError::Init { .. }), "{}", whole(&error));
}

/// Prints what a start costs. Not a benchmark: run it by hand, with the release build.
#[test]
#[ignore = "prints times"]
fn times_of_building_and_starting() {
    let Some(bench) = Bench::new() else { return };
    let (mut builds, mut starts, mut memory) = (Vec::new(), Vec::new(), String::new());
    for _ in 0..100 {
        let request = bench.request("one");
        let descriptors = bench.descriptors_in("one");
        let started = Instant::now();
        let sandbox = bench.launcher.build(&request, descriptors).unwrap();
        builds.push(started.elapsed());
        let null = || -> std::os::fd::OwnedFd { fs::File::options().write(true).open("/dev/null").unwrap().into() };
        let descriptors = ProcessFds {
            init: sandbox.pidfd.as_fd(),
            app_cgroups: Vec::new(),
            stdin: None,
            stdout: null(),
            stderr: null(),
        };
        let request = process(&["/bin/true"]);
        let started = Instant::now();
        bench.launcher.start(&request, descriptors).unwrap();
        starts.push(started.elapsed());
        memory = fs::read_to_string(format!("/proc/{}/smaps_rollup", sandbox.pid)).unwrap();
        rustix::process::pidfd_send_signal(&sandbox.pidfd, rustix::process::Signal::KILL).unwrap();
        wait_ended(&sandbox.pidfd);
    }
    for (what, mut times) in [("build", builds), ("start", starts)] {
        times.sort();
        eprintln!("{what}: p50 {:?}, p90 {:?}, least {:?}", times[50], times[90], times[0]);
    }
    for line in memory.lines().filter(|line| ["Rss:", "Pss:", "Private_Dirty:"].iter().any(|key| line.starts_with(key)))
    {
        eprintln!("init: {line}");
    }
}
