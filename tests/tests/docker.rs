//! Dockerfiles: built by buildah in a sandbox, from images that the platform hands to it, and reaching nothing else.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use drowse_api::ErrorCode;
use drowse_api::deployment::{AppType, DeploymentState};
use drowse_tests::apps::{App, example};
use drowse_tests::load::Load;
use drowse_tests::registry::{Image, Registry};
use drowse_tests::world::{Options, World};
use drowse_tests::{machine, needs_a_world, skip};
use serde_json::json;

/// Why no Dockerfile can be built here, if none can.
fn obstacle() -> Option<String> {
    let index = std::fs::read_to_string(machine::stacks_dir().join("images/index.json")).unwrap_or_default();
    (!index.contains("stack/buildah")).then(|| "the base image buildah is missing: run scripts/stacks".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_docker_example_is_built_in_two_stages_and_again_from_its_layers() {
    needs_a_world!();
    if let Some(why) = obstacle() {
        skip!("{why}");
    }
    let world = World::start().await;
    let began = Instant::now();
    let first = world.deploy_folder("menu", AppType::Docker, &example("docker")).await;
    let took = began.elapsed();
    let log = first.log_text();
    assert!(log.contains("STEP") && log.contains("COPY --from=build"), "{log}");
    world.serves("menu", "/", "<!doctype html>\n<title>Menu").await;
    world.serves("menu", "/id", "app").await;
    let began = Instant::now();
    let again = world.deploy_folder("menu", AppType::Docker, &example("docker")).await;
    println!("docker example: {took:?}, and with its layers {:?}", began.elapsed());
    assert!(again.log_text().contains("Using cache"), "{}", again.log_text());
    world.serves("menu", "/", "<!doctype html>\n<title>Menu").await;
    nothing_is_left(&world);
}

/// Of builds that ended.
fn nothing_is_left(world: &World) {
    let builds = world.base().join("agent/builds");
    for build in std::fs::read_dir(builds).expect("the builds").flatten() {
        for name in ["upper", "work", "images", "storage", "storage.disk", "disk"] {
            assert!(!build.path().join(name).exists(), "{name} of {} is left behind", build.path().display());
        }
    }
}

/// An app of a small image of its own, which a line of shell makes.
fn made_by(command: &str) -> App {
    let base = Image::busybox(json!({"Env": ["PATH=/bin"]}), &[("/etc/passwd", "root:x:0:0::/:/bin/sh\n")]);
    let text = format!("FROM oci:layout\nRUN {command}\nWORKDIR /www\nCMD [\"httpd\", \"-f\", \"-p\", \"8080\"]\n");
    let app = App::empty(AppType::Docker).file("Dockerfile", text).file(".dockerignore", "layout\n");
    base.write_layout(&app.path().join("layout"));
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_that_uses_up_what_it_may_fails_with_the_reason_and_no_app_notices() {
    needs_a_world!();
    if let Some(why) = obstacle() {
        skip!("{why}");
    }
    let limits = "build.memory = \"384MiB\"\nbuild.pids = 150\nbuild.disk = \"160MiB\"\n";
    let world = World::with(Options { limits: limits.to_owned(), ..Options::default() }).await;
    world.deploy("shop", &App::probe("one")).await;
    let load = Load::start(&world.visitor(), "shop", "/", 2);
    for (name, command, code, words) in [
        ("greedy", "cat /dev/zero | busybox tail -n 1", ErrorCode::BuildError, ["out of memory", "384 MiB"]),
        (
            "forks",
            "i=0; while [ $i -lt 300 ]; do sleep 100 & i=$((i+1)); done; wait",
            ErrorCode::BuildError,
            ["process limit", "150 processes"],
        ),
        ("large", "cat /dev/zero > /large", ErrorCode::DiskFull, ["disk full", "buildah build"]),
    ] {
        let ended = world.try_deploy(name, &made_by(command)).await.expect("accepted").deployment;
        let problem = ended.problem.clone().unwrap_or_else(|| panic!("{name} has no reason: {ended:?}"));
        assert_eq!((ended.state.state, problem.code), (DeploymentState::BuildError, code), "{name}: {problem:?}");
        for word in words {
            assert!(problem.detail.contains(word), "{name}: {word:?} is missing in: {}", problem.detail);
        }
    }
    nothing_is_left(&world);
    // What filled the disk of the layers is not in the way of the next.
    world.deploy("good", &made_by("mkdir /www && echo good > /www/index.html")).await;
    world.serves("good", "/", "good").await;
    load.nobody_noticed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_that_never_ends_is_ended_after_its_time() {
    needs_a_world!();
    if let Some(why) = obstacle() {
        skip!("{why}");
    }
    let limits = "build.timeout_seconds = 8\n".to_owned();
    let world = World::with(Options { limits, ..Options::default() }).await;
    let ended = world.try_deploy("endless", &made_by("sleep 1000")).await.expect("accepted").deployment;
    let problem = ended.problem.expect("a reason");
    assert_eq!(ended.state.state, DeploymentState::BuildError, "{problem:?}");
    assert!(problem.detail.contains("time limit: the build took longer than 8 s"), "{}", problem.detail);
    nothing_is_left(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_buildah_says_what_its_operator_has_to_do() {
    needs_a_world!();
    let mut world = World::prepared(&Options::default());
    let index = world.base().join("agent/images/index.json");
    let mut listed: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&index).expect("the images")).expect("is JSON");
    let images = listed["manifests"].as_array_mut().expect("a list");
    images.retain(|image| !image.to_string().contains("stack/buildah"));
    // The file has other names, in other worlds.
    std::fs::remove_file(&index).expect("removed");
    std::fs::write(&index, listed.to_string()).expect("written");
    world.start_agent().await;
    world.start_controller().await;
    let app = App::empty(AppType::Docker).file("Dockerfile", "FROM drowse/python\n");
    let docker = world.drowse(&["deploy", &app.path().to_string_lossy(), "--name", "wanted"]);
    let image = world.drowse(&["deploy", "--image", "registry.example/wanted:1"]);
    for done in [docker, image] {
        assert_ne!(done.code, Some(0));
        for words in ["this node cannot", "no base image buildah", "drowse-agent stack build buildah"] {
            assert!(done.stderr.contains(words), "{words:?} is missing in: {}", done.stderr);
        }
    }
    nothing_is_left(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drowse_toml_pins_comes_before_what_a_dockerfile_says() {
    needs_a_world!();
    if let Some(why) = obstacle() {
        skip!("{why}");
    }
    let world = World::start().await;
    let pinned = |release: &str| {
        format!(
            "type = \"docker\"\nstart = \"echo $GREETING $(id -un) > index.html; exec httpd -f -p $PORT\"\n\
             release = \"{release}\"\n"
        )
    };
    let app = made_by("mkdir /www && echo 'export GREETING=by-profile' > /www/.profile")
        .file("drowse.toml", pinned("echo released $GREETING in $(pwd)"))
        .file("Procfile", "web: false\nrelease: false\n");
    let folder = app.path().to_string_lossy().into_owned();
    let deployed = world.drowse(&["deploy", &folder, "--name", "pinned"]);
    for words in ["released by-profile in /www", "the Procfile has no effect", "start command (drowse.toml)"] {
        assert!(deployed.stderr.contains(words), "{words:?} is missing in: {}", deployed.stderr);
    }
    let _ = deployed.ok();
    world.serves("pinned", "/", "by-profile root\n").await;
    let _app = app.file("drowse.toml", pinned("exit 3"));
    assert!(world.drowse(&["deploy", &folder, "--name", "pinned"]).fails_with(13).contains("release command failed"));
    world.serves("pinned", "/", "by-profile root\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_starts_from_registries_and_layouts_and_is_told_what_is_passed_over() {
    needs_a_world!();
    if let Some(why) = obstacle() {
        skip!("{why}");
    }
    if let Err(why) = Registry::is_possible() {
        skip!("{why}");
    }
    let registry = Registry::open();
    let base =
        Image::busybox(json!({"Env": ["PATH=/bin", "OF_BASE=yes"]}), &[("/etc/passwd", "root:x:0:0::/:/bin/sh\n")]);
    let digest = registry.push("base", "1", &base);
    let lines = format!("registries = [{:?}]\n", registry.name());
    let world = World::with(Options { agent_lines: lines, ..Options::default() }).await;
    let dockerfile = format!(
        "ARG TAG=1\nFROM {0}/base:${{TAG}} AS one\nARG GREETING\nRUN test -s \"$SSL_CERT_FILE\" && echo \"$GREETING\" > /one\n\
         FROM oci:layout AS two\nRUN echo two > /two\n\
         FROM {0}/base@{digest}\nCOPY --from=one /one /www/one\nCOPY --from=two /two /www/two\nCOPY . /www/context/\n\
         HEALTHCHECK CMD true\nENV OWN=too\nWORKDIR /www\nEXPOSE 7000\n\
         ENTRYPOINT [\"/bin/sh\", \"-c\"]\n\
         CMD [\"echo $OF_BASE $OWN $PORT ${{SSL_CERT_FILE-none}} $(pwd) $(ls /www/context) > env; exec httpd -f -p $PORT\"]\n",
        registry.name()
    );
    let app = App::empty(AppType::Docker)
        .file("Dockerfile", dockerfile)
        .file(".dockerignore", "layout\nsecret.txt\n")
        .file("secret.txt", "not for the image")
        .file("page.html", "from the context");
    base.write_layout(&app.path().join("layout"));
    world.deploy("three", &App::page("before")).await;
    let _ = world.drowse(&["env", "set", "three", "GREETING=hello"]).ok();
    let deployed = world.deploy("three", &app).await;
    assert!(deployed.log_text().contains("HEALTHCHECK has no effect"), "{}", deployed.log_text());
    world.serves("three", "/env", "yes too 7000 none /www Dockerfile page.html\n").await;
    world.serves("three", "/one", "hello").await;
    world.serves("three", "/two", "two").await;
    world.serves("three", "/context/page.html", "from the context").await;

    for (text, words) in [
        ("FROM drowse/cobol\n", ["no image drowse/cobol", "drowse/python"]),
        ("FROM drowse/python\nRUN exit 7\n", ["exit status 7", "RUN exit 7"]),
        ("FROM drowse/python\nCOPY ../../../etc/shadow /x\n", ["COPY", "no such file"]),
        ("FROM Not/An/Image\n", ["is no image", "Not/An/Image"]),
        ("FRM x\n", ["no FROM statement", "buildah"]),
    ] {
        let app = App::empty(AppType::Docker).file("Dockerfile", text);
        let told = world.drowse(&["deploy", &app.path().to_string_lossy(), "--name", "wrong"]).fails_with(10);
        assert!(words.iter().all(|word| told.contains(word)), "{words:?} are not told of {text:?}: {told}");
    }
}

/// Tries to get out of the build, from RUN; prints `ESCAPED` and what for each that works.
const HOSTILE: &str = r#"
import ctypes, os, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def told(what, works):
    print(("ESCAPED " if works else "refused ") + what, flush=True)
def tries(what, act):
    try:
        told(what, act())
    except Exception:
        told(what, False)
def call(what, command):
    tries(what, lambda: subprocess.run(command, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0)
secret, port = sys.argv[1], int(sys.argv[2])
for path in [secret, "/proc/1/root" + secret, "/proc/self/root/../.." + secret, "/context/../.." + secret]:
    tries("read " + path, lambda: open(path).read() != None)
for host in ["127.0.0.1", "169.254.1.1", "169.254.169.254"]:
    tries("connect " + host, lambda: socket.create_connection((host, port), 2) != None)
for name, flag in [("user", 0x10000000), ("net", 0x40000000), ("pid", 0x20000000), ("ipc", 0x08000000), ("cgroup", 0x02000000), ("time", 0x80)]:
    tries("unshare " + name, lambda: libc.unshare(flag) == 0)
call("mount the disk", "mount /dev/vda /mnt || mount /dev/sda1 /mnt")
call("make a disk", "mknod /disk b 254 0 && dd if=/disk of=/dev/null count=1")
call("mount cgroups", "mount -t cgroup2 none /mnt || mount -t cgroup -o memory none /mnt")
call("mount another proc", "mount -t proc none /mnt && cat /mnt/kcore > /dev/null")
call("uncover keys", "umount /proc/keys && test -s /proc/keys")
call("uncover kcore", "umount /proc/kcore && test -s /proc/kcore")
call("write parameters", "mount -o remount,rw /proc/sys; echo x > /proc/sys/kernel/core_pattern")
call("write sysfs", "mount -o remount,rw /sys; echo x > /sys/kernel/uevent_helper")
call("trace init", "cat /proc/1/environ /proc/1/maps | grep -q .")
call("end init", "kill -9 1 && sleep 1 && ! test -e /proc/1")
call("load a module", "python3 -c 'import ctypes,sys; sys.exit(0 if ctypes.CDLL(None).syscall(313, 0, b\"\", 0) == 0 else 1)'")
tries("use bpf", lambda: libc.syscall(321, 0, 0, 0) >= 0)
tries("use keys", lambda: libc.syscall(250, 0, -3, 0) >= 0)
tries("open a packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW) != None)
tries("be spared when memory is short", lambda: open("/proc/self/oom_score_adj", "w").write("-1000") and open("/proc/self/oom_score_adj").read().strip() == "-1000")
told("be root of the host", "0          0" in open("/proc/self/uid_map").read())
print("tried everything", flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_dockerfile_reaches_nothing_of_the_host() {
    needs_a_world!();
    if let Some(why) = obstacle() {
        skip!("{why}");
    }
    let world = World::start().await;
    let host = tempfile::tempdir_in("/var/tmp").expect("a folder");
    std::fs::set_permissions(host.path(), PermissionsExt::from_mode(0o755)).expect("rights");
    let secret = host.path().join("secret");
    std::fs::write(&secret, "the host's").expect("written");
    let service = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = service.local_addr().expect("bound").port();
    let app = App::empty(AppType::Docker).file("tries.py", HOSTILE).file(
        "Dockerfile",
        format!(
            "FROM drowse/python\nUSER 0\nCOPY tries.py /tries.py\nCOPY link /copied\n\
             RUN python3 /tries.py {} {port}\nRUN cat /copied 2>/dev/null | grep -q 'the host' && echo ESCAPED copy || true\n\
             RUN mkfifo /pipe; ln -s {} /link; chmod u+s /bin/true\n\
             CMD exec python3 -m http.server $PORT\n",
            secret.display(),
            secret.display(),
        ),
    );
    std::os::unix::fs::symlink("inside", app.path().join("link")).expect("a link");
    std::fs::write(app.path().join("inside"), "of the context").expect("written");
    let deployed = world.deploy("hostile", &app).await;
    let log = deployed.log_text();
    assert!(log.contains("tried everything"), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("ESCAPED")), "{log}");
    assert!(log.lines().filter(|line| line.starts_with("refused")).count() > 25, "{log}");
    // And with the name of a file of the host in its own place.
    let app =
        App::empty(AppType::Docker).file("Dockerfile", "FROM drowse/python\nCOPY link /copied\nRUN cat /copied\n");
    std::os::unix::fs::symlink("inside", app.path().join("link")).expect("a link");
    let told = world.drowse(&["deploy", &app.path().to_string_lossy(), "--name", "dangling"]).fails_with(10);
    assert!(!told.contains("the host's"), "{told}");
}
