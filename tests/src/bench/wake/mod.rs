//! Wakes of real apps from each depth: from a request at the router to the first byte of its answer, and the
//! same app brought back by `runc restore` in the same run.
//!
//! In each round every app sleeps in one of the ways, another one each time, rests, and is woken; so all ways
//! of all apps are spread over the whole run. Each answer tells the process and its counter: one that was
//! started anew instead of woken fails the benchmark.

mod cache;
mod peer;

use std::collections::BTreeMap;
use std::time::Duration;

use drowse_api::sleep::Depth;

use crate::bench::process;
use crate::bench::report::{Row, median};
use crate::machine;
use crate::programs::{self, Deployed, Program};
use crate::world::{Options, World};

use peer::Peer;

/// Between the wakes of one round.
const APART: Duration = Duration::from_millis(300);
/// Beside runc: three times faster.
const RATIO: f64 = 1.0 / 3.0;
/// How many groups the wakes are put in, for the spread of the ratio.
const GROUPS: usize = 5;

/// How much to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many wakes of each app in each way.
    pub wakes: usize,
    /// How long everything rests before it is woken.
    pub rest: Duration,
    /// Which apps; all if empty.
    pub apps: Vec<String>,
}

/// The apps, if not told otherwise.
const APPS: [&str; 3] = ["gunicorn", "express", "java"];

/// How an app sleeps, and what is in memory of its files when it is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Paused,
    Paged,
    SnapshotWarm,
    SnapshotCold,
    Cold,
}

impl Way {
    const ALL: [Self; 5] = [Self::Paused, Self::Paged, Self::SnapshotWarm, Self::SnapshotCold, Self::Cold];

    fn text(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Paged => "paged",
            Self::SnapshotWarm => "snapshot, page cache warm",
            Self::SnapshotCold => "snapshot, page cache dropped",
            Self::Cold => "cold start",
        }
    }

    /// Milliseconds to the first byte, at the middle.
    fn budget(self, app: &str) -> Option<f64> {
        match (self, app) {
            (Self::Paused, _) => Some(3.0),
            (Self::Paged, _) => Some(20.0),
            (Self::SnapshotWarm, "express") => Some(60.0),
            (Self::SnapshotCold, "express") => Some(100.0),
            (Self::SnapshotWarm, "gunicorn") => Some(90.0),
            (Self::SnapshotCold, "gunicorn") => Some(200.0),
            _ => None,
        }
    }

    fn depth(self) -> Depth {
        match self {
            Self::Paused => Depth::Paused,
            Self::Paged => Depth::Paged,
            Self::SnapshotWarm | Self::SnapshotCold => Depth::Snapshot,
            Self::Cold => Depth::Cold,
        }
    }

    fn has_peer(self) -> bool {
        matches!(self, Self::SnapshotWarm | Self::SnapshotCold)
    }
}

/// What was measured of one app in one way, in milliseconds.
#[derive(Default)]
struct Taken {
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

/// One app on both sides.
struct Pair {
    program: &'static Program,
    ours: Deployed,
    peer: Peer,
    /// Why it does not sleep in some ways.
    lacks: BTreeMap<Way, String>,
    taken: BTreeMap<Way, Taken>,
    /// MiB of the images.
    size: f64,
}

/// Measures everything.
///
/// # Errors
/// When an app does not sleep or wake, or comes back as another one.
pub async fn run(plan: Plan) -> anyhow::Result<Vec<Row>> {
    machine::can_run_worlds().map_err(anyhow::Error::msg)?;
    anyhow::ensure!(
        std::env::var_os("DROWSE_TEST_CRIU").is_some(),
        "DROWSE_TEST_CRIU names no CRIU: see scripts/find-criu"
    );
    eprintln!(
        "    load average before: {:.1}; beyond the number of processors, times mean little",
        process::load_average()
    );
    let _hugetlb = super::start::peers::Hugetlb::mount()?;
    let options = Options {
        agent_lines: "router_patience_seconds = 0\n".to_owned(),
        boot_timeout: Duration::from_secs(60),
        ..Options::default()
    };
    let world = World::with(options).await;
    let names: Vec<&str> = plan.apps.iter().map(String::as_str).collect();
    let names = if names.is_empty() { APPS.to_vec() } else { names };
    let mut pairs = Vec::new();
    for (number, name) in names.iter().enumerate() {
        pairs.push(Pair::start(&world, programs::of(name)?, u8::try_from(number)?).await?);
    }
    let ways = Way::ALL;
    for round in 0..=plan.wakes * ways.len() {
        // The first one is not counted: of each app a first dump is the trial, and caches are cold.
        let counts = round > 0;
        for (at, pair) in pairs.iter_mut().enumerate() {
            pair.sleep(&world, ways[(round + at) % ways.len()]).await?;
        }
        tokio::time::sleep(plan.rest).await;
        for (at, pair) in pairs.iter_mut().enumerate() {
            pair.wake(&world, ways[(round + at) % ways.len()], round, counts).await?;
        }
        if counts && round % ways.len() == 0 {
            eprintln!("    {} of {} wakes in each way", round / ways.len(), plan.wakes);
        }
    }
    eprintln!("    load average after: {:.1}", process::load_average());
    Ok(pairs.iter().flat_map(Pair::rows).collect())
}

impl Pair {
    async fn start(world: &World, program: &'static Program, number: u8) -> anyhow::Result<Self> {
        eprintln!("    {}: deploying", program.name);
        let ours = Deployed::new(world, program, &[]).await?;
        let peer = Peer::start(program, &ours, number).await?;
        Ok(Self { program, ours, peer, lacks: BTreeMap::new(), taken: BTreeMap::new(), size: 0.0 })
    }

