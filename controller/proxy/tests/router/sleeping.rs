//! Apps that fall asleep, sleep and wake: no request is lost, and nobody is woken who need not be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use drowse_api::InstanceId;
use drowse_api::agent::EndpointsPicture;
use drowse_api::routing::Route;
use drowse_api::sleep::{Depth, Glance, Glances, Sleeper, Wake};
use jiff::Timestamp;
use tokio::io::AsyncWriteExt;

use crate::support::*;

fn id(name: &str) -> InstanceId {
    InstanceId::parse(name).unwrap()
}

fn sleeper(address: SocketAddr, depth: Depth, is_waking: bool) -> Sleeper {
    Sleeper { address, depth, since: Timestamp::now(), is_waking, takes: Some(1_500) }
}

impl World {
    fn sleeps(&self, name: &str, depth: Depth) {
        self.endpoints.send_modify(|picture| put_to_sleep(picture, name, depth));
    }

    fn wakes(&self, name: &str) {
        self.endpoints.send_modify(|picture| wake(picture, name));
    }

    fn closes(&self, name: &str, ticket: u64) {
        self.endpoints.send_modify(|picture| {
            picture.closing.insert(id(name), ticket);
        });
    }

    /// Waits until the agent is asked this, and says how often it was.
    async fn asked(&self, what: &str) -> usize {
        until(&format!("the agent is asked {what}"), || self.count(what) > 0).await;
        self.count(what)
    }

    fn count(&self, what: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.contains(what)).count()
    }

    /// Waits until the router knows that the instance sleeps.
    async fn knows_sleep(&self) {
        let saved = self.config.data_dir.join("endpoints.json");
        until("the router has saved who sleeps", || {
            std::fs::read_to_string(&saved).is_ok_and(|text| text.contains("\"asleep\":{\""))
        })
        .await;
    }

    async fn visit(&self, path: &str, headers: &str) -> Answer {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: shop.{DOMAIN}\r\n{headers}\r\n")).await
    }
}

fn put_to_sleep(picture: &mut EndpointsPicture, name: &str, depth: Depth) {
    picture.closing.remove(&id(name));
    let address =
        picture.ready.remove(&id(name)).or_else(|| picture.asleep.get(&id(name)).map(|sleeper| sleeper.address));
    picture.asleep.insert(id(name), sleeper(address.unwrap(), depth, false));
}

fn wake(picture: &mut EndpointsPicture, name: &str) {
    picture.closing.remove(&id(name));
    if let Some(sleeper) = picture.asleep.remove(&id(name)) {
        picture.ready.insert(id(name), sleeper.address);
    }
}

const BROWSER: &str = "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\n";

#[tokio::test]
async fn a_paused_app_is_woken_by_whoever_asks_once_for_all_who_wait() {
    let (instance, seen) = scripted(|_| ok("hello")).await;
    let mut world = World::new(&[instance]).await;
    world.controller = None;
    world.sleeps("i0", Depth::Paused);
    world.knows_sleep().await;
    let ask = |headers: &'static str| {
        let address = world.address;
        tokio::spawn(async move {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let mut visitor = Visitor { stream, buffer: Vec::new() };
            visitor.send(format!("GET /a HTTP/1.1\r\nHost: shop.{DOMAIN}\r\n{headers}\r\n")).await;
            visitor.answer().await
        })
    };
    let asked: Vec<_> =
        [BROWSER, "", "Sec-Purpose: prefetch\r\n", "User-Agent: Googlebot/2.1\r\n", BROWSER].map(ask).into();
    world.asked("/v1/instances/i0/demand").await;
    assert!(seen.lock().unwrap().is_empty(), "nothing is sent to who sleeps");
    world.wakes("i0");
    let mut waited = 0;
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        // On a busy machine one may come only when the app is awake already.
        match answer.header("x-drowse-state").as_deref() {
            Some("woken-paused") => waited += 1,
            other => assert_eq!(other, None),
        }
    }
    assert!(waited > 0, "somebody waited for it");
    assert_eq!(world.count("demand"), 1, "{:?}", world.asked.lock().unwrap());
    assert!(world.count("GET /a") == 1, "{:?}", world.asked.lock().unwrap());
    assert_eq!(world.get("/").await.header("x-drowse-state"), None, "awake as ever");
}

