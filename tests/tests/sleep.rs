//! Apps fall asleep and wake, and no request is lost at any moment of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use drowse_api::deployment::DeploymentState;
use drowse_api::event::EventKind;
use drowse_api::instance::InstanceState;
use drowse_api::platform::AppView;
use drowse_api::sleep::{Depth, Explanation, SleepCommand, SleepSettings};
use drowse_api::{ErrorCode, Problem};
use drowse_tests::apps::App;
use drowse_tests::browser::{self, Browser};
use drowse_tests::chaos::{self, Plan};
use drowse_tests::http::{Answer, Visitor};
use drowse_tests::world::{DOMAIN, Options, PATIENCE, World, main_process};
use drowse_tests::{needs_a_world, skip, wait};
use http::Method;
use http_body_util::Full;
use tokio::task::JoinSet;

/// A node on which a router that was lost is not waited for long.
fn options(sleep: &str) -> Options {
    Options { agent_lines: "router_patience_seconds = 1\n".to_owned(), sleep: sleep.to_owned(), ..Options::default() }
}

async fn sleep(world: &World, app: &str, depth: Depth) -> Result<AppView, Problem> {
    let path = format!("/v1/apps/{app}/sleep");
    world.controller().call(Method::POST, &path, Some(&SleepCommand { depth })).await
}

async fn explain(world: &World, app: &str) -> Explanation {
    world.controller().get(&format!("/v1/apps/{app}/explain")).await.expect("explains")
}

async fn falls_asleep(world: &World, app: &str) {
    wait::until(&format!("{app} is asleep"), PATIENCE, async || {
        world.instance(app).await.state.is_asleep().then_some(())
    })
    .await;
}

/// What a browser asks that was told to go to a page.
async fn navigate(visitor: &Visitor, app: &str, path: &str) -> Answer {
    let request = visitor.request("GET", app, path).header("accept", "text/html").header("sec-fetch-mode", "navigate");
    visitor.send(request.body(Full::default()).expect("a request")).await.expect("an answer")
}

async fn text(visitor: &Visitor, app: &str, path: &str) -> String {
    visitor.get(app, path).await.expect("an answer").ok().expect("200")
}

