//! What arrives at the instance, and what comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::*;

#[tokio::test]
async fn a_request_is_written_anew_for_the_instance_and_says_who_asked() {
    let (instance, seen) = scripted(|_| ok("hello")).await;
    let world = World::new(&[instance]).await;
    let request = "GET /a%20b?x=1 HTTP/1.1\r\nHost: SHOP.Drowse.test.:8080\r\nConnection: keep-alive, x-private\r\n\
                   X-Private: 1\r\nX-Kept: 2\r\nTE: trailers, gzip\r\nKeep-Alive: timeout=9\r\nX-Forwarded-For: 9.9.9.9\r\n\
                   Forwarded: for=9.9.9.9\r\nX-Request-ID: abc-1\r\n\r\n";
    let answer = world.ask(request).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let seen = seen.lock().unwrap()[0].to_lowercase();
    assert!(seen.starts_with("get /a%20b?x=1 http/1.1\r\n"), "{seen}");
    for present in [
        "\r\nhost: shop.drowse.test.:8080\r\n",
        "\r\nx-kept: 2\r\n",
        "\r\nte: trailers\r\n",
        "\r\nx-forwarded-for: 127.0.0.1\r\n",
        "\r\nx-forwarded-proto: http\r\n",
        "\r\nx-forwarded-host: shop.drowse.test.:8080\r\n",
        "\r\nx-request-id: abc-1\r\n",
    ] {
        assert!(seen.contains(present), "{present:?} is missing in {seen}");
    }
    for absent in ["x-private", "keep-alive", "9.9.9.9", "\r\nconnection:"] {
        assert!(!seen.contains(absent), "{absent:?} was passed on: {seen}");
    }
}

#[tokio::test]
async fn headers_for_one_hop_and_cookies_for_the_shared_domain_do_not_come_back() {
    let reply = "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n\
                 X-Drowse-Error: forged\r\nSet-Cookie: a=1; Domain=.Drowse.TEST\r\nSet-Cookie: b=2; Path=/\r\n\
                 Set-Cookie: c=3; domain=shop.drowse.test\r\nX-Kept: 2\r\nContent-Length: 0\r\n\r\n";
    let (instance, _) = scripted(move |_| reply.to_owned()).await;
    let world = World::new(&[instance]).await;
    let answer = world.get("/").await;
    assert_eq!(answer.headers("set-cookie"), ["b=2; Path=/", "c=3; domain=shop.drowse.test"]);
    assert_eq!(answer.header("x-kept").as_deref(), Some("2"));
    for absent in ["connection", "keep-alive", "x-private", "x-drowse-error"] {
        assert_eq!(answer.header(absent), None, "{absent}");
    }
}

#[tokio::test]
async fn connections_are_used_again_on_both_sides() {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let instance = raw(move |mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            while !read_request(&mut stream).await.is_empty() {
                let _ = stream.write_all(ok("x").as_bytes()).await;
            }
        }
    })
    .await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    for _ in 0..50 {
        visitor.send("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
        assert_eq!(visitor.answer().await.status, 200);
    }
    assert_eq!(opened.load(Ordering::SeqCst), 1);
    world.quiet().await;
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let (instance, _) = scripted(|request| {
        let path = request.split(' ').nth(1).unwrap();
        match path {
            "/204" => "HTTP/1.1 204 No Content\r\n\r\n".into(),
            "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 77\r\n\r\n".into(),
            "/hints" => {
                format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{}", ok("after"))
            }
            "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 4321\r\n\r\n".into(),
            _ => ok("body"),
        }
    })
    .await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    for path in ["/204", "/304"] {
        visitor.send(format!("GET {path} HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n")).await;
        assert_eq!(visitor.answer().await.status.to_string(), path[1..]);
    }
    visitor.send("HEAD /head HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
    let answer = visitor.answer_to_head().await;
    assert_eq!((answer.status, answer.header("content-length").as_deref()), (200, Some("4321")));
    visitor.send("GET /hints HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
    assert_eq!(visitor.answer().await.text(), "after");
    visitor.send("GET /more HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
    assert_eq!(visitor.answer().await.text(), "body", "the connection is in step");
}

#[tokio::test]
async fn http_1_0_visitors_and_instances_are_served() {
    let instance_that_closes = raw(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nto the end").await;
    })
    .await;
    let world = World::new(&[instance_that_closes]).await;
    let answer = world.ask("GET / HTTP/1.0\r\nHost: shop.drowse.test\r\n\r\n").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "to the end"));
    assert_eq!(world.get("/").await.text(), "to the end");
}

