//! When an app counts as started, and what its user is told when it never does.

use std::time::Duration;

use bytes::Bytes;
use drowse_api::deployment::{AppType, DeploymentState};
use drowse_api::platform::DeploymentView;
use drowse_api::{ErrorCode, Problem};
use drowse_tests::apps::App;
use drowse_tests::world::{Deployed, Options, World, archive};
use drowse_tests::{needs_a_world, wait};
use http::Method;

/// An app of one Python program, started as the Procfile line says.
fn program(start: &str, text: &str) -> App {
    App::empty(AppType::Python)
        .file("requirements.txt", "")
        .file("server.py", text)
        .file("Procfile", format!("web: {start}\n"))
}

/// Listens at the address that the environment names, accepts, and says nothing.
const LISTENER: &str = r#"
import os, socket, sys, time
family = socket.AF_INET6 if ":" in os.environ["HOST"] else socket.AF_INET
listener = socket.socket(family, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if family == socket.AF_INET6:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
listener.bind((os.environ["HOST"], int(os.environ.get("LISTEN_ON", os.environ["PORT"]))))
listener.listen()
print("listening", flush=True)
while True:
    peer, _ = listener.accept()
    if code := os.environ.get("LEAVE_WITH"):
        print("that is enough", flush=True)
        os._exit(int(code))
    time.sleep(0.01)
"#;

fn listener(environment: &str) -> App {
    program(&format!("exec env {environment} python3 -u server.py"), LISTENER)
}

async fn fails(world: &World, name: &str, app: &App) -> Problem {
    let ended = world.try_deploy(name, app).await.expect("accepted");
    let Deployed { deployment, .. } = &ended;
    assert_eq!(deployment.state.state, DeploymentState::DeploymentError, "{name}: {ended:?}");
    deployment.problem.clone().expect("a reason")
}

fn is_told(name: &str, problem: &Problem, words: &[&str]) {
    for word in words {
        assert!(problem.detail.contains(word), "{name}: {word:?} is missing in: {}", problem.detail);
    }
}

/// Deploys with a check of the folder's own: a path, and a time.
async fn ends_with_check(world: &World, name: &str, app: &App, path: &str, seconds: u32) -> DeploymentView {
    let manifest = serde_json::json!({ "check": { "path": path, "timeout_seconds": seconds } }).to_string();
    let manifest: String = manifest.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let archive = Bytes::from(archive(app.path()).expect("the folder can be read"));
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(archive)]);
    let place = format!("/v1/apps/{name}/deployments?type={}&manifest={manifest}", app.app_type());
    let accepted: DeploymentView = world.controller().upload(Method::POST, &place, chunks).await.expect("accepted");
    wait::until(&format!("the deploy of {name} has ended"), Duration::from_secs(120), async || {
        let view: DeploymentView = world.controller().get(&format!("/v1/deployments/{}", accepted.id)).await.ok()?;
        view.state.state.ends_a_deploy().then_some(view)
    })
    .await
}

