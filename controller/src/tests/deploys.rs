//! Deploys from the upload to traffic, and all the ways they can end.

use drowse_api::deployment::DeploymentState::{Booted, BuildError, Building, Deploying, DeploymentError, Ready};
use drowse_api::instance::{Failure, FailureReason, InstanceState};
use drowse_api::routing::Route;
use drowse_api::{ErrorCode, Problem};
use jiff::Timestamp;

use super::{FakeRouter, Rig, until};
use crate::sim::{BootScript, BuildScript};

fn nothing_listens() -> BootScript {
    BootScript::Fail(Failure {
        reason: FailureReason::TimeoutError,
        detail: "listens on 127.0.0.1:8000; must be 0.0.0.0:$PORT".to_owned(),
        log: vec!["Listening at http://127.0.0.1:8000".to_owned()],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_passes_through_its_states_to_traffic() {
    let rig = Rig::start().await;
    let deployment = rig.deploy("shop").await;
    assert_eq!(deployment.state.state, Deploying);
    let (states, last) = rig.follow(&deployment).await;
    assert_eq!(states.last(), Some(&Ready));
    assert!(states.iter().all(|state| [Deploying, Booted, Building, Ready].contains(state)), "{states:?}");
    assert!(last.image.is_some());
    assert_eq!(last.url, format!("http://shop--d-{}.drowse.localhost", deployment.id));
    let app = rig.app("shop").await;
    assert_eq!(app.url, "http://shop.drowse.localhost");
    assert_eq!(app.live.expect("live").id, deployment.id);
    let instance = app.instances[0].status.id.clone();
    for host in ["shop".to_owned(), format!("shop--d-{}", deployment.id), format!("shop--i-{instance}")] {
        assert_eq!(rig.endpoints(&format!("{host}.drowse.localhost")).await, std::slice::from_ref(&instance), "{host}");
    }
    assert_eq!(rig.route("api.drowse.localhost").await, Some(Route::Controller));
    assert_eq!(rig.route("never.drowse.localhost").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_deploy_has_no_build_states() {
    let rig = Rig::start().await;
    let deployment = rig.deploy_as("site", "static").await.expect("accepted");
    let (states, _) = rig.follow(&deployment).await;
    assert_eq!(states, [Deploying, Ready]);
    assert_eq!(rig.agent.instances()[0].spec.workload, drowse_api::instance::Workload::Site);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_build_is_told_and_not_repeated() {
    let rig = Rig::start().await;
    let problem = Problem::new(ErrorCode::BuildError, "npm ci ended with 1").log(vec!["ERR!".to_owned()]);
    rig.agent.script_builds(BuildScript::Fail(problem.clone()));
    let (_, last) = rig.follow(&rig.deploy("shop").await).await;
    assert_eq!(last.state.state, BuildError);
    assert_eq!(last.problem, Some(problem));
    assert_eq!(rig.agent.starts(), (1, 0));
    let app = rig.app("shop").await;
    assert!(app.live.is_none() && app.pending.is_none());
    until("visitors are told", || async {
        let route = rig.route("shop.drowse.localhost").await;
        matches!(route, Some(Route::Unavailable { code, .. }) if code == "not-deployed")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_boot_leaves_the_old_version_serving() {
    let rig = Rig::start().await;
    let good = rig.deployed("shop").await;
    let serving = rig.endpoints("shop.drowse.localhost").await;
    rig.agent.script_boots(nothing_listens());
    let (_, last) = rig.follow(&rig.deploy("shop").await).await;
    assert_eq!(last.state.state, DeploymentError);
    assert_eq!(last.state.reason, "timeout-error");
    let problem = last.problem.expect("a problem");
    assert!(problem.detail.contains("0.0.0.0:$PORT") && problem.log.len() == 1, "{problem:?}");
    assert_eq!(rig.endpoints("shop.drowse.localhost").await, serving);
    rig.until_running(1).await;
    let app = rig.app("shop").await;
    assert_eq!(app.live.expect("live").id, good.id);
    assert!(app.pending.is_none());
    assert_eq!(rig.agent.instances()[0].status.id, serving[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_deploy_supersedes_the_one_under_way() {
    let rig = Rig::start().await;
    rig.agent.script_builds(BuildScript::Hang);
    let first = rig.deploy("shop").await;
    until("the first is building", || async { rig.agent.builds().contains(&first.id) }).await;
    rig.agent.script_builds(BuildScript::Succeed);
    let second = rig.deployed("shop").await;
    let (_, ended) = rig.follow(&first).await;
    assert_eq!(ended.state.state, DeploymentError);
    assert_eq!(ended.problem.expect("a problem").code, ErrorCode::Superseded);
    until("its build is cancelled", || async { rig.agent.builds() == [second.id.clone()] }).await;
    rig.until_running(1).await;
    assert!(
        rig.events()
            .await
            .iter()
            .any(|event| event.message.contains(&format!("superseded by deployment {}", second.id)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_superseded_while_it_boots_leaves_nothing() {
    let rig = Rig::start().await;
    rig.agent.script_boots(BootScript::Hang);
    let first = rig.deploy("shop").await;
    until("the first boots", || async { rig.agent.instances().len() == 1 }).await;
    rig.agent.script_boots(BootScript::Ready);
    let second = rig.deployed("shop").await;
    rig.until_running(1).await;
    assert_eq!(rig.agent.instances()[0].spec.deployment, second.id);
    let (_, ended) = rig.follow(&first).await;
    assert_eq!(ended.problem.expect("a problem").code, ErrorCode::Superseded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_environment_reaches_new_instances_and_the_old_one_finishes_its_requests_first() {
    let rig = Rig::start_with(|config| config.limits.drain_seconds = 600).await;
    let router = FakeRouter::start(rig.client.clone());
    rig.deployed("shop").await;
    let old = rig.endpoints("shop.drowse.localhost").await[0].clone();
    router.set_in_flight(&old, 2).await;
    rig.agent.script_boots(BootScript::Hang);
    let patch = serde_json::json!({ "set": { "COLOUR": "blue" } });
    let env: serde_json::Value =
        rig.client.call(http::Method::PATCH, "/v1/apps/shop/env", Some(&patch)).await.expect("accepted");
    assert_eq!(env["vars"]["COLOUR"], "blue");
    until("the new one boots", || async { rig.agent.instances().len() == 2 }).await;
    // Not ready yet: nothing moves.
    assert_eq!(rig.endpoints("shop.drowse.localhost").await, std::slice::from_ref(&old));
    let new = rig.agent.instances().into_iter().find(|instance| instance.status.id != old).expect("new");
    assert_eq!(new.spec.env["COLOUR"], "blue");
    rig.agent.set_state(&new.status.id, InstanceState::Ready { since: Timestamp::now() });
    until("traffic moved", || async { rig.endpoints("shop.drowse.localhost").await == [new.status.id.clone()] }).await;
    assert!(!rig.agent.calls().iter().any(|call| call.starts_with("stop")), "stopped with requests in flight");
    router.set_in_flight(&old, 0).await;
    rig.until_running(1).await;
    let calls = rig.agent.calls();
    let place = |what: &str| calls.iter().position(|call| call.starts_with(&format!("{what} {old}"))).expect("called");
    assert!(place("stop") < place("delete"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_fails_leaves_the_old_instance_and_says_why() {
    let rig = Rig::start().await;
    rig.deployed("shop").await;
    let serving = rig.endpoints("shop.drowse.localhost").await;
    rig.agent.script_boots(nothing_listens());
    rig.post("/v1/apps/shop/restart").await;
    until("it was given up", || async { rig.app("shop").await.pending.is_none() }).await;
    let app = rig.app("shop").await;
    assert_eq!(app.live.expect("live").state.state, Ready);
    assert!(app.problem.expect("a problem").detail.contains("must be 0.0.0.0:$PORT"));
    rig.until_running(1).await;
    assert_eq!(rig.endpoints("shop.drowse.localhost").await, serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_refuses_ends_the_deploy() {
    let rig = Rig::start().await;
    let failure = Failure { reason: FailureReason::Host, detail: "no overlayfs".to_owned(), log: vec![] };
    rig.agent.script_boots(BootScript::Fail(failure));
    let (_, last) = rig.follow(&rig.deploy("shop").await).await;
    assert_eq!(last.problem.expect("a problem").code, ErrorCode::HostUnfit);
    rig.until_running(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_one_clear_error() {
    let rig = Rig::start_with(|config| config.limits.upload = drowse_api::MemoryBytes(3)).await;
    let code = |outcome: Result<_, Problem>| outcome.map(drop).expect_err("refused").code;
    assert_eq!(code(rig.deploy_as("My_Shop", "python").await), ErrorCode::BadRequest);
    assert_eq!(code(rig.deploy_as("api", "python").await), ErrorCode::BadRequest);
    assert_eq!(code(rig.deploy_as("shop", "cobol").await), ErrorCode::BadRequest);
    assert_eq!(code(rig.deploy_as("shop", "python").await), ErrorCode::TooLarge);
    let missing: Result<serde_json::Value, _> = rig.client.get("/v1/apps/shop").await;
    assert_eq!(missing.expect_err("unknown").detail, "there is no app \"shop\"");
    let nothing: Result<serde_json::Value, _> = rig.client.get("/v1/nothing").await;
    assert_eq!(nothing.expect_err("unknown").code, ErrorCode::NotFound);
    assert!(rig.agent.instances().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deploy_pins_is_checked_whoever_sent_it() {
    let rig = Rig::start().await;
    for (app_type, manifest) in [
        ("python", "%7B%22strat%22:%22x%22%7D"),
        ("python", "%7B%22check%22:%7B%22path%22:%22no-slash%22%7D%7D"),
        ("python", "%7B%22env%22:%7B%22PORT%22:%2280%22%7D%7D"),
        ("python", "no-json"),
        ("static", "%7B%22start%22:%22sh%22%7D"),
    ] {
        let refused = rig.deploy_as("shop", &format!("{app_type}&manifest={manifest}")).await.expect_err(manifest);
        assert_eq!(refused.code, ErrorCode::BadRequest, "{refused}");
    }
    let pinned = "python&manifest=%7B%22check%22:%7B%22path%22:%22/up%22,%22timeout_seconds%22:7%7D,%22env%22:%7B%22A%22:%221%22%7D%7D";
    let deployment = rig.deploy_as("shop", pinned).await.expect("accepted");
    rig.follow(&deployment).await;
    let spec = rig.agent.instances().remove(0).spec;
    assert_eq!((spec.boot.path.as_deref(), spec.boot.timeout_seconds), (Some("/up"), 7));
    assert_eq!(spec.env, [("A".to_owned(), "1".to_owned())].into());
}