#[tokio::test]
async fn requests_go_to_the_instance_with_the_fewest_in_flight() {
    let (release, wait) = tokio::sync::watch::channel(false);
    let slow = raw(move |mut stream| {
        let mut wait = wait.clone();
        async move {
            while !read_request(&mut stream).await.is_empty() {
                let _ = wait.wait_for(|released| *released).await;
                let _ = stream.write_all(ok("slow").as_bytes()).await;
            }
        }
    })
    .await;
    let (quick, _) = scripted(|_| ok("quick")).await;
    let world = World::new(&[slow, quick]).await;
    let mut stuck = Vec::new();
    let mut quick_ones = 0;
    for _ in 0..20 {
        let mut visitor = world.visitor().await;
        visitor.send("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
        match tokio::time::timeout(std::time::Duration::from_millis(300), visitor.answer()).await {
            Ok(answer) => {
                assert_eq!(answer.text(), "quick");
                quick_ones += 1;
            }
            Err(_) => stuck.push(visitor),
        }
    }
    assert_eq!((quick_ones, stuck.len()), (19, 1));
    release.send(true).unwrap();
    assert_eq!(stuck[0].answer().await.text(), "slow");
    world.quiet().await;
}

#[tokio::test]
async fn many_http_2_streams_of_one_visitor_are_served_at_once() {
    let (instance, seen) = scripted(|_| ok("hello")).await;
    let world = World::new(&[instance]).await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..300 {
        let mut sender = sender.clone();
        tasks.spawn(async move {
            let body = if n % 3 == 0 { "x".repeat(n) } else { String::new() };
            let request = http::Request::builder()
                .method(if n % 3 == 0 { "POST" } else { "GET" })
                .uri(format!("http://shop.drowse.test/{n}"))
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .body(Full::new(bytes::Bytes::from(body)))
                .unwrap();
            sender.ready().await.unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 300);
    assert!(
        seen.iter().all(|r| r.contains("cookie: a=1; b=2\r\n") && r.contains("host: shop.drowse.test\r\n")),
        "{}",
        seen[0]
    );
    world.quiet().await;
}

#[tokio::test]
async fn an_http_2_preface_that_comes_in_pieces_is_understood() {
    let (instance, _) = scripted(|_| ok("hello")).await;
    let world = World::new(&[instance]).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in [&b"P"[..], b"RI * HT", b"TP/2.0\r\n\r\nSM\r\n"] {
        stream.write_all(piece).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    stream.write_all(b"\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut settings = [0_u8; 9];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut settings).await.unwrap();
    assert_eq!(settings[3], 4, "a SETTINGS frame");
}

/// A connection that does nothing for more than a second is taken apart; nobody may notice.
#[tokio::test]
async fn a_connection_goes_on_after_a_pause_wherever_the_pause_was() {
    let (instance, _) = scripted(|request| ok(request.split(' ').nth(1).unwrap())).await;
    let world = World::new(&[instance]).await;
    let pause = std::time::Duration::from_millis(2500);
    let mut tasks = tokio::task::JoinSet::new();
    let head = "GET /1 HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n";
    let post = "POST /1 HTTP/1.1\r\nHost: shop.drowse.test\r\nContent-Length: 5\r\n\r\nhello";
    // Between requests, within a head, within a head that began in the packet of the request before, within a body.
    for (first, second) in [
        (String::new(), head.to_owned()),
        (head.to_owned(), head.to_owned()),
        (head[..20].to_owned(), head[20..].to_owned() + head),
        (head.to_owned() + &head[..20], head[20..].to_owned()),
        (post.to_owned() + &head[..20], head[20..].to_owned()),
        (post[..post.len() - 2].to_owned(), "lo".to_owned() + head),
    ] {
        let mut visitor = world.visitor().await;
        tasks.spawn(async move {
            visitor.send(&first).await;
            tokio::time::sleep(pause).await;
            visitor.send(&second).await;
            for _ in 0..(first.clone() + &second).matches("HTTP/1.1").count() {
                assert_eq!(visitor.answer().await.text(), "/1", "{first:?} and {second:?}");
            }
            tokio::time::sleep(pause).await;
            visitor.send("GET /2 HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
            assert_eq!(visitor.answer().await.text(), "/2");
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_must_not_be_repeated_never_meets_a_connection_that_its_instance_closes() {
    // It promises to keep each connection, and closes it right after its first answer.
    let instance = raw(|mut stream| async move {
        let request = read_request(&mut stream).await;
        if !request.is_empty() {
            let _ = stream.write_all(ok("taken").as_bytes()).await;
        }
    })
    .await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    for number in 0..300 {
        visitor.send("POST / HTTP/1.1\r\nHost: shop.drowse.test\r\nContent-Length: 5\r\n\r\nhello").await;
        let answer = visitor.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "taken"), "request {number}: {answer:?}");
    }
    world.quiet().await;
}
