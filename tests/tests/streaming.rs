//! What passes through the router besides small pages: streams both ways, WebSockets, HTTP/2.

use std::time::{Duration, Instant};

use drowse_tests::apps::App;
use drowse_tests::needs_a_world;
use drowse_tests::world::World;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_streams_as_it_is_written() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let visitor = world.visitor();
    let request = visitor.request("GET", "shop", "/stream?chunks=3&every=1").body(Full::default()).expect("a request");
    let began = Instant::now();
    let mut body = visitor.open(request).await.expect("it begins").into_body();
    body.frame().await.expect("a chunk").expect("data");
    assert!(began.elapsed() < Duration::from_millis(900), "the first chunk waited {:?} for the rest", began.elapsed());
    body.collect().await.expect("it is whole");
    assert!(began.elapsed() > Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_in_both_directions_unchanged() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let visitor = world.visitor();
    let body: Vec<u8> = (0..20_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let expected = sha256(&body);
    assert_eq!(visitor.post("shop", "/upload", body).await.expect("an answer").ok().expect("200"), expected);
    let down = visitor.get("shop", "/stream?chunks=2000&size=10000").await.expect("an answer");
    assert_eq!(down.body.len(), 20_000_000);
}

fn sha256(bytes: &[u8]) -> String {
    use std::io::Write;
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("sha256sum runs");
    child.stdin.take().expect("piped").write_all(bytes).expect("written");
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout[..64]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_pass_messages_of_all_sizes() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let mut socket = world.visitor().websocket("shop", "/websocket").await.expect("a WebSocket");
    for size in [0, 1, 125, 126, 4096, 60_000] {
        let text = "x".repeat(size);
        socket.send(Message::text(text.clone())).await.expect("sent");
        assert_eq!(socket.next().await.expect("open").expect("a message"), Message::text(text));
    }
    socket.close(None).await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_reaches_the_same_apps() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let visitor = world.visitor();
    assert!(visitor.get_h2("shop", "/").await.expect("an answer").ok().expect("200").starts_with("one "));
    assert_eq!(visitor.get_h2("nobody", "/").await.expect("an answer").status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_learn_who_asked_and_visitors_cannot_forge_it() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let visitor = world.visitor();
    let request = visitor
        .request("GET", "shop", "/headers")
        .header("x-forwarded-for", "203.0.113.7")
        .header("x-forwarded-proto", "https")
        .header("connection", "x-secret")
        .header("x-secret", "hop")
        .body(Full::default())
        .expect("a request");
    let seen = visitor.send(request).await.expect("an answer").ok().expect("200");
    let seen: serde_json::Value = serde_json::from_str(&seen).expect("JSON");
    assert_eq!(seen["host"], visitor.host("shop"));
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1");
    assert_eq!(seen["x-forwarded-proto"], "http");
    assert!(seen["x-request-id"].is_string(), "{seen}");
    assert!(seen.get("x-secret").is_none(), "a hop-by-hop header went on: {seen}");
}
