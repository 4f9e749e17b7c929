//! All instances of the node: finds the task of each, makes and adopts them, and shows what they do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use drowse_api::agent::{EndpointsPicture, InstancesPicture, StopRequest};
use drowse_api::instance::{InstanceSpec, InstanceState, InstanceStatus, Workload};
use drowse_api::sleep::{Demand, SleepRequest, Sleeper};
use drowse_api::{Epoch, ErrorCode, InstanceId, Problem};
use tokio::sync::{mpsc, oneshot, watch};

use super::actor::{Actor, Board, Command, resume};
use super::followers::Followers;
use super::host::{Host, Record};
use super::state::{Effect, Life};
use crate::addresses::Addresses;
use crate::events::EventLog;

/// Commands that may wait for one instance; a controller sends one and waits for the answer.
const WAITING_COMMANDS: usize = 16;

/// All instances of the node.
pub struct Instances<H> {
    host: Arc<H>,
    events: Arc<EventLog>,
    addresses: Arc<Addresses>,
    boot_id: String,
    followers: Arc<Followers>,
    board: Board,
    tasks: Arc<Tasks>,
    server: Option<Server>,
}

/// Where commands for each instance go. Held for a look or a change, never across an await.
type Tasks = Mutex<BTreeMap<InstanceId, mpsc::Sender<Command>>>;

/// The node's own file server: an instance that the controller does not see.
struct Server {
    spec: InstanceSpec,
    board: Board,
}

impl<H: Host> Instances<H> {
    /// No instances yet. `server`: the file server's spec, to be started with the first site.
    /// `followers`: who is asked to let go of an instance before it sleeps.
    #[must_use]
    pub fn new(
        host: Arc<H>,
        events: Arc<EventLog>,
        addresses: Arc<Addresses>,
        boot_id: String,
        followers: Arc<Followers>,
        server: Option<InstanceSpec>,
    ) -> Self {
        let server = server.map(|spec| Server { spec, board: Board::default() });
        Self { host, events, addresses, boot_id, followers, board: Board::default(), tasks: Arc::default(), server }
    }

    /// Takes over what an earlier agent left. To be called once, before any command.
    pub fn adopt(&self, records: Vec<Record>) {
        for mut record in records {
            self.addresses.claim(record.address);
            let first = resume(&mut record.life, self.host.now());
            self.spawn(record, first, false);
        }
    }

    /// Brings the file server to this agent's program, or starts it if `needed` and there is none.
    pub async fn bring_up_server(&self, needed: bool) {
        let Some(server) = &self.server else { return };
        let known = server.board.borrow().get(&server.spec.id).map(|status| status.epoch.next());
        match known {
            Some(epoch) => self.put_server(epoch).await,
            None if needed => self.put_server(server.spec.epoch).await,
            None => {}
        }
    }

    async fn put_server(&self, epoch: Epoch) {
        let Some(server) = &self.server else { return };
        if let Err(problem) = self.make(InstanceSpec { epoch, ..server.spec.clone() }).await {
            tracing::error!("the file server of static sites cannot be started: {problem}");
        }
    }

    /// Makes it so.
    ///
    /// # Errors
    /// `stale-epoch`, `conflict`, `exhausted` if no address is free, `disk-full`.
    pub async fn put(&self, spec: InstanceSpec) -> Result<InstanceStatus, Problem> {
        if self.server.as_ref().is_some_and(|server| server.spec.id == spec.id) {
            let detail = format!("instance id {} is the node's own", spec.id);
            return Err(Problem::new(ErrorCode::BadRequest, detail));
        }
        if let (Workload::Site, Some(server)) = (spec.workload, &self.server) {
            let known = server.board.borrow().get(&server.spec.id).cloned();
            match known {
                None => self.put_server(server.spec.epoch).await,
                Some(status) if status.state.is_over() => self.put_server(status.epoch.next()).await,
                Some(_) => {}
            }
        }
        self.make(spec).await
    }

    async fn make(&self, spec: InstanceSpec) -> Result<InstanceStatus, Problem> {
        let id = spec.id.clone();
        let task = match self.task(&id) {
            Some(task) => task,
            None => self.create(&spec)?,
        };
        self.ask(&task, &id, |answer| Command::Put(Box::new(spec), answer)).await
    }

    /// Ends it.
    ///
    /// # Errors
    /// `not-found`, `stale-epoch`, `disk-full`.
    pub async fn stop(&self, id: &InstanceId, request: StopRequest) -> Result<InstanceStatus, Problem> {
        let task = self.task(id).ok_or_else(|| not_found(id))?;
        self.ask(&task, id, |answer| Command::Stop(request, answer)).await
    }

    /// Puts it to sleep, and answers when it sleeps.
    ///
    /// # Errors
    /// `not-found`, `stale-epoch`, `disk-full`; `conflict` if it stays awake.
    pub async fn sleep(&self, id: &InstanceId, request: SleepRequest) -> Result<InstanceStatus, Problem> {
        let task = self.task(id).ok_or_else(|| not_found(id))?;
        self.ask(&task, id, |answer| Command::Sleep(request, answer)).await
    }

    /// Wakes it, or keeps it awake. Answers when it is on its way.
    ///
    /// # Errors
    /// `not-found`, `disk-full`.
    pub async fn demand(&self, id: &InstanceId, demand: Demand) -> Result<InstanceStatus, Problem> {
        let task = self.task(id).ok_or_else(|| not_found(id))?;
        self.ask(&task, id, |answer| Command::Demand(demand, answer)).await
    }

