//! One owned task per node: it watches what the node reports, makes the calls that the plan wants
//! made, and takes over the node's events. It decides nothing.
//!
//! A node that does not answer delays its own calls only: each waits for its own turn, with a
//! pause that doubles, and nobody else waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drowse_api::agent::{InstancesPicture, KnownBuild, NodeInfo};
use drowse_api::client::{Client, Lines};
use drowse_api::event::EventKind;
use drowse_api::{ErrorCode, NodeName, Problem};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::activity;
use crate::agent::{Learnt, execute, is_passing, unless_gone};
use crate::config::AgentConfig;
use crate::desired::{Fact, Step};
use crate::ledger::Ledger;
use crate::picture::NodeView;
use crate::plan::Call;
use crate::sleep::SleepDefaults;

mod events;

/// How many calls to one node are under way at once.
const CALLS: usize = 16;

/// How often a build that runs is asked about.
const POLL: Duration = Duration::from_millis(250);

/// How soon a call that succeeded may be made again: the node's report of its effect is on its way.
const SETTLE: Duration = Duration::from_millis(500);

/// How long a node's report waits for the node's events before it. They usually are there first; a
/// busy machine may take its time, and a stream of events that hangs must not hold up decisions.
const HEARD: Duration = Duration::from_secs(2);

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The handle on a node's task. The task ends with it.
#[derive(Debug)]
pub struct Node {
    /// For calls that are made on behalf of a user: uploads, logs, doctor.
    pub client: Client,
    view: watch::Receiver<NodeView>,
    calls: watch::Sender<Arc<Vec<Call>>>,
    _tasks: [AbortOnDropHandle<()>; 3],
}

impl Node {
    /// Starts the task. `wake` is told whenever something is known anew.
    #[must_use]
    pub fn start(config: &AgentConfig, ledger: &Ledger, wake: Arc<Notify>, sleep: &SleepDefaults) -> Self {
        let client = Client::unix(&config.socket);
        let (view, seen) = watch::channel(NodeView::default());
        let (calls, wanted) = watch::channel(Arc::new(Vec::new()));
        let look = Duration::from_secs(u64::from(sleep.look_seconds.max(1)));
        let measure = activity::follow(client.clone(), view.clone(), look);
        let task = Task {
            name: config.node.clone(),
            client: client.clone(),
            ledger: ledger.clone(),
            view,
            wanted,
            wake,
            pauses: BTreeMap::new(),
            was_connected: None,
        };
        let follow = events::follow(config.node.clone(), client.clone(), ledger.clone());
        let tasks = [tokio::spawn(task.run()), tokio::spawn(follow), tokio::spawn(measure)].map(AbortOnDropHandle::new);
        Self { client, view: seen, calls, _tasks: tasks }
    }

    /// What is known of the node.
    #[must_use]
    pub fn view(&self) -> NodeView {
        self.view.borrow().clone()
    }

    /// What is known of the node, as it changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<NodeView> {
        self.view.clone()
    }

    /// Sets the calls that are to be made from now on, in place of all earlier ones.
    pub fn want(&self, calls: Vec<Call>) {
        self.calls.send_if_modified(|current| {
            let is_new = **current != calls;
            if is_new {
                *current = Arc::new(calls);
            }
            is_new
        });
    }
}

struct Task {
    name: NodeName,
    client: Client,
    ledger: Ledger,
    view: watch::Sender<NodeView>,
    wanted: watch::Receiver<Arc<Vec<Call>>>,
    wake: Arc<Notify>,
    pauses: BTreeMap<String, Pause>,
    was_connected: Option<bool>,
}

/// What a node says first.
struct Found {
    first: InstancesPicture,
    builds: Vec<KnownBuild>,
    lines: Lines<InstancesPicture>,
}

/// When the same call about the same subject may be made again.
struct Pause {
    call: Call,
    until: Instant,
    failures: u32,
}

