//! What every implementation must do. The same function runs against the fake and against whatever
//! this machine has, so that tests built on the fake mean something.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use drowse_api::instance::Limits;
use drowse_api::{InstanceId, MemoryBytes, UserId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Cgroups, CommandGroup, Fake, Leaf, Made, Place, Slice, detect};

/// What a process in a group does; the fake's are numbers, a kernel's are real.
trait World {
    fn cgroups(&self) -> &dyn Cgroups;
    /// A process in the leaf that counts up on its own until it is killed.
    fn start(&self, place: &Place, leaf: Leaf) -> Box<dyn Process + '_>;
    /// The same in the group of a command.
    fn start_command(&self, place: &Place, command: &CommandGroup) -> Box<dyn Process + '_>;
    /// Whether a process in the leaf is refused so many children.
    fn is_refused(&self, place: &Place, children: u32) -> bool;
}

trait Process {
    fn pid(&self) -> i32;
    /// Ends by signal, seen within a few seconds.
    fn was_killed(&mut self) -> bool;
    fn is_running(&mut self) -> bool;
    /// How far it has counted.
    fn count(&mut self) -> u64;
    /// Takes far more memory than the limit.
    fn exceed(&mut self);
}

fn limits(memory: u64, pids: u32, cpu_weight: u32) -> Limits {
    Limits { memory: MemoryBytes::mib(memory), pids, cpu_weight, ..Limits::default() }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "waited 60 s for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn conformance(world: &dyn World) {
    let user = UserId::generate();
    let one = Place::instance(&user, &InstanceId::generate());
    let other = Place::instance(&user, &InstanceId::generate());
    what_is_not_there_is_told_apart(world, &one);
    limits_are_as_asked_and_change(world, &one);
    two_places_of_a_user_do_not_disturb_each_other(world, &one, &other);
    freezing_stops_the_app_and_not_init(world, &one);
    killing_the_app_reaches_it_frozen_too_and_never_init(world, &one);
    a_group_that_was_killed_takes_new_processes(world, &one);
    a_command_is_inside_the_app_and_killed_by_itself(world, &one);
    the_number_of_processes_is_limited(world, &one);
    a_command_past_the_memory_limit_is_killed_alone(world, &one);
    a_process_past_the_memory_limit_is_killed_and_counted(world, &one);
    removing_needs_an_empty_place_and_leaves_nothing(world, &one, &other);
}

fn what_is_not_there_is_told_apart(world: &dyn World, place: &Place) {
    let cgroups = world.cgroups();
    assert!(!cgroups.list().expect("list").contains(place));
    assert!(!cgroups.is_populated(place, Leaf::App).expect("not there is not populated"));
    assert_eq!(cgroups.processes(place, Leaf::Init).expect("not there has no processes"), Vec::<i32>::new());
    cgroups.kill_app(place).expect("nothing to kill");
    cgroups.kill_all(place).expect("nothing to kill");
    cgroups.remove(place).expect("nothing to remove");
    for error in [
        cgroups.usage(place).map(drop),
        cgroups.limits(place).map(drop),
        cgroups.oom_kills(place).map(drop),
        cgroups.refused_forks(place).map(drop),
        cgroups.watch_oom(place).map(drop),
        cgroups.freeze(place),
        cgroups.is_frozen(place).map(drop),
        cgroups.open_procs(place, Leaf::App).map(drop),
    ] {
        let text = error.expect_err("a place that is not there").to_string();
        assert!(text.contains(&place.folder()), "{text}");
    }
}

