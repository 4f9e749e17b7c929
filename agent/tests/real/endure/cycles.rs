//! Lives of every kind, one after the other and several at once: afterwards the host is as it was.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use drowse_api::Digest;
use drowse_api::deployment::AppType;
use drowse_api::instance::{InstanceState, InstanceStatus, Workload};

use super::holdings::{Holdings, memory};
use super::{Random, number, until_empty};
use crate::kill;
use crate::support::{Agent, visit};

const SERVER: &str = "echo hello > /www/index.html; exec busybox httpd -f -p $PORT -h /www";
/// How many lives go on at once.
const AT_ONCE: u64 = 4;
/// How much more memory, in KiB, the agent and its launcher may have in the end: what allocators keep.
const SLACK: [u64; 2] = [8 << 10, 2 << 10];

/// How many sandboxes the agent keeps ready unless it is told.
const READY: usize = 4;

/// How a life goes.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Stopped,
    FailedAtBoot,
    Killed,
    LostItsInit,
    DeletedWhileServing,
    DeletedWhileStarting,
}

const FATES: [Fate; 6] = [
    Fate::Stopped,
    Fate::FailedAtBoot,
    Fate::Killed,
    Fate::LostItsInit,
    Fate::DeletedWhileServing,
    Fate::DeletedWhileStarting,
];

struct Images {
    server: Digest,
    short: Digest,
}

async fn live(agent: &Agent, images: &Images, id: &str, fate: Fate) {
    let image = if matches!(fate, Fate::FailedAtBoot) { &images.short } else { &images.server };
    agent.put(id, 1, image, Workload::Web).await.unwrap();
    let again = |status: &InstanceStatus| status.state.is_ready() && status.restarts == 1;
    match fate {
        Fate::Stopped => {
            let ready = agent.until_ready(id).await;
            assert_eq!(visit(&ready).await, "hello\n");
            agent.stop(id, 2).await.unwrap();
            agent.until(id, |status| matches!(status.state, InstanceState::Stopped { .. })).await;
            agent.delete(id, 2).await.unwrap();
            return;
        }
        Fate::FailedAtBoot => {
            let failed = agent.until_ready(id).await;
            let InstanceState::Failed { failure } = failed.state else { panic!("{:?}", failed.state) };
            assert_eq!(failure.detail, "it exited with status 3");
        }
        Fate::Killed => {
            kill(agent.until_ready(id).await.process.expect("it runs").pid);
            agent.until(id, again).await;
        }
        Fate::LostItsInit => {
            kill(init_of(agent.until_ready(id).await.process.expect("it runs").pid));
            agent.until(id, again).await;
        }
        Fate::DeletedWhileServing => drop(agent.until_ready(id).await),
        Fate::DeletedWhileStarting => {}
    }
    agent.delete(id, 1).await.unwrap();
}

fn init_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Lives from `first` until `last`, `AT_ONCE` at a time.
async fn lives(agent: &Agent, images: &Images, random: &mut Random, range: std::ops::Range<u64>) {
    // Every kind in the order of the numbers, so that short forms have them all; then as it comes.
    let fates: Vec<Fate> = range
        .clone()
        .map(|number| FATES[usize::try_from(if number < 6 { number } else { random.below(6) }).unwrap()])
        .collect();
    let (next, began) = (AtomicU64::new(range.start), Instant::now());
    let worker = || async {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= range.end {
                return;
            }
            let fate = fates[usize::try_from(number - range.start).unwrap()];
            live(agent, images, &format!("n{number}"), fate).await;
            if (number + 1).is_multiple_of(250) {
                let [of_agent, of_launcher] = memory(agent);
                let each = began.elapsed() / u32::try_from(number + 1 - range.start).unwrap();
                eprintln!("{} lives, {each:?} each; agent {of_agent} KiB, launcher {of_launcher} KiB", number + 1);
            }
        }
    };
    futures_util::future::join_all((0..AT_ONCE).map(|_| worker())).await;
}

#[tokio::test]
async fn lives_of_every_kind_leave_the_host_as_it_was() {
    // The first look through the images makes a file that stays: at once, not somewhere in between.
    let at_once = |_: &std::path::Path| "[images]\npause_seconds = 0\n".to_owned();
    let Some(agent) = Agent::start_with(21, at_once).await else { return };
    let (wanted, mut random) = (number("DROWSE_ENDURE_INSTANCES", 18), Random::new());
    let images = Images {
        server: agent.image("web", AppType::Bundle, SERVER).await.unwrap(),
        short: agent.image("short", AppType::Bundle, "exit 3").await.unwrap(),
    };
    // What the first lives make for all is there to stay: the user's groups, unpacked layers, threads.
    let warm = (wanted / 20).max(6);
    lives(&agent, &images, &mut random, 0..warm).await;
    until_empty(&agent, "the first lives", || agent.inside().iter().map(ToString::to_string).collect()).await;
    until_empty(&agent, "the first lives", || agent.groups()).await;
    agent.until_ready_ahead(READY).await;
    let (baseline, before) = (Holdings::of(&agent), memory(&agent));
    eprintln!("after {warm} lives: {}; memory {before:?} KiB", baseline.counts());
    let began = Instant::now();
    lives(&agent, &images, &mut random, warm..wanted.max(warm)).await;
    until_empty(&agent, "not as it was", || Holdings::of(&agent).beyond(&baseline)).await;
    let after = memory(&agent);
    eprintln!("after {wanted} lives in {:?}: {}; memory {after:?} KiB", began.elapsed(), Holdings::of(&agent).counts());
    for index in 0..2 {
        assert!(
            after[index] <= before[index] + SLACK[index],
            "memory of agent and launcher: {before:?}, then {after:?}"
        );
    }
}
