//! Apps go to disk with what they have in memory, and come back for who asks: real servers, through the router.

use drowse_api::Problem;
use drowse_api::deployment::AppType;
use drowse_api::instance::InstanceState;
use drowse_api::platform::AppView;
use drowse_api::sleep::{Depth, SleepCommand};
use drowse_tests::apps::{self, App};
use drowse_tests::http::Visitor;
use drowse_tests::world::{Options, PATIENCE, World, main_process};
use drowse_tests::{needs_a_world, skip, wait};
use http::Method;

async fn to_disk(world: &World, app: &str) -> Result<AppView, Problem> {
    let (path, command) = (format!("/v1/apps/{app}/sleep"), SleepCommand { depth: Depth::Snapshot });
    world.controller().call(Method::POST, &path, Some(&command)).await
}

/// Puts an app to disk, and makes sure that nothing of it is left in memory.
async fn is_on_disk(world: &World, app: &str) {
    let before = world.instance(app).await;
    wait::until_ok(&format!("{app} goes to disk"), PATIENCE, async || to_disk(world, app).await).await;
    let status = world.instance(app).await;
    let why = status.no_snapshot.clone().unwrap_or_default();
    assert!(matches!(status.state, InstanceState::Frozen { depth: Depth::Snapshot, .. }), "{app}: {why}");
    assert!(!main_process(&before).expect("it had one").is_alive());
}

async fn text(visitor: &Visitor, app: &str, path: &str) -> String {
    visitor.get(app, path).await.expect("an answer").ok().expect("200")
}

/// Asks for what sleeps on disk; it came back as it was and was not started anew.
async fn wakes(world: &World, visitor: &Visitor, app: &str, path: &str) -> String {
    let answer = visitor.get(app, path).await.expect("an answer");
    assert_eq!(answer.header("x-drowse-state"), "woken-snapshot", "{app}: {:?}", world.events(app).await);
    assert_eq!(world.instance(app).await.restarts, 0);
    answer.ok().expect("200")
}

fn no_criu() -> bool {
    std::env::var_os("DROWSE_TEST_CRIU").is_none()
}

fn options() -> Options {
    Options { agent_lines: "router_patience_seconds = 0\n".to_owned(), ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_on_disk_answers_with_what_it_had_in_memory_also_after_a_reboot() {
    needs_a_world!();
    if no_criu() {
        skip!("no CRIU that works on this kernel (scripts/find-criu), or DROWSE_TEST_CRIU is not set");
    }
    let mut world = World::with(options()).await;
    world.deploy("shop", &App::probe("one")).await;
    let visitor = world.visitor();
    assert_eq!(text(&visitor, "shop", "/count").await, "1");
    is_on_disk(&world, "shop").await;
    let listed = world.drowse(&["ls"]).ok();
    assert!(listed.contains("FROZEN (snapshot) since "), "{listed}");
    assert_eq!(wakes(&world, &visitor, "shop", "/count").await, "2");

    // With the controller dead, and under another agent.
    is_on_disk(&world, "shop").await;
    world.kill_controller();
    world.kill_agent();
    world.start_agent().await;
    assert_eq!(wakes_alone(&visitor, "shop", "/count").await, "3");
    world.start_controller().await;

    // A reboot takes the sandbox away, and not what is on disk.
    is_on_disk(&world, "shop").await;
    world.reboot().await;
    assert_eq!(wakes(&world, &visitor, "shop", "/count").await, "4");

    // A new version takes the place of one that sleeps.
    is_on_disk(&world, "shop").await;
    world.deploy("shop", &App::probe("two")).await;
    assert_eq!(text(&visitor, "shop", "/count").await, "1");
}

async fn wakes_alone(visitor: &Visitor, app: &str, path: &str) -> String {
    let answer = visitor.get(app, path).await.expect("an answer");
    assert_eq!(answer.header("x-drowse-state"), "woken-snapshot");
    answer.ok().expect("200")
}

#[tokio::test(flavor = "multi_thread")]
async fn gunicorn_with_workers_and_express_go_to_disk_and_come_back() {
    needs_a_world!();
    if no_criu() {
        skip!("no CRIU that works on this kernel (scripts/find-criu), or DROWSE_TEST_CRIU is not set");
    }
    let world = World::with(options()).await;
    // Each page tells by which process it was made, and when that was started.
    for (app, app_type, path) in [("flask", AppType::Python, "/"), ("express", AppType::Npm, "/info")] {
        world.deploy_folder(app, app_type, &apps::example(app)).await;
        let visitor = world.visitor();
        let mut pages = std::collections::BTreeSet::new();
        for _ in 0..40 {
            pages.insert(text(&visitor, app, path).await);
        }
        for _ in 0..2 {
            is_on_disk(&world, app).await;
            let after = wakes(&world, &visitor, app, path).await;
            // Which of gunicorn's two workers answers is its own affair.
            assert!(app == "flask" || pages.contains(&after), "{app} is another process: {after}");
            let told = world.events(app).await;
            assert!(!told.iter().any(|event| event.message.contains("started anew")), "{told:?}");
        }
    }
}
