//! The command line as users run it.

use std::time::Duration;

use drowse_tests::apps::App;
use drowse_tests::needs_a_world;
use drowse_tests::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn deploying_from_the_command_line_ends_with_the_address() {
    needs_a_world!();
    let world = World::start().await;
    let app = App::probe("one").file(".gitignore", "secret\n").file("secret", "do not upload");
    let printed = world.drowse(&["deploy", &app.path().to_string_lossy(), "--name", "shop"]).ok();
    let port = world.names().visitors.port();
    assert_eq!(printed.lines().last(), Some(format!("http://shop.drowse.localhost:{port}").as_str()), "{printed}");
    world.serves("shop", "/", "one ").await;
    assert_eq!(world.visitor().get("shop", "/read?file=secret").await.expect("an answer").status, 404);

    let page = App::page("a page");
    let _ = world.drowse_in(page.path(), &["deploy", "--name", "page"]).ok();
    world.serves("page", "/", "a page").await;

    let listed = world.drowse(&["ls", "--output", "json"]).json();
    let names: Vec<_> = listed.as_array().expect("a list").iter().filter_map(|app| app["name"].as_str()).collect();
    assert_eq!(names, ["page", "shop"]);
    let human = world.drowse(&["ls"]).ok();
    assert!(human.contains("shop") && human.contains("READY"), "{human}");
    assert!(!human.contains('\u{1b}'), "no colours where there is no terminal: {human:?}");
    let info = world.drowse(&["info", "shop", "--output", "json"]).json();
    assert_eq!(info["live"]["state"], "READY");
    let opened = world.drowse(&["open", "shop", "--no-browser"]).ok();
    assert!(opened.contains("http://shop.drowse.localhost"), "{opened}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_events_tell_what_happened() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    world.visitor().post("shop", "/log?text=hello&lines=3", "").await.expect("an answer").ok().expect("logged");
    drowse_tests::wait::until("the lines are in the log", Duration::from_secs(10), async || {
        let log = world.drowse(&["logs", "shop"]).ok();
        (log.contains("hello 2") && log.contains("to stderr hello")).then_some(())
    })
    .await;
    let last = world.drowse(&["logs", "shop", "--tail", "1", "--output", "json"]).ok();
    assert_eq!(last.lines().count(), 1, "{last}");

    let instance = world.instance("shop").await;
    let _ = world.visitor().post("shop", "/exit?code=5", "").await;
    world.ready_again(&instance.id, drowse_tests::world::main_process(&instance)).await;
    drowse_tests::wait::until("the exit is an event", Duration::from_secs(10), async || {
        let events = world.drowse(&["events", "shop"]).ok();
        (events.contains("READY") && events.contains('5')).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_start_restart_and_rm_do_what_they_say() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let visitor = world.visitor();
    let first = world.instance("shop").await;

    let _ = world.drowse(&["restart", "shop"]).ok();
    let second = world.serves("shop", "/", "one ").await;
    assert!(world.instances().await.expect("a list").iter().any(|status| status.id != first.id), "{second}");

    let _ = world.drowse(&["stop", "shop"]).ok();
    let answer = visitor.get("shop", "/").await.expect("an answer");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("x-drowse-error"), "stopped");
    let _ = world.drowse(&["start", "shop"]).ok();
    world.serves("shop", "/", "one ").await;

    let _ = world.drowse(&["rm", "shop", "--yes"]).ok();
    drowse_tests::wait::until("nothing of it runs", Duration::from_secs(60), async || {
        world.instances().await.ok()?.is_empty().then_some(())
    })
    .await;
    assert_eq!(visitor.get("shop", "/").await.expect("an answer").status, 404);
    let gone = world.drowse(&["info", "shop"]).fails_with(3);
    assert!(gone.contains("shop"), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_wants_a_token_over_tcp_and_takes_it_back_when_it_is_removed() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::page("a page")).await;
    let created = world.drowse(&["token", "create", "laptop", "--output", "json"]).json();
    let (secret, id) = (created["secret"].as_str().expect("a secret"), created["id"].as_str().expect("an id"));
    let visitor = world.visitor();
    let ask = async |token: Option<&str>| {
        let mut request = visitor.request("GET", "api", "/v1/apps");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        visitor.send(request.body(Default::default()).expect("a request")).await.expect("an answer")
    };
    assert_eq!(ask(None).await.status, 401);
    assert_eq!(ask(Some("wrong")).await.status, 401);
    let answer = ask(Some(secret)).await;
    assert!(answer.clone().ok().expect("200").contains("shop"), "{answer:?}");
    let _ = world.drowse(&["token", "rm", id]).ok();
    assert_eq!(ask(Some(secret)).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_this_machine_fit() {
    needs_a_world!();
    let world = World::start().await;
    let report = world.drowse(&["doctor"]);
    assert_eq!(report.code, Some(0), "{}{}", report.stdout, report.stderr);
    assert!(report.stdout.to_lowercase().contains("cgroup"), "{}", report.stdout);
}
