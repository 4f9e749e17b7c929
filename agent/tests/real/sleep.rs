//! Sleep on the real kernel: the same process goes on, an agent that dies at any step loses nothing.

use std::time::{Duration, Instant};

use drowse_api::agent::EndpointsPicture;
use drowse_api::deployment::AppType;
use drowse_api::instance::{InstanceState, InstanceStatus, Workload};
use drowse_api::sleep::{Demand, Depth, Quiet, SleepRequest};
use drowse_api::{Epoch, Problem};
use http::Method;

use crate::support::{Agent, LIMIT, visit};

/// Counts in memory, ten times a second, what its page shows.
pub const COUNTER: &str = "busybox httpd -f -p $PORT -h /www & n=0; \
                       while :; do n=$((n+1)); echo $n > /www/new; busybox mv /www/new /www/index.html; \
                       busybox usleep 100000; done";

/// One that waits for no router that could be on its way.
async fn start(number: u8) -> Option<Agent> {
    Agent::start_with(number, |_| "router_patience_seconds = 0\n".to_owned()).await
}

pub async fn sleep(agent: &Agent, epoch: u64, depth: Depth) -> Result<InstanceStatus, Problem> {
    let request = SleepRequest {
        epoch: Epoch(epoch),
        depth,
        grace_seconds: 5,
        reason: "told to".to_owned(),
        unless_leased: false,
    };
    agent.client.call(Method::POST, "/v1/instances/web/sleep", Some(&request)).await
}

pub async fn demand(agent: &Agent) -> Result<(), Problem> {
    let demand = Demand { cause: "a test".to_owned() };
    agent.client.call(Method::POST, "/v1/instances/web/demand", Some(&demand)).await
}

async fn count(status: &InstanceStatus) -> u64 {
    visit(status).await.trim().parse().unwrap()
}

