//! Builds that go wrong in every way they can: each ends with its reason, and no app that runs notices.

use std::time::Duration;

use drowse_api::deployment::{AppType, DeploymentState};
use drowse_api::platform::DeploymentView;
use drowse_api::{ErrorCode, Problem};
use drowse_tests::apps::App;
use drowse_tests::load::Load;
use drowse_tests::world::{Deployed, Options, World, upload};
use drowse_tests::{machine, needs_a_world, skip, wait};

/// An npm app whose build is this line of shell.
fn builds_by(command: &str) -> App {
    let package = serde_json::json!({ "name": "shop", "version": "1.0.0", "scripts": { "build": command } });
    App::empty(AppType::Npm).file("package.json", package.to_string()).file("index.html", "<h1>source</h1>")
}

fn ended(deployed: &Deployed) -> (DeploymentState, Problem) {
    let DeploymentView { state, problem, .. } = &deployed.deployment;
    (state.state, problem.clone().unwrap_or_else(|| panic!("it has no reason: {deployed:?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_uses_up_what_it_may_fails_with_the_reason_and_no_app_notices() {
    needs_a_world!();
    let world = World::with(Options {
        limits: "build.memory = \"384MiB\"\nbuild.pids = 120\n".to_owned(),
        ..Options::default()
    })
    .await;
    world.deploy("shop", &App::probe("one")).await;
    let load = Load::start(&world.visitor(), "shop", "/", 2);
    // The first grows without end, the second forks and stays, the third forks and fails: one after the
    // other, as builds of one user are.
    let greedy = builds_by("head -c 1000000000 /dev/zero | tail");
    let bomb = builds_by("bash -c 'f() { f | f & }; f; exec sleep 1000'");
    let (greedy, bomb) = tokio::join!(world.try_deploy("greedy", &greedy), world.try_deploy("bomb", &bomb));
    let forks =
        world.try_deploy("forks", &builds_by("i=0; while [ $i -lt 300 ]; do sleep 100 & i=$((i+1)); done")).await;
    for (name, deployed, words) in [
        ("greedy", greedy, ["out of memory", "384 MiB"]),
        ("bomb", bomb, ["process limit", "120 processes"]),
        ("forks", forks, ["process limit", "120 processes"]),
    ] {
        let deployed = deployed.expect("accepted");
        let (state, problem) = ended(&deployed);
        assert_eq!((state, problem.code), (DeploymentState::BuildError, ErrorCode::BuildError), "{name}: {deployed:?}");
        for word in words {
            assert!(problem.detail.contains(word), "{name}: {word:?} is missing in: {}", problem.detail);
        }
    }
    load.nobody_noticed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_never_ends_is_ended_after_its_time() {
    needs_a_world!();
    let world = World::with(Options { limits: "build.timeout_seconds = 6\n".to_owned(), ..Options::default() }).await;
    let deployed = world.try_deploy("endless", &builds_by("echo begun; sleep 1000")).await.expect("accepted");
    let (state, problem) = ended(&deployed);
    assert_eq!(state, DeploymentState::BuildError);
    assert!(problem.detail.contains("time limit: the build took longer than 6 s"), "{}", problem.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_of_one_user_wait_for_each_other_and_a_newer_deploy_ends_the_older_at_once() {
    needs_a_world!();
    let world = World::start().await;
    let accepted = |view: Result<DeploymentView, Problem>| view.expect("accepted");
    // It waits for a file in the cache that builds of this user share.
    let waits = builds_by("until [ -e /cache/go ]; do sleep 0.1; done; mkdir dist; cp index.html dist");
    let first = accepted(upload(&world.controller(), "one", waits.app_type(), waits.path()).await);
    let state = |id: &drowse_api::DeploymentId| {
        let path = format!("/v1/deployments/{id}");
        let client = world.controller();
        async move { client.get::<DeploymentView>(&path).await.ok() }
    };
    wait::until("the first build runs", Duration::from_secs(60), async || {
        (state(&first.id).await?.state.state == DeploymentState::Building).then_some(())
    })
    .await;
    let quick = builds_by("mkdir -p out; echo '<h1>quick</h1>' > out/index.html");
    let second = accepted(upload(&world.controller(), "two", quick.app_type(), quick.path()).await);
    wait::until("the second build is queued", Duration::from_secs(60), async || {
        (state(&second.id).await?.state.reason == "queued behind 1 of the same user").then_some(())
    })
    .await;
    // A newer deploy of the first app: what builds for the older is ended, and the line moves on.
    let third = accepted(upload(&world.controller(), "one", quick.app_type(), quick.path()).await);
    for id in [&second.id, &third.id] {
        wait::until("the deploy has ended", Duration::from_secs(120), async || {
            let view = state(id).await?;
            assert_ne!(view.state.state, DeploymentState::BuildError, "{view:?}");
            view.state.state.ends_a_deploy().then_some(())
        })
        .await;
    }
    world.serves("one", "/", "<h1>quick</h1>").await;
    world.serves("two", "/", "<h1>quick</h1>").await;
    let given_up = state(&first.id).await.expect("it is known");
    assert_eq!(given_up.problem.map(|problem| problem.code), Some(ErrorCode::Superseded));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_front_end_project_builds_is_served_as_a_static_site() {
    needs_a_world!();
    let world = World::start().await;
    let site = builds_by("mkdir -p dist/css; echo '<h1>built</h1>' > dist/index.html; echo 'a{}' > dist/css/a.css");
    let deployed = world.deploy("site", &site).await;
    let log = deployed.log_text();
    assert!(log.contains("served as a static site") && log.contains("dist is served"), "{log}");
    world.serves("site", "/", "<h1>built</h1>").await;
    world.serves("site", "/css/a.css", "a{}").await;
    assert_eq!(world.visitor().get("site", "/package.json").await.expect("an answer").status, 404);
    assert_eq!(world.instance("site").await.process, None, "nothing runs for it");

    let nothing = world.try_deploy("none", &builds_by("echo nothing")).await.expect("accepted");
    let (state, problem) = ended(&nothing);
    assert_eq!((state, problem.code), (DeploymentState::BuildError, ErrorCode::NothingToRun));
    assert!(problem.detail.contains("no index.html in dist"), "{}", problem.detail);
}

const SUM: &str = r#"
#include <node_api.h>
static napi_value sum(napi_env env, napi_callback_info info) {
    size_t count = 2;
    napi_value given[2], result;
    double one, other;
    napi_get_cb_info(env, info, &count, given, NULL, NULL);
    napi_get_value_double(env, given[0], &one);
    napi_get_value_double(env, given[1], &other);
    napi_create_double(env, one + other, &result);
    return result;
}
NAPI_MODULE_INIT() {
    napi_value function;
    napi_create_function(env, "sum", NAPI_AUTO_LENGTH, sum, NULL, &function);
    return function;
}
"#;

const SUMS: &str = "const sum = require('./build/Release/sum.node');
const { existsSync } = require('fs');
const compiler = existsSync('/usr/bin/g++') ? 'with' : 'without';
require('http').createServer((_, answer) => answer.end(`${sum(1, 2)} ${compiler} a compiler\\n`))
  .listen(process.env.PORT);
";

/// Tells what its module was made as, and whether there is a compiler.
const SPEEDUPS: &str = r#"
import http.server, os, markupsafe._speedups
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        compiler = "with" if os.path.exists("/usr/bin/g++") else "without"
        made = "compiled" if markupsafe._speedups.__file__.endswith(".so") else "not"
        self.wfile.write(f"{made} {compiler} a compiler\n".encode())
http.server.HTTPServer(("", int(os.environ["PORT"])), Answer).serve_forever()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compiled_while_it_is_installed_runs_where_no_compiler_is() {
    needs_a_world!();
    let index = std::fs::read_to_string(machine::stacks_dir().join("images/index.json")).unwrap_or_default();
    if !(index.contains("stack/node-build") && index.contains("stack/python-build")) {
        skip!("the base images node-build and python-build are missing: run scripts/stacks");
    }
    let world = World::start().await;
    let native = App::empty(AppType::Npm)
        .file("package.json", r#"{"name": "native", "version": "1.0.0", "scripts": {"start": "node server.js"}}"#)
        .file("binding.gyp", r#"{"targets": [{"target_name": "sum", "sources": ["sum.c"]}]}"#)
        .file("sum.c", SUM)
        .file("server.js", SUMS);
    let speedups = App::empty(AppType::Python)
        .file("requirements.txt", "--no-binary=MarkupSafe\nMarkupSafe==3.0.2\n")
        .file("Procfile", "web: exec python3 -u server.py\n")
        .file("server.py", SPEEDUPS);
    tokio::join!(world.deploy("native", &native), world.deploy("speedups", &speedups));
    world.serves("native", "/", "3 without a compiler\n").await;
    world.serves("speedups", "/", "compiled without a compiler\n").await;
}