async fn log_has(world: &World, app: &str, words: &str) {
    wait::until(&format!("the log of {app} has {words:?}"), Duration::from_secs(30), async || {
        world.app_log(app).await.iter().any(|line| line.line.text.contains(words)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_does_not_start_is_told_what_it_does_instead() {
    needs_a_world!();
    let world = World::with(Options {
        boot_timeout: Duration::from_secs(8),
        limits: "instance.memory = \"64MiB\"\n".to_owned(),
        ..Options::default()
    })
    .await;
    // Side by side: each of them takes its whole time.
    let never = program("exec sleep 1000", "");
    let elsewhere = listener("HOST=0.0.0.0 LISTEN_ON=9000");
    let loopback = listener("HOST=127.0.0.1");
    let six = listener("HOST=::");
    let dies = listener("HOST=0.0.0.0 LEAVE_WITH=7");
    let forks = program("exec python3 -u server.py & sleep 0.2; exit 0", "import time; time.sleep(1000)");
    let signal = program("kill -SEGV $$", "");
    let greedy = program("exec python3 -u server.py", "import os\nb = bytearray(os.sysconf('SC_PAGE_SIZE') * 50000)\n");
    let loops = listener("HOST=0.0.0.0").file(".profile", "while :; do sleep 1; done\n");
    let exits = listener("HOST=0.0.0.0").file(".profile.d/one.sh", "echo going >&2; exit 3\n");

    let w = &world;
    let silent = tokio::join!(
        fails(w, "never", &never),
        fails(w, "elsewhere", &elsewhere),
        fails(w, "loopback", &loopback),
        fails(w, "six", &six),
        fails(w, "loops", &loops),
    );
    is_told("never", &silent.0, &["in 8 s", "listens on nothing", "0.0.0.0:$PORT"]);
    is_told("elsewhere", &silent.1, &["listens on 0.0.0.0:9000", "must be 0.0.0.0:$PORT (8080)"]);
    is_told("loopback", &silent.2, &["listens on 127.0.0.1:8080", "must be 0.0.0.0:$PORT"]);
    is_told("six", &silent.3, &["listens on [::]:8080", "IPv6 only"]);
    is_told("loops", &silent.4, &[".profile"]);
    for problem in [&silent.0, &silent.1, &silent.2, &silent.3, &silent.4] {
        assert_eq!(problem.code, ErrorCode::TimeoutError);
    }
    assert_eq!(silent.1.log, ["listening"], "its last words");

    let gone = tokio::join!(
        fails(w, "dies", &dies),
        fails(w, "forks", &forks),
        fails(w, "signal", &signal),
        fails(w, "greedy", &greedy),
        fails(w, "exits", &exits),
    );
    is_told("dies", &gone.0, &["exited with status 7"]);
    assert_eq!(gone.0.log, ["listening", "that is enough"]);
    is_told("forks", &gone.1, &["exited with status 0", "foreground"]);
    is_told("signal", &gone.2, &["SIGSEGV"]);
    is_told("greedy", &gone.3, &["64 MiB of memory"]);
    is_told("exits", &gone.4, &["exited with status 3", ".profile.d/one.sh ended the start"]);

    let events = world.events("loopback").await;
    let early = "no connection to its port yet: listens on 127.0.0.1:8080";
    assert!(events.iter().any(|event| event.message.contains(early)), "told early: {events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_must_be_answered_well_where_an_app_has_one() {
    needs_a_world!();
    let world = World::start().await;
    let (mute, probe) = (listener("HOST=0.0.0.0"), App::probe("one"));
    let (silent, missing, good) = tokio::join!(
        ends_with_check(&world, "mute", &mute, "/health", 7),
        ends_with_check(&world, "missing", &probe, "/nowhere", 7),
        ends_with_check(&world, "good", &probe, "/env?name=PORT", 60),
    );
    assert_eq!(good.state.state, DeploymentState::Ready, "{good:?}");
    let told = |view: DeploymentView| view.problem.expect("a reason");
    let (silent, missing) = (told(silent), told(missing));
    is_told("silent", &silent, &["GET /health was not answered with 2xx or 3xx in 7 s", "it did not answer"]);
    is_told("missing", &missing, &["GET /nowhere was not answered with 2xx or 3xx in 7 s", "404 Not Found"]);
    assert_eq!((silent.code, missing.code), (ErrorCode::TimeoutError, ErrorCode::TimeoutError));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_late_and_has_a_bad_profile_starts_and_is_told_what_was_put_right() {
    needs_a_world!();
    let world = World::with(Options { boot_timeout: Duration::from_secs(30), ..Options::default() }).await;
    let late = App::probe("late")
        .file(".profile.d/a.sh", "export PORT=3000\n")
        .file(".profile", "export PROBE_DELAY=4\nfalse\n");
    world.deploy("late", &late).await;
    world.serves("late", "/", "late ").await;
    log_has(&world, "late", "drowse: .profile.d/a.sh set PORT to '3000'; it is 8080 again").await;
    log_has(&world, "late", "drowse: .profile ended with status 1; the start goes on").await;
}
