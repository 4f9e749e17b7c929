//! WebSocket and other upgrades.

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::*;

#[tokio::test]
async fn a_websocket_works_through_the_router_and_counts_as_in_flight() {
    let instance = raw(|stream| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() || socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await;
    let world = World::new(&[instance]).await;
    let stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async("ws://shop.drowse.test/chat", stream).await.unwrap();
    assert_eq!(response.status(), 101);
    for size in [1, 100, 70_000, 1_000_000] {
        let text = "x".repeat(size);
        socket.send(Message::text(text.clone())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap().as_str(), text);
    }
    until("it is in flight", || world.last_report().in_flight.values().sum::<u64>() == 1).await;
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    drop(socket);
    world.quiet().await;
}

/// A WebSocket that echoes, and hands on the codes of the closes that it hears.
async fn echoing() -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<u16>) {
    let (heard, closes) = tokio::sync::mpsc::unbounded_channel();
    let instance = raw(move |stream| {
        let heard = heard.clone();
        async move {
            let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Close(frame) => drop(heard.send(frame.map_or(0, |frame| frame.code.into()))),
                    other => drop(socket.send(other).await),
                }
            }
        }
    })
    .await;
    (instance, closes)
}

#[tokio::test]
async fn a_websocket_of_an_instance_that_leaves_is_closed_after_its_grace_and_both_sides_are_told() {
    let (old, mut closes) = echoing().await;
    let world = World::with(&[old, echo("i1").await], |limits| limits.websocket_seconds = 1).await;
    world.change_table(|table| drop(table.hosts.insert(host("shop"), app_route("shop", &["i0"]))));
    world.settled(world.table.borrow().revision).await;
    let stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://shop.drowse.test/chat", stream).await.unwrap();
    world.change_table(|table| drop(table.hosts.insert(host("shop"), app_route("shop", &["i1"]))));
    let told = socket.next().await.unwrap().unwrap();
    let Message::Close(Some(frame)) = told else { panic!("{told:?}") };
    assert_eq!(u16::from(frame.code), 1001);
    while let Some(Ok(_)) = socket.next().await {}
    drop(socket);
    assert_eq!(closes.recv().await, Some(1001), "the visitor's own close reaches the instance");
    world.quiet().await;
}

#[tokio::test]
async fn a_websocket_goes_on_within_its_grace_and_for_good_if_its_instance_comes_back() {
    let (instance, _closes) = echoing().await;
    let world = World::with(&[instance, echo("i1").await], |limits| limits.websocket_seconds = 3600).await;
    let route = |name: &str| {
        let revision = world.change_table(|table| drop(table.hosts.insert(host("shop"), app_route("shop", &[name]))));
        world.settled(revision)
    };
    route("i0").await;
    let stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://shop.drowse.test/chat", stream).await.unwrap();
    for name in ["i1", "i0", "i1"] {
        route(name).await;
        socket.send(Message::text(name)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(name));
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    drop(socket);
    world.quiet().await;
}

#[tokio::test]
async fn a_websocket_whose_instance_is_gone_without_a_word_is_closed_with_1001() {
    let instance = raw(|stream| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        // Gone after the first message.
        let _ = socket.next().await;
    })
    .await;
    let world = World::new(&[instance]).await;
    let stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://shop.drowse.test/chat", stream).await.unwrap();
    socket.send(Message::text("go")).await.unwrap();
    let told = socket.next().await.unwrap().unwrap();
    let Message::Close(Some(frame)) = told else { panic!("{told:?}") };
    assert_eq!(u16::from(frame.code), 1001);
}

#[tokio::test]
async fn nothing_a_visitor_sends_early_reaches_an_instance_that_refuses_the_upgrade() {
    let (instance, seen) =
        scripted(|_| "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno".to_owned()).await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    visitor
        .send("GET /chat HTTP/1.1\r\nHost: shop.drowse.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /hidden HTTP/1.1\r\nHost: gone.drowse.test\r\n\r\n")
        .await;
    let answer = visitor.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (426, "no"));
    assert_eq!(visitor.answer().await.code(), "stopped", "what follows is a request of its own, and routed as one");
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 1);
    let head = seen[0].to_lowercase();
    assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(!head.contains("hidden"));
}

#[tokio::test]
async fn any_protocol_is_tunnelled_after_the_instances_101() {
    let instance = raw(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: shout\r\nX-Mine: 1\r\n\r\nfirst",
            )
            .await;
        let mut word = [0; 5];
        while stream.read_exact(&mut word).await.is_ok() {
            let _ = stream.write_all(&word.to_ascii_uppercase()).await;
        }
    })
    .await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    visitor.send("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n").await;
    let head = visitor.head().await.unwrap().to_lowercase();
    assert!(
        head.starts_with("http/1.1 101 ") && head.contains("upgrade: shout\r\n") && head.contains("x-mine: 1\r\n"),
        "{head}"
    );
    visitor.send("hello").await;
    let mut said = visitor.buffer.clone();
    while said.len() < 10 {
        assert!(visitor.stream.read_buf(&mut said).await.unwrap() > 0);
    }
    assert_eq!(said, b"firstHELLO");
    drop(visitor);
    world.quiet().await;
}

#[tokio::test]
async fn http_2_in_clear_cannot_be_switched_to_past_the_router() {
    let (instance, seen) = scripted(|_| ok("plain")).await;
    let world = World::new(&[instance]).await;
    let answer = world
        .ask("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
        .await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "plain"));
    let head = seen.lock().unwrap()[0].to_lowercase();
    assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
}

#[tokio::test]
async fn an_instance_that_switches_to_something_else_is_refused() {
    let (instance, _) =
        scripted(|_| "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n".to_owned())
            .await;
    let world = World::new(&[instance]).await;
    let answer = world
        .ask("GET / HTTP/1.1\r\nHost: shop.drowse.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "bad-answer"));
    world.quiet().await;
}
