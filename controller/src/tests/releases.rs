//! Releases: listed, gone back to, brought forward, kept within their bound, each at its address.

use std::collections::BTreeMap;

use drowse_api::deployment::DeploymentState;
use drowse_api::instance::{Failure, FailureReason};
use drowse_api::platform::{AppView, Cause, DeploymentView, EnvPatch, Environment, ReleasePlace, ReleaseView};
use drowse_api::routing::Route;
use drowse_api::{ErrorCode, Problem};
use http::Method;

use super::{Rig, until};
use crate::sim::BootScript;

fn vars(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Rig {
    async fn releases(&self, app: &str) -> Vec<ReleaseView> {
        self.client.get(&format!("/v1/apps/{app}/releases")).await.expect("lists")
    }

    /// Numbers and places, the newest first.
    async fn places(&self, app: &str) -> Vec<(u64, ReleasePlace)> {
        self.releases(app).await.iter().map(|release| (release.number, release.place)).collect()
    }

    async fn set_env(&self, app: &str, pairs: &[(&str, &str)]) {
        let patch = EnvPatch { set: vars(pairs), unset: vec![] };
        let path = format!("/v1/apps/{app}/env");
        let _: Environment = self.client.call(Method::PATCH, &path, Some(&patch)).await.expect("accepted");
        self.settled(app).await;
    }

    async fn env(&self, app: &str) -> BTreeMap<String, String> {
        self.client.get::<Environment>(&format!("/v1/apps/{app}/env")).await.expect("exists").vars
    }

    async fn try_post(&self, path: &str) -> Result<AppView, Problem> {
        self.client.call(Method::POST, path, None::<&()>).await
    }

    /// Waits until nothing is on its way and one instance runs.
    async fn settled(&self, app: &str) {
        until("nothing is on its way", || async { self.app(app).await.pending.is_none() }).await;
        self.until_running(1).await;
    }

    async fn live(&self, app: &str) -> DeploymentView {
        self.app(app).await.live.expect("something is live")
    }

    async fn code_at(&self, deployment: &DeploymentView) -> Option<String> {
        match self.route(&format!("{}--d-{}.drowse.localhost", deployment.app, deployment.id)).await {
            Some(Route::Unavailable { code, .. }) => Some(code),
            _ => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_brings_version_and_environment_back_without_a_build() {
    let rig = Rig::start().await;
    let one = rig.deployed("shop").await;
    rig.set_env("shop", &[("MODE", "fast")]).await;
    let two = rig.deployed("shop").await;
    rig.set_env("shop", &[("MODE", "broken"), ("NEW", "1")]).await;
    assert_eq!(rig.live("shop").await.id, two.id);
    let (builds, _) = rig.agent.starts();

    // Release 4 changed the environment of release 3: that is what is taken back first.
    rig.post("/v1/apps/shop/rollback").await;
    rig.settled("shop").await;
    assert_eq!(rig.live("shop").await.id, two.id);
    assert_eq!(rig.env("shop").await, vars(&[("MODE", "fast")]));
    rig.post("/v1/apps/shop/rollback?to=1").await;
    rig.settled("shop").await;
    assert_eq!(rig.live("shop").await.id, one.id);
    assert_eq!(rig.env("shop").await, vars(&[]), "as of release 1");
    assert_eq!(rig.agent.instances()[0].spec.deployment, one.id);
    assert_eq!(rig.agent.starts().0, builds, "nothing is built again");
    let releases = rig.releases("shop").await;
    assert_eq!(releases[0].cause, Cause::Rollback { to: 1 });
    assert_eq!((releases[0].place, releases[0].changed.as_slice()), (ReleasePlace::Live, &["MODE".to_owned()][..]));
    let told = rig.events().await;
    let told = |text: &str| told.iter().any(|event| event.message.contains(text));
    assert!(told("release 6 (rollback to release 1)") && told("rollback to release 1 asked for by owner"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_fails_changes_nothing_and_says_why() {
    let rig = Rig::start().await;
    let _one = rig.deployed("shop").await;
    rig.set_env("shop", &[("A", "1")]).await;
    let two = rig.deployed("shop").await;
    rig.settled("shop").await;
    let failure = Failure { reason: FailureReason::TimeoutError, detail: "nothing listens".into(), log: vec![] };
    rig.agent.script_boots(BootScript::Fail(failure));
    rig.post("/v1/apps/shop/rollback?to=1").await;
    rig.settled("shop").await;
    let app = rig.app("shop").await;
    assert_eq!(app.live.expect("live").id, two.id);
    assert!(app.problem.expect("a reason").detail.contains("nothing listens"));
    assert_eq!(rig.env("shop").await, vars(&[("A", "1")]));
    assert_eq!(rig.agent.instances()[0].spec.deployment, two.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_releases_can_be_gone_back_to_and_others_are_told_to_be_gone() {
    let rig = Rig::start_with(|config| (config.limits.releases, config.limits.deployments) = (2, 1)).await;
    let mut all = vec![];
    for _ in 0..5 {
        all.push(rig.deployed("shop").await);
    }
    rig.post("/v1/apps/shop/restart").await;
    rig.settled("shop").await;
    let expected = [(6, ReleasePlace::Live), (4, ReleasePlace::Earlier), (3, ReleasePlace::Earlier)];
    until("the bound is kept", || async { rig.places("shop").await == expected }).await;
    assert_eq!(rig.releases("shop").await[0].cause, Cause::Restart, "which is no version of its own to go back to");
    until("older deployments are forgotten", || async { rig.agent.builds().len() == 3 }).await;
    let gone = rig.try_post("/v1/apps/shop/rollback?to=2").await.expect_err("not kept");
    assert_eq!(gone.code, ErrorCode::NotFound);
    assert!(gone.detail.contains("kept are 4, 3"), "{gone}");
    let live = rig.try_post("/v1/apps/shop/rollback?to=6").await.expect_err("serves");
    assert_eq!(live.code, ErrorCode::Conflict);
    rig.post("/v1/apps/shop/rollback?to=3").await;
    rig.settled("shop").await;
    assert_eq!(rig.live("shop").await.id, all[2].id);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_deployment_has_an_address_that_serves_or_says_why_not() {
    let rig = Rig::start().await;
    let one = rig.deployed("shop").await;
    assert_eq!(rig.code_at(&one).await, None, "it serves");
    let two = rig.deployed("shop").await;
    rig.settled("shop").await;
    assert_eq!(rig.code_at(&one).await.as_deref(), Some("not-live"));
    assert_eq!(rig.code_at(&two).await, None);
    let problem = Problem::new(ErrorCode::BuildError, "npm ci ended with 1");
    rig.agent.script_builds(crate::sim::BuildScript::Fail(problem));
    let (_, broken) = rig.follow(&rig.deploy("shop").await).await;
    assert_eq!(rig.code_at(&broken).await.as_deref(), Some("build-error"));
    rig.post("/v1/apps/shop/stop").await;
    until("it is stopped", || async { rig.code_at(&two).await.as_deref() == Some("stopped") }).await;
    assert_eq!(rig.code_at(&one).await.as_deref(), Some("not-live"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_promoted_with_the_environment_of_now() {
    let rig = Rig::start().await;
    let one = rig.deployed("shop").await;
    let two = rig.deployed("shop").await;
    rig.set_env("shop", &[("A", "1")]).await;
    rig.post(&format!("/v1/deployments/{}/promote", one.id)).await;
    rig.settled("shop").await;
    assert_eq!(rig.live("shop").await.id, one.id);
    assert_eq!(rig.agent.instances()[0].spec.env, vars(&[("A", "1")]));
    assert_eq!(rig.releases("shop").await[0].cause, Cause::Promote);
    let again = rig.try_post(&format!("/v1/deployments/{}/promote", one.id)).await.expect_err("live");
    assert_eq!(again.code, ErrorCode::Conflict);
    let problem = Problem::new(ErrorCode::BuildError, "npm ci ended with 1");
    rig.agent.script_builds(crate::sim::BuildScript::Fail(problem));
    let (_, broken) = rig.follow(&rig.deploy("shop").await).await;
    assert_eq!(broken.state.state, DeploymentState::BuildError);
    let never = rig.try_post(&format!("/v1/deployments/{}/promote", broken.id)).await.expect_err("no image");
    assert!(never.detail.contains("BUILD_ERROR"), "{never}");
    assert_eq!(rig.live("shop").await.id, one.id);
    let _ = two;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_ends_the_deploy_under_way_and_the_environment_waits_for_it() {
    let rig = Rig::start().await;
    let one = rig.deployed("shop").await;
    let _two = rig.deployed("shop").await;
    rig.settled("shop").await;
    rig.agent.script_builds(crate::sim::BuildScript::Hang);
    let three = rig.deploy("shop").await;
    rig.agent.script_boots(BootScript::Hang);
    rig.post("/v1/apps/shop/rollback").await;
    let (_, ended) = rig.follow(&three).await;
    assert_eq!(ended.state.state, DeploymentState::DeploymentError);
    assert_eq!(ended.problem.expect("a reason").code, ErrorCode::Superseded);
    let patch = EnvPatch { set: vars(&[("A", "1")]), unset: vec![] };
    let refused = rig.client.call::<Environment>(Method::PATCH, "/v1/apps/shop/env", Some(&patch)).await;
    assert_eq!(refused.expect_err("it would be lost").code, ErrorCode::Conflict);
    until("the instance boots", || async { rig.agent.instances().len() == 2 }).await;
    for instance in rig.agent.instances() {
        let since = jiff::Timestamp::now();
        rig.agent.set_state(&instance.status.id, drowse_api::instance::InstanceState::Ready { since });
    }
    rig.settled("shop").await;
    assert_eq!(rig.live("shop").await.id, one.id);
}
