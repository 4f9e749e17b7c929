//! Daemons die and hosts reboot: visitors do not notice the first, and nobody has to log in after the
//! second.

use std::time::Duration;

use drowse_api::deployment::DeploymentState;
use drowse_api::platform::{DeploymentView, Wanted};
use drowse_tests::apps::App;
use drowse_tests::http::{Socket, Visitor};
use drowse_tests::load::Load;
use drowse_tests::world::{World, main_process, upload};
use drowse_tests::{needs_a_world, wait};
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

/// Reads a numbered stream without end and checks that no byte is missing. Returns how many chunks came.
fn endless_download(visitor: &Visitor, app: &str, end: CancellationToken) -> JoinHandle<anyhow::Result<u64>> {
    const SIZE: usize = 1000;
    let (visitor, app) = (visitor.clone(), app.to_owned());
    tokio::spawn(async move {
        let path = format!("/stream?chunks=1000000&every=0.01&size={SIZE}");
        let mut body = visitor.open(visitor.request("GET", &app, &path).body(Full::default())?).await?.into_body();
        let (mut pending, mut number) = (Vec::new(), 0_u64);
        while !end.is_cancelled() {
            let frame =
                body.frame().await.ok_or_else(|| anyhow::anyhow!("the download ended after {number} chunks"))??;
            pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]));
            while pending.len() >= SIZE {
                let chunk: Vec<u8> = pending.drain(..SIZE).collect();
                let read = String::from_utf8_lossy(&chunk[..8]).trim().parse::<u64>()?;
                anyhow::ensure!(read == number, "chunk {read} came where {number} should");
                number += 1;
            }
        }
        Ok(number)
    })
}

