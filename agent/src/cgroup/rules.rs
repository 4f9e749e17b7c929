//! Each limit is needed: what it stops goes on without it.

use std::io::Write;
use std::process::{Command, Stdio};

use drowse_api::instance::Limits;
use drowse_api::{InstanceId, MemoryBytes, UserId};
use drowse_launcher::rules::Rule;

use super::{Cgroups, Leaf, Place, detect};
use crate::rules::left_out;

/// One place, emptied and removed however the test ends.
struct Stage {
    cgroups: Box<dyn Cgroups>,
    place: Place,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.cgroups.kill_all(&self.place);
        let _ = self.cgroups.remove(&self.place);
        let _ = self.cgroups.remove_root();
    }
}

impl Stage {
    /// Whether a script in the place comes to its end.
    fn completes(&self, script: &str) -> bool {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell starts");
        for procs in self.cgroups.open_procs(&self.place, Leaf::App).expect("open") {
            std::fs::File::from(procs).write_all(child.id().to_string().as_bytes()).expect("attach");
        }
        child.stdin.take().expect("piped").write_all(b"go\n").expect("go");
        child.wait().expect("it ends").success()
    }
}

/// Runs a script with the rule and without it, each time in a new place.
fn stops(rule: Rule, script: &str) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: control groups can only be made by root");
        return;
    }
    let inside = std::env::var("DROWSE_TEST_GROUPS_IN").map(|path| path + "/").unwrap_or_default();
    for is_left_out in [false, true] {
        let name = format!("{inside}drowse-test-{rule}-{}", std::process::id());
        let place = Place::instance(&UserId::generate(), &InstanceId::generate());
        let stage = Stage { cgroups: detect(&name).expect("a usable layout"), place };
        left_out::set(is_left_out.then_some(rule));
        let limits = Limits { memory: MemoryBytes::mib(48), pids: 10, ..Limits::default() };
        stage.cgroups.create(&stage.place, &limits).expect("create");
        left_out::set(None);
        assert_eq!(stage.completes(script), is_left_out, "left out: {is_left_out}");
    }
}

#[test]
fn memory_is_bounded_by_its_rule() {
    // It waits for the end of a line that never comes.
    stops(Rule::LimitMemory, "head -c 100000000 /dev/zero | tail > /dev/null");
}

#[test]
fn processes_are_bounded_by_their_rule() {
    stops(Rule::LimitProcesses, "for i in $(seq 15); do sleep 60 & all=\"$all $!\"; done; kill $all");
}
