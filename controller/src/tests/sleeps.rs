//! Apps that sleep: told to, by the janitor, woken, pinned, explained.

use drowse_api::deployment::DeploymentState;
use drowse_api::event::EventKind;
use drowse_api::platform::AppView;
use drowse_api::routing::Route;
use drowse_api::sleep::{After, Depth, Explanation, SleepCommand, SleepSettings, Wake};
use drowse_api::{ErrorCode, InstanceId, Problem};
use http::Method;
use jiff::Timestamp;

use super::{FakeRouter, Rig, until};
use crate::sleep::SleepDefaults;

async fn sleep(rig: &Rig, depth: Depth) -> Result<AppView, Problem> {
    rig.client.call(Method::POST, "/v1/apps/shop/sleep", Some(&SleepCommand { depth })).await
}

async fn explain(rig: &Rig) -> Explanation {
    rig.client.get("/v1/apps/shop/explain").await.expect("explains")
}

async fn set(rig: &Rig, settings: SleepSettings) -> SleepSettings {
    rig.client.call(Method::PUT, "/v1/apps/shop/idle", Some(&settings)).await.expect("sets")
}

fn id(rig: &Rig) -> InstanceId {
    rig.agent.instances()[0].status.id.clone()
}

fn sleeps(rig: &Rig) -> usize {
    rig.agent.calls().iter().filter(|call| call.starts_with("sleep ")).count()
}

fn is_asleep(rig: &Rig) -> bool {
    rig.agent.instances().iter().all(|instance| instance.status.state.is_asleep())
}

