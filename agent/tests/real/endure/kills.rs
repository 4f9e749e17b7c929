//! An agent that is killed again and again, at any moment, while its apps serve and others come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use drowse_api::agent::StopRequest;
use drowse_api::client::Client;
use drowse_api::deployment::AppType;
use drowse_api::event::AgentEvent;
use drowse_api::instance::{InstanceState, InstanceStatus, LogLine, Workload};
use drowse_api::{Digest, Epoch, Problem};
use http::Method;

use super::visitors::Visitors;
use super::{LIMIT, Random, number, until_empty};
use crate::support::{Agent, spec};

/// Serves, and writes lines with numbers; its last one when it is told to end.
const COUNTER: &str = "echo hello > /www/index.html; busybox httpd -f -p $PORT -h /www & \
                       i=0; trap 'echo last $i; exit 0' TERM; \
                       while :; do echo line $i; i=$((i+1)); busybox usleep 100000; done";
/// Serves until it finds a file with the status to end with.
const MORTAL: &str = "echo hello > /www/index.html; busybox httpd -f -p $PORT -h /www & \
                      while [ ! -e /www/die ]; do busybox usleep 20000; done; exit $(busybox cat /www/die)";
/// The longest that an agent lives; some die before they answer.
const LONGEST_LIFE: u64 = 1500;

/// Every how many deaths it is looked at closely.
const LOOK: u64 = 4;

#[tokio::test]
async fn an_agent_killed_at_any_moment_is_noticed_by_nobody() {
    let Some(mut agent) = Agent::start(22).await else { return };
    let (kills, apps) = (number("DROWSE_ENDURE_KILLS", 8), number("DROWSE_ENDURE_APPS", 3));
    let mut random = Random::new();
    let counter = agent.image("counter", AppType::Bundle, COUNTER).await.unwrap();
    let mortal = agent.image("mortal", AppType::Bundle, MORTAL).await.unwrap();
    let short = agent.image("short", AppType::Bundle, "exit 3").await.unwrap();
    let mut before = BTreeMap::new();
    for number in 0..apps {
        let id = format!("app{number}");
        agent.put(&id, 1, &counter, Workload::Web).await.unwrap();
        let ready = agent.until_ready(&id).await;
        assert!(ready.state.is_ready(), "{ready:?}");
        before.insert(id, ready);
    }
    let visitors = Visitors::of(before.values().map(|status| status.address.expect("has one")));
    let churn = Churn::start(agent.client.clone(), short);

    let began = Instant::now();
    for death in 1..=kills {
        let pause = Duration::from_millis(random.below(LONGEST_LIFE));
        if death % LOOK == 0 {
            die_with(&mut agent, &mortal, death, random.below(100) + 1).await;
            same_as(&agent, &before).await;
        } else {
            tokio::time::sleep(pause).await;
            assert!(!agent.has_died(), "it ended by itself:\n{}", agent.log());
            agent.kill();
            agent.spawn(None);
        }
        assert_eq!(visitors.failures(), Vec::<String>::new(), "after {death} deaths\n{}", agent.log());
        if death % 50 == 0 {
            let (answers, lives) = (visitors.answered(), churn.lives());
            eprintln!("{death} deaths in {:?}: {answers} answers, {lives} short lives", began.elapsed());
        }
    }
    agent.kill();
    agent.restart().await;
    let lives = churn.end().await;
    same_as(&agent, &before).await;
    only_children_of_init(&before);
    let (answers, failures) = visitors.leave().await;
    assert_eq!(failures, Vec::<String>::new());
    let mut lines = 0;
    for id in before.keys() {
        agent.stop(id, 2).await.unwrap();
        agent.until(id, |status| matches!(status.state, InstanceState::Stopped { .. })).await;
        lines += every_line_once(&agent.client, id).await;
        agent.delete(id, 2).await.unwrap();
    }
    until_empty(&agent, "left behind", || {
        let mut left: Vec<String> = agent.inside().iter().map(|pid| format!("process {pid}")).collect();
        left.extend(agent.groups());
        left.extend(agent.links());
        left
    })
    .await;
    assert!(answers > 0 && lives > 0 && lines > 0);
    eprintln!("{kills} deaths in {:?}: {answers} answers, {lives} short lives, {lines} lines", began.elapsed());
}

