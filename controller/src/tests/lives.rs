//! What happens to apps that are there: stop, start, remove, crash, reboot, nodes that go away,
//! and a controller that is killed.

use drowse_api::AppName;
use drowse_api::deployment::DeploymentState;
use drowse_api::event::EventKind;
use drowse_api::instance::{Failure, FailureReason, InstanceState};
use drowse_api::platform::{AppLogLine, AppView, NodeChecks, Wanted};
use drowse_api::routing::Route;
use http::Method;

use super::{Rig, until, within};
use crate::sim::BuildScript;

async fn unavailable(rig: &Rig, wanted: &str) -> bool {
    matches!(rig.route("shop.drowse.localhost").await, Some(Route::Unavailable { code, .. }) if code == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_app_answers_so_and_can_be_started() {
    let rig = Rig::start().await;
    let live = rig.deployed("shop").await;
    let stopped = rig.post("/v1/apps/shop/stop").await;
    assert_eq!(stopped.wanted, Wanted::Stopped);
    until("it is stopped", || async { rig.agent.instances().iter().all(|instance| instance.status.state.is_over()) })
        .await;
    assert!(unavailable(&rig, "stopped").await);
    rig.post("/v1/apps/shop/stop").await;
    rig.post("/v1/apps/shop/start").await;
    rig.until_running(1).await;
    until("it serves", || async { rig.endpoints("shop.drowse.localhost").await.len() == 1 }).await;
    assert_eq!(rig.app("shop").await.live.expect("live").id, live.id);
    rig.post("/v1/apps/shop/start").await;
    assert!(rig.app("shop").await.pending.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_app_leaves_nothing_and_its_name_is_free() {
    let rig = Rig::start().await;
    rig.deployed("shop").await;
    let removed: AppView = rig.client.call(Method::DELETE, "/v1/apps/shop", None::<&()>).await.expect("removes");
    assert_eq!(removed.name.as_str(), "shop");
    assert_eq!(rig.route("shop.drowse.localhost").await, None);
    until("the node is empty", || async { rig.agent.instances().is_empty() && rig.agent.builds().is_empty() }).await;
    let again: Result<AppView, _> = rig.client.call(Method::DELETE, "/v1/apps/shop", None::<&()>).await;
    assert!(again.is_err());
    rig.deployed("shop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_is_shown_until_the_app_is_started_again() {
    let rig = Rig::start().await;
    rig.deployed("shop").await;
    let id = rig.agent.instances()[0].status.id.clone();
    let failure =
        Failure { reason: FailureReason::CrashLoop, detail: "20 tries".to_owned(), log: vec!["bang".to_owned()] };
    rig.agent.set_state(&id, InstanceState::Failed { failure });
    until("it is shown", || async {
        rig.app("shop").await.live.expect("live").state.state == DeploymentState::DeploymentError
    })
    .await;
    let live = rig.app("shop").await.live.expect("live");
    assert_eq!(live.state.reason, "crash-loop");
    assert_eq!(live.problem.expect("a problem").log, ["bang"]);
    assert!(unavailable(&rig, "crash-loop").await);
    assert_eq!(rig.agent.starts().1, 1, "it was started again by itself");
    rig.post("/v1/apps/shop/start").await;
    rig.until_running(1).await;
    until("it is ready", || async { rig.app("shop").await.live.expect("live").state.state == DeploymentState::Ready })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_every_live_app_is_started_again_under_its_id() {
    let mut rig = Rig::start().await;
    for app in ["shop", "blog"] {
        rig.deployed(app).await;
    }
    rig.deployed("idle").await;
    rig.post("/v1/apps/idle/stop").await;
    until("idle is stopped", || async {
        rig.agent.instances().iter().filter(|instance| instance.status.state.is_ready()).count() == 2
    })
    .await;
    let mut before: Vec<_> = rig.agent.instances().into_iter().map(|instance| instance.status.id).collect();
    let serving = rig.endpoints("shop.drowse.localhost").await;
    rig.kill();
    rig.agent.go_away();
    rig.agent.reboot();
    rig.agent.come_back();
    rig.open().await;
    assert_eq!(rig.endpoints("shop.drowse.localhost").await, serving, "routes wait for nobody");
    until("both run", || async {
        rig.agent.instances().iter().filter(|instance| instance.status.state.is_ready()).count() == 2
    })
    .await;
    let mut after: Vec<_> = rig.agent.instances().into_iter().map(|instance| instance.status.id).collect();
    before.sort();
    after.sort();
    assert_eq!(before, after);
    assert_eq!(rig.app("idle").await.wanted, Wanted::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_delays_only_itself() {
    let rig = Rig::start().await;
    rig.deployed("shop").await;
    let serving = rig.endpoints("shop.drowse.localhost").await;
    rig.agent.go_away();
    until("the loss is told", || async {
        rig.events()
            .await
            .iter()
            .any(|event| event.kind == EventKind::Node && event.message.contains("does not answer"))
    })
    .await;
    let begun = std::time::Instant::now();
    rig.post("/v1/apps/shop/restart").await;
    rig.app("shop").await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(2));
    assert_eq!(rig.endpoints("shop.drowse.localhost").await, serving);
    let checks: Vec<NodeChecks> = rig.client.get("/v1/doctor").await.expect("answers");
    assert_eq!(checks[0].checks[0].verdict, drowse_api::agent::Verdict::Failure);
    rig.agent.come_back();
    until("the restart is done", || async {
        rig.app("shop").await.pending.is_none() && rig.endpoints("shop.drowse.localhost").await != serving
    })
    .await;
    rig.until_running(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_in_the_middle_of_a_build_goes_on() {
    let mut rig = Rig::start().await;
    rig.agent.script_builds(BuildScript::Hang);
    let first = rig.deploy("shop").await;
    until("it builds", || async { rig.agent.builds().len() == 1 }).await;
    rig.kill();
    rig.open().await;
    rig.agent.script_builds(BuildScript::Succeed);
    let second = rig.deployed("shop").await;
    rig.kill();
    rig.open().await;
    assert_eq!(rig.app("shop").await.live.expect("live").id, second.id);
    assert_ne!(first.id, second.id);
    rig.until_running(1).await;
    assert_eq!(rig.agent.most_running(&AppName::parse("shop").expect("a name")), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_published_after_a_restart_is_newer_than_all_before() {
    let mut rig = Rig::start().await;
    rig.deployed("shop").await;
    let revision = |rig: &Rig| {
        let client = rig.client.clone();
        async move {
            let mut lines = client.lines::<drowse_api::routing::RouteTable>("/v1/routes/watch").await.expect("watches");
            within(lines.next()).await.expect("a line").expect("a table").revision
        }
    };
    let before = revision(&rig).await;
    rig.kill();
    rig.open().await;
    assert!(revision(&rig).await > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_node_are_stored_exactly_once() {
    let mut rig = Rig::start().await;
    for n in 0..50 {
        rig.agent.tell(EventKind::Instance, &format!("told {n}"));
        if n % 10 == 5 {
            rig.kill();
            rig.open().await;
        }
        if n % 10 == 8 {
            rig.agent.go_away();
            rig.agent.come_back();
        }
    }
    until("all are stored", || async { rig.events().await.iter().any(|event| event.message == "told 49") }).await;
    let events = rig.events().await;
    let told: Vec<_> = events.iter().filter(|event| event.message.starts_with("told ")).collect();
    assert_eq!(told.len(), 50);
    assert!(events.windows(2).all(|pair| pair[0].revision < pair[1].revision));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_an_agent_whose_files_were_lost_are_stored_too() {
    let rig = Rig::start().await;
    for n in 0..5 {
        rig.agent.tell(EventKind::Instance, &format!("before {n}"));
    }
    until("they are stored", || async { rig.events().await.iter().any(|event| event.message == "before 4") }).await;
    rig.agent.go_away();
    rig.agent.lose_events();
    rig.agent.tell(EventKind::Instance, "the first after the loss");
    rig.agent.come_back();
    until("it is stored", || async {
        rig.events().await.iter().any(|event| event.message == "the first after the loss")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_an_agents_restart_broke_off_is_begun_anew() {
    let rig = Rig::start().await;
    rig.agent.script_builds(BuildScript::Hang);
    let deployment = rig.deploy("shop").await;
    until("it builds", || async { rig.agent.builds().len() == 1 }).await;
    rig.agent.script_builds(BuildScript::Succeed);
    rig.agent.break_builds_off();
    let (_, last) = rig.follow(&deployment).await;
    assert_eq!(last.state.state, DeploymentState::Ready, "{last:?}");
    assert_eq!(rig.agent.starts().0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_tells_stands_before_what_follows_from_it() {
    let rig = Rig::start().await;
    rig.agent.tell(EventKind::Instance, "followed");
    until("the node's events are followed", || async {
        rig.events().await.iter().any(|event| event.message == "followed")
    })
    .await;
    for n in 0..5 {
        let app = format!("shop{n}");
        rig.deployed(&app).await;
        let events = rig.events().await;
        let place = |text: &str| {
            let is_meant = |event: &drowse_api::event::Event| {
                event.app.as_ref().is_some_and(|name| name.as_str() == app) && event.message == text
            };
            events.iter().position(is_meant).unwrap_or_else(|| panic!("{text} of {app} is not told: {events:#?}"))
        };
        assert!(place("started") < place("READY"), "{events:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_kept_up_to_the_bound_and_followers_miss_none() {
    let rig = Rig::start_with(|config| config.limits.events = 20).await;
    let mut lines = rig.client.lines::<drowse_api::event::Event>("/v1/events?follow=true").await.expect("follows");
    for n in 0..100 {
        rig.agent.tell(EventKind::Instance, &format!("told {n}"));
    }
    let mut told = 0;
    while told < 100 {
        let event = within(lines.next()).await.expect("a line").expect("goes on");
        if event.message == format!("told {told}") {
            told += 1;
        }
    }
    until("the oldest are dropped", || async {
        rig.agent.tell(EventKind::Instance, "one more");
        rig.events().await.len() <= 22
    })
    .await;
    let mut tail = rig.client.lines::<drowse_api::event::Event>("/v1/events?tail=3").await.expect("lists");
    let mut count = 0;
    while tail.next().await.expect("a line").is_some() {
        count += 1;
    }
    assert_eq!(count, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_come_from_the_node() {
    let rig = Rig::start().await;
    rig.deployed("shop").await;
    let mut lines = rig.client.lines::<AppLogLine>("/v1/apps/shop/logs?tail=5").await.expect("reads");
    let line = within(lines.next()).await.expect("a line").expect("one");
    assert_eq!(line.line.text, "hello from shop");
}
