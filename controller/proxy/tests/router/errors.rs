//! What the router answers itself.

use tokio::io::AsyncWriteExt;

use crate::support::*;

#[tokio::test]
async fn people_get_a_page_and_programs_a_problem_with_the_code() {
    let (instance, _) = scripted(|_| ok("x")).await;
    let world = World::new(&[instance]).await;
    let answer = world.ask("GET / HTTP/1.1\r\nHost: nobody.drowse.test\r\n\r\n").await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "unknown-host"));
    assert_eq!(answer.header("content-type").as_deref(), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&problem["code"], &problem["status"]), (&"unknown-host".into(), &404.into()));

    let page = world.ask("GET / HTTP/1.1\r\nHost: gone.drowse.test\r\nAccept: text/html, */*;q=0.1\r\n\r\n").await;
    assert_eq!((page.status, page.code().as_str()), (503, "stopped"));
    assert_eq!(page.header("content-type").as_deref(), Some("text/html; charset=utf-8"));
    assert!(page.text().contains("The app was &lt;stopped&gt; by its owner."), "{}", page.text());
    assert_eq!(page.header("cache-control").as_deref(), Some("no-store"));

    let mut visitor = world.visitor().await;
    visitor.send("HEAD / HTTP/1.1\r\nHost: nobody.drowse.test\r\n\r\n").await;
    assert_eq!(visitor.answer_to_head().await.status, 404);
    visitor.send("GET /.drowse/wake HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
    assert_eq!(visitor.answer().await.code(), "reserved-path");
}

#[tokio::test]
async fn the_api_is_for_visitors_of_this_machine() {
    let (instance, _) = scripted(|_| ok("x")).await;
    let (api, seen) = scripted(|_| ok("{}")).await;
    let mut world = World::new(&[instance]).await;
    world.config.api_address = api;
    world.router = None;
    world.start_router();
    let answer = world.ask("GET /v1/whoami HTTP/1.1\r\nHost: api.drowse.test\r\nAuthorization: Bearer t\r\n\r\n").await;
    assert_eq!(answer.status, 200);
    assert!(seen.lock().unwrap()[0].to_lowercase().contains("authorization: bearer t\r\n"));
}

#[tokio::test]
async fn an_instance_that_refuses_connections_is_passed_over_for_another() {
    let (alive, _) = scripted(|_| ok("alive")).await;
    let world = World::new(&[nobody().await, alive]).await;
    for _ in 0..30 {
        assert_eq!(world.get("/").await.text(), "alive");
    }
}

#[tokio::test]
async fn an_app_without_an_instance_is_held_for_a_moment_and_then_refused() {
    let world = World::with(&[nobody().await], |limits| limits.hold_milliseconds = 200).await;
    let answer = world.get("/").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "instance-unreachable"));
    assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
    let revision = world.change_table(|table| drop(table.hosts.insert(host("shop"), app_route("shop", &["absent"]))));
    world.settled(revision).await;
    assert_eq!(world.get("/").await.code(), "no-instance");
}

#[tokio::test]
async fn only_so_many_requests_wait_for_one_instance() {
    let (release, wait) = tokio::sync::watch::channel(false);
    let instance = raw(move |mut stream| {
        let mut wait = wait.clone();
        async move {
            while !read_request(&mut stream).await.is_empty() {
                let _ = wait.wait_for(|released| *released).await;
                let _ = stream.write_all(ok("x").as_bytes()).await;
            }
        }
    })
    .await;
    let world = World::with(&[instance], |limits| (limits.in_flight, limits.queued) = (3, 5)).await;
    let mut visitors = Vec::new();
    for _ in 0..20 {
        let mut visitor = world.visitor().await;
        visitor.send("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\n\r\n").await;
        visitors.push(visitor);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for mut visitor in visitors {
        tasks.spawn(async move { visitor.answer().await });
    }
    let mut refused = 0;
    for _ in 0..12 {
        let answer = tasks.join_next().await.unwrap().unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (503, "queue-full"));
        refused += 1;
    }
    release.send(true).unwrap();
    while let Some(answer) = tasks.join_next().await {
        assert_eq!(answer.unwrap().status, 200);
    }
    assert_eq!(refused, 12);
    world.quiet().await;
}

#[tokio::test]
async fn an_instance_that_says_nothing_or_nonsense_is_answered_for() {
    let silent = raw(|mut stream| async move {
        read_request(&mut stream).await;
        read_request(&mut stream).await;
    })
    .await;
    let world = World::with(&[silent], |limits| limits.first_byte_seconds = 1).await;
    assert_eq!(world.get("/").await.code(), "first-byte-timeout");
    world.quiet().await;

    for reply in [
        "",
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ] {
        let (instance, seen) = scripted(move |_| reply.to_owned()).await;
        let world = World::new(&[instance]).await;
        let answer = world.get("/").await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "bad-answer"), "{reply:?}");
        assert_eq!(seen.lock().unwrap().len(), 1, "sent once");
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_or_never_ends_is_refused() {
    let (instance, _) = scripted(|_| ok("x")).await;
    let world = World::with(&[instance], |limits| (limits.header_bytes, limits.header_seconds) = (8192, 1)).await;
    let long = format!("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\nX: {}\r\n\r\n", "y".repeat(20_000));
    let mut visitor = world.visitor().await;
    let _ = visitor.stream.write_all(long.as_bytes()).await;
    assert_eq!(visitor.answer().await.status, 431);
    let mut visitor = world.visitor().await;
    visitor.send("GET / HTTP/1.1\r\nHost: sh").await;
    assert!(visitor.is_closed().await, "a head that never ends");
    assert!(world.visitor().await.is_closed().await, "a visitor that says nothing");
}