fn limits_are_as_asked_and_change(world: &dyn World, place: &Place) {
    let cgroups = world.cgroups();
    let mut expected = Made::New;
    for wanted in [limits(64, 40, 100), limits(64, 40, 100), limits(96, 30, 1), limits(80, 25, 10_000)] {
        assert_eq!(cgroups.create(place, &wanted).expect("create or update"), expected);
        expected = Made::Kept;
        assert_eq!(cgroups.limits(place).expect("limits"), wanted);
    }
    assert!(cgroups.list().expect("list").contains(place));
    assert!(!cgroups.is_populated(place, Leaf::Init).expect("populated"));
    assert_eq!(cgroups.oom_kills(place).expect("count"), 0);
    let usage = cgroups.usage(place).expect("usage");
    assert_eq!(usage.pids, 0);
    assert!(usage.memory <= MemoryBytes::mib(80).0);
}

fn two_places_of_a_user_do_not_disturb_each_other(world: &dyn World, one: &Place, other: &Place) {
    let cgroups = world.cgroups();
    cgroups.create(other, &limits(48, 20, 50)).expect("create");
    assert_eq!(cgroups.limits(one).expect("limits"), limits(80, 25, 10_000));
    let mut here = world.start(one, Leaf::App);
    let mut there = world.start(other, Leaf::App);
    assert_eq!(cgroups.processes(one, Leaf::App).expect("processes"), [here.pid()]);
    assert_eq!(cgroups.usage(other).expect("usage").pids, 1);
    cgroups.kill_app(one).expect("kill");
    assert!(here.was_killed());
    assert!(there.is_running());
    until("one to be empty", || !cgroups.is_populated(one, Leaf::App).expect("populated"));
    cgroups.remove(one).expect("remove");
    assert!(there.is_running());
    let places = cgroups.list().expect("list");
    assert!(places.contains(other) && !places.contains(one));
    cgroups.kill_all(other).expect("kill");
    assert!(there.was_killed());
    assert_eq!(cgroups.create(one, &limits(64, 25, 100)).expect("made again"), Made::New);
}

fn freezing_stops_the_app_and_not_init(world: &dyn World, place: &Place) {
    let cgroups = world.cgroups();
    let mut init = world.start(place, Leaf::Init);
    let mut app = world.start(place, Leaf::App);
    for _ in 0..3 {
        cgroups.freeze(place).expect("freeze");
        cgroups.freeze(place).expect("freeze what is frozen");
        assert!(cgroups.is_frozen(place).expect("frozen"));
        let (stopped, runs) = (app.count(), init.count());
        until("init to go on", || init.count() > runs + 3);
        assert_eq!(app.count(), stopped, "the app stands still");
        cgroups.thaw(place).expect("thaw");
        cgroups.thaw(place).expect("thaw what is thawed");
        assert!(!cgroups.is_frozen(place).expect("frozen"));
        until("the app to go on", || app.count() > stopped);
    }
    cgroups.kill_all(place).expect("kill");
    assert!(init.was_killed() && app.was_killed());
    until("the place to be empty", || {
        Leaf::ALL.iter().all(|leaf| !cgroups.is_populated(place, *leaf).expect("populated"))
    });
}

fn killing_the_app_reaches_it_frozen_too_and_never_init(world: &dyn World, place: &Place) {
    let cgroups = world.cgroups();
    let mut init = world.start(place, Leaf::Init);
    let mut app = world.start(place, Leaf::App);
    assert!(cgroups.is_populated(place, Leaf::Init).expect("populated"));
    cgroups.freeze(place).expect("freeze");
    cgroups.kill_app(place).expect("kill");
    assert!(app.was_killed());
    until("the app's group to be empty", || !cgroups.is_populated(place, Leaf::App).expect("populated"));
    cgroups.thaw(place).expect("thaw");
    let runs = init.count();
    until("init to go on", || init.count() > runs);
    assert_eq!(cgroups.processes(place, Leaf::Init).expect("processes"), [init.pid()]);
    cgroups.kill_all(place).expect("kill");
    assert!(init.was_killed());
}

fn a_group_that_was_killed_takes_new_processes(world: &dyn World, place: &Place) {
    let cgroups = world.cgroups();
    for _ in 0..3 {
        let mut app = world.start(place, Leaf::App);
        let count = app.count();
        until("the app to run", || app.count() > count);
        cgroups.kill_app(place).expect("kill");
        assert!(app.was_killed());
    }
}

