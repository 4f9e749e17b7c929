//! Endurance: thousands of lives leave the host as it was, and hundreds of deaths of the agent are noticed
//! by nobody.
//!
//! As tests these run for seconds. `scripts/endure` runs the same for as long as it is told, by the
//! variables that [`number`] reads; `docs/endurance.md` has what came out.

mod cycles;
mod holdings;
mod kills;
mod visitors;

use std::time::{Duration, Instant};

use crate::support::Agent;

/// How long something may take that is waited for; a machine may be busy with much else.
const LIMIT: Duration = Duration::from_secs(60);

/// The number in the variable `name`, or what the short form takes.
fn number(name: &str, short: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(short, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Numbers that look random and can be had again: SplitMix64 from a seed, which the failure tells.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = number("DROWSE_ENDURE_SEED", u64::from(now.subsec_nanos()));
        eprintln!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Waits until `left` is empty; what is torn down in the background takes its time.
async fn until_empty(agent: &Agent, what: &str, left: impl Fn() -> Vec<String>) {
    let began = Instant::now();
    loop {
        let found = left();
        if found.is_empty() {
            return;
        }
        assert!(began.elapsed() < LIMIT, "{what}: {found:#?}\n{}", agent.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
