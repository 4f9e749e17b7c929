//! From a folder to a live address, and what happens when that does not work.

use std::time::Duration;

use drowse_api::ErrorCode;
use drowse_api::deployment::{AppType, DeploymentState};
use drowse_tests::apps::{App, example};
use drowse_tests::needs_a_world;
use drowse_tests::world::{Options, World};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test(flavor = "multi_thread")]
async fn the_flask_example_is_built_and_answers_and_its_second_build_reuses_the_dependencies() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy_folder("guestbook", AppType::Python, &example("flask")).await;
    let page = world.visitor().get("guestbook", "/").await.expect("an answer").ok().expect("a page");
    assert!(page.contains("Hello from Flask"), "{page}");
    let ticks = world.visitor().get("guestbook", "/ticks?count=3&every=0.01").await.expect("an answer");
    assert_eq!(ticks.header("content-type").split(';').next(), Some("text/event-stream"));
    assert_eq!(ticks.text().matches("event: tick").count(), 3);

    let began = std::time::Instant::now();
    let again = world.deploy_folder("guestbook", AppType::Python, &example("flask")).await;
    assert!(!again.log_text().contains("Downloading"), "{}", again.log_text());
    assert!(began.elapsed() < Duration::from_secs(60), "the second deploy took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_express_example_is_built_and_answers_pages_and_websockets() {
    needs_a_world!();
    let world = World::start().await;
    let deployed = world.deploy_folder("chat", AppType::Npm, &example("express")).await;
    assert!(deployed.log_text().contains("built with Node"), "npm run build ran: {}", deployed.log_text());
    let page = world.visitor().get("chat", "/").await.expect("an answer").ok().expect("a page");
    assert!(page.contains("<h1>Chat</h1>"), "{page}");
    let mut socket = world.visitor().websocket("chat", "/chat").await.expect("a WebSocket");
    socket.send(Message::text("hello")).await.expect("sent");
    let answer = socket.next().await.expect("open").expect("a message");
    assert_eq!(answer, Message::text("hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_folder_is_served_without_a_build() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy_folder("page", AppType::Static, &example("static")).await;
    let visitor = world.visitor();
    let page = visitor.get("page", "/").await.expect("an answer");
    assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
    assert!(page.ok().expect("a page").contains("costs nothing"));
    let style = visitor.get("page", "/style.css").await.expect("an answer");
    assert!(style.header("content-type").starts_with("text/css"), "{style:?}");
    let missing = visitor.get("page", "/nowhere").await.expect("an answer");
    assert_eq!(missing.status, 404);
    assert!(missing.text().contains("Not here"), "its own 404.html: {}", missing.text());
    let outside = visitor.get("page", "/../../etc/passwd").await.expect("an answer");
    assert!(!outside.text().contains("root:"), "{}", outside.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_takes_over_and_is_in_the_address_of_its_own() {
    needs_a_world!();
    let world = World::start().await;
    let one = world.deploy("shop", &App::probe("one")).await;
    world.serves("shop", "/", "one ").await;
    let two = world.deploy("shop", &App::probe("two")).await;
    world.serves("shop", "/", "two ").await;
    assert_ne!(one.deployment.id, two.deployment.id);
    let own_host = format!("shop--d-{}", two.deployment.id);
    world.serves(&own_host, "/", "two ").await;
    let instance = world.instance("shop").await;
    world.serves(&format!("shop--i-{}", instance.id), "/", "two ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_build_shows_why_and_leaves_the_old_version_serving() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let broken = App::probe("two").file("requirements.txt", "./no-such-package\n");
    let failed = world.try_deploy("shop", &broken).await.expect("accepted");
    assert_eq!(failed.deployment.state.state, DeploymentState::BuildError);
    let problem = failed.deployment.problem.as_ref().expect("a reason");
    assert_eq!(problem.code, ErrorCode::BuildError);
    let shown = format!("{} {}", problem.log.join("\n"), failed.log_text());
    assert!(shown.contains("no-such-package"), "the log names the culprit: {shown}");
    world.serves("shop", "/", "one ").await;
    assert_eq!(world.app("shop").await.expect("an app").pending, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_never_listens_fails_its_deploy_and_the_old_version_serves_on() {
    needs_a_world!();
    let world = World::with(Options { boot_timeout: Duration::from_secs(3), ..Options::default() }).await;
    world.deploy("shop", &App::probe("one")).await;
    let deaf = App::probe("two").file("Procfile", "web: echo waiting for nothing; exec sleep 1000\n");
    let failed = world.try_deploy("shop", &deaf).await.expect("accepted");
    assert_eq!(failed.deployment.state.state, DeploymentState::DeploymentError);
    let problem = failed.deployment.problem.expect("a reason");
    assert_eq!(problem.code, ErrorCode::TimeoutError);
    assert!(problem.log.iter().any(|line| line.contains("waiting for nothing")), "{problem:?}");
    world.serves("shop", "/", "one ").await;
    let left = world.instance("shop").await;
    assert!(left.state.is_ready(), "of the two, the failed one is removed: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_listens_on_its_loopback_only_is_told_where_it_listens() {
    needs_a_world!();
    let world = World::with(Options { boot_timeout: Duration::from_secs(4), ..Options::default() }).await;
    let shy = App::probe("one").profile(&[("PROBE_HOST", "127.0.0.1")]);
    let failed = world.try_deploy("shy", &shy).await.expect("accepted");
    let problem = failed.deployment.problem.expect("a reason");
    assert_eq!(problem.code, ErrorCode::TimeoutError);
    let told = problem.to_string();
    assert!(told.contains("127.0.0.1:8080") && told.contains("0.0.0.0"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_exits_at_its_first_start_fails_its_deploy_with_its_last_words() {
    needs_a_world!();
    let world = World::start().await;
    let began = std::time::Instant::now();
    let dead = App::probe("one").profile(&[("PROBE_EXIT", "3")]);
    let failed = world.try_deploy("dead", &dead).await.expect("accepted");
    assert_eq!(failed.deployment.state.state, DeploymentState::DeploymentError);
    let problem = failed.deployment.problem.expect("a reason");
    assert!(problem.to_string().contains('3'), "the exit status is named: {problem}");
    assert!(problem.log.iter().any(|line| line.contains("leaving at once")), "{problem:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "it does not wait for the timeout: {:?}", began.elapsed());
    let answer = world.visitor().get("dead", "/").await.expect("an answer");
    assert_eq!(answer.status, 503, "a known app that cannot serve is no 404: {}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_scripts_and_the_procfile_decide_how_an_app_starts() {
    needs_a_world!();
    let world = World::start().await;
    let app = App::probe("one")
        .file(".profile.d/first.sh", "export FROM_FOLDER=folder\n")
        .file(".profile", "export FROM_PROFILE=\"$FROM_FOLDER then profile\"\n")
        .file("Procfile", "web: IN_PROCFILE=\"$FROM_PROFILE then Procfile\" exec python3 -u server.py\n");
    world.deploy("profiled", &app).await;
    let visitor = world.visitor();
    let value = visitor.get("profiled", "/env?name=IN_PROCFILE").await.expect("an answer").ok().expect("200");
    assert_eq!(value, "folder then profile then Procfile");
    assert_eq!(visitor.get("profiled", "/env?name=PORT").await.expect("an answer").text(), "8080");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_an_app_wrote_survive_its_restart_and_end_with_the_next_deploy() {
    needs_a_world!();
    let world = World::start().await;
    let app = App::probe("one");
    world.deploy("writer", &app).await;
    let visitor = world.visitor();
    visitor.post("writer", "/write?file=kept&text=hello", "").await.expect("an answer").ok().expect("written");
    let before = world.instance("writer").await;
    let _ = visitor.post("writer", "/exit?code=1", "").await;
    world.ready_again(&before.id, drowse_tests::world::main_process(&before)).await;
    world.serves("writer", "/read?file=kept", "hello").await;
    world.deploy("writer", &app).await;
    drowse_tests::wait::until("the new instance serves without the file", Duration::from_secs(20), async || {
        (visitor.get("writer", "/read?file=kept").await.ok()?.status == 404).then_some(())
    })
    .await;
}
