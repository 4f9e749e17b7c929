//! Instances whose memory goes to swap, on a fake host, in paused time.

use std::sync::Arc;

use drowse_api::sleep::Depth;
use drowse_api::{ErrorCode, MemoryBytes};

use super::fake::Bench;
use super::naps::{SERVES, asleep, demand, depth_of, kept, lull, ready, request};
use super::record;

#[tokio::test(start_paused = true)]
async fn a_paged_instance_reads_its_working_set_back_before_it_goes_on() {
    let bench = ready(&[SERVES]).await;
    let before = bench.instances.status(&bench.id).expect("known").process;
    let paged = bench.instances.sleep(&bench.id, request(Depth::Paged)).await.expect("sleeps");
    assert_eq!((depth_of(&paged), paged.in_swap), (Some(Depth::Paged), Some(MemoryBytes(8192))));
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    let after = bench.until(|status| status.state.is_ready()).await;
    assert_eq!((after.process, after.in_swap), (before, None));
    assert_eq!(bench.host.calls(), ["launch", "freeze", "page-out", "page-in", "thaw"]);
    let told = bench.messages();
    assert!(told.iter().any(|message| message == "sleeps deeper (paged): 8 KiB in swap"), "{told:?}");
    assert!(told.iter().any(|message| message.ends_with(" (paged)") && message.starts_with("woken by")), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_visitor_in_the_middle_is_served_at_once_and_what_was_paged_out_is_not_waited_for() {
    let bench = Arc::new(ready(&[SERVES]).await);
    let lulled = lull(&bench, Depth::Paged);
    bench.until(|status| status.state.is_asleep()).await;
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    bench.until(|status| status.state.is_ready()).await;
    assert_eq!(bench.host.calls(), ["launch", "freeze", "page-out", "thaw"]);
    assert_eq!(lulled.await.expect("ends").expect_err("it is awake").code, ErrorCode::Conflict);
    // The end of what was broken off is nobody's.
    bench.instances.sleep(&bench.id, request(Depth::Paused)).await.expect("sleeps");
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(depth_of(&bench.instances.status(&bench.id).expect("known")), Some(Depth::Paused));
}

#[tokio::test(start_paused = true)]
async fn from_paused_to_paged_to_disk_and_no_less_deep() {
    let bench = asleep(Depth::Paused).await;
    let paged = bench.instances.sleep(&bench.id, request(Depth::Paged)).await.expect("deeper");
    assert_eq!(depth_of(&paged), Some(Depth::Paged));
    let same = bench.instances.sleep(&bench.id, request(Depth::Paused)).await.expect("sleeps on");
    assert_eq!(depth_of(&same), Some(Depth::Paged));
    bench.instances.sleep(&bench.id, request(Depth::Snapshot)).await.expect("deeper");
    bench.until(|status| depth_of(status) == Some(Depth::Snapshot)).await;
    assert_eq!(bench.host.calls(), ["launch", "freeze", "page-out", "dump"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_paged_out_stays_paused_says_why_and_is_tried_again_in_its_next_sleep() {
    let bench = ready(&[SERVES]).await;
    bench.host.refuse_pages(true);
    let status = bench.instances.sleep(&bench.id, request(Depth::Paged)).await.expect("sleeps all the same");
    assert_eq!((depth_of(&status), status.no_paging.as_deref()), (Some(Depth::Paused), Some("the swap is full")));
    let refused = bench.instances.sleep(&bench.id, request(Depth::Paged)).await.expect_err("not at once");
    assert!(refused.detail.contains("the swap is full"), "{refused:?}");
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    assert_eq!(bench.until(|status| status.state.is_ready()).await.no_paging, None);
    bench.host.refuse_pages(false);
    let status = bench.instances.sleep(&bench.id, request(Depth::Paged)).await.expect("sleeps");
    assert_eq!(depth_of(&status), Some(Depth::Paged));
}

#[tokio::test(start_paused = true)]
async fn without_swap_it_is_refused_with_the_reason_which_its_status_shows() {
    let bench = ready(&[SERVES]).await;
    bench.host.have_no_swap(true);
    let refused = bench.instances.sleep(&bench.id, request(Depth::Paged)).await.expect_err("no swap");
    assert!(refused.code == ErrorCode::Conflict && refused.detail.contains("no swap"), "{refused:?}");
    let status = bench.instances.status(&bench.id).expect("known");
    assert!(status.state.is_ready() && status.no_paging.as_deref() == Some("the node has no swap"), "{status:?}");
    bench.instances.sleep(&bench.id, request(Depth::Paused)).await.expect("sleeps");
    bench.instances.demand(&bench.id, demand()).await.expect("taken");
    assert_eq!(bench.until(|status| status.state.is_ready()).await.no_paging, None, "looked at anew");
}

#[tokio::test(start_paused = true)]
async fn it_sleeps_on_under_a_new_agent_and_is_stopped_by_a_reboot() {
    let bench = ready(&[SERVES]).await;
    bench.instances.sleep(&bench.id, request(Depth::Paged)).await.expect("sleeps");
    let record = kept(&bench);
    assert!(record.life.is_paused());
    let next = Bench::on(Arc::clone(&bench.host));
    next.instances.adopt(vec![record.clone()]);
    assert_eq!(depth_of(&next.instances.status(&next.id).expect("known")), Some(Depth::Paged));
    next.instances.demand(&next.id, demand()).await.expect("taken");
    next.until(|status| status.state.is_ready()).await;
    assert!(next.host.calls().ends_with(&["page-in".to_owned(), "thaw".to_owned()]));
    let rebooted = record::rebooted(record, "another boot");
    assert!(rebooted.status().state.is_over(), "{:?}", rebooted.life.state);
}