async fn echo(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.expect("the WebSocket takes a message");
    let answer = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.expect("an answer in time");
    assert_eq!(answer.expect("the WebSocket is open").expect("a message"), Message::text(text));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_the_agent_was_killed_twenty_times() {
    needs_a_world!();
    let mut world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    world.deploy("page", &App::page("a page")).await;
    let before = world.instance("shop").await;
    let visitor = world.visitor();
    let load = Load::start(&visitor, "shop", "/", 4);
    let pages = Load::start(&visitor, "page", "/", 1);
    let end = CancellationToken::new();
    let download = endless_download(&visitor, "shop", end.clone());
    let mut socket = visitor.websocket("shop", "/websocket").await.expect("a WebSocket");

    for round in 1..=20 {
        load.more(20).await;
        world.kill_agent();
        echo(&mut socket, &format!("round {round}, no agent")).await;
        load.more(20).await;
        world.start_agent().await;
        let adopted = world.instance_becomes(&before.id, "is adopted", |status| status.state.is_ready()).await;
        assert_eq!(adopted.process, before.process, "round {round}: the same process, not a second copy");
        assert_eq!(adopted.restarts, 0);
        echo(&mut socket, &format!("round {round}, a new agent")).await;
        assert!(!download.is_finished(), "the download ended in round {round}");
    }

    let answers = load.nobody_noticed().await.answers;
    assert_eq!(answers.len(), 1, "one process answered them all: {answers:?}");
    pages.nobody_noticed().await;
    end.cancel();
    let chunks = download.await.expect("joined").expect("an unbroken download");
    assert!(chunks > 100, "only {chunks} chunks");
    assert!(main_process(&before).expect("it has one").is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_while_the_agent_is_down_is_reported_and_mended_when_it_is_back() {
    needs_a_world!();
    let mut world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let before = world.instance("shop").await;
    world.kill_agent();
    let _ = world.visitor().post("shop", "/exit?code=9", "").await;
    let process = main_process(&before).expect("it had one");
    wait::until("the app has ended", Duration::from_secs(10), async || (!process.is_alive()).then_some(())).await;
    world.start_agent().await;
    let after = world.ready_again(&before.id, Some(process)).await;
    assert_eq!(after.restarts, 1);
    wait::until("the exit is told with its status", Duration::from_secs(10), async || {
        world.events("shop").await.iter().any(|event| event.message.contains('9')).then_some(())
    })
    .await;
    world.serves("shop", "/", "one ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_written_while_the_agent_was_down_are_not_lost() {
    needs_a_world!();
    let mut world = World::start().await;
    world.deploy("talker", &App::probe("one")).await;
    world.kill_agent();
    world.visitor().post("talker", "/log?text=meanwhile&lines=500", "").await.expect("an answer").ok().expect("logged");
    world.start_agent().await;
    wait::until("all lines are in the log", Duration::from_secs(10), async || {
        let log = world.app_log("talker").await;
        (log.iter().filter(|line| line.line.text.starts_with("meanwhile")).count() == 500).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn visitors_are_served_while_controller_and_agent_are_down() {
    needs_a_world!();
    let mut world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let load = Load::start(&world.visitor(), "shop", "/", 4);
    load.more(20).await;
    world.kill_controller();
    load.more(100).await;
    world.kill_agent();
    load.more(100).await;
    // The router too: it starts from the files that it keeps.
    load.nobody_noticed().await;
    world.kill_router();
    world.start_router().await;
    world.serves("shop", "/", "one ").await;
    world.start_agent().await;
    world.start_controller().await;
    world.deploy("shop", &App::probe("two")).await;
    world.serves("shop", "/", "two ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_goes_on_where_it_was_when_the_controller_is_killed() {
    needs_a_world!();
    let mut world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    for version in ["two", "three", "four"] {
        let app = App::probe(version).profile(&[("PROBE_DELAY", "1")]);
        let accepted = upload(&world.controller(), "shop", app.app_type(), app.path()).await.expect("accepted");
        world.kill_controller();
        world.start_controller().await;
        let path = format!("/v1/deployments/{}", accepted.id);
        let ended = wait::until("the deploy has ended", Duration::from_secs(60), async || {
            let view = world.controller().get::<DeploymentView>(&path).await.ok()?;
            view.state.state.ends_a_deploy().then_some(view)
        })
        .await;
        assert_eq!(ended.state.state, DeploymentState::Ready, "{ended:?}");
        world.serves("shop", "/", version).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_everything_that_was_live_serves_again_and_what_was_stopped_stays_stopped() {
    needs_a_world!();
    let mut world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    world.deploy("page", &App::page("a page")).await;
    world.deploy("closed", &App::probe("one")).await;
    world.command("closed", "stop").await.expect("stops");
    world.visitor().post("shop", "/write?file=kept&text=hello", "").await.expect("an answer").ok().expect("written");
    let before = world.instance("shop").await;

    for _ in 0..2 {
        world.reboot().await;
        let after = world.ready_again(&before.id, None).await;
        assert_eq!(after.deployment, before.deployment);
        world.serves("shop", "/", "one ").await;
        world.serves("page", "/", "a page").await;
        world.serves("shop", "/read?file=kept", "hello").await;
        let closed = world.app("closed").await.expect("it is known");
        assert_eq!(closed.wanted, Wanted::Stopped);
        assert!(closed.instances.iter().all(|instance| instance.status.state.is_over()), "{closed:?}");
        assert_eq!(world.visitor().get("closed", "/").await.expect("an answer").status, 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_a_reboot_cut_off_ends_and_leaves_the_old_version() {
    needs_a_world!();
    let mut world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let app = App::probe("two");
    let accepted = upload(&world.controller(), "shop", app.app_type(), app.path()).await.expect("accepted");
    world.reboot().await;
    let path = format!("/v1/deployments/{}", accepted.id);
    let ended = wait::until("the deploy has ended", Duration::from_secs(90), async || {
        let view = world.controller().get::<DeploymentView>(&path).await.ok()?;
        view.state.state.ends_a_deploy().then_some(view)
    })
    .await;
    // Built again, or given up: either is an end, and the app serves.
    let version = if ended.state.state == DeploymentState::Ready { "two " } else { "one " };
    world.serves("shop", "/", version).await;
}