/// An app ends with `status` while no agent is there; the next one tells it.
async fn die_with(agent: &mut Agent, image: &Digest, death: u64, status: u64) {
    let id = format!("m{death}");
    agent.answers().await;
    agent.put(&id, 1, image, Workload::Web).await.unwrap();
    let ready = agent.until_ready(&id).await;
    let process = ready.process.expect("it runs").pid;
    agent.kill();
    let die = format!("/proc/{process}/root/www/die");
    // At once with its content: it is looked for all the time.
    std::fs::write(format!("{die}.new"), status.to_string()).unwrap();
    std::fs::rename(format!("{die}.new"), &die).unwrap();
    let began = Instant::now();
    while std::path::Path::new(&format!("/proc/{process}")).exists() {
        assert!(began.elapsed() < LIMIT, "{id} does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    agent.restart().await;
    // Its file is still there: it ends again, with the same.
    agent.until(&id, |found| found.restarts >= 1 || found.state.is_over()).await;
    let told = format!("exited with status {status}; try 1 of 20");
    let mut events = agent.client.lines::<AgentEvent>("/v1/events").await.unwrap();
    let found = tokio::time::timeout(LIMIT, async {
        while let Some(event) = events.next().await.unwrap() {
            if event.instance.is_some_and(|of| of.as_str() == id) && event.message.contains(&told) {
                return;
            }
        }
    });
    assert!(found.await.is_ok(), "nobody told that {id} {told}\n{}", agent.log());
    agent.delete(&id, 1).await.unwrap();
}

/// The apps are what they were: process and start time, address, never restarted.
async fn same_as(agent: &Agent, before: &BTreeMap<String, InstanceStatus>) {
    for (id, status) in before {
        let now = agent.until_ready(id).await;
        assert_eq!(&now, status, "{}", agent.log());
    }
}

/// Beside its main process, init has no child: no second copy, no orphan.
fn only_children_of_init(apps: &BTreeMap<String, InstanceStatus>) {
    for (id, status) in apps {
        let main = status.process.expect("it runs").pid;
        let init = parent(main).expect("it runs");
        let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        let children: Vec<i32> = pids.filter(|pid| parent(*pid) == Some(init)).collect();
        assert_eq!(children, [main], "children of the init of {id}");
    }
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Reads the whole log: each number is there once, in its order, until the one it ended with.
async fn every_line_once(client: &Client, id: &str) -> u64 {
    let mut log = client.lines::<LogLine>(&format!("/v1/instances/{id}/logs")).await.unwrap();
    let (mut next, mut last) = (0, None);
    while let Some(line) = log.next().await.unwrap() {
        match line.text.split_once(' ') {
            Some(("line", number)) => {
                assert_eq!(number, next.to_string(), "{id}: a gap or a double in its log");
                next += 1;
            }
            Some(("last", number)) => last = number.parse().ok(),
            _ => {}
        }
    }
    // Told to end, it may have written a line that it did not count yet.
    let last: u64 = last.unwrap_or_else(|| panic!("{id}: its last line is missing after {next}"));
    assert!(next == last || next == last + 1, "{id} ended at {last}, its log at {next}");
    next
}

/// Repeats an order until an agent took it.
async fn ordered<T, F: Future<Output = Result<T, Problem>>>(client: &Client, order: impl Fn() -> F) -> T {
    let began = Instant::now();
    loop {
        match order().await {
            Ok(answer) => return answer,
            Err(problem) => assert!(began.elapsed() < LIMIT, "{}: {problem}", client.target()),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Lives that come and go meanwhile, so that an agent dies in the middle of each step of one.
struct Churn {
    over: Arc<AtomicBool>,
    lives: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Churn {
    fn start(client: Client, short: Digest) -> Self {
        let (over, lives) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (ends, counted) = (Arc::clone(&over), Arc::clone(&lives));
        let task = tokio::spawn(async move {
            while !ends.load(Ordering::Relaxed) {
                let id = format!("s{}", counted.load(Ordering::Relaxed));
                short_life(&client, &id, &short).await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { over, lives, task }
    }

    fn lives(&self) -> u64 {
        assert!(!self.task.is_finished(), "a short life went wrong");
        self.lives.load(Ordering::Relaxed)
    }

    async fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.expect("every short life was as it should be");
        self.lives.load(Ordering::Relaxed)
    }
}

/// Put, fails with its status, stopped, deleted: each order given until it is taken, and never again.
async fn short_life(client: &Client, id: &str, image: &Digest) {
    let path = format!("/v1/instances/{id}");
    let wanted = spec(id, 1, image, Workload::Web);
    ordered(client, || client.call::<InstanceStatus>(Method::PUT, &path, Some(&wanted))).await;
    let failed = until(client, id, |state| state.is_over()).await.expect("is there");
    let InstanceState::Failed { failure } = failed.state else { panic!("{id}: {:?}", failed.state) };
    assert_eq!(failure.detail, "it exited with status 3", "{id}");
    let stop = StopRequest { epoch: Epoch(2), grace_seconds: 10, reason: "told to".to_owned() };
    let stop_path = format!("{path}/stop");
    ordered(client, || client.call::<InstanceStatus>(Method::POST, &stop_path, Some(&stop))).await;
    let delete = format!("{path}?epoch=2");
    ordered(client, || client.call::<()>(Method::DELETE, &delete, None::<&()>)).await;
    assert!(until(client, id, |_| false).await.is_none());
}

/// Asks until the instance is as `wanted`; none where it is gone.
async fn until(client: &Client, id: &str, wanted: impl Fn(&InstanceState) -> bool) -> Option<InstanceStatus> {
    let began = Instant::now();
    loop {
        if let Ok(known) = client.get::<Vec<InstanceStatus>>("/v1/instances").await {
            match known.into_iter().find(|status| status.id.as_str() == id) {
                None => return None,
                Some(status) if wanted(&status.state) => return Some(status),
                Some(status) => assert!(began.elapsed() < LIMIT, "{id} stays {status:?}"),
            }
        }
        assert!(began.elapsed() < 2 * LIMIT, "nobody answers about {id}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
