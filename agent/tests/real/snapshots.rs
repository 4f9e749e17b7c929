//! Apps go to disk and come back, in sandboxes of the real kernel, by the CRIU that works here.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use drowse_agent::cgroup::{self, Leaf, Place, Slice};
use drowse_agent::config::{AddressRange, Room};
use drowse_agent::disk::{Disks, Mode};
use drowse_agent::host::error::SandboxError;
use drowse_agent::host::hibernate::{self, Snapshots};
use drowse_agent::host::home::Home;
use drowse_agent::host::process;
use drowse_agent::host::ready::Pool;
use drowse_agent::host::sandbox::{Plan, Sandboxes};
use drowse_agent::instance::state::App;
use drowse_agent::network::{Network, NetworkConfig, Owner};
use drowse_agent::snapshot::{Abort, Criu, Key, SnapshotError, Subject, Taken};
use drowse_api::instance::Limits;
use drowse_api::{Digest, InstanceId, MemoryBytes, UserId};
use drowse_launcher::{Launcher, SeccompProfile};
use drowse_rootfs::IdRange;
use oci_spec::runtime::Spec;

use crate::support::{LIMIT, busybox, claim, programs};

const IDS: IdRange = IdRange { first: 1_900_085_248, count: 65_536 };

/// Counts in memory, and serves beside it.
const COUNTER: &str = "busybox httpd -p 8080 -h /www; n=0; \
                       while :; do n=$((n+1)); echo tick $n; echo $n >/www/count; busybox sleep 0.02; done";

/// One sandbox, and what it takes to have it.
struct Stage {
    sandboxes: Sandboxes,
    snapshots: Snapshots,
    plan: Plan,
    /// What was put to disk last.
    taken: Mutex<Taken>,
    _folder: tempfile::TempDir,
    _number: std::os::unix::net::UnixListener,
}

fn skipped(why: &str) -> Option<Stage> {
    eprintln!("SKIPPED: {why}");
    None
}

/// Only serves, with some memory of its own.
const QUIET: &str = "busybox httpd -p 8080 -h /www; echo up; exec busybox sleep 100000";

