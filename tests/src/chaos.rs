//! Requests with numbers that nobody else has, to apps that fall asleep, wake, sink deeper and are
//! deployed anew all the time: each is answered once and correctly, or refused in the documented way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use drowse_api::platform::{AppLogLine, AppView};
use drowse_api::sleep::{Depth, SleepCommand};
use drowse_api::{ErrorCode, Problem};
use http::Method;
use tokio::task::JoinSet;

use crate::apps::App;
use crate::http::Visitor;
use crate::world::World;

/// What is done, and for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many apps.
    pub apps: usize,
    /// How many visitors each has.
    pub visitors: usize,
    /// How many sleeps, wakes, demotions and deploys are done at least.
    pub changes: u64,
    /// When it ends all the same.
    pub most: Duration,
    /// Whether apps are put to disk, too.
    pub to_disk: bool,
    /// Whether apps are deployed anew, too.
    pub deploys: bool,
    /// What chooses.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Changes by their kinds, those that were called off by a request among them.
    pub changes: BTreeMap<String, u64>,
    /// Requests that were answered by the app.
    pub answered: u64,
    /// Those of them that waited for a wake, by the depth.
    pub waited: BTreeMap<String, u64>,
    /// Requests that were refused, by the code.
    pub refused: BTreeMap<String, u64>,
    /// How long it took.
    pub took: Duration,
    /// The longest that a request took.
    pub longest: Duration,
}

#[derive(Debug, Default)]
struct Asked {
    answered: BTreeSet<u64>,
    waited: BTreeMap<String, u64>,
    refused: BTreeMap<u64, String>,
    longest: Duration,
}

/// A small generator of numbers, the same ones for the same seed.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    /// One of `0..sides` (xorshift64*).
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

