//! Versions: gone back to, at addresses of their own, prepared by a release command, pinned by a file.

use std::time::{Duration, Instant};

use drowse_api::ErrorCode;
use drowse_api::deployment::{AppType, DeploymentState};
use drowse_api::platform::DeploymentView;
use drowse_tests::apps::App;
use drowse_tests::load::Load;
use drowse_tests::world::World;
use drowse_tests::{needs_a_world, wait};

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_brings_the_old_version_back_and_no_visitor_notices() {
    needs_a_world!();
    let world = World::start().await;
    let one = world.deploy("shop", &App::probe("one")).await.deployment;
    let two = world.deploy("shop", &App::probe("two")).await.deployment;
    world.serves("shop", "/", "two ").await;
    let not_live = world.visitor().get(&format!("shop--d-{}", one.id), "/").await.expect("an answer");
    assert_eq!(not_live.status, 503);
    assert_eq!(not_live.header("x-drowse-error"), "not-live");
    assert!(not_live.text().contains("does not serve"), "{}", not_live.text());

    let load = Load::start(&world.visitor(), "shop", "/", 2);
    load.more(20).await;
    let began = Instant::now();
    let said = world.drowse(&["rollback", "shop"]).ok();
    println!("rolled back in {:?}: {said}", began.elapsed());
    assert!(said.contains(one.id.as_str()), "{said}");
    world.serves("shop", "/", "one ").await;
    load.more(20).await;
    load.nobody_noticed().await;
    world.serves(&format!("shop--d-{}", one.id), "/", "one ").await;

    let listed = world.drowse(&["releases", "shop"]).ok();
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((lines.len(), &lines[0][..4]), (3, &["3", "live", one.id.as_str(), "rollback to release 1"][..]));
    let said = world.drowse(&["promote", two.id.as_str()]).ok();
    assert!(said.contains(two.id.as_str()), "{said}");
    world.serves("shop", "/", "two ").await;
    assert!(world.drowse(&["rollback", "shop", "77"]).fails_with(3).contains("not kept"));
}

/// The build's log, once the deploy is there.
async fn build_log(world: &World, deployment: &DeploymentView) -> Vec<String> {
    let path = format!("/v1/builds/{}/logs", deployment.id);
    let Ok(mut lines) = world.agent().lines::<drowse_api::instance::LogLine>(&path).await else { return vec![] };
    let mut log = vec![];
    while let Ok(Some(line)) = lines.next().await {
        log.push(line.text);
    }
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_command_runs_once_before_the_version_serves_and_decides_on_it() {
    needs_a_world!();
    let mut world = World::start().await;
    let procfile = |release: &str| format!("web: exec python3 -u server.py\nrelease: {release}\n");
    let one = App::probe("one").file("Procfile", procfile("echo migrating $MODE as $(id -u) in $(pwd)"));
    let one = one.profile(&[("MODE", "by-profile")]);
    let deployed = world.deploy("shop", &one).await;
    let ran: Vec<_> = deployed.log.iter().filter(|line| line.starts_with("migrating ")).collect();
    assert_eq!(ran.len(), 1, "{}", deployed.log_text());
    assert!(ran[0].starts_with("migrating by-profile as ") && ran[0].ends_with(" in /app"), "{}", ran[0]);

    let two = App::probe("two").file("Procfile", procfile("echo no such table >&2; exit 3"));
    let failed = world.try_deploy("shop", &two).await.expect("accepted").deployment;
    assert_eq!(failed.state.state, DeploymentState::BuildError);
    let problem = failed.problem.expect("a reason");
    assert_eq!(problem.code, ErrorCode::ReleaseError);
    assert!(problem.detail.contains("3") && problem.log.iter().any(|line| line == "no such table"), "{problem:?}");
    assert!(world.drowse(&["promote", failed.id.as_str()]).fails_with(5).contains("no image"));
    world.serves("shop", "/", "one ").await;

    // The agent dies in the middle of it: the deploy has failed then, and the command runs no second time.
    let three = App::probe("three").file("Procfile", procfile("echo began; sleep 1000"));
    let folder = three.path().to_owned();
    let hung =
        drowse_tests::world::upload(&world.controller(), "shop", AppType::Python, &folder).await.expect("accepted");
    wait::until("the release command runs", Duration::from_secs(60), async || {
        build_log(&world, &hung).await.iter().any(|line| line == "began").then_some(())
    })
    .await;
    world.kill_agent();
    world.start_agent().await;
    let ended = wait::until("the deploy has ended", Duration::from_secs(60), async || {
        let now: DeploymentView = world.controller().get(&format!("/v1/deployments/{}", hung.id)).await.ok()?;
        now.state.state.ends_a_deploy().then_some(now)
    })
    .await;
    assert_eq!(ended.state.state, DeploymentState::BuildError);
    assert!(ended.problem.expect("a reason").detail.contains("not run a second time"));
    assert_eq!(build_log(&world, &hung).await.iter().filter(|line| *line == "began").count(), 1);
    world.serves("shop", "/", "one ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drowse_toml_pins_holds_and_options_come_before_it() {
    needs_a_world!();
    let world = World::start().await;
    let pinned = "type = \"python\"\nstart = \"PROBE_VERSION=pinned exec python3 -u server.py\"\n\
                  release = \"echo releasing in $MODE\"\n[check]\npath = \"/env?name=MODE\"\ntimeout = 15\n\
                  [env]\nMODE = \"pinned-mode\"\n";
    // Without the file it would be a static site.
    let app = App::probe("one").file("drowse.toml", pinned).file("index.html", "a page");
    let folder = app.path().to_string_lossy().into_owned();
    let deployed = world.drowse(&["deploy", &folder, "--name", "shop"]);
    assert!(deployed.stderr.contains("releasing in pinned-mode"), "{}", deployed.stderr);
    let _ = deployed.ok();
    world.serves("shop", "/", "pinned ").await;
    world.serves("shop", "/env?name=MODE", "pinned-mode").await;
    let _ = world.drowse(&["env", "set", "shop", "MODE=own"]).ok();
    world.serves("shop", "/env?name=MODE", "own").await;

    let started = "PROBE_VERSION=optional exec python3 -u server.py";
    let _ = world.drowse(&["deploy", &folder, "--name", "shop", "--start", started, "--release", "true"]).ok();
    world.serves("shop", "/", "optional ").await;
    // What answers 404 at the path of its check is not ready.
    let failed =
        world.drowse(&["deploy", &folder, "--name", "shop", "--check-path", "/nowhere", "--check-timeout", "2"]);
    let _ = failed.fails_with(11);
    world.serves("shop", "/", "optional ").await;

    let app = app.file("drowse.toml", "type = \"python\"\nstrat = \"x\"\n");
    let refused = world.drowse(&["deploy", &app.path().to_string_lossy(), "--name", "shop"]).fails_with(2);
    assert!(refused.contains("drowse.toml, line 2: there is no key strat"), "{refused}");
    assert!(refused.contains("did you mean start?"), "{refused}");
}