    async fn sleep(&mut self, world: &World, way: Way) -> anyhow::Result<()> {
        if self.lacks.contains_key(&way) {
            return Ok(());
        }
        if let Err(why) = self.ours.sleep(world, way.depth()).await? {
            eprintln!("    {} does not sleep {}: {why}", self.program.name, way.text());
            self.lacks.insert(way, why);
            return Ok(());
        }
        if way.has_peer() {
            self.peer.checkpoint()?;
        }
        match way {
            Way::SnapshotWarm => {
                self.size = cache::read(&self.ours.images())? as f64 / f64::from(1 << 20);
                cache::read(&self.peer.images())?;
            }
            Way::SnapshotCold => {
                cache::drop(&self.ours.images())?;
                cache::drop(&self.peer.images())?;
            }
            Way::Paused | Way::Paged | Way::Cold => {}
        }
        Ok(())
    }

    /// Each side comes first equally often.
    async fn wake(&mut self, world: &World, way: Way, round: usize, counts: bool) -> anyhow::Result<()> {
        if self.lacks.contains_key(&way) {
            return Ok(());
        }
        let (mut ours, mut theirs) = (None, None);
        let ours_first = (round / Way::ALL.len()).is_multiple_of(2);
        for is_ours in [ours_first, !ours_first] {
            if is_ours {
                ours = Some(self.ours.wake(world, way.depth()).await?);
            } else if way.has_peer() {
                theirs = Some(self.peer.restore().await?);
            }
            tokio::time::sleep(APART).await;
        }
        if counts {
            let taken = self.taken.entry(way).or_default();
            let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
            taken.ours.extend(ours.map(milliseconds));
            taken.theirs.extend(theirs.map(milliseconds));
        }
        Ok(())
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let name = self.program.name;
        for way in Way::ALL {
            let text = way.text();
            let Some(taken) = self.taken.get(&way).filter(|taken| !taken.ours.is_empty()) else {
                let why = self.lacks.get(&way).map_or("not measured", String::as_str);
                rows.push(Row::alone(&format!("{name}, {text}: none, {why}"), "ms", &[], None));
                continue;
            };
            let of = match way {
                Way::Paused | Way::Paged | Way::Cold => format!("{} processes", self.ours.processes.len()),
                _ => format!("{:.0} MiB, {} processes", self.size, self.ours.processes.len()),
            };
            let what = format!("{name}, {text}, {of}");
            for (at, share) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
                let budget = way.budget(name).filter(|_| at == "p50");
                rows.push(Row::alone(&format!("{what}: {at}"), "ms", &[percentile(&taken.ours, share)], budget));
            }
            if !taken.theirs.is_empty() {
                let (ours, theirs) = (grouped(&taken.ours), grouped(&taken.theirs));
                rows.push(Row::against(&format!("{what}: p50"), "ms", &ours, "runc", &theirs, Some(RATIO)));
                let [ours, theirs] = [&taken.ours, &taken.theirs].map(|times| percentile(times, 0.95));
                rows.push(Row::against(&format!("{what}: p95"), "ms", &[ours], "runc", &[theirs], None));
            }
        }
        rows
    }
}

/// The value that this share of them does not exceed.
fn percentile(times: &[f64], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// The middles of a few groups of neighbours.
fn grouped(times: &[f64]) -> Vec<f64> {
    times.chunks(times.len().div_ceil(GROUPS).max(1)).map(median).collect()
}
