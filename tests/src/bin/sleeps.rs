//! `scripts/sleeps`: thousands of sleeps, wakes, demotions and deploys under load, and what became of
//! every request.

#![allow(clippy::print_stdout, reason = "a table for whoever runs it")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drowse_tests::chaos::{self, Plan};
use drowse_tests::world::{Options, World};

#[tokio::main]
async fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>().context("write numbers"));
    let changes = numbers.next().transpose()?.unwrap_or(10_000);
    let minutes = numbers.next().transpose()?.unwrap_or(15);
    let seed = numbers.next().transpose()?.unwrap_or(1);
    let to_disk = std::env::var_os("DROWSE_TEST_CRIU").is_some();
    let plan =
        Plan { apps: 6, visitors: 2, changes, most: Duration::from_secs(60 * minutes), to_disk, deploys: true, seed };
    let options = Options {
        agent_lines: "router_patience_seconds = 1\n".to_owned(),
        router_limits: "wakes_per_visitor = 100\n".to_owned(),
        ..Options::default()
    };
    let world = World::with(options).await;
    let outcome = chaos::run(&world, &plan).await?;
    let all: u64 = outcome.changes.values().sum();
    let refused: u64 = outcome.refused.values().sum();
    println!("seed {seed}; {:.0} s; snapshots {}", outcome.took.as_secs_f64(), if to_disk { "too" } else { "not" });
    println!("| change | times |\n|---|---|");
    outcome.changes.iter().for_each(|(kind, count)| println!("| {kind} | {count} |"));
    println!("| **all** | **{all}** |\n");
    println!("| request | times |\n|---|---|");
    println!("| answered, correctly and once | {} |", outcome.answered);
    outcome.waited.iter().for_each(|(state, count)| println!("| of these {state} | {count} |"));
    outcome.refused.iter().for_each(|(code, count)| println!("| refused with 503 {code} | {count} |"));
    println!("| lost, cut, wrong or twice | 0 |");
    println!("| the slowest took | {:.1} s |", outcome.longest.as_secs_f64());
    ensure!(refused * 1000 <= outcome.answered + refused, "more than 1 in 1,000 was refused");
    if refused > 0 {
        for app in 0..plan.apps {
            for event in world.events(&format!("app{app}")).await {
                if event.message.contains("could not") || event.message.contains("fail") {
                    println!("event of app{app}: {}", event.message);
                }
            }
        }
    }
    Ok(())
}
