//! Apps whose memory goes to swap while they sleep, on the real kernel.

use std::path::Path;
use std::time::{Duration, Instant};

use drowse_api::MemoryBytes;
use drowse_api::deployment::AppType;
use drowse_api::instance::{InstanceState, InstanceStatus, Workload};
use drowse_api::sleep::Depth;

use crate::sleep::{counts_past, demand, sleep, stands_still};
use crate::support::{Agent, LIMIT};
use crate::swap::Swap;

/// Counts on its page, and reads twenty million letters each time.
const READER: &str = "x=$(busybox head -c 20000000 /dev/zero | busybox tr '\\0' x); \
                      echo 0 > /www/index.html; busybox httpd -f -p $PORT -h /www & n=0; \
                      while :; do n=$((n+1)); y=${#x}; echo $n > /www/new; busybox mv /www/new /www/index.html; \
                      busybox usleep 100000; done";
const LETTERS: u64 = 20_000_000;

async fn start(number: u8) -> Option<Agent> {
    Agent::start_with(number, |_| "router_patience_seconds = 0\n".to_owned()).await
}

/// A file of the instance's groups, under its version 2 or its version 1 name.
fn group_file(agent: &Agent, names: &[&str]) -> String {
    let files = agent.groups().into_iter().flat_map(|group| names.iter().map(move |name| format!("{group}/{name}")));
    let found = files.filter(|file| Path::new(file).exists()).find_map(|file| std::fs::read_to_string(file).ok());
    found.expect("a memory controller").trim().to_owned()
}

fn charged(agent: &Agent) -> u64 {
    group_file(agent, &["memory.current", "memory.usage_in_bytes"]).parse().unwrap()
}

/// That what runs does not swap.
fn may_not_swap(agent: &Agent) -> bool {
    group_file(agent, &["memory.swap.max", "app/memory.swappiness"]) == "0"
}

/// How many pages were ever read back from swap.
fn pages_read() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap();
    text.lines().find_map(|line| line.strip_prefix("pswpin ")?.parse().ok()).unwrap()
}

fn depth(status: &InstanceStatus) -> Option<Depth> {
    match status.state {
        InstanceState::Frozen { depth, .. } => Some(depth),
        _ => None,
    }
}

#[tokio::test]
async fn a_paged_app_is_in_swap_and_goes_on_where_it_was() {
    let Some(_swap) = Swap::on() else { return };
    let Some(mut agent) = start(36).await else { return };
    let image = agent.image("counter", AppType::Bundle, READER).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    let ready = agent.until_ready("web").await;
    let mut before = counts_past(&ready, 1).await;
    assert!(charged(&agent) > LETTERS && may_not_swap(&agent));

    let asleep = sleep(&agent, 1, Depth::Paged).await.unwrap();
    assert_eq!(depth(&asleep), Some(Depth::Paged), "{:?}", asleep.no_paging);
    assert!(asleep.in_swap > Some(MemoryBytes(LETTERS)), "{:?}", asleep.in_swap);
    assert!(charged(&agent) < 4_000_000, "{} bytes are still charged", charged(&agent));
    assert!(stands_still(&agent) && may_not_swap(&agent));

    // As it is, under the next agent too.
    agent.kill();
    agent.restart().await;
    let found = agent.until("web", |status| status.state.is_asleep()).await;
    assert_eq!((depth(&found), found.process), (Some(Depth::Paged), ready.process));
    assert!(charged(&agent) < 4_000_000);

    let read = pages_read();
    demand(&agent).await.unwrap();
    let awake = agent.until_ready("web").await;
    assert_eq!((awake.process, awake.restarts, awake.in_swap), (ready.process, 0, None));
    // What it shows at first it wrote before it slept.
    before = counts_past(&awake, before).await;
    before = counts_past(&awake, before).await;
    assert!(pages_read() - read > LETTERS / 4096 / 2, "its memory came from swap");

    // What it touched then is back the next time before it goes on: this agent dies just before that.
    let began = Instant::now();
    while !agent.data("instances/web/working-set").exists() {
        assert!(began.elapsed() < LIMIT, "its working set was not looked at");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sleep(&agent, 1, Depth::Paged).await.unwrap();
    agent.kill();
    agent.spawn(Some("instance-thaw=panic"));
    agent.answers().await;
    assert!(charged(&agent) < 4_000_000);
    let _ = demand(&agent).await;
    while !agent.has_died() {
        assert!(began.elapsed() < LIMIT * 2, "it was not woken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(stands_still(&agent) && charged(&agent) > LETTERS, "{} bytes are back", charged(&agent));
    agent.restart().await;
    demand(&agent).await.unwrap();
    let awake = agent.until_ready("web").await;
    assert_eq!(awake.process, ready.process);
    counts_past(&awake, before).await;
    let told = agent.messages().await;
    for wanted in ["asleep (paused): told to", "sleeps deeper (paged): ", "woken by a test: slept "] {
        assert!(told.iter().any(|message| message.starts_with(wanted)), "{wanted}: {told:?}");
    }
}

#[tokio::test]
async fn an_agent_that_dies_while_an_app_is_paged_out_or_back_loses_nothing() {
    let Some(_swap) = Swap::on() else { return };
    let Some(mut agent) = start(37).await else { return };
    let image = agent.image("counter", AppType::Bundle, READER).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    let ready = agent.until_ready("web").await;
    counts_past(&ready, 0).await;
    for point in ["paging-begins", "paging-done", "paging-back"] {
        agent.kill();
        agent.spawn(Some(&format!("{point}=panic")));
        let began = Instant::now();
        while !agent.has_died() {
            assert!(began.elapsed() < LIMIT, "{point} was never passed");
            let _ = sleep(&agent, 1, Depth::Paged).await;
            let _ = demand(&agent).await;
        }
        agent.restart().await;
        demand(&agent).await.unwrap();
        let awake = agent.until_ready("web").await;
        assert_eq!((awake.process, awake.restarts), (ready.process, 0), "{point}");
        assert!(!stands_still(&agent) && may_not_swap(&agent), "{point}");
        let now = counts_past(&awake, 0).await;
        counts_past(&awake, now).await;
    }
}