fn a_command_is_inside_the_app_and_killed_by_itself(world: &dyn World, place: &Place) {
    let cgroups = world.cgroups();
    let (one, other) = (CommandGroup::generate(), CommandGroup::generate());
    cgroups.kill_command(place, &one).expect("nothing to kill");
    cgroups.remove_command(place, &one).expect("nothing to remove");
    assert_eq!(cgroups.command_processes(place, &one).expect("processes"), Vec::<i32>::new());
    let mut app = world.start(place, Leaf::App);
    let mut command = world.start_command(place, &one);
    let mut second = world.start_command(place, &other);
    assert_eq!(cgroups.commands(place).expect("list").len(), 2);
    assert_eq!(cgroups.command_processes(place, &one).expect("processes"), [command.pid()]);
    let mut all = cgroups.processes(place, Leaf::App).expect("processes");
    all.sort_unstable();
    let mut expected = [app.pid(), command.pid(), second.pid()];
    expected.sort_unstable();
    assert_eq!(all, expected, "the app's processes include those of its commands");
    assert_eq!(cgroups.usage(place).expect("usage").pids, 3);
    cgroups.freeze(place).expect("freeze");
    let count = command.count();
    cgroups.thaw(place).expect("thaw");
    until("the command to go on", || command.count() > count);
    assert!(cgroups.remove_command(place, &one).is_err(), "a process is in it");
    cgroups.kill_command(place, &one).expect("kill");
    assert!(command.was_killed());
    cgroups.remove_command(place, &one).expect("remove");
    assert!(app.is_running() && second.is_running());
    assert_eq!(cgroups.commands(place).expect("list"), vec![other]);
    cgroups.kill_app(place).expect("kill");
    assert!(app.was_killed() && second.was_killed(), "a command dies with the app");
    until("the app's group to be empty", || !cgroups.is_populated(place, Leaf::App).expect("populated"));
    // The last one goes with its place.
}

fn the_number_of_processes_is_limited(world: &dyn World, place: &Place) {
    world.cgroups().create(place, &limits(64, 10, 100)).expect("create");
    let refused = || world.cgroups().refused_forks(place).expect("count");
    assert!(!world.is_refused(place, 5));
    let before = refused();
    assert!(world.is_refused(place, 15));
    assert!(refused() > before, "and counted");
    until("the place to be empty", || !world.cgroups().is_populated(place, Leaf::App).expect("populated"));
}

fn a_command_past_the_memory_limit_is_killed_alone(world: &dyn World, place: &Place) {
    let cgroups = world.cgroups();
    cgroups.create(place, &limits(48, 25, 100)).expect("create");
    let command = CommandGroup::generate();
    let mut app = world.start(place, Leaf::App);
    let mut greedy = world.start_command(place, &command);
    let (of_app, of_both) = (
        cgroups.oom_kills(place).expect("count"),
        cgroups.oom_kills_with(place, &command).expect("count with the command's"),
    );
    greedy.exceed();
    assert!(greedy.was_killed());
    until("the kill to be counted", || cgroups.oom_kills_with(place, &command).expect("count") > of_both);
    assert_eq!(cgroups.oom_kills(place).expect("count"), of_app, "it is none of the app's");
    let count = app.count();
    until("the app to go on", || app.count() > count);
    until("the command to be gone", || cgroups.command_processes(place, &command).expect("processes").is_empty());
    cgroups.remove_command(place, &command).expect("remove");
    cgroups.kill_app(place).expect("kill");
    assert!(app.was_killed());
    until("the app's group to be empty", || !cgroups.is_populated(place, Leaf::App).expect("populated"));
}