#[tokio::test(flavor = "multi_thread")]
async fn sleepers_answer_the_next_request_also_with_the_controller_or_the_agent_dead_meanwhile() {
    needs_a_world!();
    let mut world = World::with(options("")).await;
    world.deploy("shop", &App::probe("one")).await;
    let visitor = world.visitor();
    let before = world.instance("shop").await;
    assert_eq!(text(&visitor, "shop", "/count").await, "1");

    // Paused: the same process, with what it has in memory, and nobody notices.
    let view = sleep(&world, "shop", Depth::Paused).await.expect("sleeps");
    assert_eq!(view.live.as_ref().expect("live").state.state, DeploymentState::Frozen);
    assert!(world.drowse(&["ls"]).ok().contains("FROZEN (paused) since "));
    world.kill_controller();
    let asked = std::time::Instant::now();
    let page = navigate(&visitor, "shop", "/count").await;
    println!("a paused app answered after {} ms", asked.elapsed().as_millis());
    assert_eq!((page.header("x-drowse-state"), page.text().as_str()), ("woken-paused", "2"));
    assert_eq!(world.instance("shop").await.process, before.process);
    world.start_controller().await;
    wait::until("it is told who woke it", PATIENCE, async || {
        let told = explain(&world, "shop").await.recent;
        told.iter().any(|event| event.message.starts_with("woken by GET /count")).then_some(())
    })
    .await;
    assert!(world.drowse(&["explain", "shop"]).ok().contains("woken by GET /count"));

    // The agent dies while it sleeps: who asks then waits until there is another.
    wait::until_ok("it sleeps again", PATIENCE, async || sleep(&world, "shop", Depth::Paused).await).await;
    world.kill_agent();
    let waits = {
        let visitor = visitor.clone();
        tokio::spawn(async move { text(&visitor, "shop", "/count").await })
    };
    world.start_agent().await;
    assert_eq!(waits.await.expect("joined"), "3");
    let after = world.instance("shop").await;
    assert_eq!((after.process, after.restarts), (before.process, 0));

    // Cold: nothing of it runs. A browser gets the page, who only looks by wakes nothing, a program waits.
    text(&visitor, "shop", "/write?file=kept&text=hello").await;
    wait::until_ok("it sleeps deeply", PATIENCE, async || sleep(&world, "shop", Depth::Cold).await).await;
    wait::until("its process has ended", PATIENCE, async || {
        (!main_process(&before).expect("it had one").is_alive()).then_some(())
    })
    .await;
    let page = navigate(&visitor, "shop", "/a?b=1").await;
    assert_eq!((page.status.as_u16(), page.header("x-drowse-state")), (503, "sleeping"));
    assert!(page.text().contains("shop is asleep") && !page.header("retry-after").is_empty());
    assert_eq!(visitor.get("shop", "/favicon.ico").await.expect("an answer").status, 204);
    assert!(world.instance("shop").await.state.is_asleep());
    assert!(world.drowse(&["info", "shop"]).ok().contains("FROZEN (cold)"));
    // Told to end or not, a host that is started again leaves it asleep.
    world.reboot().await;
    assert!(matches!(world.instance("shop").await.state, InstanceState::Frozen { depth: Depth::Cold, .. }));
    let held = visitor.post("shop", "/count", "").await.expect("an answer");
    assert_eq!((held.header("x-drowse-state"), held.text().as_str()), ("woken-cold", "1"), "started anew");
    assert_eq!(text(&visitor, "shop", "/read?file=kept").await, "hello", "its files were kept");
    let is_told = async || {
        let events = world.events("shop").await;
        let mut told = events.iter().filter(|event| event.kind == EventKind::Sleep);
        told.any(|event| event.message.starts_with("awake after ")).then_some(())
    };
    // Visitors are served before it is told.
    wait::until("its wake is told", PATIENCE, is_told).await;

    // Stopped and removed in its sleep.
    wait::until_ok("it sleeps once more", PATIENCE, async || sleep(&world, "shop", Depth::Paused).await).await;
    world.command("shop", "stop").await.expect("stops");
    wait::until("it is stopped", PATIENCE, async || world.instance("shop").await.state.is_over().then_some(())).await;
    let log = world.app_log("shop").await;
    assert!(log.iter().any(|line| line.line.text == "told to end"), "it heard SIGTERM in its sleep");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_stays_awake_and_what_is_idle_falls_asleep_by_itself() {
    needs_a_world!();
    let world = World::with(options("paused_after_seconds = 1\nlook_seconds = 1\n")).await;
    world.deploy("used", &App::probe("one")).await;
    let visitor = world.visitor();
    let mut socket = visitor.websocket("used", "/websocket").await.expect("a WebSocket");
    let path = "/stream?chunks=1000000&every=0.05&size=100";
    let request = visitor.request("GET", "used", path).body(Full::default()).expect("a request");
    let download = visitor.open(request).await.expect("a download");
    world.deploy("busy", &App::probe("one")).await;
    let work = "import threading, time\ndef work():\n    while True:\n        end = time.monotonic() + 0.1\n        \
                while time.monotonic() < end:\n            pass\n        time.sleep(0.3)\n\
                threading.Thread(target=work, daemon=True).start()\nresult = 'works'";
    assert_eq!(visitor.post("busy", "/python", work).await.expect("an answer").text(), "works");
    world.deploy("idle", &App::probe("one")).await;
    // Open, and nothing is asked by it.
    let kept = visitor.connect().await.expect("a connection");
    // By the time that this one sleeps, the others would have long before.
    falls_asleep(&world, "idle").await;
    drop(kept);
    for awake in ["used", "busy"] {
        assert!(world.instance(awake).await.state.is_ready(), "{awake}: {:?}", explain(&world, awake).await);
    }
    let why = explain(&world, "busy").await.now.concat();
    assert!(why.contains("% of a processor"), "{why}");
    let why = explain(&world, "used").await.now.concat();
    assert!(why.contains("2 requests or streams are in flight"), "{why}");
    drop(download);
    futures_util::SinkExt::close(&mut socket).await.expect("closes");
    drop(socket);
    falls_asleep(&world, "used").await;

    // What is pinned wakes, and stays awake; the other sleeps again after each visit.
    assert_eq!(world.drowse(&["pin", "used"]).ok(), "used never sleeps\n");
    wait::until("it is awake", PATIENCE, async || world.instance("used").await.state.is_ready().then_some(())).await;
    assert_eq!(text(&visitor, "idle", "/count").await, "1");
    falls_asleep(&world, "idle").await;
    assert_eq!(text(&visitor, "idle", "/count").await, "2", "the same process");
    falls_asleep(&world, "idle").await;
    assert!(world.instance("used").await.state.is_ready());
    let settings: SleepSettings = world.controller().get("/v1/apps/used/idle").await.expect("settings");
    assert!(settings.pinned);
    assert_eq!(sleep(&world, "used", Depth::Paused).await.expect_err("pinned").code, ErrorCode::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_keeps_an_idle_app_awake_and_what_its_folder_pins_lets_it_sleep() {
    needs_a_world!();
    let mut world = World::with(options("look_seconds = 1\n")).await;
    let pins = |text: &str| App::probe("one").file("drowse.toml", text);
    let hooks = |app: App| {
        let hook = |name: &str| format!("#!/bin/sh\necho {name} >> hooks\n[ {name} = before ] || exit 3\n");
        let app = app.file(".drowse/before-sleep", hook("before")).file(".drowse/after-wake", hook("after"));
        for name in ["before-sleep", "after-wake"] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(app.path().join(".drowse").join(name), mode).expect("executable");
        }
        app
    };
    let visitor = world.visitor();
    let held = hooks(pins("[sleep]\nafter = 1\n"));
    assert!(world.drowse(&["deploy", &held.path().to_string_lossy(), "--name", "held"]).ok().contains("held"));
    let say = async |text: &str| visitor.post("held", "/lease", text.to_owned()).await.expect("an answer").text();
    assert_eq!(say("hold 1h job").await, "held for 3600 s\n");
    assert!(say("hold for ever").await.starts_with("error: "));
    // Another agent knows of it, too.
    world.kill_agent();
    world.start_agent().await;
    assert!(say("status").await.starts_with("held: job for "));
    let idle = pins("[sleep]\nafter = 1\nmonitors = \"hold\"\n");
    assert!(world.drowse(&["deploy", &idle.path().to_string_lossy(), "--name", "idle"]).ok().contains("idle"));
    // By the time that this one sleeps, the other would have long before.
    falls_asleep(&world, "idle").await;
    assert!(world.instance("held").await.state.is_ready());
    let why = explain(&world, "held").await.now.concat();
    assert!(why.contains("it holds a lease for 59 more min"), "{why}");
    let nothing = "import os\nresult = [os.access(path, os.W_OK) for path in ('/run/drowse', '/run/drowse/state')]";
    let writable = visitor.post("held", "/python", nothing).await.expect("an answer").text();
    assert_eq!(writable, "[False, False]");
    assert_eq!(text(&visitor, "held", "/read?file=/run/drowse/state").await, "slept=0\n");
    assert_eq!(say("release job").await, "released\n");
    falls_asleep(&world, "held").await;
    let told = text(&visitor, "held", "/read?file=/run/drowse/state").await;
    assert!(told.contains("\ndepth=paused\n") && told.contains("\nwoken_by=GET /read"), "{told}");
    wait::until("its hooks have run, and the one that failed is told", PATIENCE, async || {
        let told = world.events("held").await;
        let is_told = told.iter().any(|event| event.message == "its .drowse/after-wake ended with 3");
        (is_told && text(&visitor, "held", "/read?file=hooks").await.starts_with("before\nafter\n")).then_some(())
    })
    .await;

    // What its user sets comes before what the folder pins.
    let shown = world.drowse(&["idle", "idle", "--paused-after", "never"]).ok();
    assert!(shown.contains("sleeps only when it is told to"), "{shown}");
    wait::until_ok("it sleeps deeply", PATIENCE, async || sleep(&world, "idle", Depth::Cold).await).await;
    let request = visitor.request("GET", "idle", "/count").header("user-agent", "UptimeRobot/2.0");
    let answer = visitor.send(request.body(Full::default()).expect("a request")).await.expect("an answer");
    assert_eq!((answer.header("x-drowse-state"), answer.text().as_str()), ("woken-cold", "1"), "a monitor is held");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_answered_once_while_apps_sleep_sink_wake_and_are_replaced() {
    needs_a_world!();
    let world = World::with(options("")).await;
    let to_disk = std::env::var_os("DROWSE_TEST_CRIU").is_some();
    let most = Duration::from_secs(10);
    let plan = Plan { apps: 2, visitors: 2, changes: 150, most, to_disk, deploys: true, seed: 7 };
    let outcome = chaos::run(&world, &plan).await.expect("none is lost, cut, wrong or twice");
    println!("{outcome:?}");
    assert!(outcome.answered > 0 && outcome.refused.is_empty(), "{outcome:?}");
}

/// Someone who asks with a number that nobody else has, by a method that no router repeats.
async fn ask(visitor: Visitor, number: Arc<AtomicU64>, calm: Arc<AtomicBool>, end: Arc<AtomicBool>) -> BTreeSet<u64> {
    let mut answered = BTreeSet::new();
    while !end.load(Ordering::SeqCst) {
        let id = number.fetch_add(1, Ordering::SeqCst);
        let answer = visitor.post("shop", &format!("/mark?id={id}"), "body").await.expect("an answer");
        assert_eq!(answer.ok().expect("200"), id.to_string());
        answered.insert(id);
        // Pauses differ, so that now and then nobody asks.
        tokio::time::sleep(Duration::from_millis(id * 37 % 100)).await;
        while calm.load(Ordering::SeqCst) && !end.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_sleeps_under_load_lose_no_request_and_repeat_none() {
    needs_a_world!();
    let mut world = World::with(options("")).await;
    world.deploy("shop", &App::probe("one")).await;
    let (number, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let calm = Arc::new(AtomicBool::new(false));
    let mut visitors = JoinSet::new();
    for _ in 0..3 {
        visitors.spawn(ask(world.visitor(), Arc::clone(&number), Arc::clone(&calm), Arc::clone(&end)));
    }
    let (mut paused, mut cold, mut attempt) = (0, 0, 0);
    while paused < 100 || cold < 4 {
        // In every second attempt nobody begins to ask before it sleeps; the others race with requests.
        attempt += 1;
        calm.store(attempt % 2 == 0, Ordering::SeqCst);
        let depth = if paused >= 25 * (cold + 1) { Depth::Cold } else { Depth::Paused };
        let slept = sleep(&world, "shop", depth).await;
        calm.store(false, Ordering::SeqCst);
        match slept {
            Ok(_) if depth == Depth::Cold => {
                cold += 1;
                // In between the agent dies: asleep, falling asleep or waking, as it comes.
                world.kill_agent();
                world.start_agent().await;
            }
            Ok(_) => paused += 1,
            // Somebody asked meanwhile, or the agent is only just back.
            Err(problem) => assert!(
                matches!(problem.code, ErrorCode::Conflict | ErrorCode::Unavailable | ErrorCode::NotFound),
                "{problem:?}"
            ),
        }
    }
    end.store(true, Ordering::SeqCst);
    let mut answered = BTreeSet::new();
    while let Some(visitor) = visitors.join_next().await {
        answered.extend(visitor.expect("nobody was refused or cut off"));
    }
    let marks = text(&world.visitor(), "shop", "/read?file=marks").await;
    let marks: Vec<u64> = marks.split_whitespace().map(|mark| mark.parse().expect("a number")).collect();
    let once: BTreeSet<u64> = marks.iter().copied().collect();
    assert_eq!(marks.len(), once.len(), "a request was carried out twice");
    assert_eq!(once, answered, "each was answered, and each that was answered was carried out");
    assert_eq!(world.instance("shop").await.restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_wakes_an_app_by_the_button_and_is_where_they_wanted_to_be() {
    needs_a_world!();
    if let Err(why) = browser::is_there() {
        skip!("{why}");
    }
    let world = World::with(options("")).await;
    world.deploy("shop", &App::probe("one")).await;
    let port = world.visitor().router().port();
    let address = format!("http://shop.{DOMAIN}:{port}/count?from=%22%3Cb%3E#here");
    let mut browser = Browser::start(DOMAIN, world.visitor().router()).await.expect("a browser");

    // With script, in the dark, on a phone.
    sleep(&world, "shop", Depth::Cold).await.expect("sleeps");
    browser.show_as(true, 390, 800).await.expect("shown so");
    browser.visit(&address).await.expect("goes there");
    browser.until("document.title === 'shop is asleep'").await;
    browser.screenshot("asleep-phone-dark").await.expect("a picture");
    browser.show_as(false, 900, 700).await.expect("shown so");
    browser.screenshot("asleep-light").await.expect("a picture");
    assert_eq!(browser.evaluate("document.activeElement.textContent").await.expect("says"), "Wake up");
    assert!(world.instance("shop").await.state.is_asleep(), "looking wakes nothing");
    let pressed = std::time::Instant::now();
    browser.press_enter().await.expect("pressed");
    browser.until("document.body.textContent.trim() === '1'").await;
    println!("from the button to the app's page: {} ms", pressed.elapsed().as_millis());
    assert_eq!(browser.evaluate("location.href").await.expect("says"), address, "path, query and fragment are kept");
    browser.screenshot("awake").await.expect("a picture");

    // Without script it is a form like any other.
    wait::until_ok("it sleeps again", PATIENCE, async || sleep(&world, "shop", Depth::Cold).await).await;
    browser.run_scripts(false).await.expect("off");
    // From elsewhere: the same address again would only be a jump within the page.
    browser.visit("about:blank").await.expect("goes there");
    browser.visit(&address).await.expect("goes there");
    browser.until("document.title === 'shop is asleep'").await;
    browser.evaluate("document.querySelector('button').focus()").await.expect("focused");
    browser.press_enter().await.expect("pressed");
    browser.until("document.body.textContent.trim() === '1'").await;
    let now = browser.evaluate("location.pathname + location.search").await.expect("says");
    assert_eq!(now, "/count?from=%22%3Cb%3E");
}
