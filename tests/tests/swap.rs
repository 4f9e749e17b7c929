//! Traffic moves from old instances to new ones, and no visitor notices.

use std::time::Duration;

use drowse_tests::apps::App;
use drowse_tests::load::Load;
use drowse_tests::world::World;
use drowse_tests::{needs_a_world, wait};
use http_body_util::{BodyExt, Full};

/// Waits until the agent has one instance of the app left.
async fn old_ones_are_gone(world: &World, app: &str) {
    wait::until("the old instance is gone", Duration::from_secs(60), async || {
        let all = world.instances().await.ok()?;
        (all.iter().filter(|status| status.app.as_str() == app).count() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_when_versions_change_under_load() {
    needs_a_world!();
    let world = World::start().await;
    let mut app = App::probe("v0");
    world.deploy("shop", &app).await;
    let load = Load::start(&world.visitor(), "shop", "/", 6);
    for version in 1..=3 {
        load.more(100).await;
        app = app.file("version", format!("v{version}"));
        world.deploy("shop", &app).await;
        world.serves("shop", "/", &format!("v{version} ")).await;
        load.more(100).await;
    }
    for _ in 0..2 {
        world.command("shop", "restart").await.expect("restarts");
        load.more(100).await;
        old_ones_are_gone(&world, "shop").await;
    }
    let seen = load.nobody_noticed().await;
    for version in 0..=3 {
        let prefix = format!("v{version} ");
        assert!(seen.answers.keys().any(|answer| answer.starts_with(&prefix)), "{prefix}served: {:?}", seen.answers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_request_in_flight_is_finished_by_the_old_version() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let visitor = world.visitor();
    let slow = tokio::spawn(async move { visitor.get("shop", "/slow?seconds=8").await });
    // It must have arrived at the old version before the new one is there.
    tokio::time::timeout(Duration::from_secs(2), world.serves("shop", "/", "one ")).await.expect("answers");
    world.deploy("shop", &App::probe("two")).await;
    world.serves("shop", "/", "two ").await;
    let answer = slow.await.expect("joined").expect("an answer").ok().expect("200");
    assert!(answer.starts_with("one "), "{answer}");
    old_ones_are_gone(&world, "shop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_instance_is_asked_to_end_and_what_stays_is_killed() {
    needs_a_world!();
    let world = World::with(drowse_tests::world::Options {
        limits: "grace_seconds = 3\ndrain_seconds = 3".to_owned(),
        ..Default::default()
    })
    .await;
    world.deploy("stayer", &App::probe("one").profile(&[("PROBE_LINGER", "1")])).await;
    let before = world.instance("stayer").await;
    let process = drowse_tests::world::main_process(&before).expect("it runs");
    world.deploy("stayer", &App::probe("two")).await;
    wait::until("what stays is killed", Duration::from_secs(20), async || (!process.is_alive()).then_some(())).await;
    old_ones_are_gone(&world, "stayer").await;
    world.serves("stayer", "/", "two ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_environment_arrives_without_a_gap() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let load = Load::start(&world.visitor(), "shop", "/", 4);
    load.more(50).await;
    let _ = world.drowse(&["env", "set", "shop", "COLOUR=deep blue", "SHAPE=round"]).ok();
    world.serves("shop", "/env?name=COLOUR", "deep blue").await;
    let _ = world.drowse(&["env", "unset", "shop", "COLOUR"]).ok();
    wait::until("the variable is gone", Duration::from_secs(30), async || {
        let answer = world.visitor().get("shop", "/env?name=COLOUR").await.ok()?.ok().ok()?;
        answer.is_empty().then_some(())
    })
    .await;
    world.serves("shop", "/env?name=SHAPE", "round").await;
    load.nobody_noticed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_in_flight_survives_a_deploy() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let visitor = world.visitor();
    // Some ten seconds, which is less than old instances have for what is in flight.
    let path = "/stream?chunks=500&every=0.02&size=2000";
    let request = visitor.request("GET", "shop", path).body(Full::default()).expect("a request");
    let download = visitor.open(request).await.expect("it begins");
    world.deploy("shop", &App::probe("two")).await;
    world.serves("shop", "/", "two ").await;
    let body = download.into_body().collect().await.expect("it is whole").to_bytes();
    assert_eq!(body.len(), 500 * 2000);
}