#[tokio::test]
async fn an_instance_is_let_go_of_when_nothing_is_in_flight_and_requests_wait_from_then_on() {
    let (release, wait) = tokio::sync::watch::channel(false);
    let instance = raw(move |mut stream| {
        let mut wait = wait.clone();
        async move {
            read_request(&mut stream).await;
            let _ = wait.wait_for(|released| *released).await;
            let _ = stream.write_all(ok("done").as_bytes()).await;
        }
    })
    .await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    visitor.send(format!("GET / HTTP/1.1\r\nHost: shop.{DOMAIN}\r\n\r\n")).await;
    until("it is in flight", || world.last_report().in_flight.values().sum::<u64>() == 1).await;
    world.closes("i0", 41);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.count("quiet"), 0, "a request is in flight");
    release.send(true).unwrap();
    assert_eq!(visitor.answer().await.text(), "done");
    world.asked("quiet {\"follower\":7,\"ticket\":41}").await;
    let late = world.get("/");
    let demanded = async {
        world.asked("demand").await;
        world.wakes("i0");
    };
    let (answer, ()) = tokio::join!(late, demanded);
    assert_eq!(answer.text(), "done");
}

#[tokio::test]
async fn a_request_at_a_closing_gate_calls_the_sleep_off() {
    let (release, wait) = tokio::sync::watch::channel(false);
    let instance = raw(move |mut stream| {
        let mut wait = wait.clone();
        async move {
            let request = read_request(&mut stream).await;
            if request.starts_with("GET /slow") {
                let _ = wait.wait_for(|released| *released).await;
            }
            let _ = stream.write_all(ok("done").as_bytes()).await;
        }
    })
    .await;
    let world = World::new(&[instance]).await;
    let mut visitor = world.visitor().await;
    visitor.send(format!("GET /slow HTTP/1.1\r\nHost: shop.{DOMAIN}\r\n\r\n")).await;
    until("it is in flight", || world.last_report().in_flight.values().sum::<u64>() == 1).await;
    world.closes("i0", 5);
    // The router may not have heard of it at the first of these.
    for _ in 0..1000 {
        assert_eq!(world.get("/").await.text(), "done", "it is awake, and serves");
        if world.count("/v1/instances/i0/demand") > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.asked("/v1/instances/i0/demand").await;
    release.send(true).unwrap();
    visitor.answer().await;
    assert_eq!(world.count("quiet"), 0);
}

#[tokio::test]
async fn who_waits_goes_in_where_the_next_sleep_was_begun_at_once() {
    let (instance, _) = scripted(|_| ok("hello")).await;
    let world = World::new(&[instance]).await;
    world.sleeps("i0", Depth::Paused);
    world.knows_sleep().await;
    let woken = async {
        world.asked("demand").await;
        // In one picture: the router never hears of the moment in which it was awake.
        world.endpoints.send_modify(|picture| {
            wake(picture, "i0");
            picture.closing.insert(id("i0"), 9);
        });
    };
    let (answer, ()) = tokio::join!(world.get("/"), woken);
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
}

#[tokio::test]
async fn a_browser_gets_the_page_of_a_cold_app_and_wakes_nothing() {
    let (instance, seen) = scripted(|_| ok("hello")).await;
    let world = World::new(&[instance]).await;
    world.sleeps("i0", Depth::Cold);
    world.knows_sleep().await;
    let page = world.visit("/a/b?c=%22%3E", BROWSER).await;
    assert_eq!((page.status, page.header("retry-after").as_deref()), (503, Some("2")));
    assert_eq!(page.header("cache-control").as_deref(), Some("no-store"));
    assert_eq!(page.header("x-drowse-state").as_deref(), Some("sleeping"));
    assert!(
        page.text().contains("shop is asleep") && page.text().contains("value=\"/a/b?c=%22%3E\""),
        "{}",
        page.text()
    );
    for (path, headers, status) in [
        ("/favicon.ico", "", 204),
        ("/robots.txt", "", 503),
        ("/", "User-Agent: UptimeRobot/2.0\r\n", 200),
        ("/", "Sec-Purpose: prefetch\r\nAccept: text/html\r\n", 503),
    ] {
        let answer = world.visit(path, headers).await;
        assert_eq!(
            (answer.status, answer.header("x-drowse-state").as_deref()),
            (status, Some("sleeping")),
            "{path} {headers}"
        );
    }
    let state = world.get("/.drowse/state").await;
    assert!(state.text().contains("\"state\":\"sleeping\""), "{}", state.text());
    assert_eq!((world.asked.lock().unwrap().len(), seen.lock().unwrap().len()), (0, 0));
}

#[tokio::test]
async fn a_program_waits_for_a_cold_app_with_its_body_and_its_upgrade() {
    let (instance, seen) = scripted(|_| ok("hello")).await;
    let world = World::new(&[instance]).await;
    world.sleeps("i0", Depth::Cold);
    world.knows_sleep().await;
    let post = world.ask(format!("POST /a HTTP/1.1\r\nHost: shop.{DOMAIN}\r\n{BROWSER}Content-Length: 5\r\n\r\nhello"));
    let woken = async {
        world.asked("demand").await;
        world.endpoints.send_modify(|picture| {
            picture.asleep.get_mut(&id("i0")).unwrap().is_waking = true;
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.wakes("i0");
    };
    let (answer, ()) = tokio::join!(post, woken);
    assert_eq!((answer.status, answer.header("x-drowse-state").as_deref()), (200, Some("woken-cold")));
    assert!(seen.lock().unwrap()[0].ends_with("hello"), "with its body");
}

#[tokio::test]
async fn a_program_that_waited_long_enough_is_told_when_to_come_again() {
    let (instance, _) = scripted(|_| ok("hello")).await;
    let world = World::with(&[instance], |limits| limits.wake_seconds = 1).await;
    world.sleeps("i0", Depth::Cold);
    world.knows_sleep().await;
    let answer = world.visit("/", "Accept: application/json\r\n").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "waking"));
    assert_eq!(answer.header("retry-after").as_deref(), Some("2"), "as long as it took the last time");
    assert!(answer.header("content-type").is_some_and(|kind| kind.contains("problem+json")));
}

#[tokio::test]
async fn an_app_that_wakes_for_browsers_shows_the_page_only_when_that_takes_long() {
    let (instance, _) = scripted(|_| ok("hello")).await;
    let world = World::new(&[instance]).await;
    let revision = world.change_table(|table| {
        if let Some(Route::Instances { wake, .. }) = table.hosts.get_mut(&host("shop")) {
            *wake = Wake::Auto;
        }
    });
    world.settled(revision).await;
    world.sleeps("i0", Depth::Cold);
    world.knows_sleep().await;
    let page = world.visit("/a", BROWSER).await;
    assert_eq!((page.status, page.header("x-drowse-state").as_deref()), (503, Some("waking")));
    world.asked("demand").await;
    world.wakes("i0");
    until_served(&world).await;
    let answer = world.visit("/a", BROWSER).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
}

#[tokio::test]
async fn what_those_get_who_only_look_by_is_the_owners_to_say() {
    let (instance, seen) = scripted(|_| ok("hello")).await;
    let world = World::new(&[instance]).await;
    let revision = world.change_table(|table| {
        if let Some(Route::Instances { glances, .. }) = table.hosts.get_mut(&host("shop")) {
            *glances = Glances { prefetch: Glance::Answer, crawlers: Glance::Wake, monitors: Glance::Hold };
        }
    });
    world.settled(revision).await;
    world.sleeps("i0", Depth::Cold);
    world.knows_sleep().await;
    let prefetch = world.visit("/", "Sec-Purpose: prefetch\r\n").await;
    assert_eq!((prefetch.status, world.count("demand")), (503, 0), "answered, and nothing is woken");
    let crawler = world.visit("/", "User-Agent: Googlebot/2.1\r\n").await;
    assert_eq!((crawler.status, crawler.header("x-drowse-state").as_deref()), (503, Some("sleeping")));
    world.asked("/v1/instances/i0/demand").await;
    assert!(seen.lock().unwrap().is_empty(), "woken for the next one, and answered by the router");
    world.wakes("i0");
    until_served(&world).await;
    // What it saves lags behind what it knows: the second sleep is told from the first by the time between.
    let is_asleep = || {
        let path = world.config.data_dir.join("endpoints.json");
        std::fs::read_to_string(path).is_ok_and(|text| text.contains("\"asleep\":{\""))
    };
    until("the router has saved that it is awake", || !is_asleep()).await;
    world.sleeps("i0", Depth::Cold);
    until("the router knows that it sleeps", is_asleep).await;
    let held = async { world.visit("/", "User-Agent: UptimeRobot/2.0\r\n").await };
    let before = world.count("demand");
    let woken = async {
        until("the monitor is waited for", || world.count("demand") > before).await;
        world.wakes("i0");
    };
    let (answer, ()) = tokio::join!(held, woken);
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(answer.header("x-drowse-state").as_deref(), Some("woken-cold"));
}

#[tokio::test]
async fn who_only_looks_by_keeps_nothing_awake() {
    let (instance, seen) = scripted(|_| ok("hello")).await;
    let world = World::new(&[instance]).await;
    let active = || world.last_report().active.get(&id("i0")).copied().unwrap_or(Timestamp::MIN);
    let is_quiet = || Timestamp::now().duration_since(active()) > jiff::SignedDuration::from_millis(1_200);
    until("nobody asked for a while", is_quiet).await;
    let before = active();
    let monitor = "User-Agent: UptimeRobot/2.0\r\n";
    assert_eq!(world.visit("/", monitor).await.text(), "hello", "the app answers while it is awake");
    assert_eq!(world.visit("/", "Accept: text/html\r\n").await.text(), "hello");
    until("the router tells that it is in use", || active() > before).await;
    let (person, paths) = (active(), seen.lock().unwrap().len());
    assert_eq!(paths, 2);
    until("nobody asked for a while", is_quiet).await;
    for _ in 0..5 {
        assert_eq!(world.visit("/", monitor).await.text(), "hello");
    }
    // Whatever is told later: the report of an app that somebody uses comes after these.
    assert_eq!(active(), person, "a monitor is no use");
    assert_eq!(world.visit("/", "").await.text(), "hello");
    until("the router tells that it is in use", || active() > person).await;
}

async fn until_served(world: &World) {
    for _ in 0..500 {
        if world.get("/").await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it is never served");
}

fn press(to: &str, headers: &str) -> String {
    let body = format!("to={to}");
    format!(
        "POST /.drowse/wake HTTP/1.1\r\nHost: shop.{DOMAIN}\r\n{headers}Content-Type: \
         application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn the_button_wakes_and_leads_back_to_where_the_visitor_wanted_to_go() {
    let (instance, _) = scripted(|_| ok("hello")).await;
    let world = World::new(&[instance]).await;
    world.sleeps("i0", Depth::Cold);
    world.knows_sleep().await;
    let origin = format!("Origin: http://shop.{DOMAIN}\r\nAccept: text/html\r\n");
    for (headers, to, status) in [
        ("Sec-Fetch-Site: cross-site\r\n".to_owned(), "/", 403),
        (format!("Origin: http://evil.{DOMAIN}\r\n"), "/", 403),
        (String::new(), "/", 403),
        (origin.clone(), "https://evil.example/", 400),
        (origin.clone(), "%2F%2Fevil.example", 400),
    ] {
        assert_eq!(world.ask(press(to, &headers)).await.status, status, "{headers} {to}");
    }
    assert_eq!(world.count("demand"), 0, "nobody else presses it");
    let woken = async {
        world.asked("demand").await;
        world.wakes("i0");
    };
    let (answer, ()) = tokio::join!(world.ask(press("%2Fa%3Fb%3D1", &origin)), woken);
    assert_eq!((answer.status, answer.header("location").as_deref()), (303, Some("/a?b=1")));
    let script = world.ask(press("/", &format!("Origin: http://shop.{DOMAIN}\r\nAccept: application/json\r\n"))).await;
    assert_eq!(script.status, 200);
    assert!(script.text().contains("awake"));
}

#[tokio::test]
async fn a_visitor_who_goes_away_wakes_nothing_any_more() {
    let (instance, _) = scripted(|_| ok("hello")).await;
    let mut world = World::new(&[instance]).await;
    world.sleeps("i0", Depth::Cold);
    world.knows_sleep().await;
    world.agent = None;
    let mut visitor = world.visitor().await;
    visitor.send(format!("GET / HTTP/1.1\r\nHost: shop.{DOMAIN}\r\n\r\n")).await;
    let state = async || world.get("/.drowse/state").await.text();
    for _ in 0..500 {
        if state().await.contains("waking") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(state().await.contains("waking"), "the request waits");
    drop(visitor);
    for _ in 0..500 {
        if state().await.contains("sleeping") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(state().await.contains("sleeping"), "nobody waits any more");
    world.start_agent();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.count("demand"), 0);
}

#[tokio::test]
async fn who_waits_is_served_when_the_agent_is_back() {
    let (instance, _) = scripted(|_| ok("hello")).await;
    let mut world = World::new(&[instance]).await;
    world.sleeps("i0", Depth::Paused);
    world.knows_sleep().await;
    world.agent = None;
    let mut visitor = world.visitor().await;
    visitor.send(format!("GET / HTTP/1.1\r\nHost: shop.{DOMAIN}\r\n\r\n")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.start_agent();
    world.asked("demand").await;
    world.wakes("i0");
    assert_eq!(visitor.answer().await.text(), "hello");
}

#[tokio::test]
async fn a_router_that_starts_without_an_agent_sends_nothing_to_those_who_slept_or_were_about_to() {
    let (instance, seen) = scripted(|_| ok("hello")).await;
    let mut world = World::with(&[instance, instance], |limits| limits.wake_seconds = 1).await;
    world.closes("i1", 3);
    world.asked("i1/quiet").await;
    world.sleeps("i0", Depth::Paused);
    world.knows_sleep().await;
    world.agent = None;
    world.router = None;
    world.start_router();
    assert_eq!(world.get("/").await.code(), "waking");
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn one_address_cannot_have_everything_woken_and_starts_come_a_few_at_a_time() {
    let (instance, _) = scripted(|_| ok("hello")).await;
    let world = World::with(&[instance; 4], |limits| {
        limits.wakes_per_visitor = 3;
        limits.wakes = 2;
        limits.wake_seconds = 1;
    })
    .await;
    let revision = world.change_table(|table| {
        for n in 0..4 {
            table.hosts.insert(host(&format!("app{n}")), app_route(&format!("app{n}"), &[&format!("i{n}")]));
        }
    });
    world.settled(revision).await;
    (0..4).for_each(|n| world.sleeps(&format!("i{n}"), Depth::Cold));
    until("the router knows them all", || {
        std::fs::read_to_string(world.config.data_dir.join("endpoints.json"))
            .is_ok_and(|text| text.contains("\"ready\":{}"))
    })
    .await;
    let ask = |n: usize| world.ask(format!("GET / HTTP/1.1\r\nHost: app{n}.{DOMAIN}\r\n\r\n"));
    let (a, b, c) = tokio::join!(ask(0), ask(1), ask(2));
    for answer in [a, b, c] {
        assert_eq!(answer.code(), "waking");
    }
    let demanded = |n: usize| world.count(&format!("i{n}/demand")) > 0;
    assert_eq!((0..3).filter(|n| demanded(*n)).count(), 2, "{:?}", world.asked.lock().unwrap());
    let refused = ask(3).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "too-many-wakes"));
    assert!(refused.header("retry-after").is_some());
}

/// An agent that puts instances to sleep as soon as they were let go of, and wakes them on demand.
async fn act_as_agent(world: &World, sleeps: usize, calm: &AtomicBool, end: &AtomicBool) -> usize {
    let (mut ticket, mut slept, mut read) = (0, 0, 0);
    while slept < sleeps && ticket < 2000 {
        ticket += 1;
        // In every second attempt nobody begins to ask before it sleeps; the others race with requests,
        // and most of them are called off, as they should be.
        calm.store(ticket % 2 == 0, Ordering::SeqCst);
        world.closes("i0", ticket);
        loop {
            let asked: Vec<String> = world.asked.lock().unwrap()[read..].to_vec();
            read += asked.len();
            if asked.iter().any(|asked| asked.contains("demand")) {
                calm.store(false, Ordering::SeqCst);
                world.wakes("i0");
                break;
            }
            if asked.iter().any(|asked| asked.contains(&format!("\"ticket\":{ticket}"))) {
                world.sleeps("i0", if ticket % 3 == 0 { Depth::Cold } else { Depth::Paused });
                slept += 1;
                calm.store(false, Ordering::SeqCst);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    calm.store(false, Ordering::SeqCst);
    end.store(true, Ordering::SeqCst);
    // Who waits now is served too.
    while !world.asked.lock().unwrap().is_empty() {
        world.wakes("i0");
        world.asked.lock().unwrap().clear();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.wakes("i0");
    slept
}

#[tokio::test]
async fn hundreds_of_sleeps_and_wakes_under_load_lose_no_request_and_send_none_to_a_sleeper() {
    let (instance, seen) = scripted(|request| {
        let number = request.split("x-number: ").nth(1).unwrap().split("\r\n").next().unwrap();
        ok(number)
    })
    .await;
    let world = World::new(&[instance]).await;
    let (end, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let calm = Arc::new(AtomicBool::new(false));
    let mut load = tokio::task::JoinSet::new();
    for visitor in 0..4_u64 {
        let (mut asker, end, sent) = (world.visitor().await, Arc::clone(&end), Arc::clone(&sent));
        let calm = Arc::clone(&calm);
        load.spawn(async move {
            let mut number = visitor;
            while !end.load(Ordering::SeqCst) {
                number += 4;
                let method = if number % 3 == 0 { "POST" } else { "GET" };
                let body = if method == "POST" { "Content-Length: 2\r\n\r\nhi" } else { "\r\n" };
                asker.send(format!("{method} / HTTP/1.1\r\nHost: shop.{DOMAIN}\r\nX-Number: {number}\r\n{body}")).await;
                let answer = asker.answer().await;
                assert_eq!((answer.status, answer.text()), (200, number.to_string()), "{answer:?}");
                sent.fetch_add(1, Ordering::SeqCst);
                // Now and then nobody asks, so that there is a sleep to begin.
                tokio::time::sleep(Duration::from_millis(number * 13 % 40)).await;
                while calm.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
    }
    let slept = act_as_agent(&world, 60, &calm, &end).await;
    while let Some(done) = load.join_next().await {
        done.unwrap();
    }
    assert!(slept >= 60, "it slept only {slept} times");
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len() as u64, sent.load(Ordering::SeqCst), "each request reached the app exactly once");
}
