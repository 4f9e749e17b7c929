//! Very many sleepers, every one of them asked for at once: a few are woken, a few at a time, and who comes
//! for what is awake does not notice. `DROWSE_SLEEPERS=2000` is the long form.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drowse_api::InstanceId;
use drowse_api::agent::EndpointsPicture;
use drowse_api::sleep::{Depth, Sleeper};
use jiff::Timestamp;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::support::*;

/// How many requests of one address are under way at once.
const AT_ONCE: usize = 50;
const WAKES: usize = 8;
const PER_VISITOR: usize = 60;

fn sleepers() -> usize {
    std::env::var("DROWSE_SLEEPERS").ok().and_then(|count| count.parse().ok()).unwrap_or(400)
}

fn id(number: usize) -> InstanceId {
    InstanceId::parse(format!("i{number}")).unwrap()
}

/// The agent's part: has what was demanded awake, all that was demanded since the last look at once. The most
/// that were demanded and not awake yet.
async fn wake_on_demand(world: &World, end: &AtomicBool) -> usize {
    let (mut read, mut most) = (0, 0);
    while !end.load(Ordering::SeqCst) {
        let asked: Vec<String> = world.asked.lock().unwrap()[read..].to_vec();
        read += asked.len();
        let demanded =
            |line: &String| line.split("/v1/instances/").nth(1)?.split_once("/demand").map(|(id, _)| id.to_owned());
        let mut demanded: Vec<InstanceId> =
            asked.iter().filter_map(demanded).map(|id| InstanceId::parse(id).unwrap()).collect();
        demanded.sort();
        demanded.dedup();
        let sleeps = |picture: &EndpointsPicture, id: &InstanceId| picture.asleep.contains_key(id);
        demanded.retain(|id| sleeps(&world.endpoints.borrow(), id));
        most = most.max(demanded.len());
        if !demanded.is_empty() {
            world.endpoints.send_modify(|picture| {
                for id in demanded {
                    if let Some(sleeper) = picture.asleep.remove(&id) {
                        picture.ready.insert(id, sleeper.address);
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    most
}

/// Asks for an app from an address of its own.
async fn ask(router: SocketAddr, from: Ipv4Addr, app: usize) -> Answer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut visitor = Visitor { stream: socket.connect(router).await.unwrap(), buffer: Vec::new() };
    visitor.send(format!("GET / HTTP/1.1\r\nHost: app{app}.{DOMAIN}\r\nConnection: close\r\n\r\n")).await;
    visitor.answer().await
}

/// Asks for many apps: how many answers there were of each kind.
async fn ask_for(router: SocketAddr, from: Ipv4Addr, apps: impl Iterator<Item = usize>) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut under_way = JoinSet::new();
    let mut note = |answer: Answer| {
        let kind = match answer.status {
            200 => format!("200 {}", answer.header("x-drowse-state").unwrap_or_default()),
            status => {
                assert!(answer.header("retry-after").is_some(), "{status} without a time to come again");
                format!("{status} {}", answer.code())
            }
        };
        *found.entry(kind).or_default() += 1;
    };
    for app in apps {
        if under_way.len() >= AT_ONCE {
            note(under_way.join_next().await.unwrap().unwrap());
        }
        under_way.spawn(ask(router, from, app));
    }
    while let Some(answer) = under_way.join_next().await {
        note(answer.unwrap());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_sleeper_is_asked_for_limits_hold_and_who_is_wanted_gets_through() {
    let count = sleepers();
    let (instance, _) = scripted(|_| ok("hello")).await;
    let world = World::with(&vec![instance; count + 1], |limits| {
        limits.wakes = WAKES;
        limits.wakes_per_visitor = PER_VISITOR;
        limits.wake_seconds = 8;
    })
    .await;
    let revision = world.change_table(|table| {
        for n in 0..=count {
            table.hosts.insert(host(&format!("app{n}")), app_route(&format!("app{n}"), &[&format!("i{n}")]));
        }
    });
    world.settled(revision).await;
    // All but the last.
    world.endpoints.send_modify(|picture| {
        for n in 0..count {
            let address = picture.ready.remove(&id(n)).unwrap();
            let sleeper =
                Sleeper { address, depth: Depth::Cold, since: Timestamp::now(), is_waking: false, takes: Some(900) };
            picture.asleep.insert(id(n), sleeper);
        }
    });
    let saved = world.config.data_dir.join("endpoints.json");
    let last = format!("\"ready\":{{\"i{count}\":");
    until("the router knows who sleeps", || std::fs::read_to_string(&saved).is_ok_and(|text| text.contains(&last)))
        .await;

    let (router, end) = (world.address, Arc::new(AtomicBool::new(false)));
    let crowd = async {
        // Somebody comes for what is awake, all the time.
        let (over, awake) = (Arc::clone(&end), Ipv4Addr::new(127, 0, 3, 1));
        let wanted = tokio::spawn(async move {
            let mut served = 0;
            while !over.load(Ordering::SeqCst) {
                let answer = ask(router, awake, count).await;
                assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
                served += 1;
            }
            served
        });
        // One address asks for everything: it has a few woken, and is told so of the others.
        let one = ask_for(router, Ipv4Addr::new(127, 0, 1, 1), 0..count).await;
        let of = |all: &BTreeMap<String, usize>, kind: &str| all.get(kind).copied().unwrap_or_default();
        // Who waited for too long, on a busy machine, is told to come again.
        assert_eq!(of(&one, "200 woken-cold") + of(&one, "503 waking"), PER_VISITOR, "{one:?}");
        assert_eq!(of(&one, "503 too-many-wakes"), count - PER_VISITOR, "{one:?}");
        // Others are not hindered by it: a few apps each, all at once.
        let mut visitors = JoinSet::new();
        for (number, first) in (0..count).step_by(40).enumerate() {
            let from = Ipv4Addr::new(127, 0, 2, u8::try_from(number + 1).unwrap());
            visitors.spawn(ask_for(router, from, first..count.min(first + 40)));
        }
        let mut all: BTreeMap<String, usize> = BTreeMap::new();
        for (kind, number) in visitors.join_all().await.into_iter().flatten() {
            *all.entry(kind).or_default() += number;
        }
        assert_eq!(all.values().sum::<usize>(), count, "each gets one answer");
        let served: usize = all.iter().filter(|(kind, _)| kind.starts_with("200 ")).map(|(_, number)| number).sum();
        assert!(served + of(&all, "503 waking") == count && served > PER_VISITOR, "{all:?}");
        end.store(true, Ordering::SeqCst);
        wanted.await.unwrap()
    };
    let (most, served) = tokio::join!(wake_on_demand(&world, &end), crowd);
    assert!((1..=WAKES).contains(&most), "{most} were started at once");
    assert!(served > 0);
}
