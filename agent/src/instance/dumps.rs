//! Instances that are put to disk and come back, on a fake host, in paused time.

use std::sync::Arc;

use drowse_api::instance::OnBootFailure;
use drowse_api::sleep::Depth;
use drowse_api::{Epoch, ErrorCode};

use super::fake::{Bench, spec};
use super::naps::{SERVES, asleep, demand, depth_of, kept, lull, ready, request};
use super::record;

#[tokio::test(start_paused = true)]
async fn an_instance_on_disk_has_no_process_and_comes_back_without_a_boot_check() {
    let bench = asleep(Depth::Snapshot).await;
    let status = bench.until(|status| depth_of(status) == Some(Depth::Snapshot)).await;
    assert_eq!((status.process, bench.host.alive()), (None, 0));
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    bench.until(|status| status.state.is_ready()).await;
    assert_eq!((bench.host.calls(), bench.host.alive()), (vec!["launch".into(), "dump".into(), "restore".into()], 1));
    let told = bench.messages();
    assert!(told.iter().any(|message| message.starts_with("sleeps deeper (snapshot): ")), "{told:?}");
    assert!(
        told.iter().any(|message| message.starts_with("awake after ") && message.ends_with("(restored)")),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_paused_instance_goes_deeper_and_colder() {
    let bench = asleep(Depth::Paused).await;
    bench.instances.sleep(&bench.id, request(Depth::Snapshot)).await.expect("deeper");
    bench.until(|status| depth_of(status) == Some(Depth::Snapshot)).await;
    bench.instances.sleep(&bench.id, request(Depth::Cold)).await.expect("cold");
    bench.until(|status| depth_of(status) == Some(Depth::Cold)).await;
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    bench.until(|status| status.state.is_ready()).await;
    assert_eq!(bench.host.calls(), ["launch", "freeze", "dump", "clear", "launch"]);
}

#[tokio::test(start_paused = true)]
async fn a_visitor_in_the_middle_of_a_dump_is_served_by_the_original() {
    let bench = Arc::new(ready(&[SERVES]).await);
    let before = bench.instances.status(&bench.id).expect("known").process;
    let lulled = lull(&bench, Depth::Snapshot);
    bench.until(|status| status.state.is_asleep()).await;
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    let after = bench.until(|status| status.state.is_ready()).await;
    assert_eq!((after.process, bench.host.frozen()), (before, 0));
    assert_eq!(bench.host.calls(), ["launch", "dump", "thaw"]);
    assert_eq!(lulled.await.expect("ends").expect_err("it is awake").code, ErrorCode::Conflict);
    assert_eq!(after.no_snapshot, None, "broken off is no reason not to try again");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_put_to_disk_stays_paused_says_why_and_is_not_tried_again() {
    let bench = ready(&[SERVES]).await;
    bench.host.refuse_dumps(1);
    bench.instances.sleep(&bench.id, request(Depth::Snapshot)).await.expect("sleeps all the same");
    let status = bench.until(|status| status.no_snapshot.is_some()).await;
    assert_eq!((depth_of(&status), status.no_snapshot.as_deref()), (Some(Depth::Paused), Some("it has a terminal")));
    let refused = bench.instances.sleep(&bench.id, request(Depth::Snapshot)).await.expect_err("not again");
    assert!(refused.code == ErrorCode::Conflict && refused.detail.contains("it has a terminal"), "{refused:?}");
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    bench.until(|status| status.state.is_ready()).await;
    assert_eq!(bench.host.calls(), ["launch", "dump", "thaw"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_has_no_room_for_stays_paused_and_is_tried_again_in_its_next_sleep() {
    let bench = ready(&[SERVES]).await;
    bench.host.have_no_room(true);
    bench.instances.sleep(&bench.id, request(Depth::Snapshot)).await.expect("sleeps all the same");
    let status = bench.until(|status| status.no_snapshot.is_some()).await;
    assert_eq!((depth_of(&status), status.no_snapshot.as_deref()), (Some(Depth::Paused), Some("the disk is full")));
    bench.instances.sleep(&bench.id, request(Depth::Snapshot)).await.expect_err("not at once");
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    let awake = bench.until(|status| status.state.is_ready()).await;
    assert_eq!(awake.no_snapshot, None);
    bench.host.have_no_room(false);
    bench.instances.sleep(&bench.id, request(Depth::Snapshot)).await.expect("sleeps");
    let status = bench.until(|status| depth_of(status) == Some(Depth::Snapshot)).await;
    assert_eq!(status.on_disk, Some(drowse_api::MemoryBytes(4096)));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_is_a_cold_start() {
    let bench = asleep(Depth::Snapshot).await;
    bench.until(|status| depth_of(status) == Some(Depth::Snapshot)).await;
    bench.host.damage();
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    bench.until(|status| status.state.is_ready()).await;
    assert_eq!(bench.host.calls(), ["launch", "dump", "restore", "launch"]);
    let told = bench.messages();
    assert!(told.iter().any(|message| message.contains("started anew: it is damaged")), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_told_in_the_middle_of_a_dump_is_done_after_it() {
    let bench = Arc::new(ready(&[SERVES]).await);
    let lulled = lull(&bench, Depth::Snapshot);
    bench.until(|status| status.state.is_asleep()).await;
    bench.instances.delete(&bench.id, Epoch(1)).await.expect("removed");
    assert!(bench.host.calls().ends_with(&["dump".to_owned(), "remove".to_owned()]), "{:?}", bench.host.calls());
    assert!(lulled.await.expect("ends").is_err());

    let bench = Arc::new(ready(&[SERVES]).await);
    let _lulled = lull(&bench, Depth::Snapshot);
    bench.until(|status| status.state.is_asleep()).await;
    let mut other = spec(2, OnBootFailure::Fail);
    other.image = drowse_api::Digest::from_sha256([8; 32]);
    bench.instances.put(other).await.expect("accepted");
    bench.until(|status| status.epoch == Epoch(2) && status.state.is_ready()).await;
    assert_eq!(bench.host.alive(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_what_is_on_disk_still_is() {
    let bench = asleep(Depth::Snapshot).await;
    bench.until(|status| depth_of(status) == Some(Depth::Snapshot)).await;
    let next = Bench::on(Arc::clone(&bench.host));
    next.instances.adopt(vec![record::rebooted(kept(&bench), "another boot")]);
    assert_eq!(depth_of(&next.instances.status(&next.id).expect("known")), Some(Depth::Snapshot));
    next.instances.demand(&next.id, demand()).await.expect("taken");
    next.until(|status| status.state.is_ready()).await;
    assert!(next.host.calls().ends_with(&["restore".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_dump_that_an_agents_death_left_is_gone_on_with() {
    let bench = Arc::new(ready(&[SERVES]).await);
    let lulled = lull(&bench, Depth::Snapshot);
    bench.until(|status| status.state.is_asleep()).await;
    let (host, record) = (Arc::clone(&bench.host), kept(&bench));
    lulled.abort();
    assert!(lulled.await.expect_err("it is over").is_cancelled());
    drop(bench);
    let next = Bench::on(host);
    next.instances.adopt(vec![record]);
    next.until(|status| depth_of(status) == Some(Depth::Snapshot)).await;
    next.instances.demand(&next.id, demand()).await.expect("taken");
    next.until(|status| status.state.is_ready()).await;
}
