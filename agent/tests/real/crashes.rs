//! The agent dies at every step at which it may, and the next one brings about what was wanted: one
//! copy, the same address, no exit forgotten, nothing left over.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use drowse_api::Digest;
use drowse_api::deployment::AppType;
use drowse_api::instance::{FailureReason, InstanceState, InstanceStatus, Workload};

use crate::support::{Agent, LIMIT, visit};

const SERVER: &str = "echo hello > /www/index.html; exec busybox httpd -f -p $PORT -h /www";

#[derive(Debug, Clone, Copy)]
enum Order<'a> {
    Put(&'a Digest),
    Stop,
    Delete,
}

/// The lives of an app that ends at once and of one that serves, with an agent that dies once.
struct Case {
    agent: Agent,
    short: Digest,
    web: Digest,
    died: bool,
}

impl Case {
    async fn new(number: u8) -> Option<Self> {
        let mut agent = Agent::start(number).await?;
        let short = agent.image("short", AppType::Bundle, "exit 3").await.unwrap();
        let web = agent.image("web", AppType::Bundle, SERVER).await.unwrap();
        agent.kill();
        Some(Self { agent, short, web, died: false })
    }

    /// Whether the agent died at `points`; whether or not, everything ended as it should.
    async fn lives_through(&mut self, points: &str) -> bool {
        self.agent.kill();
        self.died = false;
        self.agent.spawn(Some(points));
        let (short, web) = (self.short.clone(), self.web.clone());

        let failed = self.order("short", 1, Order::Put(&short), |state| state.is_over()).await.expect("is there");
        let InstanceState::Failed { failure } = failed.state else { panic!("{points}: {:?}", failed.state) };
        assert_eq!((failure.reason, failure.detail.as_str()), (FailureReason::Exited, "it exited with status 3"));
        self.order("short", 1, Order::Delete, |_| false).await;

        let ready = self.order("web", 1, Order::Put(&web), |state| state.is_ready() || state.is_over()).await;
        let ready = ready.expect("is there");
        assert!(ready.state.is_ready(), "{points}: {:?}\n{}", ready.state, self.agent.log());
        // The server forks for each connection, the boot check's too: a child of it ends by itself, a second
        // copy does not.
        let began = Instant::now();
        while self.agent.inside().len() != 2 {
            assert!(began.elapsed() < LIMIT, "{points}: init and one copy of the app, not {:?}", self.agent.inside());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(visit(&ready).await, "hello\n", "{points}");
        let is_stopped = |state: &InstanceState| matches!(state, InstanceState::Stopped { .. });
        let stopped = self.order("web", 2, Order::Stop, is_stopped).await.expect("is there");
        assert_eq!(stopped.address, ready.address, "{points}");
        self.order("web", 2, Order::Delete, |_| false).await;
        self.settle(points, ready.address.expect("has one")).await;
        self.died
    }

    /// Gives an order until it is taken, as a controller does, and waits until the instance is as
    /// `wanted`, or gone. An agent that died is started again, and told nothing that it had taken.
    async fn order(
        &mut self,
        id: &str,
        epoch: u64,
        order: Order<'_>,
        wanted: impl Fn(&InstanceState) -> bool,
    ) -> Option<InstanceStatus> {
        let (began, mut taken, mut last) = (Instant::now(), false, String::new());
        while began.elapsed() < LIMIT {
            if self.agent.has_died() {
                assert!(!self.died, "it died again:\n{}", self.agent.log());
                self.died = true;
                self.agent.restart().await;
            }
            if taken {
                let known = self.agent.client.get::<Vec<InstanceStatus>>("/v1/instances").await;
                let found = known.map(|known| known.into_iter().find(|status| status.id.as_str() == id));
                last = format!("{found:?}");
                match found {
                    Ok(None) if matches!(order, Order::Delete) => return None,
                    Ok(Some(status)) if wanted(&status.state) => return Some(status),
                    _ => {}
                }
            } else {
                let told = match order {
                    Order::Put(image) => self.agent.put(id, epoch, image, Workload::Web).await.map(drop),
                    Order::Stop => self.agent.stop(id, epoch).await.map(drop),
                    Order::Delete => self.agent.delete(id, epoch).await,
                };
                taken = told.is_ok();
                last = format!("{told:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{order:?} of {id} came to {last}\n{}", self.agent.log());
    }

    /// Waits until nothing of any instance is left on the host.
    async fn settle(&self, points: &str, address: SocketAddr) {
        let began = Instant::now();
        loop {
            let left = self.left(address);
            if left.is_empty() {
                return;
            }
            assert!(began.elapsed() < LIMIT, "{points} left {left:?}\n{}", self.agent.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn left(&self, address: SocketAddr) -> Vec<String> {
        let mut left: Vec<String> = self.agent.inside().iter().map(|pid| format!("process {pid}")).collect();
        for folder in [self.agent.data("instances"), self.agent.folder.path().join("run/instances")] {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let instances = self.agent.data("instances").display().to_string();
        left.extend(mounts.lines().filter(|line| line.contains(&instances)).map(ToOwned::to_owned));
        left.extend(self.agent.groups());
        left.extend(self.agent.links());
        let table = self.agent.table();
        left.extend(table.contains(&address.ip().to_string()).then_some(table));
        left
    }

    /// Dies at the first passing of a point, at the second and so on, until it is not passed so often.
    async fn lives_through_each(&mut self, point: &str, first: u32, step: usize) {
        let mut times = 0;
        for passed in (first..).step_by(step) {
            if !self.lives_through(&format!("{point}={passed}*off->panic")).await {
                break;
            }
            times += 1;
        }
        assert!(times > 0, "{point} was never passed");
    }
}

#[tokio::test]
async fn a_death_while_a_sandbox_is_made_or_a_process_started_leaves_one_copy() {
    let Some(mut case) = Case::new(11).await else { return };
    for point in ["sandbox-build", "sandbox-built", "process-start", "process-started"] {
        case.lives_through_each(point, 0, 1).await;
    }
}

#[tokio::test]
async fn a_death_while_a_sandbox_is_cleared_or_removed_leaves_nothing() {
    let Some(mut case) = Case::new(12).await else { return };
    for point in ["sandbox-clear", "sandbox-emptied", "instance-remove"] {
        case.lives_through_each(point, 0, 1).await;
    }
}

#[tokio::test]
async fn a_death_at_any_write_of_a_record_loses_nothing() {
    let Some(mut case) = Case::new(13).await else { return };
    // Each write once, half of them just before the new record is there and half just after.
    case.lives_through_each("durable-before-rename", 0, 2).await;
    case.lives_through_each("durable-after-rename", 1, 2).await;
}

#[tokio::test]
async fn a_death_while_a_sandbox_is_made_ready_or_taken_leaves_one_copy() {
    let Some(mut case) = Case::new(16).await else { return };
    for point in ["ready-taken", "ready-given"] {
        case.lives_through_each(point, 0, 1).await;
    }
    // In the middle of filling the pool, and just before it is full.
    for point in ["ready-make", "ready-made", "ready-linked"] {
        assert!(case.lives_through(&format!("{point}=1*off->panic")).await, "{point} was never passed");
    }
}
