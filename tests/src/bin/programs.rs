//! `scripts/programs`: which depths of sleep real programs reach, and how long their wakes take.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a table for whoever runs it")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drowse_api::sleep::Depth;
use drowse_tests::database::Database;
use drowse_tests::programs::{self, Deployed, Program};
use drowse_tests::world::{Options, World};

/// The depths, from the least deep; and what each program does in each.
const DEPTHS: [Depth; 4] = [Depth::Paused, Depth::Paged, Depth::Snapshot, Depth::Cold];
/// Between wakes.
const APART: Duration = Duration::from_millis(500);

/// What is known of one program.
struct Outcome {
    program: &'static Program,
    deployed: Result<Deployed>,
    wakes: BTreeMap<Depth, Vec<Duration>>,
    dump: Option<Duration>,
    size: u64,
    lacks: BTreeMap<Depth, String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let (mut rounds, mut slept, mut wanted) = (3, Duration::from_secs(31), Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--rounds" => rounds = words.next().context("--rounds needs a number")?.parse()?,
            "--slept" => slept = Duration::from_secs(words.next().context("--slept needs seconds")?.parse()?),
            name => wanted.push(programs::of(name)?),
        }
    }
    if wanted.is_empty() {
        wanted = programs::ALL.iter().collect();
    }
    let options = Options {
        agent_lines: "router_patience_seconds = 0\n".to_owned(),
        boot_timeout: Duration::from_secs(60),
        ..Options::default()
    };
    let world = World::with(options).await;
    let mut outcomes = Vec::new();
    let mut database = None;
    for program in wanted {
        eprintln!("    {}: deploying", program.name);
        let deployed = if program.needs_database() {
            match Database::start(&world).await {
                Ok(started) => {
                    let url = database.insert(started).url();
                    Deployed::new(&world, program, &[("DATABASE_URL", &url)]).await
                }
                Err(error) => Err(error),
            }
        } else {
            Deployed::new(&world, program, &[]).await
        };
        outcomes.push(Outcome::new(program, deployed));
    }
    for depth in DEPTHS {
        for round in 0..rounds {
            for outcome in &mut outcomes {
                outcome.sleep(&world, depth).await?;
            }
            // Long sleeps are another thing than short ones: what counts time by the wall notices them.
            let pause = if round == 0 { slept } else { Duration::from_secs(3) };
            eprintln!("    {depth}, {} of {rounds}: asleep for {} s", round + 1, pause.as_secs());
            tokio::time::sleep(pause).await;
            for outcome in &mut outcomes {
                outcome.wake(&world, depth).await;
                tokio::time::sleep(APART).await;
            }
        }
    }
    println!("| program | processes | MiB on disk | dump | paused | paged | snapshot | cold |");
    println!("|---|---|---|---|---|---|---|---|");
    for outcome in &outcomes {
        println!("{}", outcome.row());
    }
    for outcome in &outcomes {
        if let Err(error) = &outcome.deployed {
            println!("\n{} does not run here: {error:#}", outcome.program.name);
        }
        for (depth, why) in &outcome.lacks {
            println!("\n{}, {depth}: {why}", outcome.program.name);
        }
    }
    drop(database);
    let must = outcomes.iter().filter(|outcome| outcome.program.must_reach_disk());
    let short: Vec<&str> =
        must.filter(|outcome| !outcome.wakes.contains_key(&Depth::Snapshot)).map(|it| it.program.name).collect();
    ensure!(short.is_empty(), "these must come back from disk, and do not: {}", short.join(", "));
    Ok(())
}

impl Outcome {
    fn new(program: &'static Program, deployed: Result<Deployed>) -> Self {
        Self { program, deployed, wakes: BTreeMap::new(), dump: None, size: 0, lacks: BTreeMap::new() }
    }

    async fn sleep(&mut self, world: &World, depth: Depth) -> Result<()> {
        let Ok(deployed) = &self.deployed else { return Ok(()) };
        if self.lacks.contains_key(&depth) {
            return Ok(());
        }
        match deployed.sleep(world, depth).await? {
            Err(why) => drop(self.lacks.insert(depth, why)),
            Ok(took) if depth == Depth::Snapshot => {
                self.dump = Some(took);
                let images = std::fs::read_dir(deployed.images())?.flatten();
                self.size = images.filter_map(|image| Some(image.metadata().ok()?.len())).sum();
            }
            Ok(_) => {}
        }
        Ok(())
    }

    async fn wake(&mut self, world: &World, depth: Depth) {
        let Ok(deployed) = &mut self.deployed else { return };
        if self.lacks.contains_key(&depth) {
            return;
        }
        match deployed.wake(world, depth).await {
            Ok(took) => self.wakes.entry(depth).or_default().push(took),
            Err(error) => {
                self.wakes.remove(&depth);
                self.lacks.insert(depth, format!("{error:#}"));
            }
        }
    }

    /// Middle and longest wake of each depth.
    fn row(&self) -> String {
        let milliseconds = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
        let of = |depth: Depth| {
            let mut times = self.wakes.get(&depth).cloned().unwrap_or_default();
            times.sort_unstable();
            match (times.get(times.len() / 2), times.last()) {
                (Some(middle), Some(longest)) => format!("{} ({}) ms", milliseconds(*middle), milliseconds(*longest)),
                _ if self.deployed.is_err() => String::new(),
                _ => "no".to_owned(),
            }
        };
        let processes = self.deployed.as_ref().map_or(0, |deployed| deployed.processes.len());
        let (dump, size) = (self.dump.map(|took| format!("{} ms", milliseconds(took))), self.size >> 20);
        let depths = DEPTHS.map(of).join(" | ");
        format!("| {} | {processes} | {size} | {} | {depths} |", self.program.what, dump.unwrap_or_default())
    }
}
