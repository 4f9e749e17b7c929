//! What the visitors of an app notice while another app of the same node takes all it can get: their
//! latency then, as a ratio to that without the other.
//!
//! Both are apps of one whole Drowse, as tests make it. Before each attack it is measured without one, so
//! that what else goes on on the machine reaches both sides.

use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;

use crate::apps::App;
use crate::bench::report::{Row, median};
use crate::floods::{self, Adversary};
use crate::http::{Visitor, whole};
use crate::machine;
use crate::world::{Options, World, main_process};

/// All but the connections, which need somebody to connect to.
const ADVERSARIES: [Adversary; 8] = [
    floods::CPU,
    floods::FORKS,
    floods::MEMORY,
    floods::TMPFS,
    floods::DISK,
    floods::FILES,
    floods::DESCRIPTORS,
    floods::LOG,
];
/// What visitors do, who need no help of the app.
const CROWD: &str = "connections in";
/// How many of them come at once.
const VISITORS: usize = 60;
/// An attack goes on for longer than it is measured.
const MARGIN: Duration = Duration::from_millis(500);

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many times each attack is made.
    pub rounds: usize,
    /// How long it is measured each time.
    pub round: Duration,
}

/// The latencies of one side, by round.
#[derive(Debug, Default)]
struct Side {
    middle: Vec<f64>,
    worst: Vec<f64>,
}

/// Measures everything.
///
/// # Errors
/// When the world cannot be used, or a request of the neighbour fails.
pub async fn run(plan: Plan) -> anyhow::Result<Vec<Row>> {
    machine::can_run_worlds().map_err(anyhow::Error::msg)?;
    let world = World::with(Options {
        limits: "instance.memory = \"256MiB\"\ninstance.pids = 100\ninstance.disk = \"128MiB\"\n".to_owned(),
        ..Options::default()
    })
    .await;
    world.deploy("quiet", &App::probe("quiet")).await;
    world.deploy("flood", &App::probe("flood")).await;
    let names: Vec<&str> = ADVERSARIES.iter().map(|adversary| adversary.name).chain([CROWD]).collect();
    let mut sides: Vec<[Side; 2]> = names.iter().map(|_| Default::default()).collect();
    for round in 0..plan.rounds {
        for (at, name) in names.iter().enumerate() {
            let [alone, under] = one(&world, at, plan.round).await.with_context(|| format!("during {name}"))?;
            eprintln!(
                "    round {} of {}, {name}: p50 {:.2} ms, alone {:.2} ms",
                round + 1,
                plan.rounds,
                under.0,
                alone.0
            );
            for (side, (middle, worst)) in sides[at].iter_mut().zip([alone, under]) {
                side.middle.push(middle);
                side.worst.push(worst);
            }
        }
    }
    let rows = names.iter().zip(&sides).flat_map(|(name, [alone, under])| {
        let row = |which: &str, ours: &[f64], theirs: &[f64]| {
            Row::against(&format!("neighbour latency {which}, {name}"), "ms", ours, "alone", theirs, None)
        };
        [row("p50", &under.middle, &alone.middle), row("p99", &under.worst, &alone.worst)]
    });
    Ok(rows.collect())
}

/// One round of one attack: p50 and p99 without it and with it.
async fn one(world: &World, at: usize, time: Duration) -> anyhow::Result<[(f64, f64); 2]> {
    let visitor = world.visitor();
    let before = world.instance("flood").await;
    let alone = latencies(&visitor, time).await?;
    let seconds = (time + MARGIN).as_secs_f64();
    let attack = match ADVERSARIES.get(at).copied() {
        Some(adversary) => {
            let visitor = visitor.clone();
            tokio::spawn(async move {
                // Of one that is killed for it no answer comes.
                let _ = adversary.attack(&visitor, "flood", &format!("seconds={seconds}")).await;
            })
        }
        None => {
            let visitor = visitor.clone();
            tokio::spawn(async move {
                let path = format!("/slow?seconds={seconds}");
                let one = || {
                    let (visitor, path) = (visitor.clone(), path.clone());
                    tokio::spawn(async move { visitor.get("flood", &path).await })
                };
                let all: Vec<_> = (0..VISITORS).map(|_| one()).collect();
                for one in all {
                    let _ = one.await;
                }
            })
        }
    };
    let under = latencies(&visitor, time).await?;
    attack.await?;
    // Whoever was killed is there again before the next attack.
    world
        .instance_becomes(&before.id, "is ready", |status| status.state.is_ready() && main_process(status).is_some())
        .await;
    world.serves("flood", "/", "flood").await;
    Ok([alone, under])
}

/// p50 and p99 of the neighbour's answers in milliseconds, over one kept connection.
async fn latencies(visitor: &Visitor, time: Duration) -> anyhow::Result<(f64, f64)> {
    let mut sender = visitor.connect().await?;
    let began = Instant::now();
    let mut all = Vec::new();
    while began.elapsed() < time {
        sender.ready().await?;
        let request = visitor.request("GET", "quiet", "/").body(Full::<Bytes>::default())?;
        let asked = Instant::now();
        let answer = whole(sender.send_request(request).await?).await?;
        anyhow::ensure!(answer.status == StatusCode::OK, "the neighbour answered {}: {}", answer.status, answer.text());
        all.push(asked.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    all.sort_by(f64::total_cmp);
    let worst = all.get(all.len() * 99 / 100).copied().context("the neighbour never answered")?;
    Ok((median(&all), worst))
}