/// Waits until the page shows more than this.
pub async fn counts_past(status: &InstanceStatus, past: u64) -> u64 {
    let began = Instant::now();
    loop {
        match count(status).await {
            now if now > past => return now,
            now => assert!(began.elapsed() < LIMIT, "it stays at {now}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether every process of the app stands still, as the kernel says.
pub fn stands_still(agent: &Agent) -> bool {
    let groups = agent.groups();
    let files: Vec<_> = groups.iter().map(|group| format!("{group}/app/cgroup.events")).collect();
    let texts: Vec<_> = files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    assert!(!texts.is_empty(), "no group of {groups:?} has events");
    texts.iter().any(|text| text.contains("frozen 1"))
}

#[tokio::test]
async fn a_paused_app_stands_still_and_goes_on_where_it_was() {
    let Some(mut agent) = start(31).await else { return };
    let image = agent.image("counter", AppType::Bundle, COUNTER).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    let ready = agent.until_ready("web").await;
    let before = counts_past(&ready, 1).await;

    sleep(&agent, 1, Depth::Paused).await.unwrap();
    assert!(stands_still(&agent));
    agent.kill();
    assert!(stands_still(&agent), "also without an agent");
    agent.restart().await;
    let asleep = agent.until("web", |status| status.state.is_asleep()).await;
    assert_eq!(asleep.process, ready.process);
    assert!(stands_still(&agent), "also under the next one");

    demand(&agent).await.unwrap();
    let awake = agent.until_ready("web").await;
    assert_eq!((awake.process, awake.restarts), (ready.process, 0));
    assert!(!stands_still(&agent));
    let after = counts_past(&awake, before).await;
    // It stood still for far longer than this many steps.
    assert!(after >= before, "{before} and then {after}");

    // A frozen app is told to end, and what is started in its place is not born frozen.
    sleep(&agent, 1, Depth::Paused).await.unwrap();
    agent.stop("web", 2).await.unwrap();
    agent.until("web", |status| status.state.is_over()).await;
    agent.put("web", 3, &image, Workload::Web).await.unwrap();
    let again = agent.until_ready("web").await;
    sleep(&agent, 3, Depth::Paused).await.unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(again.process.unwrap().pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let restarted = agent.until("web", |status| status.state.is_ready() && status.restarts == 1).await;
    counts_past(&restarted, 0).await;
    sleep(&agent, 3, Depth::Paused).await.unwrap();
    agent.delete("web", 3).await.unwrap();
    assert!(!agent.data("instances/web").exists());
}

#[tokio::test]
async fn a_cold_app_leaves_nothing_but_its_files_and_is_started_on_demand() {
    let Some(agent) = start(32).await else { return };
    let script = "echo started >> /www/index.html; exec busybox httpd -f -p $PORT -h /www";
    let image = agent.image("web", AppType::Bundle, script).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    let ready = agent.until_ready("web").await;
    assert_eq!(visit(&ready).await, "started\n");

    sleep(&agent, 1, Depth::Cold).await.unwrap();
    let began = Instant::now();
    while !agent.groups().is_empty() {
        assert!(began.elapsed() < LIMIT, "{:?}", agent.groups());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let cold = agent.until("web", |status| status.process.is_none()).await;
    assert!(matches!(cold.state, InstanceState::Frozen { depth: Depth::Cold, takes: Some(_), .. }), "{:?}", cold.state);

    demand(&agent).await.unwrap();
    let awake = agent.until_ready("web").await;
    assert_eq!((awake.address, awake.restarts), (ready.address, 0));
    assert_eq!(visit(&awake).await, "started\nstarted\n", "what it wrote was kept");
    let messages = agent.messages().await;
    assert!(messages.iter().any(|message| message.starts_with("woken by a test: slept ")), "{messages:?}");
}

/// What the agent does when it dies at `point`, with a router that answers as it should. It dies in a
/// sleep or in a wake; the next agent has the app asleep or awake, never lost, never twice.
async fn dies_at(agent: &mut Agent, point: &str, ready: &InstanceStatus) {
    agent.kill();
    agent.spawn(Some(&format!("{point}=panic")));
    let began = Instant::now();
    // As a controller and a visitor do it, again and again; no answer comes from the dead.
    while !agent.has_died() {
        assert!(began.elapsed() < LIMIT, "{point} was never passed");
        let _ = sleep(agent, 1, Depth::Paused).await;
        let _ = demand(agent).await;
    }
    agent.restart().await;
    demand(agent).await.unwrap();
    let awake = agent.until_ready("web").await;
    assert_eq!((awake.process, awake.restarts), (ready.process, 0), "{point}");
    assert!(!stands_still(agent), "{point}");
    counts_past(&awake, count(&awake).await).await;
}

#[tokio::test]
async fn an_agent_that_dies_while_an_app_falls_asleep_or_wakes_loses_nothing() {
    let Some(mut agent) = start(33).await else { return };
    let image = agent.image("counter", AppType::Bundle, COUNTER).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    let ready = agent.until_ready("web").await;
    counts_past(&ready, 0).await;
    let points = ["instance-freeze", "instance-frozen", "instance-thaw", "instance-thawed", "instance-woken"];
    for point in points.into_iter().chain(["durable-before-rename", "durable-after-rename"]) {
        dies_at(&mut agent, point, &ready).await;
    }
}

#[tokio::test]
async fn a_router_that_follows_is_asked_to_let_go_first() {
    let Some(agent) = start(34).await else { return };
    let image = agent.image("counter", AppType::Bundle, COUNTER).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    agent.until_ready("web").await;
    let mut pictures = agent.client.lines::<EndpointsPicture>("/v1/endpoints/watch?router=one").await.unwrap();
    let first = pictures.next().await.unwrap().unwrap();
    let follower = first.follower.expect("who gave a name has a number");
    let lulled = async {
        loop {
            let picture = pictures.next().await.unwrap().unwrap();
            if let Some((id, ticket)) = picture.closing.first_key_value() {
                assert!(!stands_still(&agent));
                let quiet = Quiet { follower, ticket: *ticket };
                let path = format!("/v1/instances/{id}/quiet");
                agent.client.call::<()>(Method::POST, &path, Some(&quiet)).await.unwrap();
            }
            if !picture.asleep.is_empty() {
                return picture;
            }
        }
    };
    let (slept, picture) = tokio::join!(sleep(&agent, 1, Depth::Paused), lulled);
    assert!(slept.unwrap().state.is_asleep());
    assert!(picture.ready.is_empty() && picture.closing.is_empty());
    assert!(stands_still(&agent));
}
