//! Requests that two readers could understand differently: either refused, or made unambiguous.

use tokio::io::AsyncReadExt;

use crate::support::*;

/// Sends `bytes` on one connection; returns the status of the first answer (0: closed without one),
/// and what arrived at the instance.
async fn attack(bytes: &[u8]) -> (u16, Vec<String>) {
    let (instance, seen) = scripted(|_| ok("x")).await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    visitor.send(bytes).await;
    let mut first = 0;
    while let Ok(Some(answer)) =
        tokio::time::timeout(std::time::Duration::from_millis(300), visitor.try_answer(false)).await
    {
        if first == 0 {
            first = answer.status;
        }
    }
    let seen = seen.lock().unwrap().clone();
    (first, seen)
}

#[tokio::test]
async fn what_is_ambiguous_never_reaches_an_instance() {
    let corpus: &[(&str, &str)] = &[
        ("two hosts", "GET / HTTP/1.1\r\nHost: shop.drowse.test\r\nHost: gone.drowse.test\r\n\r\n"),
        ("two equal hosts", "GET / HTTP/1.1\r\nHost: shop.drowse.test\r\nHost: shop.drowse.test\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("absolute form with another host", "GET http://gone.drowse.test/ HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n"),
        ("absolute form without host", "GET http://shop.drowse.test/ HTTP/1.1\r\n\r\n"),
        ("host with a path", "GET / HTTP/1.1\r\nHost: shop.drowse.test/x\r\n\r\n"),
        ("host with a user", "GET / HTTP/1.1\r\nHost: x@shop.drowse.test\r\n\r\n"),
        ("a list of hosts", "GET / HTTP/1.1\r\nHost: shop.drowse.test, gone.drowse.test\r\n\r\n"),
        ("space before the colon", "GET / HTTP/1.1\r\nHost : shop.drowse.test\r\n\r\n"),
        (
            "space before the colon of a length",
            "POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nContent-Length : 5\r\n\r\nhello",
        ),
        ("folded header", "GET / HTTP/1.1\r\nHost: shop.drowse.test\r\nX: a\r\n b\r\n\r\n"),
        (
            "folded length",
            "POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        ),
        ("NUL in a value", "GET / HTTP/1.1\r\nHost: shop.drowse.test\r\nX: a\0b\r\n\r\n"),
        ("NUL in a name", "GET / HTTP/1.1\r\nHost: shop.drowse.test\r\nX\0: a\r\n\r\n"),
        ("bare CR in a value", "GET / HTTP/1.1\r\nHost: shop.drowse.test\r\nX: a\rb\r\n\r\n"),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        ),
        ("a signed length", "POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nContent-Length: +5\r\n\r\nhello"),
        ("a negative length", "POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nContent-Length: -5\r\n\r\nhello"),
        ("a hexadecimal length", "POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nContent-Length: 0x5\r\n\r\nhello"),
        ("a list of lengths", "POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nContent-Length: 5, 6\r\n\r\nhello"),
        (
            "a huge length",
            "POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
        ),
        ("unknown coding", "POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        (
            "chunked not last",
            "POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked in HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: shop.drowse.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("CONNECT", "CONNECT shop.drowse.test:80 HTTP/1.1\r\nHost: shop.drowse.test:80\r\n\r\n"),
        ("HTTP/0.9", "GET /\r\n\r\n"),
        ("HTTP/3.0", "GET / HTTP/3.0\r\nHost: shop.drowse.test\r\n\r\n"),
        ("space in the target", "GET /a b HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n"),
        ("a line that is no header", "GET / HTTP/1.1\r\nHost: shop.drowse.test\r\nnonsense\r\n\r\n"),
    ];
    for (what, bytes) in corpus {
        let (status, seen) = attack(bytes.as_bytes()).await;
        assert!(matches!(status, 0 | 400..=431), "{what}: answered {status}");
        assert!(seen.is_empty(), "{what}: reached the instance: {seen:?}");
    }
}

/// RFC 9112, section 6.3: such a request may be served by its chunks alone, and the connection is
/// closed after it. What arrives at the instance has one length only.
#[tokio::test]
async fn a_request_with_both_lengths_cannot_carry_a_second_one() {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n";
    let all = 5 + hidden.len();
    let (te, cl) = ("Transfer-Encoding: chunked", format!("Content-Length: {all}"));
    for headers in [format!("{te}\r\n{cl}"), format!("{cl}\r\n{te}")] {
        let request = format!("POST / HTTP/1.1\r\nHost: shop.drowse.test\r\n{headers}\r\n\r\n0\r\n\r\n{hidden}");
        let (instance, seen) = scripted(|_| ok("x")).await;
        let world = World::new(&[instance]).await;
        let mut visitor = world.visitor().await;
        visitor.send(request).await;
        let answer = visitor.answer().await;
        assert!(matches!(answer.status, 200 | 400), "{headers:?}: answered {}", answer.status);
        let mut rest = std::mem::take(&mut visitor.buffer);
        let _ = visitor.stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{headers:?}: something was answered after it");
        for request in seen.lock().unwrap().iter() {
            let request = request.to_lowercase();
            assert!(!request.contains("hidden") && !request.contains("content-length"), "{headers:?}: {request}");
        }
    }
}

#[tokio::test]
async fn a_broken_chunk_ends_the_connection_and_nothing_after_it_is_a_request() {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n";
    for chunks in [
        "zz\r\n",
        "5\r\nhelloXX\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "5;ext\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nx",
        "5\rhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
    ] {
        let request =
            format!("POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{hidden}");
        let (status, seen) = attack(request.as_bytes()).await;
        assert!(matches!(status, 0 | 400), "{chunks:?}: answered {status}");
        assert!(!seen.iter().any(|r| r.contains("hidden") && r.starts_with("GET")), "{chunks:?}: {seen:?}");
    }
}

#[tokio::test]
async fn connection_cannot_name_away_what_says_where_a_request_goes_or_how_long_it_is() {
    let (status, seen) = attack(b"POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nConnection: host, content-length, x-forwarded-for\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(status, 200);
    let seen = seen[0].to_lowercase();
    assert!(
        seen.contains("host: shop.drowse.test\r\n")
            && seen.contains("content-length: 5\r\n")
            && seen.contains("x-forwarded-for: 127.0.0.1\r\n"),
        "{seen}"
    );
}

#[tokio::test]
async fn absolute_form_with_the_same_host_is_served_as_any_other() {
    let (status, seen) = attack(b"GET http://SHOP.drowse.test:80/a?b HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
    assert_eq!(status, 200);
    assert!(seen[0].starts_with("GET /a?b HTTP/1.1\r\n"), "{}", seen[0]);
    let (status, seen) = attack(b"OPTIONS * HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
    assert_eq!(status, 200);
    assert!(seen[0].starts_with("OPTIONS * HTTP/1.1\r\n"), "{}", seen[0]);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (instance, _) = scripted(|request| ok(request.split(' ').nth(1).unwrap())).await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    let all: String = (0..10).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n")).collect();
    visitor.send(all).await;
    for n in 0..10 {
        assert_eq!(visitor.answer().await.text(), format!("/{n}"));
    }
}
