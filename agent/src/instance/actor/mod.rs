//! The task that sees to one instance: carries out what the state machine decides and tells it what
//! happens.
//!
//! At most one piece of work is under way at a time, by the machine's own rule (each state has at
//! most one); the connection probe and the wait for the exit are beside it and are dropped with the
//! state that they belong to.

mod commands;
mod effects;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use drowse_api::agent::StopRequest;
use drowse_api::instance::{InstanceSpec, InstanceStatus};
use drowse_api::sleep::{Demand, SleepRequest};
use drowse_api::{Epoch, ErrorCode, InstanceId, Problem};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use effects::remove;

use super::boot::{self, Seen};
use super::followers::Followers;
use super::host::{Host, KeepError, Record};
use super::state::{Effect, Event, Life, NotDumped, State};
use crate::events::EventLog;
use crate::snapshot::Abort;

/// The statuses of all instances of the node.
pub type Board = watch::Sender<BTreeMap<InstanceId, InstanceStatus>>;

/// What an app that was booting without an agent is given at least.
const ADOPTION_PROBE: Duration = Duration::from_secs(5);
const KEEP_AGAIN: Duration = Duration::from_secs(5);
/// Before what broke off by a fault of ours is taken up again.
const FAULT_PAUSE: Duration = Duration::from_secs(1);

/// What others ask of the task.
#[derive(Debug)]
pub enum Command {
    /// Make it so; answered when it is on disk.
    Put(Box<InstanceSpec>, oneshot::Sender<Result<InstanceStatus, Problem>>),
    /// End it; answered when it is on disk.
    Stop(StopRequest, oneshot::Sender<Result<InstanceStatus, Problem>>),
    /// Put it to sleep; answered when it sleeps, or stays awake.
    Sleep(SleepRequest, oneshot::Sender<Result<InstanceStatus, Problem>>),
    /// Somebody needs it; answered when it is on its way up.
    Demand(Demand, oneshot::Sender<Result<InstanceStatus, Problem>>),
    /// Remove it; answered when nothing is left.
    Delete(Epoch, oneshot::Sender<Result<(), Problem>>),
}

/// How the task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing of the instance is left.
    Over,
    /// It goes on without this agent.
    Left,
}

impl Outcome {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_over(self) -> bool {
        self == Self::Over
    }
}

/// The task's own data.
pub struct Actor<H> {
    host: Arc<H>,
    events: Arc<EventLog>,
    followers: Arc<Followers>,
    board: Board,
    commands: mpsc::Receiver<Command>,
    record: Record,
    /// What the present state has under way: its result is an event.
    work: JoinSet<Event>,
    /// Probe and wait for the exit, of the present `Running`.
    watchers: JoinSet<Event>,
    /// What the boot check saw last.
    seen: watch::Sender<Seen>,
    /// Who waits for the end of a removal.
    waiting: Vec<oneshot::Sender<Result<(), Problem>>>,
    /// Breaks off the dump that is under way, if one is.
    abort: Arc<Abort>,
    /// Has its memory go to swap, beside whatever else is under way: it changes nothing that anybody sees.
    paging: JoinSet<Event>,
    stop_paging: Arc<AtomicBool>,
    /// Who waits for it to sleep.
    lulling: Vec<oneshot::Sender<Result<InstanceStatus, Problem>>>,
    /// Whether the newest state still is to be written.
    unwritten: bool,
    /// What it runs itself since it is awake.
    waking: Option<AbortOnDropHandle<()>>,
    /// Until when nothing is begun, since it could not be written.
    held: Option<Instant>,
}

impl<H: Host> Actor<H> {
    /// The task for the instance of `record`, which is on disk unless it `is_new`.
    #[must_use]
    pub fn new(
        host: Arc<H>,
        events: Arc<EventLog>,
        followers: Arc<Followers>,
        board: Board,
        commands: mpsc::Receiver<Command>,
        record: Record,
        is_new: bool,
    ) -> Self {
        Self {
            host,
            events,
            followers,
            board,
            commands,
            record,
            work: JoinSet::new(),
            watchers: JoinSet::new(),
            seen: watch::Sender::default(),
            waiting: Vec::new(),
            abort: Arc::default(),
            paging: JoinSet::new(),
            stop_paging: Arc::default(),
            lulling: Vec::new(),
            unwritten: is_new,
            waking: None,
            held: None,
        }
    }