/// Does it.
///
/// # Errors
/// The first request that was lost, cut, answered wrongly or twice, or refused in another way.
pub async fn run(world: &World, plan: &Plan) -> Result<Outcome> {
    let began = Instant::now();
    let (number, end) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
    let mut asking = JoinSet::new();
    let mut logs = Vec::new();
    for app in 0..plan.apps {
        let app = format!("app{app}");
        world.deploy(&app, &App::probe("1")).await;
        logs.push(tokio::spawn(follow(world.controller(), app.clone(), Arc::clone(&end))));
        for visitor in 0..plan.visitors {
            let dice = Dice(plan.seed ^ (visitor as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            asking.spawn(ask(world.visitor(), app.clone(), Arc::clone(&number), Arc::clone(&end), dice));
        }
    }
    let done = AtomicU64::new(0);
    let changing = (0..plan.apps).map(|app| {
        let dice = Dice((plan.seed ^ 0xABCD).wrapping_add(app as u64 + 1).wrapping_mul(0xD134_2543_DE82_EF95));
        change(world, format!("app{app}"), plan, &done, began, dice)
    });
    let changed = futures_util::future::try_join_all(changing).await;
    end.store(true, Ordering::SeqCst);
    let mut all = Asked::default();
    while let Some(asked) = asking.join_next().await {
        let asked = asked??;
        all.answered.extend(asked.answered);
        all.refused.extend(asked.refused);
        all.longest = all.longest.max(asked.longest);
        for (depth, count) in asked.waited {
            *all.waited.entry(depth).or_default() += count;
        }
    }
    let mut outcome = Outcome { took: began.elapsed(), longest: all.longest, waited: all.waited, ..Outcome::default() };
    for (kind, count) in changed?.into_iter().flatten() {
        *outcome.changes.entry(kind).or_default() += count;
    }
    outcome.answered = all.answered.len() as u64;
    for code in all.refused.values() {
        *outcome.refused.entry(code.clone()).or_default() += 1;
    }
    // What the apps themselves say: nothing was carried out twice, and nothing that was refused.
    for log in logs {
        for (id, lines) in log.await? {
            ensure!(lines.len() == 1, "request {id} was carried out {} times: {lines:?}", lines.len());
            ensure!(!all.refused.contains_key(&id), "request {id} was refused and carried out");
        }
    }
    Ok(outcome)
}

/// Someone who asks by a method that no router repeats.
async fn ask(
    visitor: Visitor,
    app: String,
    number: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    mut dice: Dice,
) -> Result<Asked> {
    let mut asked = Asked::default();
    while !end.load(Ordering::SeqCst) {
        let id = number.fetch_add(1, Ordering::SeqCst);
        let began = Instant::now();
        let answer = visitor.post(&app, &format!("/tell?id={id}"), "body").await;
        let answer = answer.map_err(|error| error.context(format!("request {id} to {app} was lost")))?;
        asked.longest = asked.longest.max(began.elapsed());
        if answer.status == 503 && answer.header("content-type") == "application/problem+json" {
            let code = answer.header("x-drowse-error").to_owned();
            ensure!(!code.is_empty(), "request {id} was refused without a code");
            asked.refused.insert(id, code);
        } else {
            let state = answer.header("x-drowse-state").to_owned();
            let text = answer.ok()?;
            ensure!(text == id.to_string(), "request {id} was answered {text:?}");
            asked.answered.insert(id);
            if !state.is_empty() {
                *asked.waited.entry(state).or_default() += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.roll(400))).await;
    }
    Ok(asked)
}

/// Has one app fall asleep, sink, wake and be replaced, at random.
async fn change(
    world: &World,
    app: String,
    plan: &Plan,
    done: &AtomicU64,
    began: Instant,
    mut dice: Dice,
) -> Result<BTreeMap<String, u64>> {
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let mut version = 1;
    while done.load(Ordering::SeqCst) < plan.changes && began.elapsed() < plan.most {
        let path = format!("/v1/apps/{app}/sleep");
        let sleep =
            async |depth| world.controller().call::<AppView>(Method::POST, &path, Some(&SleepCommand { depth })).await;
        let outcome = match dice.roll(1000) {
            0..5 if plan.deploys => {
                version += 1;
                world.deploy(&app, &App::probe(&version.to_string())).await;
                ("deploy".to_owned(), Ok(()))
            }
            5..35 => ("cold".to_owned(), sleep(Depth::Cold).await.map(drop)),
            35..135 if plan.to_disk => ("snapshot".to_owned(), sleep(Depth::Snapshot).await.map(drop)),
            135..185 => {
                // Deeper, step by step, as far as nobody asks.
                let slept = sleep(Depth::Paused).await.map(drop);
                let deeper = if plan.to_disk && dice.roll(2) == 0 { Depth::Snapshot } else { Depth::Cold };
                let sank = if slept.is_ok() { sleep(deeper).await.map(drop) } else { slept };
                (format!("paused, then {deeper}"), sank)
            }
            185..285 => ("wake".to_owned(), world.command(&app, "wake").await.map(drop)),
            _ => ("paused".to_owned(), sleep(Depth::Paused).await.map(drop)),
        };
        let (kind, result) = outcome;
        let kind = match result {
            Ok(()) => kind,
            Err(problem) => called_off(kind, &problem)?,
        };
        *kinds.entry(kind).or_default() += 1;
        done.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(dice.roll(100))).await;
    }
    Ok(kinds)
}

/// What may be in the way of a sleep: somebody asked, or it was starting.
fn called_off(kind: String, problem: &Problem) -> Result<String> {
    match problem.code {
        ErrorCode::Conflict | ErrorCode::Unavailable | ErrorCode::NotFound => Ok(format!("{kind} (called off)")),
        _ => bail!("{kind}: {problem:?}"),
    }
}

/// Reads what the app says it has carried out, over all its instances: the lines of each number.
async fn follow(
    controller: drowse_api::client::Client,
    app: String,
    end: Arc<AtomicBool>,
) -> BTreeMap<u64, BTreeSet<String>> {
    let mut found: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    loop {
        let is_last = end.load(Ordering::SeqCst);
        let path = format!("/v1/apps/{app}/logs?tail=5000");
        if let Ok(mut lines) = controller.lines::<AppLogLine>(&path).await {
            while let Ok(Some(line)) = lines.next().await {
                let id = line.line.text.strip_prefix("carried out ").and_then(|id| id.parse().ok());
                if let Some(id) = id {
                    found.entry(id).or_default().insert(format!("{} {}", line.instance, line.line.at));
                }
            }
        }
        if is_last {
            return found;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}