fn a_process_past_the_memory_limit_is_killed_and_counted(world: &dyn World, place: &Place) {
    let cgroups = world.cgroups();
    cgroups.create(place, &limits(48, 25, 100)).expect("create");
    let mut init = world.start(place, Leaf::Init);
    let mut greedy = world.start(place, Leaf::App);
    let before = cgroups.oom_kills(place).expect("count");
    let notice = cgroups.watch_oom(place).expect("watch");
    assert!(!is_readable(&notice, 0));
    greedy.exceed();
    assert!(is_readable(&notice, 60_000), "told of the kill");
    assert!(greedy.was_killed());
    until("the kill to be counted", || cgroups.oom_kills(place).expect("count") > before);
    assert!(init.is_running());
    let mut buffer = [0; 4096];
    while std::fs::File::from(notice.try_clone().expect("clone")).read(&mut buffer).is_ok() {}
    assert!(!is_readable(&notice, 0), "read, it is armed again");
    let counted = cgroups.oom_kills(place).expect("count");
    let mut second = world.start(place, Leaf::App);
    second.exceed();
    assert!(is_readable(&notice, 60_000), "told of the second");
    until("the second to be counted", || cgroups.oom_kills(place).expect("count") > counted);
    cgroups.kill_all(place).expect("kill");
    assert!(init.was_killed());
}

fn removing_needs_an_empty_place_and_leaves_nothing(world: &dyn World, one: &Place, other: &Place) {
    let cgroups = world.cgroups();
    let mut init = world.start(one, Leaf::Init);
    let error = cgroups.remove(one).expect_err("a process is in it");
    assert!(error.to_string().contains(&one.folder()), "{error}");
    assert!(cgroups.list().expect("list").contains(one), "what is half removed is still listed");
    assert!(cgroups.remove_root().is_err());
    cgroups.kill_all(one).expect("kill");
    assert!(init.was_killed());
    cgroups.remove(one).expect("remove at once after the kill");
    cgroups.remove(other).expect("remove");
    cgroups.remove(other).expect("remove again");
    assert_eq!(cgroups.list().expect("list"), []);
    cgroups.remove_root().expect("remove the root");
    cgroups.remove_root().expect("remove the root again");
}

fn is_readable(fd: &OwnedFd, milliseconds: u16) -> bool {
    let mut set = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut set, PollTimeout::from(milliseconds)).expect("poll") > 0
}

#[test]
fn the_fake_conforms() {
    conformance(&FakeWorld { fake: Fake::new(), next: AtomicI32::new(1000) });
}

#[test]
fn the_groups_of_this_machine_conform() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: control groups can only be made by root");
        return;
    }
    // A unit that systemd delegates, say; else the top.
    let inside = std::env::var("DROWSE_TEST_GROUPS_IN").map(|path| path + "/").unwrap_or_default();
    let name = format!("{inside}drowse-test-{}", std::process::id());
    let world = Machine { cgroups: detect(&name).expect("a usable layout") };
    eprintln!("layout: {}", world.cgroups.layout().as_str());
    conformance(&world);
}

#[test]
fn places_of_other_slices_are_listed_too() {
    let fake = Fake::new();
    let build = Place::new(Slice::Builds, "d1").expect("place");
    fake.create(&build, &Limits::default()).expect("create");
    assert_eq!(fake.list().expect("list"), [build]);
}

/// The real groups, emptied and removed however the test ends.
struct Machine {
    cgroups: Box<dyn Cgroups>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        for place in self.cgroups.list().unwrap_or_default() {
            let _ = self.cgroups.kill_all(&place);
            let _ = self.cgroups.remove(&place);
        }
        let _ = self.cgroups.remove_root();
    }
}

/// Builtins only, so that it stays one process. A second line makes it greedy.
const COUNTS: &str = "read go; while :; do printf x; \
    if read -t 0.1 order; then printf -v all '%*s' 100000000 ''; fi; done";

impl World for Machine {
    fn cgroups(&self) -> &dyn Cgroups {
        &*self.cgroups
    }

