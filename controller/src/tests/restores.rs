//! An older database put back, or none: what nodes and routers have that the records do not know.

use std::path::{Path, PathBuf};
use std::time::Duration;

use drowse_api::agent::Verdict;
use drowse_api::deployment::DeploymentState;
use drowse_api::platform::NodeChecks;

use super::{FakeRouter, Rig, until};

fn database(rig: &Rig) -> PathBuf {
    rig.dir.path().join("data/drowse.db")
}

/// Kills the controller, and waits until the database is one file again.
async fn kill(rig: &mut Rig) {
    rig.kill();
    let beside = PathBuf::from(format!("{}-wal", database(rig).display()));
    until("the database is closed", || async { !beside.exists() }).await;
}

fn remove_database(path: &Path) {
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", path.display()));
    }
}

async fn told(rig: &Rig, text: &str) -> usize {
    rig.events().await.iter().filter(|event| event.message.contains(text)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_after_the_backup_is_ended_and_removed() {
    let mut rig = Rig::start().await;
    let kept = rig.deployed("shop").await;
    kill(&mut rig).await;
    let backup = rig.dir.path().join("backup.db");
    std::fs::copy(database(&rig), &backup).expect("copies");
    rig.open().await;
    let lost = rig.deployed("late").await;
    rig.until_running(2).await;
    kill(&mut rig).await;
    remove_database(&database(&rig));
    std::fs::copy(&backup, database(&rig)).expect("copies");
    rig.open().await;
    rig.until_running(1).await;
    assert_eq!(rig.agent.instances()[0].spec.deployment, kept.id);
    until("its build is removed", || async { rig.agent.builds() == [kept.id.clone()] }).await;
    let stop = rig.agent.calls().iter().any(|call| call.starts_with("stop"));
    assert!(stop, "it was not given time to end");
    assert_eq!(told(&rig, "made after the backup").await, 2);
    assert_eq!(told(&rig, &format!("build {}", lost.id)).await, 1);
    let desired = || rig.controller.as_ref().expect("runs").ledger.desired();
    until("nothing is left of it", || async { desired().strays.iter().next().is_none() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_controller_had_made_is_left_alone_and_told_once() {
    let mut rig = Rig::start().await;
    rig.deployed("shop").await;
    let theirs = rig.agent.instances()[0].status.id.clone();
    kill(&mut rig).await;
    remove_database(&database(&rig));
    rig.open().await;
    until("it is told", || async { told(&rig, "left alone").await == 2 }).await;
    kill(&mut rig).await;
    rig.open().await;
    rig.deployed("blog").await;
    assert!(rig.agent.instances().iter().any(|instance| instance.status.id == theirs));
    assert!(!rig.agent.calls().iter().any(|call| call.starts_with("stop") || call.starts_with("delete")));
    assert_eq!(told(&rig, "left alone").await, 2, "the instance and its build, each once");
    let checks: Vec<NodeChecks> = rig.client.get("/v1/doctor").await.expect("answers");
    let foreign = checks[0].checks.iter().find(|check| check.name == "foreign").expect("a check");
    assert_eq!(foreign.verdict, Verdict::Warning);
    assert!(foreign.found.contains(theirs.as_str()), "{}", foreign.found);
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_waits_for_the_routers_of_the_run_before() {
    let mut rig = Rig::start().await;
    let router = FakeRouter::start(rig.client.clone());
    rig.deployed("shop").await;
    let known = || async { told(&rig, "router node-1 reports").await == 1 };
    until("the router is known", known).await;
    drop(router);
    kill(&mut rig).await;
    rig.open().await;
    let deployment = rig.deploy("shop").await;
    until("traffic has moved", || async { rig.app("shop").await.live.is_some_and(|live| live.id == deployment.id) })
        .await;
    let follow = rig.follow(&deployment);
    tokio::pin!(follow);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut follow).await;
    assert!(early.is_err(), "READY was told before the router knew");
    let router = FakeRouter::start(rig.client.clone());
    let (_, last) = follow.await;
    assert_eq!(last.state.state, DeploymentState::Ready);
    let applied = router.applied.lock().expect("lock").clone();
    assert_eq!(applied, rig.table().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_serves_by_a_table_of_another_run_has_not_let_go() {
    let mut rig = Rig::start_with(|config| config.limits.drain_seconds = 600).await;
    let router = FakeRouter::start(rig.client.clone());
    rig.deployed("shop").await;
    let mut old = router.applied.lock().expect("lock").clone();
    drop(router);
    kill(&mut rig).await;
    rig.open().await;
    // As after a restore: its revision is far ahead of ours.
    old.revision += 1_000_000;
    let following = rig.client.lines::<drowse_api::routing::RouteTable>("/v1/routes/watch?router=node-1").await;
    super::report(&rig.client, &old, &Default::default(), &Default::default()).await;
    rig.deploy("shop").await;
    until("the new one serves", || async {
        let live = rig.app("shop").await.live;
        rig.agent.instances().len() == 2 && live.is_some_and(|live| live.state.state == DeploymentState::Ready)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!rig.agent.calls().iter().any(|call| call.starts_with("stop")), "stopped while visitors are sent to it");
    drop(following);
    let _router = FakeRouter::start(rig.client.clone());
    rig.until_running(1).await;
}