impl Stage {
    fn new(number: u8, script: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return skipped("not root");
        }
        let Some(busybox) = busybox() else { return skipped("no static busybox (Debian: busybox-static)") };
        let Some(criu) = std::env::var_os("DROWSE_TEST_CRIU") else {
            return skipped("no CRIU that works on this kernel (scripts/find-criu), or DROWSE_TEST_CRIU is not set");
        };
        let held = claim(number);
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let layer = folder.path().join("layer");
        for part in ["bin", "www", "tmp"] {
            std::fs::create_dir_all(layer.join(part)).expect("a folder");
        }
        std::os::unix::fs::chown(layer.join("www"), Some(1000), Some(1000)).expect("the app's");
        std::fs::copy(busybox, layer.join("bin/busybox")).expect("copied");
        std::os::unix::fs::symlink("busybox", layer.join("bin/sh")).expect("linked");
        std::fs::set_permissions(layer.join("bin/busybox"), PermissionsExt::from_mode(0o755)).expect("set");
        let bin = programs();
        let launcher = Launcher::spawn(&bin.join("drowse-launcher"), &bin.join("drowse-init")).expect("a launcher");
        let network = Network::new(NetworkConfig {
            range: AddressRange { base: Ipv4Addr::new(10, 99, number, 0), prefix: 24 },
            table: format!("drowse_agt{number}"),
            link_prefix: format!("a{number}"),
            router_uid: 61991,
            control_uid: 61990,
            router_ports: Vec::new(),
            connections: 100,
            connection_rate: 100,
            resolvers: Vec::new(),
        });
        let id = InstanceId::parse("sleeper").expect("an id");
        let home = Home {
            place: Place::new(Slice::User(UserId::parse("user").expect("an id")), "sleeper").expect("a place"),
            owner: Owner::instance(&id),
            folder: folder.path().join("instance"),
            run: folder.path().join("run"),
        };
        std::fs::create_dir_all(&home.folder).expect("a folder");
        let sandboxes = Sandboxes {
            launcher: Arc::new(launcher),
            cgroups: Arc::from(cgroup::detect(&format!("drowse-agt{number}")).expect("groups")),
            network,
            disks: Disks::open(Mode::Off, folder.path().join("disks")).expect("no disks"),
            boot_id: "this".to_owned(),
            pool: Arc::new(Pool::new(0)),
            host_clocks: Arc::new(AtomicBool::new(false)),
        };
        let plan = Plan {
            home,
            image: Digest::parse(format!("sha256:{}", "a".repeat(64))).expect("a digest"),
            layers: vec![layer],
            ids: IDS,
            limits: Limits { memory: MemoryBytes::mib(256), pids: 64, ..Limits::default() },
            address: Ipv4Addr::new(10, 99, number, 1),
            spec: spec(script),
            files: Vec::new(),
            binds: Vec::new(),
            root_inside: false,
            profile: SeccompProfile::Default,
        };
        let key = Arc::new(Key::open(&folder.path().join("key")).expect("a key"));
        let object = bin.join("libdrowse_nsenter.so");
        let engine = Arc::new(Criu::new(Path::new(&criu), &object).expect("CRIU starts"));
        let room = Room { keep_free: MemoryBytes(0), ..Room::default() };
        let snapshots = Snapshots { engine, key, room };
        let taken = Mutex::default();
        Some(Self { sandboxes, snapshots, plan, taken, _folder: folder, _number: held })
    }

    async fn start(&self) -> App {
        self.sandboxes.network.ensure().await.expect("a network");
        self.sandboxes.raise(&self.plan).await.expect("a sandbox");
        self.sandboxes.run(&self.plan).await.expect("an app")
    }

    fn subject(&self) -> Subject {
        let id = InstanceId::parse("sleeper").expect("an id");
        Subject::here(id, self.plan.image.clone(), b"spec").expect("this host")
    }

    async fn hibernate(&self, app: App) -> Result<u64, SandboxError> {
        let abort = Arc::new(Abort::default());
        let taken = self.sandboxes.hibernate(&self.plan.home, app, self.subject(), &self.snapshots, abort).await?;
        *self.taken.lock().expect("no test panics in it") = taken.clone();
        Ok(taken.size)
    }

    async fn restore(&self) -> Result<App, SandboxError> {
        let taken = self.taken.lock().expect("no test panics in it").clone();
        self.sandboxes.restore(&self.plan.home, self.subject(), &taken, &self.snapshots).await
    }

    fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.plan.home.folder.join(name)).unwrap_or_default();
        format!("{}{}", read("log.0"), read("log.1"))
    }

    fn processes(&self) -> Vec<i32> {
        self.sandboxes.cgroups.processes(&self.plan.home.place, Leaf::App).expect("groups")
    }

    /// The ticks in the log, in order.
    fn ticks(&self) -> Vec<u64> {
        let number = |line: &str| line.rsplit_once("tick ")?.1.trim().parse().ok();
        self.log().lines().filter_map(number).collect()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < LIMIT, "never happened: {what}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whatever came of the test: nothing of it stays on the host.
    fn tear_down(&self) {
        let cgroups = &self.sandboxes.cgroups;
        let _ = cgroups.kill_all(&self.plan.home.place);
        let _ = cgroups.thaw(&self.plan.home.place);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let done = runtime.block_on(async {
            self.sandboxes.clear(&self.plan.home).await?;
            Ok::<_, SandboxError>(self.sandboxes.network.teardown().await?)
        });
        let removed = cgroups.remove_root();
        if !std::thread::panicking() {
            done.expect("torn down");
            removed.expect("no group is left");
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A runtime cannot be entered from within another one.
        std::thread::scope(|scope| scope.spawn(|| self.tear_down()).join()).expect("nothing is left");
    }
}

fn spec(script: &str) -> Spec {
    let json = serde_json::json!({
        "ociVersion": "1.0.2",
        "hostname": "sleeper",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": IDS.first + 1000, "gid": IDS.first + 1000},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "linux": {
            "maskedPaths": drowse_rootfs::bundle::masked_paths(),
            "readonlyPaths": drowse_rootfs::bundle::read_only_paths(),
        },
    });
    serde_json::from_value(json).expect("a configuration")
}

fn snapshot(stage: &Stage) -> PathBuf {
    hibernate::snapshot(&stage.plan.home)
}

