//! Instances that fall asleep and are woken, on a fake host, in paused time.

use std::sync::Arc;
use std::time::Duration;

use drowse_api::agent::StopRequest;
use drowse_api::instance::{InstanceState, InstanceStatus, OnBootFailure, Workload};
use drowse_api::sleep::{Demand, Depth, Quiet, SleepRequest};
use drowse_api::{Digest, Epoch, ErrorCode, Problem};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::fake::{Behaviour, Bench, spec};
use super::host::Record;
use super::record;
use super::registry::endpoints;

pub(super) const SERVES: Behaviour = Behaviour::Serves(Duration::from_secs(1));

pub(super) fn request(depth: Depth) -> SleepRequest {
    SleepRequest {
        epoch: Epoch(1),
        depth,
        grace_seconds: 30,
        reason: "no request for 15 s".to_owned(),
        unless_leased: false,
    }
}

pub(super) fn demand() -> Demand {
    Demand { cause: "GET /feed".to_owned() }
}

fn is_falling(status: &InstanceStatus) -> bool {
    matches!(status.state, InstanceState::FallingAsleep { .. })
}

pub(super) async fn ready(behaviours: &[Behaviour]) -> Bench {
    let bench = Bench::new(behaviours);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    bench.until(|status| status.state.is_ready()).await;
    bench
}

pub(super) async fn asleep(depth: Depth) -> Bench {
    let bench = ready(&[SERVES]).await;
    bench.instances.sleep(&bench.id, request(depth)).await.expect("sleeps");
    bench.until(|status| status.state.is_asleep()).await;
    bench
}

/// Asks it to sleep, and goes on meanwhile.
pub(super) fn lull(bench: &Arc<Bench>, depth: Depth) -> JoinHandle<Result<InstanceStatus, Problem>> {
    let bench = Arc::clone(bench);
    tokio::spawn(async move { bench.instances.sleep(&bench.id, request(depth)).await })
}

pub(super) fn depth_of(status: &InstanceStatus) -> Option<Depth> {
    match status.state {
        InstanceState::Frozen { depth, .. } => Some(depth),
        _ => None,
    }
}

/// What a new agent finds on disk.
pub(super) fn kept(bench: &Bench) -> Record {
    bench.host.kept(&bench.id).expect("on disk")
}

#[tokio::test(start_paused = true)]
async fn a_paused_instance_is_the_same_process_when_it_is_woken() {
    let bench = ready(&[SERVES]).await;
    let before = bench.instances.status(&bench.id).expect("known");
    let answer = bench.instances.sleep(&bench.id, request(Depth::Paused)).await.expect("sleeps");
    assert_eq!((depth_of(&answer), bench.host.frozen()), (Some(Depth::Paused), 1));
    let picture = endpoints(&bench.instances.watch().borrow());
    assert_eq!((picture.ready.len(), picture.asleep.len()), (0, 1), "routers wake it, and send it nothing");
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    let after = bench.until(|status| status.state.is_ready()).await;
    assert_eq!((after.process, bench.host.frozen()), (before.process, 0));
    assert_eq!(bench.host.calls(), ["launch", "freeze", "thaw"]);
    let told = bench.messages();
    assert!(told.iter().any(|message| message == "asleep (paused): no request for 15 s"), "{told:?}");
    assert!(told.iter().any(|message| message.starts_with("woken by GET /feed: slept ")), "{told:?}");
    bench.instances.demand(&bench.id, demand()).await.expect("twice is once");
    assert_eq!(bench.messages().len(), told.len());
}