    /// Does `first`, and then what comes, until the instance is removed or every handle is dropped.
    /// Dropped at any point, it leaves the instance running, to be adopted.
    pub async fn run(mut self, first: Vec<Effect>) -> Outcome {
        if let Err(error) = self.begin(first).await {
            return self.refuse(&error).await;
        }
        loop {
            let due = self.record.life.due();
            let event = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => { self.command(command).await; continue }
                    None => return Outcome::Left,
                },
                Some(done) = self.work.join_next() => match done {
                    Ok(event) => event,
                    Err(error) => { self.work_broke(&error); continue }
                },
                Some(paged) = self.paging.join_next() => match paged {
                    Ok(event) => event,
                    Err(error) => Event::PageOutFailed(error.to_string()),
                },
                Some(seen) = self.watchers.join_next() => match seen {
                    Ok(event) => event,
                    Err(error) => { self.watch_broke(&error).await; continue }
                },
                () = until(&*self.host, due, self.held), if due.is_some() => self.due().await,
                () = tokio::time::sleep(KEEP_AGAIN), if self.unwritten => { let _ = self.keep().await; continue }
            };
            if matches!(self.record.life.state, State::Removing) && matches!(event, Event::Cleared) {
                return self.removed();
            }
            // What could not be written is tried again from here.
            let _ = self.happen(event).await;
        }
    }

    /// What is new is begun as soon as there is room for its record: the launch takes less long than the
    /// disk. Nobody is told of it, nor does anything of it go on, before the record is there.
    async fn begin(&mut self, first: Vec<Effect>) -> Result<(), KeepError> {
        if !self.unwritten {
            self.show();
            self.watch();
            for effect in first {
                self.act(effect).await;
            }
            return Ok(());
        }
        let written = self.host.write(&self.record).await?;
        for effect in first {
            self.act(effect).await;
        }
        if let Err(error) = written.commit().await {
            while self.work.join_next().await.is_some() {}
            remove(Arc::clone(&self.host), Arc::clone(&self.events), self.record.clone()).await;
            return Err(error);
        }
        self.unwritten = false;
        self.show();
        Ok(())
    }

    /// One step: decide, keep, show, act. What cannot be kept and is a command, or would start
    /// something, is not done: an app's exit and what clears away after it is seen to all the same.
    async fn happen(&mut self, event: Event) -> Result<(), KeepError> {
        let before = self.record.life.clone();
        let (life, effects) = before.clone().on(event.clone(), self.host.now(), self.host.jitter());
        if life == before && effects.is_empty() {
            return Ok(());
        }
        self.record.life = life;
        self.unwritten = true;
        // Told before it is shown: who acts on what is shown has been told why.
        let (tellings, mut effects): (Vec<_>, Vec<_>) =
            effects.into_iter().partition(|effect| matches!(effect, Effect::Tell(..)));
        if !effects.is_empty() {
            self.stop_paging();
        }
        if effects.contains(&Effect::Thaw) {
            // A visitor waits. What goes on without its record saying so is found out by the next agent.
            if effects.contains(&Effect::PageIn) {
                self.host.page_in(&self.record).await;
            }
            effects.retain(|effect| !matches!(effect, Effect::Thaw | Effect::PageIn));
            self.thaw().await;
            for telling in tellings.clone() {
                self.act(telling).await;
            }
            self.show();
            fail::fail_point!("instance-woken");
            let kept = self.keep().await;
            self.watch();
            self.tell_awake(&before);
            for effect in effects {
                self.act(effect).await;
            }
            self.answer_lulling();
            return kept;
        }
        let kept = self.keep().await;
        if let Err(error) = &kept {
            tracing::error!(instance = %before.spec.id, "{error}; trying again");
            let is_command =
                matches!(event, Event::Put(_) | Event::Stop { .. } | Event::Sleep { .. } | Event::Quiet { .. });
            if is_command || effects.contains(&Effect::Launch) {
                self.record.life = before;
                self.come_again(event);
                return kept;
            }
        }
        for telling in tellings {
            self.act(telling).await;
        }
        self.show();
        let falls_asleep = |life: &Life| matches!(life.state, State::FallingAsleep { .. });
        let is_other = falls_asleep(&self.record.life) != falls_asleep(&before);
        if is_other || self.record.life.running() != before.running() || self.is_exiting() {
            self.watch();
        }
        for effect in effects {
            self.act(effect).await;
        }
        self.tell_awake(&before);
        self.answer_lulling();
        kept
    }

    /// An event that could not be followed comes once more; a command is the caller's to repeat.
    fn come_again(&mut self, event: Event) {
        match event {
            Event::Due { .. } => self.held = Some(Instant::now() + KEEP_AGAIN),
            Event::Cleared => {
                self.work.spawn(async move {
                    tokio::time::sleep(KEEP_AGAIN).await;
                    event
                });
            }
            _ => {}
        }
    }

    /// A fault of ours in a wait must not leave an exit unnoticed: all waits begin anew.
    async fn watch_broke(&mut self, error: &tokio::task::JoinError) {
        tracing::error!(instance = %self.record.life.spec.id, "a wait for an instance broke off: {error}");
        tokio::time::sleep(FAULT_PAUSE).await;
        self.watch();
        if matches!(self.record.life.state, State::Booting { .. }) {
            self.act(Effect::Probe).await;
        }
    }

    fn is_exiting(&self) -> bool {
        matches!(self.record.life.state, State::Exiting { .. })
    }

    async fn due(&self) -> Event {
        let State::Booting { running, .. } = &self.record.life.state else { return Event::Due { lack: None } };
        let seen = self.seen.borrow().clone();
        match boot::lack(&*self.host, &self.record, *running, seen).await {
            // In time, if only just.
            None => Event::Accepted,
            lack => Event::Due { lack },
        }
    }

    async fn keep(&mut self) -> Result<(), KeepError> {
        self.host.keep(&self.record).await?;
        (self.unwritten, self.held) = (false, None);
        Ok(())
    }

    fn show(&self) {
        let status = self.record.status();
        self.board.send_modify(|board| {
            board.insert(status.id.clone(), status);
        });
    }

    fn removed(mut self) -> Outcome {
        self.board.send_modify(|board| {
            board.remove(&self.record.life.spec.id);
        });
        for answer in self.waiting.drain(..) {
            let _ = answer.send(Ok(()));
        }
        Outcome::Over
    }

    /// Nothing may be begun that is not on disk: whoever asked first is told why.
    async fn refuse(mut self, error: &KeepError) -> Outcome {
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            match command {
                Command::Put(_, answer)
                | Command::Stop(_, answer)
                | Command::Sleep(_, answer)
                | Command::Demand(_, answer) => drop(answer.send(Err(keep_problem(error)))),
                Command::Delete(_, answer) => drop(answer.send(Err(keep_problem(error)))),
            }
        }
        Outcome::Over
    }

    /// A fault of ours in a piece of work must not end the instance: it goes on as after a restart of the agent.
    fn work_broke(&mut self, error: &tokio::task::JoinError) {
        tracing::error!(instance = %self.record.life.spec.id, "work on an instance broke off: {error}");
        let (host, record) = (Arc::clone(&self.host), self.record.clone());
        let (state, events) = (record.life.state.clone(), Arc::clone(&self.events));
        self.work.spawn(async move {
            tokio::time::sleep(FAULT_PAUSE).await;
            match state {
                State::Exiting { running, .. } => Event::Collected(host.collect(&record, running).await),
                State::Launching { .. } => Event::LaunchFailed(super::state::LaunchFailure {
                    detail: "the agent broke off the launch by a fault of its own".to_owned(),
                    by_app: false,
                }),
                State::Removing => remove(host, events, record).await,
                State::Dumping { .. } => {
                    Event::DumpFailed(NotDumped::Never("the agent broke it off by a fault of its own".to_owned()))
                }
                _ => {
                    host.clear(&record).await;
                    Event::Cleared
                }
            }
        });
    }
}