#[tokio::test]
async fn an_app_goes_to_disk_and_comes_back_as_if_nothing_had_been() {
    let Some(stage) = Stage::new(60, COUNTER) else { return };
    let mut app = stage.start().await;
    for _ in 0..3 {
        let before = stage.ticks().len();
        stage.until("it counts on", |stage| stage.ticks().len() > before + 5).await;
        let size = stage.hibernate(app).await.expect("to disk");
        assert!(size > 0 && snapshot(&stage).is_dir());
        assert_eq!(stage.processes(), Vec::<i32>::new(), "nothing of it is left in memory");
        assert!(!process::is_alive(app.identity));
        let woken = stage.restore().await.unwrap_or_else(|error| panic!("{}", error.in_full()));
        assert_eq!(woken.pid_inside, app.pid_inside);
        assert!(process::is_alive(woken.identity));
        assert!(!snapshot(&stage).exists(), "it is used once");
        app = woken;
    }
    let before = stage.ticks().len();
    stage.until("it counts on", |stage| stage.ticks().len() > before + 5).await;
    let ticks = stage.ticks();
    let wanted: Vec<u64> = (1..=ticks.len() as u64).collect();
    assert_eq!(ticks, wanted, "no line is lost, and none comes twice");
}

#[tokio::test]
async fn a_visitor_in_the_middle_of_a_dump_has_it_broken_off_and_the_app_goes_on() {
    let Some(stage) = Stage::new(61, COUNTER) else { return };
    let app = stage.start().await;
    stage.until("it counts", |stage| stage.ticks().len() > 3).await;
    // At several moments of a dump, the first of them before it begins.
    for moment in 0..4 {
        let abort = Arc::new(Abort::default());
        let asked = Arc::clone(&abort);
        let folder = stage.plan.home.folder.join("snapshot.new");
        let visitor = tokio::task::spawn_blocking(move || {
            let images = || std::fs::read_dir(&folder).into_iter().flatten().count();
            let began = Instant::now();
            while images() < moment * 4 && began.elapsed() < Duration::from_secs(5) {
                std::thread::yield_now();
            }
            asked.ask();
        });
        if moment == 0 {
            while !abort.is_asked() {
                tokio::task::yield_now().await;
            }
        }
        let home = &stage.plan.home;
        let done = stage.sandboxes.hibernate(home, app, stage.subject(), &stage.snapshots, abort).await;
        visitor.await.expect("it asked");
        match done {
            Err(SandboxError::Snapshot(SnapshotError::Aborted)) => {}
            // The visitor came too late, as can be: then it is a wake.
            Ok(taken) => {
                *stage.taken.lock().expect("no test panics in it") = taken;
                stage.restore().await.expect("back");
                return;
            }
            Err(other) => panic!("moment {moment}: {}", other.in_full()),
        }
        assert!(process::is_alive(app.identity) && !snapshot(&stage).exists());
        assert!(stage.sandboxes.cgroups.is_frozen(&home.place).expect("its group"), "it is for the caller to thaw");
        stage.sandboxes.cgroups.thaw(&home.place).expect("thawed");
        let before = stage.ticks().len();
        stage.until("it counts on", |stage| stage.ticks().len() > before + 2).await;
        assert!(!home.folder.join("snapshot.new").exists());
    }
}