#[tokio::test(start_paused = true)]
async fn nothing_sleeps_before_every_router_has_let_go_of_it() {
    let bench = Arc::new(ready(&[SERVES]).await);
    let router = bench.instances.followers().follow("router");
    let lulled = lull(&bench, Depth::Paused);
    let InstanceState::FallingAsleep { ticket, .. } = bench.until(is_falling).await.state else { unreachable!() };
    let picture = endpoints(&bench.instances.watch().borrow());
    assert_eq!((picture.ready.len(), picture.closing.get(&bench.id)), (1, Some(&ticket)));
    assert_eq!(bench.host.frozen(), 0);
    let quiet = |ticket| Quiet { follower: router.number, ticket };
    let _ = bench.instances.followers().let_go(&bench.id, quiet(ticket + 1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.host.frozen(), 0, "that was another attempt");
    let _ = bench.instances.followers().let_go(&bench.id, quiet(ticket));
    lulled.await.expect("joined").expect("sleeps");
    assert_eq!(bench.host.frozen(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_demand_calls_off_a_sleep_that_has_not_begun() {
    let bench = Arc::new(ready(&[SERVES]).await);
    let router = bench.instances.followers().follow("router");
    let lulled = lull(&bench, Depth::Cold);
    let InstanceState::FallingAsleep { ticket, .. } = bench.until(is_falling).await.state else { unreachable!() };
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    let refused = lulled.await.expect("joined").map_err(|problem| problem.code);
    assert_eq!(refused.map(drop), Err(ErrorCode::Conflict));
    let _ = bench.instances.followers().let_go(&bench.id, Quiet { follower: router.number, ticket });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(
        matches!(bench.until(|_| true).await.state, InstanceState::Ready { .. }),
        "a late answer puts nothing back"
    );
    assert_eq!(bench.host.calls(), ["launch"]);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_does_not_let_go_keeps_it_awake() {
    let bench = ready(&[SERVES]).await;
    let _router = bench.instances.followers().follow("router");
    let began = Instant::now();
    let refused = bench.instances.sleep(&bench.id, request(Depth::Paused)).await;
    assert_eq!(refused.map_err(|problem| problem.code).map(drop), Err(ErrorCode::Conflict));
    assert_eq!(began.elapsed().as_secs(), 10);
    assert!(bench.messages().iter().any(|message| message.starts_with("stays awake: requests were still in flight")));
}

#[tokio::test(start_paused = true)]
async fn a_cold_instance_runs_nothing_and_is_started_on_demand() {
    let bench = asleep(Depth::Cold).await;
    bench.until(|_| bench.host.calls().len() == 4).await;
    assert_eq!(bench.host.calls(), ["launch", "terminate", "collect", "clear"]);
    assert_eq!(bench.host.alive(), 0);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(depth_of(&bench.until(|_| true).await), Some(Depth::Cold));
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    let waking = bench.until(|status| matches!(status.state, InstanceState::Waking { .. })).await;
    let InstanceState::Waking { takes, .. } = waking.state else { unreachable!() };
    assert!(takes.is_some_and(|takes| takes >= 1000), "it is known how long a start takes: {takes:?}");
    assert!(endpoints(&bench.instances.watch().borrow()).asleep.values().all(|sleeper| sleeper.is_waking));
    let after = bench.until(|status| status.state.is_ready()).await;
    assert_eq!((bench.host.alive(), after.restarts), (1, 0));
    let told = bench.messages();
    assert!(
        told.iter().any(|message| message == "woken by GET /feed: slept 60 min (cold), is being started"),
        "{told:?}"
    );
    assert!(told.iter().any(|message| message.starts_with("awake after ")), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_needed_while_it_ends_for_a_cold_sleep_is_started_after_it() {
    let bench = Arc::new(ready(&[Behaviour::Stubborn]).await);
    bench.instances.sleep(&bench.id, request(Depth::Cold)).await.expect("sleeps");
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    bench.until(|status| status.state.is_ready()).await;
    assert_eq!(bench.host.calls(), ["launch", "terminate", "collect", "clear", "launch"], "never two of it");
    assert_eq!(bench.host.alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_paused_instance_can_sleep_deeper_and_no_less_deep() {
    let bench = asleep(Depth::Paused).await;
    let deeper = bench.instances.sleep(&bench.id, request(Depth::Cold)).await.expect("sleeps");
    assert_eq!(depth_of(&deeper), Some(Depth::Cold));
    bench.until(|_| bench.host.calls().ends_with(&["clear".to_owned()])).await;
    assert_eq!(bench.host.calls(), ["launch", "freeze", "thaw", "terminate", "collect", "clear"]);
    let same = bench.instances.sleep(&bench.id, request(Depth::Paused)).await.expect("sleeps on");
    assert_eq!(depth_of(&same), Some(Depth::Cold));
}

#[tokio::test(start_paused = true)]
async fn a_paused_instance_hears_that_it_is_to_end() {
    let bench = asleep(Depth::Paused).await;
    let stop = StopRequest { epoch: Epoch(2), grace_seconds: 30, reason: "told to".to_owned() };
    bench.instances.stop(&bench.id, stop).await.expect("accepted");
    bench.until(|status| status.state.is_over()).await;
    assert_eq!(bench.host.calls(), ["launch", "freeze", "thaw", "terminate", "collect", "clear"]);
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    assert!(bench.until(|_| true).await.state.is_over(), "what was stopped is woken by nobody");
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_instance_can_be_removed_and_replaced() {
    for depth in [Depth::Paused, Depth::Cold] {
        let bench = asleep(depth).await;
        bench.instances.delete(&bench.id, Epoch(1)).await.expect("removed");
        assert_eq!((bench.host.alive(), bench.host.kept(&bench.id)), (0, None));

        let bench = asleep(depth).await;
        bench.instances.put(spec(2, OnBootFailure::Retry)).await.expect("accepted");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(depth_of(&bench.until(|_| true).await), Some(depth), "the same app sleeps on");
        let other =
            drowse_api::instance::InstanceSpec { image: Digest::from_sha256([8; 32]), ..spec(3, OnBootFailure::Retry) };
        bench.instances.put(other).await.expect("accepted");
        bench.until(|status| status.state.is_ready() && status.epoch == Epoch(3)).await;
        assert_eq!(bench.host.alive(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_decided_for_another_epoch_or_cannot_sleep_is_refused() {
    let bench = ready(&[SERVES]).await;
    let code = |result: Result<InstanceStatus, Problem>| result.map(drop).map_err(|problem| problem.code);
    let of = |epoch, depth| SleepRequest { epoch: Epoch(epoch), ..request(depth) };
    assert_eq!(code(bench.instances.sleep(&bench.id, of(0, Depth::Paused)).await), Err(ErrorCode::StaleEpoch));
    assert_eq!(code(bench.instances.sleep(&bench.id, of(2, Depth::Paused)).await), Err(ErrorCode::Conflict));
    let site = drowse_api::instance::InstanceSpec {
        id: drowse_api::InstanceId::parse("site").expect("an id"),
        workload: Workload::Site,
        ..spec(1, OnBootFailure::Fail)
    };
    let id = site.id.clone();
    bench.instances.put(site).await.expect("accepted");
    assert_eq!(code(bench.instances.sleep(&id, of(1, Depth::Paused)).await), Err(ErrorCode::Conflict));
    assert!(bench.until(|_| true).await.state.is_ready());
}

#[tokio::test(start_paused = true)]
async fn what_does_not_stand_still_stays_awake_and_what_does_not_go_on_is_started_anew() {
    let bench = ready(&[SERVES]).await;
    bench.host.be_stuck(1);
    let _ = bench.instances.sleep(&bench.id, request(Depth::Paused)).await;
    bench.until(|status| status.state.is_ready()).await;
    assert_eq!(bench.host.frozen(), 0);
    assert!(bench.messages().iter().any(|message| message.contains("could not be paused: the kernel took too long")));

    bench.instances.sleep(&bench.id, request(Depth::Paused)).await.expect("sleeps");
    let before = bench.until(|status| status.state.is_asleep()).await.process;
    bench.host.be_stuck(1);
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    bench.until(|status| status.state.is_ready() && status.process != before && status.restarts == 1).await;
    assert_eq!((bench.host.alive(), bench.host.frozen()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_keeps_an_instance_awake_and_hinders_no_wake() {
    let bench = asleep(Depth::Paused).await;
    bench.host.set_disk_full(true);
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    bench.until(|status| status.state.is_ready()).await;
    assert_eq!(bench.host.frozen(), 0);
    let refused = bench.instances.sleep(&bench.id, request(Depth::Paused)).await;
    assert_eq!(refused.map(drop).map_err(|problem| problem.code), Err(ErrorCode::DiskFull));
    bench.host.set_disk_full(false);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!kept(&bench).life.is_paused(), "it is written as soon as it can be");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_killed_in_its_sleep_is_started_again() {
    let bench = asleep(Depth::Paused).await;
    bench.host.crash_all();
    bench.until(|status| status.state.is_ready() && status.restarts == 1).await;
    assert_eq!(bench.host.alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn sleepers_sleep_on_under_a_new_agent_and_are_woken_by_it() {
    for depth in [Depth::Paused, Depth::Cold] {
        let first = asleep(depth).await;
        first.until(|_| !matches!(kept(&first).life.state, super::state::State::Clearing { .. })).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (host, record) = (Arc::clone(&first.host), kept(&first));
        drop(first);
        let second = Bench::on(Arc::clone(&host));
        second.instances.adopt(vec![record]);
        assert_eq!(depth_of(&second.until(|_| true).await), Some(depth));
        second.instances.demand(&second.id, demand()).await.expect("taken");
        second.until(|status| status.state.is_ready()).await;
        assert_eq!((host.alive(), host.frozen()), (1, 0), "{depth}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agents_end_calls_off_a_sleep_that_has_not_begun() {
    let first = Arc::new(ready(&[SERVES]).await);
    // What it has not let go of it never does: its agent is gone before.
    let _router = first.instances.followers().follow("router");
    let lulled = lull(&first, Depth::Paused);
    first.until(is_falling).await;
    let (host, record) = (Arc::clone(&first.host), kept(&first));
    lulled.abort();
    assert!(lulled.await.is_err(), "the agent is gone, and with it all that it held");
    drop(first);
    let second = Bench::on(Arc::clone(&host));
    second.instances.adopt(vec![record]);
    assert!(second.until(|_| true).await.state.is_ready());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(host.frozen(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_the_paused_are_stopped_and_the_cold_sleep_on() {
    let bench = asleep(Depth::Paused).await;
    let over = record::rebooted(kept(&bench), "another boot").status();
    assert_eq!(over.state, InstanceState::Stopped { reason: "the host was rebooted".to_owned() });
    let bench = asleep(Depth::Cold).await;
    // Also where the boot ended in the middle of its end.
    let cold = record::rebooted(kept(&bench), "another boot").status();
    assert_eq!(depth_of(&cold), Some(Depth::Cold));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_says_paused_of_an_app_that_goes_on_is_corrected() {
    let bench = asleep(Depth::Paused).await;
    let record = kept(&bench);
    assert!(record.life.is_paused());
    let awake = record::awake(record, jiff::Timestamp::UNIX_EPOCH).status();
    assert!(awake.state.is_ready(), "{:?}", awake.state);
}

#[tokio::test(start_paused = true)]
async fn an_apps_hooks_run_before_it_sleeps_and_after_it_woke_and_what_fails_of_them_is_told() {
    let bench = ready(&[SERVES]).await;
    bench.host.have_hooks(Duration::from_secs(2), Err("its .drowse/before-sleep ended with 1".to_owned()));
    bench.instances.sleep(&bench.id, request(Depth::Paused)).await.expect("sleeps all the same");
    assert_eq!(bench.host.calls(), ["launch", ".drowse/before-sleep", "freeze"]);
    assert!(bench.messages().iter().any(|message| message.ends_with("ended with 1")));
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    // Nobody waits for the other one.
    assert!(bench.instances.status(&bench.id).expect("known").state.is_ready());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.host.calls()[3..], ["thaw", ".drowse/after-wake"]);
}

#[tokio::test(start_paused = true)]
async fn who_asks_while_a_hook_runs_is_served_at_once_and_the_app_hears_that_it_stays_awake() {
    let bench = Arc::new(ready(&[SERVES]).await);
    bench.host.have_hooks(Duration::from_secs(3600), Ok(()));
    let lulled = lull(&bench, Depth::Paused);
    bench.until(is_falling).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    assert!(bench.instances.status(&bench.id).expect("known").state.is_ready());
    assert_eq!(lulled.await.expect("joined").expect_err("stays awake").code, ErrorCode::Conflict);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.host.calls(), ["launch", ".drowse/before-sleep", ".drowse/after-wake"]);
    assert_eq!(bench.host.frozen(), 0);
}