/// How a record that could not be kept is answered.
#[must_use]
pub fn keep_problem(error: &KeepError) -> Problem {
    let code = match error {
        KeepError::DiskFull => ErrorCode::DiskFull,
        KeepError::Io(_) => ErrorCode::Internal,
    };
    Problem::new(code, error.to_string())
}

/// What a task that takes over `life` from an earlier agent has to do first. Effects that may have
/// been carried out already are repeated: all of them bear it.
#[must_use]
pub fn resume(life: &mut Life, now: Timestamp) -> Vec<Effect> {
    life.not_asleep_yet();
    match &mut life.state {
        State::Launching { .. } => vec![Effect::Launch],
        State::Booting { deadline, .. } => {
            // Nobody looked meanwhile: it may have been ready for long.
            *deadline = (*deadline).max(now + ADOPTION_PROBE);
            vec![Effect::Probe]
        }
        State::Exiting { .. } => vec![Effect::Collect],
        State::Stopping { .. } => vec![Effect::Terminate],
        State::Clearing { .. } => vec![Effect::Clear],
        State::Removing => vec![Effect::Remove],
        State::Dumping { .. } => vec![Effect::Dump],
        State::Ready { .. }
        | State::FallingAsleep { .. }
        | State::Frozen { .. }
        | State::Backoff { .. }
        | State::Stopped { .. }
        | State::Failed { .. } => Vec::new(),
    }
}

async fn until<H: Host>(host: &H, due: Option<Timestamp>, held: Option<Instant>) {
    if let Some(due) = due {
        let left = Duration::try_from(due.duration_since(host.now())).unwrap_or_default();
        let held = held.map(|held| held.saturating_duration_since(Instant::now())).unwrap_or_default();
        tokio::time::sleep(left.max(held)).await;
    }
}