    fn start(&self, place: &Place, leaf: Leaf) -> Box<dyn Process + '_> {
        Box::new(Real::start(self.cgroups.open_procs(place, leaf).expect("open"), "bash", COUNTS))
    }

    fn start_command(&self, place: &Place, command: &CommandGroup) -> Box<dyn Process + '_> {
        Box::new(Real::start(self.cgroups.make_command(place, command).expect("made"), "bash", COUNTS))
    }

    fn is_refused(&self, place: &Place, children: u32) -> bool {
        // Debian's sh ends at the first fork that fails; bash would try again for half a minute.
        let script = format!("read go; for i in $(seq {children}); do sleep 60 & done; printf x; wait");
        let mut real = Real::start(self.cgroups.open_procs(place, Leaf::App).expect("open"), "sh", &script);
        until("all children or the end", || real.count() > 0 || !real.is_running());
        let is_refused = real.count() == 0;
        self.cgroups.kill_app(place).expect("kill");
        is_refused
    }
}

/// A shell that was put into a group before its first command; it writes one byte for each count.
struct Real {
    child: Child,
    counted: tempfile::NamedTempFile,
}

impl Real {
    fn start(groups: Vec<OwnedFd>, shell: &str, script: &str) -> Self {
        let counted = tempfile::NamedTempFile::new().expect("a file");
        let mut child = Command::new(shell)
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(counted.reopen().expect("the file again"))
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell starts");
        for procs in groups {
            std::fs::File::from(procs).write_all(child.id().to_string().as_bytes()).expect("attach");
        }
        child.stdin.as_mut().expect("piped").write_all(b"go\n").expect("go");
        Self { child, counted }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process for Real {
    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    fn was_killed(&mut self) -> bool {
        until("the process to end", || !self.is_running());
        self.child.wait().expect("wait").signal() == Some(libc::SIGKILL)
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    fn count(&mut self) -> u64 {
        self.counted.as_file().metadata().expect("size").len()
    }

    fn exceed(&mut self) {
        self.child.stdin.as_mut().expect("piped").write_all(b"all\n").expect("told");
    }
}

/// The fake with processes that are numbers.
struct FakeWorld {
    fake: Fake,
    next: AtomicI32,
}

struct Number<'a> {
    world: &'a FakeWorld,
    place: Place,
    leaf: Leaf,
    pid: i32,
    count: u64,
}

impl World for FakeWorld {
    fn cgroups(&self) -> &dyn Cgroups {
        &self.fake
    }

    fn start(&self, place: &Place, leaf: Leaf) -> Box<dyn Process + '_> {
        let pid = self.next.fetch_add(1, Ordering::Relaxed);
        assert!(self.fake.enter(place, leaf, pid));
        Box::new(Number { world: self, place: place.clone(), leaf, pid, count: 0 })
    }

    fn start_command(&self, place: &Place, command: &CommandGroup) -> Box<dyn Process + '_> {
        let pid = self.next.fetch_add(1, Ordering::Relaxed);
        self.fake.make_command(place, command).expect("made");
        assert!(self.fake.enter_command(place, command, pid));
        Box::new(Number { world: self, place: place.clone(), leaf: Leaf::App, pid, count: 0 })
    }

    fn is_refused(&self, place: &Place, children: u32) -> bool {
        let is_refused = children >= self.fake.limits(place).expect("limits").pids;
        if is_refused {
            self.fake.refuse_fork(place);
        }
        is_refused
    }
}

impl Process for Number<'_> {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn was_killed(&mut self) -> bool {
        !self.is_running()
    }

    fn is_running(&mut self) -> bool {
        self.world.fake.processes(&self.place, self.leaf).expect("processes").contains(&self.pid)
    }

    fn count(&mut self) -> u64 {
        let stands = self.leaf == Leaf::App && self.world.fake.is_frozen(&self.place).expect("frozen");
        self.count += u64::from(self.is_running() && !stands);
        self.count
    }

    fn exceed(&mut self) {
        self.world.fake.kill_for_memory(&self.place, self.pid);
    }
}
