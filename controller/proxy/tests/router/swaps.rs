//! Tables that change under load, and the end of a router.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use drowse_api::InstanceId;
use tokio::io::AsyncWriteExt;

use crate::support::*;

#[tokio::test]
async fn a_thousand_swaps_under_load_lose_no_request() {
    let instances = [echo("i0").await, echo("i1").await, echo("i2").await];
    let world = World::new(&instances).await;
    let revision = world.change_table(|table| drop(table.hosts.insert(host("shop"), app_route("shop", &["i0"]))));
    world.settled(revision).await;
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    let mut load = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (mut visitor, stop, sent) = (world.visitor().await, Arc::clone(&stop), Arc::clone(&sent));
        load.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let request = if n % 2 == 0 {
                    "GET / HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n"
                } else {
                    "POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nContent-Length: 5\r\n\r\nhello"
                };
                visitor.send(request).await;
                let answer = visitor.answer().await;
                assert_eq!(answer.status, 200, "{answer:?}");
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for swap in 0..1000 {
        // The table names the new instance before or after the agent says it is ready.
        let name = format!("i{}", swap % 3);
        let id = InstanceId::parse(name.as_str()).unwrap();
        let address = instances[swap % 3];
        if swap % 2 == 0 {
            world.change_table(|table| drop(table.hosts.insert(host("shop"), app_route("shop", &[&name]))));
            tokio::task::yield_now().await;
            world.endpoints.send_modify(|e| e.ready = [(id, address)].into());
        } else {
            world.endpoints.send_modify(|e| {
                e.ready.insert(id, address);
            });
            world.change_table(|table| drop(table.hosts.insert(host("shop"), app_route("shop", &[&name]))));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    world.settled(world.table.borrow().revision).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = load.join_next().await {
        done.unwrap();
    }
    assert!(sent.load(Ordering::Relaxed) > 1000);
    world.quiet().await;
}

#[tokio::test]
async fn a_swapped_out_instance_finishes_what_it_has_and_gets_nothing_new() {
    let (release, wait) = tokio::sync::watch::channel(false);
    let old = raw(move |mut stream| {
        let mut wait = wait.clone();
        async move {
            read_request(&mut stream).await;
            let _ = wait.wait_for(|released| *released).await;
            let _ = stream.write_all(ok("old").as_bytes()).await;
        }
    })
    .await;
    let (new, _) = scripted(|_| ok("new")).await;
    let world = World::new(&[old, new]).await;
    let revision = world.change_table(|table| drop(table.hosts.insert(host("shop"), app_route("shop", &["i0"]))));
    world.settled(revision).await;
    let mut visitor = world.visitor().await;
    visitor.send("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
    until("it is in flight", || world.last_report().in_flight.values().sum::<u64>() == 1).await;
    let revision = world.change_table(|table| drop(table.hosts.insert(host("shop"), app_route("shop", &["i1"]))));
    world.settled(revision).await;
    let report = world.last_report();
    assert_eq!((report.applied, report.in_flight.get(&InstanceId::parse("i0").unwrap())), (revision, Some(&1)));
    for _ in 0..20 {
        assert_eq!(world.get("/").await.text(), "new");
    }
    release.send(true).unwrap();
    assert_eq!(visitor.answer().await.text(), "old");
    let began = std::time::Instant::now();
    world.quiet().await;
    assert!(began.elapsed() < Duration::from_millis(500), "the controller waits for this: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_router_that_is_told_to_end_finishes_what_it_has() {
    let (release, wait) = tokio::sync::watch::channel(false);
    let instance = raw(move |mut stream| {
        let mut wait = wait.clone();
        async move {
            read_request(&mut stream).await;
            let _ = wait.wait_for(|released| *released).await;
            let _ = stream.write_all(ok("done").as_bytes()).await;
        }
    })
    .await;
    let mut world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    visitor.send("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
    let mut idle = world.visitor().await;
    until("it is in flight", || world.last_report().in_flight.values().sum::<u64>() == 1).await;
    let router = world.router.take().unwrap();
    let stopped = tokio::task::spawn_blocking(move || router.stop());
    assert!(idle.is_closed().await);
    let address = world.address;
    loop {
        match tokio::net::TcpStream::connect(address).await {
            Err(_) => break,
            // In the queue of a listener that is about to close.
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
        assert!(!stopped.is_finished());
    }
    release.send(true).unwrap();
    assert_eq!(visitor.answer().await.text(), "done");
    assert!(visitor.is_closed().await, "no further requests");
    stopped.await.unwrap();
}
