//! An agent puts instances to disk and brings them back, also one that dies at any step of it, and after a
//! reboot of the host.

use std::time::{Duration, Instant};

use drowse_api::deployment::AppType;
use drowse_api::instance::{InstanceState, InstanceStatus, Workload};
use drowse_api::sleep::Depth;

use crate::sleep::{COUNTER, counts_past, demand, sleep};
use crate::support::{Agent, LIMIT};

/// With the CRIU that works here.
async fn agent(number: u8) -> Option<Agent> {
    agent_with(number, "").await
}

async fn agent_with(number: u8, lines: &str) -> Option<Agent> {
    let Some(criu) = std::env::var_os("DROWSE_TEST_CRIU") else {
        eprintln!("SKIPPED: no CRIU that works on this kernel (scripts/find-criu), or DROWSE_TEST_CRIU is not set");
        return None;
    };
    Agent::start_with(number, |_| format!("criu = {criu:?}\nrouter_patience_seconds = 0\n{lines}")).await
}

fn depth(status: &InstanceStatus) -> Option<Depth> {
    match status.state {
        InstanceState::Frozen { depth, .. } => Some(depth),
        _ => None,
    }
}

async fn on_disk(agent: &Agent) -> InstanceStatus {
    agent.until("web", |status| depth(status) == Some(Depth::Snapshot)).await
}

fn kept(agent: &Agent) -> Vec<String> {
    let entries = std::fs::read_dir(agent.data("instances/web")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("snapshot")).collect()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_snapshots_may_not_take_of_the_disk_is_given_back_and_the_app_sleeps_on_cold() {
    let Some(agent) = agent_with(35, "\n[snapshots]\nnode = \"1KiB\"\nkeep_free = 0\n").await else { return };
    let image = agent.image("counter", AppType::Bundle, COUNTER).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    agent.until_ready("web").await;
    sleep(&agent, 1, Depth::Snapshot).await.unwrap();
    agent.until("web", |status| depth(status) == Some(Depth::Cold)).await;
    let told = agent.messages().await;
    assert!(told.iter().any(|message| message.contains("snapshots of the node took ")), "{told:?}");
    until("nothing is left of it", || kept(&agent).is_empty()).await;
    demand(&agent).await.unwrap();
    let status = agent.until_ready("web").await;
    counts_past(&status, 0).await;
}

#[tokio::test]
async fn an_instance_goes_to_disk_and_answers_with_what_it_had_in_memory() {
    let Some(mut agent) = agent(30).await else { return };
    let image = agent.image("counter", AppType::Bundle, COUNTER).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    let mut status = agent.until_ready("web").await;
    for round in 0..2 {
        let before = counts_past(&status, 3).await;
        let asleep = sleep(&agent, 1, Depth::Snapshot).await.unwrap();
        assert_eq!((depth(&asleep), asleep.process), (Some(Depth::Snapshot), None), "{:?}", asleep.no_snapshot);
        assert_eq!(kept(&agent), ["snapshot"]);
        if round == 1 {
            // It sleeps on without an agent, and under the next one.
            agent.kill();
            agent.restart().await;
            on_disk(&agent).await;
        }
        demand(&agent).await.unwrap();
        status = agent.until_ready("web").await;
        assert_eq!(status.restarts, 0);
        let after = counts_past(&status, before).await;
        assert!(after < before + 1000, "it did not begin anew: {before}, {after}");
        assert_eq!(kept(&agent), Vec::<String>::new());
    }

    // What is on disk is told to stop, too, and leaves nothing.
    sleep(&agent, 1, Depth::Snapshot).await.unwrap();
    agent.stop("web", 2).await.unwrap();
    agent.until("web", |status| status.state.is_over()).await;
    until("nothing is on disk", || kept(&agent).is_empty()).await;
    agent.delete("web", 2).await.unwrap();
}

/// How the agent is brought to a point: by putting the app to disk, or by waking it.
#[derive(Clone, Copy, PartialEq)]
enum On {
    Sleep,
    Wake,
}

#[tokio::test]
async fn a_death_at_any_step_of_a_snapshot_loses_and_doubles_nothing() {
    let Some(mut agent) = agent(31).await else { return };
    let image = agent.image("counter", AppType::Bundle, COUNTER).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    let mut status = agent.until_ready("web").await;
    let points = [
        ("snapshot-dump", On::Sleep),
        ("snapshot-dumped", On::Sleep),
        ("snapshot-kept", On::Sleep),
        ("snapshot-killed", On::Sleep),
        ("snapshot-taken", On::Wake),
        ("snapshot-restored", On::Wake),
    ];
    for (point, on) in points {
        let before = counts_past(&status, 3).await;
        if on == On::Wake {
            sleep(&agent, 1, Depth::Snapshot).await.unwrap();
        }
        agent.kill();
        agent.spawn(Some(&format!("{point}=panic")));
        agent.answers().await;
        let told = match on {
            On::Sleep => sleep(&agent, 1, Depth::Snapshot).await.map(drop),
            On::Wake => demand(&agent).await,
        };
        let began = Instant::now();
        while !agent.has_died() {
            assert!(began.elapsed() < LIMIT, "{point} was not passed: {told:?}\n{}", agent.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        agent.restart().await;
        // Whatever became of the sleep: somebody needs it.
        demand(&agent).await.unwrap();
        status = agent.until_ready("web").await;
        let after = counts_past(&status, if on == On::Sleep { before } else { 0 }).await;
        if on == On::Sleep {
            assert!(after < before + 1000, "{point}: it did not begin anew: {before}, {after}");
        }
        assert_eq!(kept(&agent), Vec::<String>::new(), "{point}");
        // A shell that starts a program is two for a moment.
        until("there is one copy", || agent.shells("usleep 100000; done") == 1).await;
    }
}