    /// Who follows the addresses.
    #[must_use]
    pub fn followers(&self) -> &Arc<Followers> {
        &self.followers
    }

    /// Removes it. One that is not there is removed already.
    ///
    /// # Errors
    /// `stale-epoch`.
    pub async fn delete(&self, id: &InstanceId, epoch: Epoch) -> Result<(), Problem> {
        match self.task(id) {
            Some(task) => self.ask(&task, id, |answer| Command::Delete(epoch, answer)).await,
            None => Ok(()),
        }
    }

    /// All of them now.
    #[must_use]
    pub fn list(&self) -> InstancesPicture {
        InstancesPicture { instances: self.board.borrow().values().cloned().collect(), told: None }
    }

    /// The owner of an instance, if it is known.
    #[must_use]
    pub fn status(&self, id: &InstanceId) -> Option<InstanceStatus> {
        self.board.borrow().get(id).cloned()
    }

    /// Moves with every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<BTreeMap<InstanceId, InstanceStatus>> {
        self.board.subscribe()
    }

    /// How many tasks are known, gone ones too.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.lock().len()
    }

    fn task(&self, id: &InstanceId) -> Option<mpsc::Sender<Command>> {
        self.lock().get(id).filter(|task| !task.is_closed()).cloned()
    }

    fn create(&self, spec: &InstanceSpec) -> Result<mpsc::Sender<Command>, Problem> {
        // Two first PUTs at once: the later one finds the task of the earlier.
        if let Some(task) = self.task(&spec.id) {
            return Ok(task);
        }
        let address = self.addresses.take().map_err(|error| Problem::new(ErrorCode::Exhausted, error.to_string()))?;
        let (life, first) = Life::new(spec.clone());
        Ok(self.spawn(Record { life, address, port: self.host.port(spec), boot_id: self.boot_id.clone() }, first, true))
    }

    fn spawn(&self, record: Record, first: Vec<Effect>, is_new: bool) -> mpsc::Sender<Command> {
        let (id, address) = (record.life.spec.id.clone(), record.address);
        let hidden = self.server.as_ref().filter(|server| server.spec.id == id);
        let board = hidden.map_or(&self.board, |server| &server.board).clone();
        let (commands, received) = mpsc::channel(WAITING_COMMANDS);
        let (task, addresses) = (commands.clone(), Arc::clone(&self.addresses));
        let mut known = self.lock();
        if let Some(earlier) = known.get(&id).filter(|earlier| !earlier.is_closed()) {
            addresses.free(address);
            return earlier.clone();
        }
        known.insert(id.clone(), commands);
        drop(known);
        if !is_new {
            // At once: a picture without what was adopted would have it started elsewhere.
            board.send_modify(|board| drop(board.insert(id.clone(), record.status())));
        }
        // Weak: a task ends when nobody can command it any more.
        let tasks = Arc::downgrade(&self.tasks);
        let (host, events, followers) = (&self.host, &self.events, &self.followers);
        let (host, events, followers) = (Arc::clone(host), Arc::clone(events), Arc::clone(followers));
        let actor = Actor::new(host, events, followers, board, received, record, is_new);
        tokio::spawn(async move {
            if actor.run(first).await.is_over() {
                addresses.free(address);
                forget(&tasks, &id);
            }
        });
        task
    }

    async fn ask<T>(
        &self,
        task: &mpsc::Sender<Command>,
        id: &InstanceId,
        command: impl FnOnce(oneshot::Sender<Result<T, Problem>>) -> Command,
    ) -> Result<T, Problem> {
        let (answer, answered) = oneshot::channel();
        let gone = || Problem::new(ErrorCode::Conflict, format!("instance {id} was removed meanwhile"));
        task.send(command(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, mpsc::Sender<Command>>> {
        lock(&self.tasks)
    }
}

fn lock(tasks: &Tasks) -> MutexGuard<'_, BTreeMap<InstanceId, mpsc::Sender<Command>>> {
    tasks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets the ended task of an instance, unless the instance was made anew meanwhile.
fn forget(tasks: &Weak<Tasks>, id: &InstanceId) {
    let Some(tasks) = tasks.upgrade() else { return };
    let mut tasks = lock(&tasks);
    if tasks.get(id).is_some_and(mpsc::Sender::is_closed) {
        tasks.remove(id);
    }
}

/// The instances that visitors can be sent to, or that can be woken for them, with their addresses.
#[must_use]
pub fn endpoints(board: &BTreeMap<InstanceId, InstanceStatus>) -> EndpointsPicture {
    let mut picture = EndpointsPicture::default();
    for InstanceStatus { id, address, state, .. } in board.values() {
        let Some(address) = *address else { continue };
        match *state {
            InstanceState::Ready { .. } => {
                picture.ready.insert(id.clone(), address);
            }
            InstanceState::FallingAsleep { ticket, .. } => {
                picture.ready.insert(id.clone(), address);
                picture.closing.insert(id.clone(), ticket);
            }
            InstanceState::Frozen { depth, since, takes, .. } => {
                let sleeper = Sleeper { address, depth, since, is_waking: false, takes };
                picture.asleep.insert(id.clone(), sleeper);
            }
            InstanceState::Waking { depth, slept_since: since, takes, .. } => {
                let sleeper = Sleeper { address, depth, since, is_waking: true, takes };
                picture.asleep.insert(id.clone(), sleeper);
            }
            _ => {}
        }
    }
    picture
}

/// How an unknown instance is answered.
#[must_use]
pub fn not_found(id: &InstanceId) -> Problem {
    Problem::new(ErrorCode::NotFound, format!("this node has no instance {id}"))
}
