//! A start beside crun and runc: from the agent's call (or from the command line's fork) to the app's exec
//! and to its first byte, with namespaces, network and control groups on all sides.
//!
//! All sides run the same static server, which notes when it began. Rounds of the sides alternate; what
//! was started is taken down between the measurements.

mod ours;
pub(super) mod peers;
mod visit;

use std::time::Duration;

use crate::bench::process;
use crate::bench::report::{Row, median};

use ours::Ours;
use peers::Peer;
use visit::Times;

/// Between starts that are apart: long enough for the kernel's readers to have gone to rest.
const APART: Duration = Duration::from_millis(100);
/// To exec, beside crun: three times faster.
const BUDGET: f64 = 1.0 / 3.0;

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many times each side is measured.
    pub rounds: usize,
    /// How many starts each time.
    pub starts: usize,
    /// How many starts at once.
    pub crowd: usize,
}

/// One of those compared.
enum Side {
    Ours(Ours),
    Peer(Peer),
}

impl Side {
    /// Starts so many, one after the other with this pause between their beginnings.
    async fn one_by_one(&mut self, count: usize, pause: Duration) -> anyhow::Result<Vec<Times>> {
        match self {
            Self::Ours(ours) => ours.one_by_one(count, pause).await,
            Self::Peer(peer) => peer.one_by_one(count, pause).await,
        }
    }

    /// Starts so many at once.
    async fn at_once(&mut self, count: usize) -> anyhow::Result<Vec<Times>> {
        match self {
            Self::Ours(ours) => ours.at_once(count).await,
            Self::Peer(peer) => peer.at_once(count).await,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Ours(ours) => ours.name(),
            Self::Peer(peer) => peer.name(),
        }
    }
}

/// What one side took in one kind of measurement: a value for each round.
#[derive(Default)]
struct Taken {
    exec: Vec<f64>,
    first_byte: Vec<f64>,
}

/// Measures everything.
///
/// # Errors
/// When a side cannot be started, or what it started does not answer.
pub async fn run(plan: Plan) -> anyhow::Result<Vec<Row>> {
    process::raise_descriptors()?;
    let load = process::load_average();
    eprintln!("    load average before: {load:.1}; beyond the number of processors, ratios scatter");
    let _hugetlb = peers::Hugetlb::mount()?;
    let mut sides = vec![
        Side::Ours(Ours::start("full", 61, plan.starts.max(8)).await?),
        Side::Ours(Ours::start("empty", 62, 0).await?),
        Side::Peer(Peer::new("crun", 63).await?),
        Side::Peer(Peer::new("runc", 64).await?),
    ];
    for side in &mut sides {
        side.one_by_one(2, Duration::ZERO).await?;
    }
    let mut rows = Vec::new();
    for (how, pause) in [("100 ms apart", APART), ("back to back", Duration::ZERO)] {
        let mut taken: Vec<Taken> = sides.iter().map(|_| Taken::default()).collect();
        for round in 0..plan.rounds {
            for turn in 0..sides.len() {
                // Each side comes first, second and so on equally often.
                let at = (round + turn) % sides.len();
                let times = sides[at].one_by_one(plan.starts, pause).await?;
                taken[at].note(&times, median);
                eprintln!(
                    "    {how}, round {} of {}, {}: exec {:.2} ms, first byte {:.2} ms",
                    round + 1,
                    plan.rounds,
                    sides[at].name(),
                    taken[at].exec[round],
                    taken[at].first_byte[round]
                );
            }
        }
        rows.extend(compared(how, &sides, &taken, Some(BUDGET).filter(|_| pause == APART)));
    }
    let how = format!("{} at once", plan.crowd);
    let mut taken: Vec<Taken> = sides.iter().map(|_| Taken::default()).collect();
    for round in 0..plan.rounds.div_ceil(3) {
        for turn in 0..sides.len() {
            let at = (round + turn) % sides.len();
            let times = sides[at].at_once(plan.crowd).await?;
            taken[at].note(&times, |all| all.iter().copied().fold(0.0, f64::max));
            eprintln!(
                "    {how}, {}: last exec {:.0} ms, last first byte {:.0} ms",
                sides[at].name(),
                taken[at].exec[round],
                taken[at].first_byte[round]
            );
        }
    }
    rows.extend(compared(&format!("{how}, the last one"), &sides, &taken, None));
    eprintln!("    load average after: {:.1}", process::load_average());
    Ok(rows)
}

impl Taken {
    fn note(&mut self, times: &[Times], of: impl Fn(&[f64]) -> f64) {
        let all = |time: fn(&Times) -> Duration| {
            times.iter().map(|times| time(times).as_secs_f64() * 1e3).collect::<Vec<_>>()
        };
        self.exec.push(of(&all(|times| times.exec)));
        self.first_byte.push(of(&all(|times| times.first_byte)));
    }
}

/// Each of ours beside each peer.
fn compared(how: &str, sides: &[Side], taken: &[Taken], budget: Option<f64>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, of) in
        [("exec", (|t: &Taken| t.exec.clone()) as fn(&Taken) -> Vec<f64>), ("first byte", |t| t.first_byte.clone())]
    {
        for (ours, own) in sides.iter().zip(taken).filter(|(side, _)| matches!(side, Side::Ours(_))) {
            for (peer, theirs) in sides.iter().zip(taken).filter(|(side, _)| matches!(side, Side::Peer(_))) {
                let what = format!("call to {what}, {how}, ready pool {}", ours.name());
                let budget = budget.filter(|_| peer.name() == "crun" && what.contains("exec"));
                rows.push(Row::against(&what, "ms", &of(own), peer.name(), &of(theirs), budget));
            }
        }
    }
    rows
}