impl Task {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            match self.connect().await {
                Ok(Found { first, builds, lines }) => {
                    failures = 0;
                    let kept_builds = builds.into_iter().map(|build| (build.deployment, build.controller)).collect();
                    let found = NodeView { is_connected: true, kept_builds, ..NodeView::default() }.with(first);
                    self.tell(|view| *view = found);
                    self.note(true, "answers").await;
                    let problem = self.serve(lines).await;
                    self.tell(|view| view.is_connected = false);
                    self.note(false, &format!("does not answer any more: {}", problem.detail)).await;
                }
                Err(problem) => {
                    failures += 1;
                    self.note(false, &format!("does not answer: {}", problem.detail)).await;
                }
            }
            tokio::time::sleep(pause(failures)).await;
        }
    }

    async fn connect(&self) -> Result<Found, Problem> {
        let info: NodeInfo = self.client.get("/v1/node").await?;
        if info.name != self.name {
            let detail = format!("its agent calls itself {}: correct [[agents]] or agent.toml", info.name);
            return Err(Problem::new(ErrorCode::HostUnfit, detail));
        }
        let mut lines = self.client.lines("/v1/instances/watch").await?;
        let first = lines.next().await?;
        let first = first.ok_or_else(|| Problem::new(ErrorCode::Unavailable, "its report ended at once"))?;
        // An agent of an older version has no such call.
        let builds = unless_gone(self.client.get("/v1/builds").await)?.unwrap_or_default();
        Ok(Found { first, builds, lines })
    }

    /// Follows the node and makes calls until the node is lost.
    async fn serve(&mut self, mut lines: Lines<InstancesPicture>) -> Problem {
        let mut under_way = JoinSet::new();
        let mut busy: BTreeMap<String, Call> = BTreeMap::new();
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                picture = lines.next() => match picture {
                    Ok(Some(picture)) => {
                        self.hear(&picture).await;
                        self.tell(|view| *view = std::mem::take(view).with(picture));
                    }
                    Ok(None) => return Problem::new(ErrorCode::Unavailable, "it ended its report"),
                    Err(problem) => return problem,
                },
                Some(done) = under_way.join_next() => {
                    let Ok((call, outcome)): Result<(Call, Result<Learnt, Problem>), _> = done else { continue };
                    busy.remove(&call.subject());
                    self.done(call, outcome);
                }
                Ok(()) = self.wanted.changed() => {
                    let wanted = Arc::clone(&self.wanted.borrow_and_update());
                    self.pauses.retain(|_, pause| wanted.contains(&pause.call));
                    self.view.send_if_modified(|view| {
                        view.retain(&wanted);
                        false
                    });
                }
                _ = tick.tick() => {}
            }
            let wanted = Arc::clone(&self.wanted.borrow());
            for call in wanted.iter() {
                let subject = call.subject();
                if under_way.len() < CALLS && !busy.contains_key(&subject) && self.may(&subject, call) {
                    busy.insert(subject, call.clone());
                    let (client, call) = (self.client.clone(), call.clone());
                    under_way.spawn(async move {
                        let outcome = execute(&client, &call).await;
                        (call, outcome)
                    });
                }
            }
        }
    }

    /// Waits a moment until the events that led to `picture` are stored, so that they stand before
    /// those of the decisions that follow from it.
    async fn hear(&self, picture: &InstancesPicture) {
        let Some(told) = &picture.told else { return };
        let mut records = self.ledger.subscribe();
        // An error means that the events are late, which delays nothing else.
        let _ = tokio::time::timeout(HEARD, records.wait_for(|desired| events::has(desired, &self.name, told))).await;
    }

    fn may(&self, subject: &str, call: &Call) -> bool {
        self.pauses.get(subject).is_none_or(|pause| pause.call != *call || pause.until <= Instant::now())
    }

    fn done(&mut self, call: Call, outcome: Result<Learnt, Problem>) {
        let subject = call.subject();
        let (failures, length) = match outcome {
            Ok(learnt) => {
                // An answer may overtake the events that led to it; the node's report, which comes too, does not.
                let is_reported =
                    matches!(&learnt, Learnt::Instance(status) if status.state.is_ready() || status.state.is_over());
                if !is_reported {
                    self.tell(|view| view.learn(learnt));
                }
                (0, if matches!(call, Call::AskBuild(_)) { POLL } else { SETTLE })
            }
            Err(problem) => {
                let before = self.pauses.get(&subject).filter(|pause| pause.call == call);
                let failures = before.map_or(1, |pause| pause.failures.saturating_add(1));
                tracing::warn!(node = %self.name, %subject, failures, %problem, "a call failed");
                if !is_passing(&problem) {
                    self.tell(|view| view.refused(&call, problem));
                }
                (failures, pause(failures))
            }
        };
        self.pauses.insert(subject, Pause { call, until: Instant::now() + length, failures });
    }

    fn tell(&self, change: impl FnOnce(&mut NodeView)) {
        self.view.send_modify(change);
        self.wake.notify_one();
    }

    /// Records once that the node was found or lost.
    async fn note(&mut self, is_connected: bool, what: &str) {
        if self.was_connected.replace(is_connected) == Some(is_connected) {
            return;
        }
        let fact = Fact::new(EventKind::Node, format!("node {} {what}", self.name));
        let base = self.ledger.desired();
        if let Err(error) = self.ledger.commit(&base, vec![Step::default().told(fact)]).await {
            tracing::error!(%error, "an event was not stored");
        }
    }
}

impl NodeView {
    /// With what the node reports of its instances.
    pub(crate) fn with(mut self, picture: InstancesPicture) -> Self {
        self.instances = picture.instances.into_iter().map(|status| (status.id.clone(), status)).collect();
        self
    }
}

fn pause(failures: u32) -> Duration {
    (FIRST_PAUSE * 2_u32.pow(failures.min(6))).min(LONGEST_PAUSE)
}
