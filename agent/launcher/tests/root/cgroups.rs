//! Init and app attach themselves to the cgroups they are given.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use drowse_launcher::{LauncherError, ProcessFds, Step};

use crate::support::{Bench, Running, process, wait_ended, wait_until, whole};

/// A cgroup with two leaves in each hierarchy that the machine has, removed when dropped.
struct Group {
    folders: Vec<PathBuf>,
}

impl Group {
    fn new() -> Self {
        let top = Path::new("/sys/fs/cgroup");
        let hierarchies =
            if top.join("unified").exists() { vec!["unified", "memory", "pids", "freezer"] } else { vec![""] };
        let name = format!("drowse-launcher-test-{}", std::process::id());
        let folders: Vec<_> = hierarchies.iter().map(|hierarchy| top.join(hierarchy).join(&name)).collect();
        let group = Self { folders };
        for folder in &group.folders {
            for leaf in ["init", "app"] {
                fs::create_dir_all(folder.join(leaf)).unwrap();
            }
        }
        group
    }

    fn open(&self, leaf: &str) -> Vec<OwnedFd> {
        let open = |folder: &PathBuf| File::options().write(true).open(folder.join(leaf).join("cgroup.procs")).unwrap();
        self.folders.iter().map(|folder| open(folder).into()).collect()
    }

    /// As [`open`](Self::open), with the folder of the version 2 group, to be born in.
    fn open_for_birth(&self, leaf: &str) -> Vec<OwnedFd> {
        let mut groups = self.open(leaf);
        groups[0] = File::open(self.folders[0].join(leaf)).unwrap().into();
        groups
    }

    fn freeze(&self, frozen: bool) {
        fs::write(self.folders[0].join("app/cgroup.freeze"), if frozen { "1" } else { "0" }).unwrap();
    }

    fn processes(&self, leaf: &str) -> Vec<String> {
        self.folders
            .iter()
            .map(|folder| fs::read_to_string(folder.join(leaf).join("cgroup.procs")).unwrap().trim().to_owned())
            .collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            let started = Instant::now();
            let remove = || ["init", "app", ""].iter().all(|leaf| fs::remove_dir(folder.join(leaf)).is_ok());
            while !remove() && folder.exists() && started.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn start(
    bench: &Bench,
    sandbox: &Running,
    group: &Group,
    script: &str,
) -> Result<drowse_launcher::Started, LauncherError> {
    let null = || -> OwnedFd { File::options().write(true).open("/dev/null").unwrap().into() };
    let descriptors = ProcessFds {
        init: sandbox.sandbox.pidfd.as_fd(),
        app_cgroups: group.open("app"),
        stdin: None,
        stdout: null(),
        stderr: null(),
    };
    bench.launcher.start(&process(&["/bin/sh", "-c", script]), descriptors)
}

fn build(bench: &Bench, group: &Group) -> Running {
    let request = bench.request("one");
    let mut descriptors = bench.descriptors_in("one");
    descriptors.init_cgroups = group.open("init");
    let sandbox = bench.launcher.build(&request, descriptors).unwrap_or_else(|error| panic!("{}", whole(&error)));
    bench.connect(sandbox, "one")
}

#[test]
fn init_and_app_are_in_their_own_groups_and_see_nothing_above() {
    let Some(bench) = Bench::new() else { return };
    let group = Group::new();
    let sandbox = build(&bench, &group);
    let app = start(&bench, &sandbox, &group, "cat /proc/self/cgroup > /app/groups; sleep 1000").unwrap();
    let count = group.folders.len();
    assert_eq!(group.processes("init"), vec![sandbox.sandbox.pid.to_string(); count]);
    let first =
        |processes: Vec<String>| processes.iter().map(|list| list.contains(&app.pid.to_string())).collect::<Vec<_>>();
    assert_eq!(first(group.processes("app")), vec![true; count]);
    let file = bench.instance("one").join("upper/app/groups");
    wait_until("the app wrote its groups", || fs::metadata(&file).is_ok_and(|file| file.len() > 0));
    let text = fs::read_to_string(file).unwrap();
    assert!(!text.contains("drowse"), "the path is hidden: {text}");
    sandbox.kill();
    wait_ended(&app.pidfd);
}

#[test]
fn a_start_into_a_frozen_group_fails_in_time_and_leaves_nothing_to_wake_up() {
    let Some(bench) = Bench::new() else { return };
    let group = Group::new();
    let sandbox = build(&bench, &group);
    group.freeze(true);
    let started = Instant::now();
    let error = start(&bench, &sandbox, &group, "echo ghost > /app/ghost").unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(12));
    let LauncherError::Failed(failure) = &error else { panic!("{}", whole(&error)) };
    assert_eq!((failure.step, failure.errno()), (Step::Report, Some(libc::ETIMEDOUT)), "{failure}");
    wait_until("the half-started process is gone", || group.processes("app")[0].is_empty());
    group.freeze(false);
    assert!(!bench.instance("one").join("upper/app/ghost").exists());
    start(&bench, &sandbox, &group, "echo alive > /app/alive").unwrap();
    wait_until("the next one runs", || bench.instance("one").join("upper/app/alive").exists());
}

#[test]
fn init_and_app_are_born_in_the_groups_whose_folders_are_open() {
    let Some(bench) = Bench::new() else { return };
    let group = Group::new();
    // With a group in which somebody was killed, where some kernels kill whatever is born.
    for killed in [false, true] {
        if killed {
            fs::write(group.folders[0].join("cgroup.kill"), "1").unwrap();
        }
        let request = bench.request("one");
        let mut descriptors = bench.descriptors_in("one");
        descriptors.init_cgroups = group.open_for_birth("init");
        let built = bench.launcher.build(&request, descriptors).unwrap_or_else(|error| panic!("{}", whole(&error)));
        let sandbox = bench.connect(built, "one");
        assert_eq!(group.processes("init"), vec![sandbox.sandbox.pid.to_string(); group.folders.len()]);
        let null = || -> OwnedFd { File::options().write(true).open("/dev/null").unwrap().into() };
        let descriptors = ProcessFds {
            init: sandbox.sandbox.pidfd.as_fd(),
            app_cgroups: group.open_for_birth("app"),
            stdin: None,
            stdout: null(),
            stderr: null(),
        };
        let script = "cat /proc/self/cgroup > /app/groups.new; mv /app/groups.new /app/groups; sleep 1000";
        let app = bench.launcher.start(&process(&["/bin/sh", "-c", script]), descriptors).unwrap();
        let is_in = |list: &String| list.lines().any(|pid| pid == app.pid.to_string());
        assert!(group.processes("app").iter().all(is_in), "{:?}", group.processes("app"));
        let file = bench.instance("one").join("upper/app/groups");
        wait_until("the app wrote its groups", || file.exists());
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("drowse"), "the path is hidden: {text}");
        fs::remove_file(file).unwrap();
        sandbox.kill();
        wait_ended(&app.pidfd);
    }
}
