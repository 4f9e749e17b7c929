//! Whole lives of instances on a fake host, in paused time.

use std::sync::Arc;
use std::time::Duration;

use drowse_api::agent::StopRequest;
use drowse_api::instance::{FailureReason, InstanceState, OnBootFailure};
use drowse_api::{Epoch, ErrorCode};
use tokio::time::Instant;

use super::budget;
use super::fake::{Behaviour, Bench, spec};

const SERVES: Behaviour = Behaviour::Serves(Duration::from_secs(1));

fn stop(epoch: u64) -> StopRequest {
    StopRequest { epoch: Epoch(epoch), grace_seconds: 30, reason: "told to".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn an_instance_becomes_ready_when_its_port_accepts() {
    let bench = Bench::new(&[SERVES]);
    let first = bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    assert_eq!(first.state, InstanceState::Preparing);
    assert!(bench.host.kept(&bench.id).is_some(), "what was answered is on disk");
    let ready = bench.until(|status| status.state.is_ready()).await;
    assert!(ready.process.is_some() && ready.restarts == 0);
    assert_eq!(super::registry::endpoints(&bench.instances.watch().borrow()).ready.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_same_put_twice_is_one_instance() {
    let bench = Bench::new(&[SERVES]);
    let (a, b) = tokio::join!(
        bench.instances.put(spec(1, OnBootFailure::Fail)),
        bench.instances.put(spec(1, OnBootFailure::Fail))
    );
    assert_eq!(a.expect("accepted").address, b.expect("accepted").address);
    bench.until(|status| status.state.is_ready()).await;
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    assert_eq!(bench.host.calls(), ["launch"]);
}

#[tokio::test(start_paused = true)]
async fn an_older_decision_is_refused() {
    let bench = Bench::new(&[SERVES]);
    bench.instances.put(spec(5, OnBootFailure::Fail)).await.expect("accepted");
    let code = |problem: drowse_api::Problem| problem.code;
    assert_eq!(bench.instances.put(spec(4, OnBootFailure::Fail)).await.map_err(code), Err(ErrorCode::StaleEpoch));
    assert_eq!(bench.instances.stop(&bench.id, stop(4)).await.map_err(code), Err(ErrorCode::StaleEpoch));
    assert_eq!(bench.instances.delete(&bench.id, Epoch(4)).await.map_err(code), Err(ErrorCode::StaleEpoch));
    let mut other = spec(5, OnBootFailure::Fail);
    other.env.insert("A".to_owned(), "b".to_owned());
    assert_eq!(bench.instances.put(other).await.map_err(code), Err(ErrorCode::Conflict));
}

#[tokio::test(start_paused = true)]
async fn a_deploy_that_never_listens_fails_after_its_time_and_is_not_tried_again() {
    let bench = Bench::new(&[Behaviour::Deaf]);
    let began = Instant::now();
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    let status = bench.until(|status| status.state.is_over()).await;
    let InstanceState::Failed { failure } = status.state else { panic!("{:?}", status.state) };
    assert_eq!(failure.reason, FailureReason::TimeoutError);
    assert_eq!(failure.log, ["last word"]);
    assert!((60..62).contains(&began.elapsed().as_secs()));
    assert_eq!(bench.host.calls(), ["launch", "collect", "clear"]);
    assert_eq!(bench.host.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_listens_after_fifty_nine_seconds_is_ready_and_after_sixty_one_too_late() {
    let bench = Bench::new(&[Behaviour::Serves(Duration::from_secs(59))]);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    bench.until(|status| status.state.is_ready()).await;
    let bench = Bench::new(&[Behaviour::Serves(Duration::from_secs(61))]);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    let status = bench.until(|status| status.state.is_over()).await;
    let InstanceState::Failed { failure } = status.state else { panic!("{:?}", status.state) };
    assert_eq!(failure.detail, "no connection to its port in 60 s: nothing listens");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_accepts_in_the_last_moment_need_not_settle_any_more() {
    let bench = Bench::new(&[Behaviour::Serves(Duration::from_secs(59))]);
    let mut spec = spec(1, OnBootFailure::Fail);
    spec.boot.settle_milliseconds = 10_000;
    bench.instances.put(spec).await.expect("accepted");
    bench.until(|status| status.state.is_ready()).await;
}

#[tokio::test(start_paused = true)]
async fn an_app_that_accepts_but_never_answers_its_path_is_told_so_early_and_fails_in_the_end() {
    let bench = Bench::new(&[Behaviour::Silent]);
    let mut spec = spec(1, OnBootFailure::Fail);
    spec.boot.path = Some("/health".to_owned());
    let began = Instant::now();
    bench.instances.put(spec).await.expect("accepted");
    let status = bench.until(|status| status.state.is_over()).await;
    let InstanceState::Failed { failure } = status.state else { panic!("{:?}", status.state) };
    assert_eq!(failure.reason, FailureReason::TimeoutError);
    let told = "GET /health was not answered with 2xx or 3xx in 60 s: it did not answer within 5 s";
    assert_eq!(failure.detail, told);
    assert!((60..62).contains(&began.elapsed().as_secs()));
    let early = bench.host.said().into_iter().filter(|line| line.contains("is not answered well")).count();
    assert_eq!(early, 1, "{:?}", bench.host.said());
}

#[tokio::test(start_paused = true)]
async fn an_app_that_listens_in_the_wrong_place_is_told_after_seconds_and_once() {
    let bench = Bench::new(&[Behaviour::Astray]);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(bench.host.said(), ["no connection to its port yet: listens elsewhere"]);
    assert!(bench.messages().contains(&"no connection to its port yet: listens elsewhere".to_owned()));
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(bench.host.said().len(), 1);

    // One that listens nowhere may only be slow.
    let bench = Bench::new(&[Behaviour::Deaf]);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(bench.host.said().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_accepts_and_is_gone_before_it_settled_was_never_ready() {
    let bench = Bench::new(&[Behaviour::Fleeting(Duration::from_millis(200))]);
    let mut wanted = spec(1, OnBootFailure::Fail);
    wanted.boot.settle_milliseconds = 300;
    let mut board = bench.instances.watch();
    bench.instances.put(wanted).await.expect("accepted");
    loop {
        let status = board.borrow_and_update().get(&bench.id).cloned().expect("it is there");
        assert!(!status.state.is_ready(), "nobody was to be sent there");
        if let InstanceState::Failed { failure } = status.state {
            assert_eq!(failure.reason, FailureReason::Exited);
            break;
        }
        board.changed().await.expect("the board stays");
    }
    assert_eq!(bench.host.calls(), ["launch", "collect", "clear"]);

    // Without a time to settle it was, and is started again.
    let bench = Bench::new(&[Behaviour::Fleeting(Duration::from_millis(200)), SERVES]);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    bench.until(|status| status.state.is_ready() && status.restarts == 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_app_that_falls_again_and_again_is_given_up_after_twenty_tries() {
    let bench = Bench::new(&[SERVES, Behaviour::Crashes(Duration::from_millis(10))]);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    bench.until(|status| status.state.is_ready()).await;
    bench.host.crash_all();
    let status = bench.until(|status| status.state.is_over()).await;
    let InstanceState::Failed { failure } = status.state else { panic!("{:?}", status.state) };
    assert_eq!(failure.reason, FailureReason::CrashLoop);
    let launches = bench.host.calls().iter().filter(|call| *call == "launch").count();
    assert_eq!(launches, 1 + budget::TRIES as usize);
    assert_eq!(bench.messages().iter().filter(|message| message.contains("of 20")).count(), budget::TRIES as usize);
}

#[tokio::test(start_paused = true)]
async fn ten_good_minutes_or_a_newer_decision_give_the_tries_back() {
    let bench = Bench::new(&[SERVES]);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    for tries in 1..=2 {
        bench.until(|status| status.state.is_ready()).await;
        bench.host.crash_all();
        bench.until(|status| status.restarts == tries && status.state.is_ready()).await;
    }
    let began = Instant::now();
    bench.until(|status| status.restarts == 0).await;
    assert!((599..602).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    bench.host.crash_all();
    bench.until(|status| status.restarts == 1 && status.state.is_ready()).await;
    let again = bench.instances.put(spec(2, OnBootFailure::Retry)).await.expect("accepted");
    assert_eq!(again.restarts, 0);
    assert!(again.state.is_ready(), "the same app goes on");
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_tried_again_where_a_deploy_is_not() {
    let bench = Bench::new(&[Behaviour::NoHost, SERVES]);
    bench.instances.put(spec(1, OnBootFailure::Retry)).await.expect("accepted");
    let status = bench.until(|status| status.state.is_ready()).await;
    assert_eq!(status.restarts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_its_grace_and_then_kills() {
    for (behaviour, seconds) in [(SERVES, 0), (Behaviour::Stubborn, 30)] {
        let bench = Bench::new(&[behaviour]);
        bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
        bench.until(|status| status.state.is_ready()).await;
        let began = Instant::now();
        let answer = bench.instances.stop(&bench.id, stop(2)).await.expect("accepted");
        assert!(matches!(answer.state, InstanceState::Stopping { .. }));
        let status = bench.until(|status| status.state.is_over()).await;
        assert_eq!(status.state, InstanceState::Stopped { reason: "told to".to_owned() });
        assert_eq!(began.elapsed().as_secs(), seconds);
        assert_eq!(bench.host.calls(), ["launch", "terminate", "collect", "clear"]);
        assert_eq!(bench.host.alive(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_while_it_starts_leaves_nothing() {
    let bench = Bench::new(&[SERVES]);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    bench.instances.delete(&bench.id, Epoch(1)).await.expect("removed");
    assert_eq!(bench.instances.status(&bench.id), None);
    assert_eq!(bench.host.alive(), 0);
    assert_eq!(bench.host.kept(&bench.id), None);
    bench.instances.delete(&bench.id, Epoch(1)).await.expect("removed already");
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("made anew");
    bench.until(|status| status.state.is_ready()).await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_deployment_under_the_same_id_replaces_what_runs() {
    let bench = Bench::new(&[SERVES]);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    let before = bench.until(|status| status.state.is_ready()).await.process;
    let mut next = spec(2, OnBootFailure::Fail);
    next.image = drowse_api::Digest::from_sha256([8; 32]);
    bench.instances.put(next).await.expect("accepted");
    bench.until(|status| status.state.is_ready() && status.process != before).await;
    assert_eq!(bench.host.calls(), ["launch", "terminate", "collect", "clear", "launch"]);
    assert_eq!(bench.host.alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_what_is_new_and_begins_nothing() {
    let bench = Bench::new(&[SERVES]);
    bench.host.set_disk_full(true);
    let problem = bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect_err("refused");
    assert_eq!(problem.code, ErrorCode::DiskFull);
    assert_eq!(bench.instances.status(&bench.id), None);
    assert!(bench.host.calls().is_empty());
    bench.host.set_disk_full(false);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    bench.until(|status| status.state.is_ready()).await;
}

#[tokio::test(start_paused = true)]
async fn on_a_full_disk_no_decision_is_acted_on_and_none_is_half_taken() {
    let bench = Bench::new(&[SERVES]);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    let ready = bench.until(|status| status.state.is_ready()).await;
    bench.host.set_disk_full(true);
    let mut next = spec(2, OnBootFailure::Fail);
    next.image = drowse_api::Digest::from_sha256([8; 32]);
    let code = |problem: drowse_api::Problem| problem.code;
    assert_eq!(bench.instances.put(next.clone()).await.map_err(code), Err(ErrorCode::DiskFull));
    assert_eq!(bench.instances.stop(&bench.id, stop(3)).await.map_err(code), Err(ErrorCode::DiskFull));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.instances.status(&bench.id), Some(ready), "it goes on as it was");
    assert_eq!(bench.host.calls(), ["launch"]);

    // What falls is not started again before that is on disk; what it frees by going, it frees.
    bench.host.crash_all();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((bench.host.alive(), bench.host.calls()), (0, vec!["launch".to_owned(), "collect".to_owned()]));
    bench.host.set_disk_full(false);
    bench.until(|status| status.state.is_ready() && status.restarts == 1).await;
    bench.instances.put(next).await.expect("accepted now");
    bench.until(|status| status.state.is_ready() && status.epoch == Epoch(2)).await;
    bench.host.set_disk_full(true);
    bench.instances.delete(&bench.id, Epoch(2)).await.expect("a removal makes room");
    assert_eq!(bench.host.kept(&bench.id), None);
}

#[tokio::test(start_paused = true)]
async fn a_replacement_on_a_disk_that_fills_up_starts_when_there_is_room() {
    let bench = Bench::new(&[Behaviour::Stubborn, SERVES]);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    bench.until(|status| status.state.is_ready()).await;
    let mut next = spec(2, OnBootFailure::Fail);
    next.image = drowse_api::Digest::from_sha256([8; 32]);
    bench.instances.put(next).await.expect("accepted");
    bench.host.set_disk_full(true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.host.calls(), ["launch", "terminate", "collect", "clear"]);
    bench.host.set_disk_full(false);
    bench.until(|status| status.state.is_ready()).await;
    assert_eq!(bench.host.alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_exit_is_noticed_also_when_the_wait_for_it_broke_off() {
    let bench = Bench::new(&[SERVES]);
    bench.host.break_waits(3);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    bench.until(|status| status.state.is_ready()).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    bench.host.crash_all();
    bench.until(|status| status.state.is_ready() && status.restarts == 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_being_removed_is_not_put_or_stopped_back_to_life() {
    let bench = Bench::new(&[SERVES]);
    bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    let (deleted, put, stopped) = tokio::join!(
        biased;
        bench.instances.delete(&bench.id, Epoch(1)),
        bench.instances.put(spec(2, OnBootFailure::Fail)),
        bench.instances.stop(&bench.id, stop(3)),
    );
    assert_eq!(put.map_err(|problem| problem.code), Err(ErrorCode::Conflict));
    assert!(matches!(stopped.expect("nothing is against it").state, InstanceState::Stopping { .. }));
    deleted.expect("removed");
    assert_eq!((bench.instances.status(&bench.id), bench.host.alive()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_removed_keeps_its_address_and_is_tried_again() {
    let bench = Bench::new(&[SERVES]);
    let first = bench.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    bench.until(|status| status.state.is_ready()).await;
    bench.host.refuse_removals(3);
    let began = Instant::now();
    let (deleted, other) = tokio::join!(bench.instances.delete(&bench.id, Epoch(1)), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut other = spec(1, OnBootFailure::Fail);
        other.id = drowse_api::InstanceId::parse("two").expect("an id");
        bench.instances.put(other).await.expect("accepted")
    });
    deleted.expect("removed in the end");
    assert_ne!(other.address, first.address);
    assert!((6..9).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(bench.host.calls().iter().filter(|call| *call == "remove").count(), 4);
    assert_eq!(bench.messages().iter().filter(|message| message.contains("the kernel refused")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_instances_that_are_gone() {
    let bench = Bench::new(&[SERVES]);
    for n in 0..20 {
        let mut spec = spec(1, OnBootFailure::Fail);
        spec.id = drowse_api::InstanceId::parse(format!("n{n}")).expect("an id");
        let id = spec.id.clone();
        bench.instances.put(spec).await.expect("accepted");
        bench.instances.delete(&id, Epoch(1)).await.expect("removed");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.instances.known(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_adopts_what_runs_and_restarts_what_ended_meanwhile() {
    let first = Bench::new(&[SERVES]);
    first.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    let before = first.until(|status| status.state.is_ready()).await;
    let (host, id) = (Arc::clone(&first.host), first.id.clone());
    drop(first);

    let second = Bench::on(Arc::clone(&host));
    second.instances.adopt(vec![host.kept(&id).expect("on disk")]);
    let adopted = second.until(|status| status.state.is_ready()).await;
    assert_eq!((adopted.process, adopted.address), (before.process, before.address));
    assert_eq!(host.calls(), ["launch"], "never a second copy");
    drop(second);

    host.crash_all();
    let third = Bench::on(Arc::clone(&host));
    third.instances.adopt(vec![host.kept(&id).expect("on disk")]);
    let restarted = third.until(|status| status.state.is_ready() && status.restarts == 1).await;
    assert_ne!(restarted.process, before.process);
    assert_eq!(host.alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_nothing_runs_until_it_is_asked_for_again() {
    let first = Bench::new(&[SERVES]);
    first.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    first.until(|status| status.state.is_ready()).await;
    let (host, id) = (Arc::clone(&first.host), first.id.clone());
    drop(first);
    host.crash_all();
    let second = Bench::on(Arc::clone(&host));
    let record = super::record::rebooted(host.kept(&id).expect("on disk"), "another boot");
    second.instances.adopt(vec![record]);
    let status = second.until(|_| true).await;
    assert_eq!(status.state, InstanceState::Stopped { reason: "the host was rebooted".to_owned() });
    second.instances.put(spec(2, OnBootFailure::Retry)).await.expect("accepted");
    second.until(|status| status.state.is_ready()).await;
}

#[tokio::test(start_paused = true)]
async fn an_app_that_became_ready_without_an_agent_is_found_ready() {
    let first = Bench::new(&[SERVES]);
    first.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    first.until(|status| matches!(status.state, InstanceState::Booting { .. })).await;
    let (host, id) = (Arc::clone(&first.host), first.id.clone());
    drop(first);
    tokio::time::sleep(Duration::from_secs(300)).await;
    let second = Bench::on(Arc::clone(&host));
    second.instances.adopt(vec![host.kept(&id).expect("on disk")]);
    assert!(second.instances.status(&id).is_some(), "no picture is without it");
    second.until(|status| status.state.is_ready()).await;
    assert_eq!(host.calls(), ["launch"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_an_agents_end_broke_off_is_carried_on() {
    let first = Bench::new(&[Behaviour::Stubborn]);
    first.instances.put(spec(1, OnBootFailure::Fail)).await.expect("accepted");
    first.until(|status| status.state.is_ready()).await;
    first.instances.stop(&first.id, stop(2)).await.expect("accepted");
    let (host, id) = (Arc::clone(&first.host), first.id.clone());
    drop(first);
    let second = Bench::on(Arc::clone(&host));
    second.instances.adopt(vec![host.kept(&id).expect("on disk")]);
    let status = second.until(|status| status.state.is_over()).await;
    assert_eq!(status.state, InstanceState::Stopped { reason: "told to".to_owned() });
    assert_eq!(host.calls(), ["launch", "terminate", "terminate", "collect", "clear"]);
}