#[tokio::test]
async fn a_damaged_or_foreign_snapshot_is_refused_and_leaves_nothing() {
    let Some(stage) = Stage::new(62, QUIET) else { return };
    let image = |stage: &Stage, begins: &str| {
        let names = std::fs::read_dir(snapshot(stage)).expect("a snapshot").map(|entry| entry.expect("one").path());
        let is_meant = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begins));
        names.into_iter().find(is_meant).expect("an image of that kind")
    };
    type Damage<'a> = &'a dyn Fn(&Stage);
    let damages: [(&str, Damage<'_>); 4] = [
        ("is damaged", &|stage| {
            let path = image(stage, "core-");
            let mut bytes = std::fs::read(&path).expect("an image");
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(&path, bytes).expect("written");
        }),
        ("is damaged", &|stage| {
            std::fs::File::options()
                .write(true)
                .open(image(stage, "pages-"))
                .expect("pages")
                .set_len(4096)
                .expect("cut");
        }),
        ("did not write it", &|stage| {
            let path = snapshot(stage).join("manifest");
            let text = std::fs::read_to_string(&path).expect("a manifest");
            let (_, body) = text.split_once('\n').expect("a first line");
            let sealed: serde_json::Value = serde_json::from_str(body).expect("JSON");
            let text =
                sealed["manifest"].as_str().expect("text").replace("\"NoNewPrivs\":\"1\"", "\"NoNewPrivs\":\"0\"");
            let forged = serde_json::json!({"manifest": text, "mac": sealed["mac"]});
            drowse_agent::durable::save(&path, "drowse-snapshot", 1, &forged).expect("forged");
        }),
        ("too many", &|stage| std::fs::write(snapshot(stage).join("fs-9.img"), "planted").expect("planted")),
    ];
    for (wanted, damage) in damages {
        let app = stage.start().await;
        stage.until("it is up", |stage| stage.log().contains("up")).await;
        stage.hibernate(app).await.unwrap_or_else(|error| panic!("{}", error.in_full()));
        damage(&stage);
        let refused = stage.restore().await.expect_err("it is not used").in_full();
        assert!(refused.contains(wanted), "{refused}");
        assert_eq!(stage.processes(), Vec::<i32>::new());
        assert!(!snapshot(&stage).exists() && !stage.plan.home.folder.join("snapshot.used").exists());
        let missing = stage.restore().await.expect_err("there is none any more").in_full();
        assert!(missing.contains("snapshot"), "{missing}");
    }
    let app = stage.start().await;
    assert!(process::is_alive(app.identity), "it starts cold");
}

#[tokio::test]
async fn an_older_snapshot_that_is_put_back_is_refused() {
    let Some(stage) = Stage::new(70, QUIET) else { return };
    let app = stage.start().await;
    stage.until("it is up", |stage| stage.log().contains("up")).await;
    stage.hibernate(app).await.unwrap_or_else(|error| panic!("{}", error.in_full()));
    let aside = stage.plan.home.folder.join("aside");
    let copied = |from: &Path, to: &Path| {
        std::process::Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs").success()
    };
    assert!(copied(&snapshot(&stage), &aside));
    let woken = stage.restore().await.unwrap_or_else(|error| panic!("{}", error.in_full()));
    stage.hibernate(woken).await.unwrap_or_else(|error| panic!("{}", error.in_full()));
    std::fs::remove_dir_all(snapshot(&stage)).expect("removed");
    assert!(copied(&aside, &snapshot(&stage)));
    let refused = stage.restore().await.expect_err("what it did since would be undone").in_full();
    assert!(refused.contains("not the last one"), "{refused}");
    assert!(!snapshot(&stage).exists() && stage.processes().is_empty());
    let app = stage.start().await;
    assert!(process::is_alive(app.identity), "it starts cold");
}

/// A small disk of its own for the files of a stage, until it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(folder: &Path, mib: u32) -> Self {
        let size = std::ffi::CString::new(format!("size={mib}m")).expect("a text");
        rustix::mount::mount("small", folder, "tmpfs", rustix::mount::MountFlags::empty(), Some(size.as_c_str()))
            .expect("mounted");
        Self(folder.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
    }
}

/// Three megabytes, shared by ten processes: on disk each of them has its own.
const SHARED: &str = "x=$(busybox head -c 3000000 /dev/zero | busybox tr '\\0' x); echo up; \
                      for n in 1 2 3 4 5 6 7 8 9; do (while :; do busybox sleep 1000; done; echo $x) & done; wait";