/// With a janitor that is in a hurry.
async fn hasty(paused: u32, cold: Option<u32>) -> (Rig, FakeRouter) {
    let rig = Rig::start_with(|config| {
        config.sleep = SleepDefaults {
            paused_after_seconds: Some(paused),
            cold_after_seconds: cold,
            look_seconds: 1,
            ..SleepDefaults::default()
        };
    })
    .await;
    let router = FakeRouter::start(rig.client.clone());
    rig.deployed("shop").await;
    (rig, router)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_that_an_app_sleeps_is_shown_it_at_that_depth() {
    let rig = Rig::start().await;
    rig.deployed("shop").await;
    for depth in [Depth::Paused, Depth::Paged, Depth::Snapshot, Depth::Cold] {
        let state = sleep(&rig, depth).await.expect("sleeps").live.expect("live").state;
        assert!(state.reason.starts_with(&format!("{depth}: ")), "{depth}: {state:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_sleeps_when_it_is_told_to_and_is_shown_so() {
    let rig = Rig::start().await;
    rig.deployed("shop").await;
    let view = sleep(&rig, Depth::Paused).await.expect("sleeps");
    let live = view.live.expect("live");
    assert_eq!(
        (live.state.state, live.state.reason.as_str()),
        (DeploymentState::Frozen, "paused: told to by owner (unix socket)")
    );
    assert!(view.instances[0].status.state.is_asleep());
    assert_eq!(rig.app("shop").await.live.expect("live").state, live.state);
    assert_eq!(rig.endpoints("shop.drowse.localhost").await.len(), 1, "its route stays: routers wake it");
    let told = explain(&rig).await;
    assert!(
        told.now[0].contains("asleep: paused since") && told.policy.contains("only when it is told to"),
        "{told:?}"
    );

    let view = rig.post("/v1/apps/shop/wake").await;
    assert_eq!(view.live.expect("live").state.state, DeploymentState::Ready);
    let causes: Vec<_> = explain(&rig).await.recent.into_iter().map(|event| event.message).collect();
    assert_eq!(causes, ["asleep", "woken by `drowse wake` by owner (unix socket)"]);
    assert!(rig.events().await.iter().any(|event| event.kind == EventKind::Sleep));
    let calls = rig.agent.calls();
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(rig.agent.calls(), calls, "nobody else puts it to sleep");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_sleep_is_refused_with_the_reason() {
    let rig = Rig::start().await;
    rig.deployed("shop").await;
    rig.agent.script_visitors(true);
    assert_eq!(sleep(&rig, Depth::Paused).await.expect_err("needed").code, ErrorCode::Conflict);
    rig.agent.script_visitors(false);
    set(&rig, SleepSettings { pinned: true, ..SleepSettings::default() }).await;
    let refused = sleep(&rig, Depth::Paused).await.expect_err("pinned");
    assert!(refused.detail.contains("pinned") && refused.hint.is_some_and(|hint| hint.contains("unpin")));
    rig.post("/v1/apps/shop/stop").await;
    let refused = sleep(&rig, Depth::Paused).await.expect_err("stopped");
    assert!(refused.detail.contains("is stopped"), "{refused:?}");
    let page = rig.deploy_as("page", "static").await.expect("accepted");
    rig.follow(&page).await;
    let refused: Result<AppView, Problem> =
        rig.client.call(Method::POST, "/v1/apps/page/sleep", Some(&SleepCommand { depth: Depth::Paused })).await;
    assert!(refused.expect_err("files").detail.contains("static site"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_app_falls_asleep_by_itself_and_one_that_is_asked_for_does_not() {
    let (rig, router) = hasty(1, None).await;
    let id = id(&rig);
    // It is in use.
    router.set_active(&id, Timestamp::now()).await;
    router.set_in_flight(&id, 1).await;
    tokio::time::sleep(std::time::Duration::from_millis(3500)).await;
    assert_eq!(sleeps(&rig), 0, "{:?}", rig.agent.calls());
    assert!(explain(&rig).await.now[0].contains("1 request or stream is in flight"));
    router.set_in_flight(&id, 0).await;
    until("it is asleep", || async { is_asleep(&rig) }).await;
    assert!(rig.agent.calls().iter().any(|call| call.contains("paused (idle for 1 s)")), "{:?}", rig.agent.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_works_without_being_asked_stays_awake() {
    let (rig, router) = hasty(4, None).await;
    rig.agent.script_work(true);
    router.set_active(&id(&rig), Timestamp::now()).await;
    until("it is found busy", || async { explain(&rig).await.now[0].contains("of a processor") }).await;
    tokio::time::sleep(std::time::Duration::from_millis(4500)).await;
    assert_eq!(sleeps(&rig), 0, "{:?}", rig.agent.calls());
    rig.agent.script_work(false);
    until("it is asleep", || async { is_asleep(&rig) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeper_sleeps_deeper_in_time_and_is_woken_when_it_is_pinned() {
    let (rig, router) = hasty(1, Some(3)).await;
    router.set_active(&id(&rig), Timestamp::now()).await;
    until("it is cold", || async { rig.agent.calls().iter().any(|call| call.contains(" cold (")) }).await;
    set(&rig, SleepSettings { pinned: true, ..SleepSettings::default() }).await;
    until("it is awake", || async { !is_asleep(&rig) }).await;
    assert!(rig.agent.calls().iter().any(|call| call.starts_with("demand ") && call.contains("pinned")));
    let before = sleeps(&rig);
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(sleeps(&rig), before, "what is pinned stays awake");
    // Asleep or not, a restart of the controller changes nothing about it.
    set(&rig, SleepSettings { paused_after: Some(After::Never), wake: Some(Wake::Auto), ..SleepSettings::default() })
        .await;
    let auto = rig.route("shop.drowse.localhost").await;
    assert!(matches!(auto, Some(Route::Instances { wake: Wake::Auto, .. })), "{auto:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_killed_leaves_sleepers_asleep() {
    let mut rig = Rig::start().await;
    let live = rig.deployed("shop").await;
    sleep(&rig, Depth::Cold).await.expect("sleeps");
    rig.kill();
    rig.open().await;
    until("its node is known", || async {
        rig.app("shop").await.live.is_some_and(|live| live.state.state == DeploymentState::Frozen)
    })
    .await;
    assert!(is_asleep(&rig));
    // A deploy takes its place, and the sleeper is ended.
    let next = rig.deployed("shop").await;
    assert_ne!(next.id, live.id);
    rig.until_running(1).await;
}
