//! Bodies in both directions, and what happens when one side goes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

#[tokio::test]
async fn a_slow_upload_streams_through_chunk_by_chunk() {
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    let instance = raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            let mut buffer = [0; 4096];
            let mut all = Vec::new();
            while find(&all, b"\r\n0\r\n\r\n").is_none() {
                let read = stream.read(&mut buffer).await.unwrap();
                all.extend_from_slice(&buffer[..read]);
                count.store(all.iter().filter(|b| **b == b'%').count(), Ordering::SeqCst);
            }
            let _ = stream.write_all(ok("got it").as_bytes()).await;
        }
    })
    .await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    visitor.send("POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for n in 1..=5 {
        visitor.send("1\r\n%\r\n").await;
        until("the instance sees the chunk", || received.load(Ordering::SeqCst) == n).await;
    }
    visitor.send("0\r\n\r\n").await;
    assert_eq!(visitor.answer().await.text(), "got it");
    world.quiet().await;
}

#[tokio::test]
async fn a_visitor_that_expects_100_continue_gets_it_once_an_instance_is_there() {
    let (instance, seen) = scripted(|_| ok("thanks")).await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    visitor
        .send("POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert!(visitor.head().await.unwrap().starts_with("HTTP/1.1 100 "));
    visitor.send("hello").await;
    assert_eq!(visitor.answer().await.text(), "thanks");
    assert!(seen.lock().unwrap()[0].ends_with("\r\n\r\nhello"));

    let mut refused = world.visitor().await;
    refused
        .send("POST / HTTP/1.1\r\nHost: nobody.drowse.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert!(refused.head().await.unwrap().starts_with("HTTP/1.1 404 "), "refused before the body was sent");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_upload_has_ended_is_passed_on() {
    let instance = raw(|mut stream| async move {
        let mut head = [0; 100];
        let _ = stream.read(&mut head).await;
        let _ = stream
            .write_all(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
            .await;
        let mut rest = vec![0; 65536];
        while stream.read(&mut rest).await.unwrap_or(0) > 0 {}
    })
    .await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    visitor.send("POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nContent-Length: 1000000\r\n\r\nsome").await;
    let answer = visitor.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
    drop(visitor);
    world.quiet().await;
}

#[tokio::test]
async fn a_download_waits_for_a_visitor_that_does_not_read() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let instance = raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            read_request(&mut stream).await;
            let size = 200_usize << 20;
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes()).await;
            let block = vec![b'x'; 65536];
            for _ in 0..size / block.len() {
                if stream.write_all(&block).await.is_err() {
                    return;
                }
                count.fetch_add(block.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    visitor.send("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
    assert!(visitor.head().await.unwrap().starts_with("HTTP/1.1 200"));
    let mut before = usize::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = written.load(Ordering::SeqCst);
        if now == before {
            break;
        }
        before = now;
    }
    assert!(before < 64 << 20, "{before} bytes were taken from the instance for a visitor that reads nothing");
    let mut block = vec![0; 1 << 20];
    let mut read = visitor.buffer.len();
    while read < 200 << 20 {
        let more = visitor.stream.read(&mut block).await.unwrap();
        assert!(more > 0, "cut off at {read}");
        read += more;
    }
    world.quiet().await;
}

#[tokio::test]
async fn a_visitor_that_goes_away_ends_the_request_at_the_instance() {
    for half_answered in [false, true] {
        let closed = Arc::new(AtomicBool::new(false));
        let (tell, reached) = (Arc::clone(&closed), Arc::new(AtomicBool::new(false)));
        let reach = Arc::clone(&reached);
        let instance = raw(move |mut stream| {
            let (tell, reach) = (Arc::clone(&tell), Arc::clone(&reach));
            async move {
                read_request(&mut stream).await;
                if half_answered {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
                }
                reach.store(true, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 10]).await;
                tell.store(true, Ordering::SeqCst);
            }
        })
        .await;
        let world = World::new(&[instance]).await;
        let mut visitor = world.visitor().await;
        visitor.send("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
        until("the instance has the request", || reached.load(Ordering::SeqCst)).await;
        until("it is in flight", || world.last_report().in_flight.values().sum::<u64>() == 1).await;
        drop(visitor);
        until("the instance sees its visitor gone", || closed.load(Ordering::SeqCst)).await;
        world.quiet().await;
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_cut_off_for_the_visitor_too() {
    let cut = raw(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    })
    .await;
    let world = World::new(&[cut]).await;
    let mut visitor = world.visitor().await;
    visitor.send("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
    assert!(visitor.head().await.is_some());
    assert_eq!(visitor.chunk().await, Some(Some(b"hello".to_vec())));
    assert_eq!(visitor.chunk().await, None, "no proper end where there was none");
    world.quiet().await;
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let instance = raw(|mut stream| async move {
        let mut all = Vec::new();
        while !all.ends_with(b"x-sum: 1\r\n\r\n") {
            if stream.read_buf(&mut all).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nTrailer: x-end, set-cookie\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-End: 7\r\nSet-Cookie: a=1\r\n\r\n")
            .await;
    })
    .await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    visitor
        .send("POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n.\r\n0\r\nX-Sum: 1\r\n\r\n")
        .await;
    let head = visitor.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(visitor.chunk().await, Some(Some(b"ok".to_vec())));
    assert_eq!(visitor.chunk().await, Some(None));
    let trailers = visitor.head().await.unwrap().to_lowercase();
    assert_eq!(trailers, "x-end: 7\r\n\r\n");
}

#[tokio::test]
async fn bodies_that_stand_still_are_given_up() {
    let instance = raw(|mut stream| async move {
        let request = read_request(&mut stream).await;
        if request.starts_with("GET") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
        }
        let _ = stream.read(&mut [0; 10]).await;
    })
    .await;
    let world = World::with(&[instance], |limits| limits.idle_seconds = 1).await;
    let mut visitor = world.visitor().await;
    visitor.send("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
    assert!(visitor.head().await.is_some());
    let mut rest = std::mem::take(&mut visitor.buffer);
    let _ = visitor.stream.read_to_end(&mut rest).await;
    assert_eq!(rest, b"half", "cut off");

    let mut visitor = world.visitor().await;
    visitor.send("POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nContent-Length: 10\r\n\r\nhalf").await;
    assert_eq!(visitor.answer().await.code(), "request-timeout");
    world.quiet().await;
}

#[tokio::test]
async fn an_instance_that_closes_idle_connections_at_random_loses_no_request() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let instance = raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            loop {
                if read_request(&mut stream).await.is_empty() {
                    return;
                }
                let n = count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(ok("x").as_bytes()).await;
                // Without a word of warning, and just when the next request is on its way.
                if n.is_multiple_of(3) {
                    tokio::time::sleep(Duration::from_micros((n as u64 * 37) % 400)).await;
                    return;
                }
            }
        }
    })
    .await;
    let world = World::new(&[instance]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut visitor = world.visitor().await;
        tasks.spawn(async move {
            for n in 0..250 {
                visitor.send("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
                let answer = visitor.answer().await;
                assert_eq!(answer.status, 200, "request {n}: {answer:?}");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    world.quiet().await;
}