#[tokio::test]
async fn a_disk_that_fills_up_in_the_middle_of_a_dump_costs_nothing_but_the_snapshot() {
    let Some(mut stage) = Stage::new(71, SHARED) else { return };
    let home = stage.plan.home.clone();
    let disk = SmallDisk::at(&home.folder, 16);
    let app = stage.start().await;
    stage.until("it is up", |stage| stage.log().contains("up") && stage.processes().len() > 18).await;
    let is_whole = |stage: &Stage| {
        let left = std::fs::read_dir(&home.folder).expect("there").flatten();
        let names = left.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let left: Vec<String> = names.filter(|name| name.starts_with("snapshot")).collect();
        assert_eq!(left, Vec::<String>::new());
        assert!(process::is_alive(app.identity));
        assert!(stage.sandboxes.cgroups.is_frozen(&home.place).expect("its group"));
    };
    let charged = stage.sandboxes.cgroups.usage(&home.place).expect("its group").memory;
    assert!(charged < 14 << 20, "what can be told before does not tell it: {charged}");
    let refused = stage.hibernate(app).await.expect_err("the disk is too small").in_full();
    assert!(refused.starts_with("there is no room for it on the disk: "), "{refused}");
    is_whole(&stage);

    // What can be told before is not even tried, and none is larger than its user may have.
    stage.snapshots.room.keep_free = MemoryBytes::gib(1);
    let refused = stage.hibernate(app).await.expect_err("there is less than that").in_full();
    assert!(refused.contains("1 GiB of them are not for snapshots"), "{refused}");
    is_whole(&stage);
    stage.sandboxes.clear(&home).await.expect("torn down");
    drop(disk);
}

#[tokio::test]
async fn what_an_image_plants_for_the_loader_and_for_criu_has_no_effect() {
    let Some(stage) = Stage::new(63, QUIET) else { return };
    let layer = &stage.plan.layers[0];
    let evil = layer.join("evil");
    std::fs::create_dir_all(layer.join("etc/criu")).expect("a folder");
    std::fs::create_dir_all(layer.join("usr/lib/criu")).expect("a folder");
    let source = stage.plan.home.folder.join("evil.c");
    let code = "#include <fcntl.h>\n__attribute__((constructor)) static void run(void) { creat(\"/www/ran\", 0666); }";
    std::fs::write(&source, code).expect("written");
    let object = layer.join("evil.so");
    let mut compiler = std::process::Command::new("cc");
    let compiler = compiler.args(["-shared", "-fPIC", "-nostartfiles", "-o"]).arg(&object).arg(&source);
    let compiled = compiler.status().expect("cc runs");
    assert!(compiled.success());
    std::fs::copy(&object, layer.join("usr/lib/criu/evil.so")).expect("a plugin");
    std::fs::write(layer.join("etc/ld.so.preload"), "/evil.so\n").expect("planted");
    std::fs::write(layer.join("etc/criu/default.conf"), "action-script /evil\nlog-file /www/ran\n").expect("planted");
    std::fs::write(&evil, "#!/bin/sh\necho ran >/www/ran\n").expect("planted");
    std::fs::set_permissions(&evil, PermissionsExt::from_mode(0o755)).expect("set");
    let app = stage.start().await;
    stage.until("it is up", |stage| stage.log().contains("up")).await;
    stage.hibernate(app).await.unwrap_or_else(|error| panic!("{}", error.in_full()));
    let woken = stage.restore().await.unwrap_or_else(|error| panic!("{}", error.in_full()));
    assert!(process::is_alive(woken.identity));
    assert!(!stage.plan.home.folder.join("upper/www/ran").exists(), "something of the image ran, or was read, as root");
}

#[tokio::test]
async fn a_sleeper_holds_no_memory_and_what_comes_back_is_charged_to_it() {
    // Twenty million letters in a variable.
    let script = "x=$(busybox head -c 20000000 /dev/zero | busybox tr '\\0' x); echo up; \
                  while :; do busybox sleep 1000; done; echo $x";
    let Some(stage) = Stage::new(64, script) else { return };
    let app = stage.start().await;
    stage.until("it is up", |stage| stage.log().contains("up")).await;
    let charge = |stage: &Stage| stage.sandboxes.cgroups.usage(&stage.plan.home.place).expect("its group").memory;
    let awake = charge(&stage);
    assert!(awake > 20_000_000, "{awake}");
    stage.hibernate(app).await.unwrap_or_else(|error| panic!("{}", error.in_full()));
    let asleep = charge(&stage);
    assert!(asleep < 2_000_000, "a sleeper still holds {asleep} bytes");
    let woken = stage.restore().await.unwrap_or_else(|error| panic!("{}", error.in_full()));
    let status = std::fs::read_to_string(format!("/proc/{}/status", woken.identity.pid)).expect("it is there");
    let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024;
    assert!(resident > 15_000_000 && charge(&stage) >= resident, "{} charged, {resident} resident", charge(&stage));
}

/// What the kernel charges to all groups of the stage, those that are gone as well.
fn charged_to_all(number: u8) -> u64 {
    let files = [
        format!("/sys/fs/cgroup/memory/drowse-agt{number}/memory.usage_in_bytes"),
        format!("/sys/fs/cgroup/drowse-agt{number}/memory.current"),
    ];
    let found = files.iter().find_map(|file| std::fs::read_to_string(file).ok()).expect("a memory controller");
    found.trim().parse().expect("a number")
}

#[tokio::test]
async fn files_that_an_app_read_are_charged_to_nobody_when_its_sandbox_is_gone() {
    let script = "busybox head -c 20000000 /dev/zero >/www/big; busybox cat /www/big >/dev/null; echo up; \
                  exec busybox sleep 100000";
    let Some(stage) = Stage::new(72, script) else { return };
    stage.start().await;
    stage.until("it is up", |stage| stage.log().contains("up")).await;
    assert!(charged_to_all(72) > 20_000_000);
    // Only what is on the disk can be let go.
    rustix::fs::syncfs(std::fs::File::open(&stage.plan.home.folder).expect("a folder")).expect("synced");
    stage.sandboxes.clear(&stage.plan.home).await.expect("torn down");
    let left = charged_to_all(72);
    assert!(left < 5_000_000, "{left} bytes are still charged");
}

/// Tells its own uptime by the clock of its time namespace, which the host's may be far behind or ahead of.
const CLOCK: &str = "while :; do read up rest </proc/uptime; echo tick ${up%.*}; busybox sleep 0.02; done";

#[tokio::test]
async fn an_app_comes_back_into_a_sandbox_that_was_made_anew_and_its_clock_goes_on() {
    let Some(stage) = Stage::new(65, CLOCK) else { return };
    stage.sandboxes.network.ensure().await.expect("a network");
    // As if it came from a host that was up for much longer.
    let ahead = 5_000_000;
    let clocks = [i128::from(ahead) * 1_000_000_000; 2];
    stage.sandboxes.raise_at(&stage.plan, clocks).await.expect("a sandbox");
    let app = stage.sandboxes.run(&stage.plan).await.expect("an app");
    stage.until("it tells the time", |stage| stage.ticks().len() > 3).await;
    assert!(stage.ticks().iter().all(|up| *up >= ahead && *up < ahead + 600), "{:?}", stage.ticks());
    stage.hibernate(app).await.unwrap_or_else(|error| panic!("{}", error.in_full()));

    stage.sandboxes.clear(&stage.plan.home).await.expect("everything but the files is gone");
    let clocks = hibernate::clocks(&stage.plan.home, &stage.subject(), &stage.snapshots).expect("a snapshot");
    stage.sandboxes.raise_at(&stage.plan, clocks).await.expect("a sandbox made anew");
    let woken = stage.restore().await.unwrap_or_else(|error| panic!("{}", error.in_full()));
    assert_eq!(woken.pid_inside, app.pid_inside);
    let before = stage.ticks().len();
    stage.until("its timers fire", |stage| stage.ticks().len() > before + 3).await;
    let ticks = stage.ticks();
    assert!(ticks.is_sorted() && ticks.iter().all(|up| *up < ahead + 600), "the clock goes on: {ticks:?}");
}

#[tokio::test]
async fn an_app_with_root_inside_is_never_dumped_and_so_never_the_hosts_root() {
    let Some(mut stage) = Stage::new(66, QUIET) else { return };
    stage.plan.root_inside = true;
    if let Some(process) = stage.plan.spec.process_mut() {
        process.user_mut().set_uid(IDS.first);
        process.user_mut().set_gid(IDS.first);
    }
    let app = stage.start().await;
    stage.until("it is up", |stage| stage.log().contains("up")).await;
    let refused = stage.hibernate(app).await.expect_err("it is not dumped").in_full();
    assert!(refused.contains("root is inside"), "{refused}");
    assert!(process::is_alive(app.identity) && !stage.plan.home.folder.join("snapshot.new").exists());
}
