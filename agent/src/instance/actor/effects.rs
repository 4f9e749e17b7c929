//! What the state machine wants done, done: beside the task where it takes a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drowse_api::event::EventKind;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::Actor;
use crate::events::EventLog;
use crate::instance::boot::{self, Seen};
use crate::instance::host::{Hook, Host, Record};
use crate::instance::state::{Effect, Event, Life, Next, State};
use crate::snapshot::Abort;

const FIRST_REMOVAL_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_REMOVAL_PAUSE: Duration = Duration::from_secs(60);

impl<H: Host> Actor<H> {
    /// What comes next has the app as it is; the rest of it stays in memory.
    pub(super) fn stop_paging(&mut self) {
        self.stop_paging.store(true, Ordering::Relaxed);
        self.paging = JoinSet::new();
    }

    pub(super) async fn thaw(&mut self) {
        if let Err(why) = self.host.thaw(&self.record).await {
            self.work.spawn(async move { Event::ThawFailed(why) });
        }
    }

    pub(super) async fn act(&mut self, effect: Effect) {
        let (host, record) = (Arc::clone(&self.host), self.record.clone());
        match effect {
            Effect::Launch => {
                self.work.spawn(async move {
                    match host.launch(&record).await {
                        Ok(running) => Event::Launched(running),
                        Err(failure) => Event::LaunchFailed(failure),
                    }
                });
            }
            Effect::Dump => {
                if let State::Dumping { running, next, .. } = record.life.state.clone() {
                    let abort = Arc::new(Abort::default());
                    if next != Next::Sleep {
                        abort.ask();
                    }
                    self.abort = Arc::clone(&abort);
                    self.work.spawn(async move {
                        match host.dump(&record, running, abort).await {
                            Ok(taken) => Event::Dumped(taken),
                            Err(why) => Event::DumpFailed(why),
                        }
                    });
                }
            }
            Effect::AbortDump => self.abort.ask(),
            Effect::Restore(taken) => {
                self.work.spawn(async move {
                    match host.restore(&record, &taken).await {
                        Ok(running) => Event::Restored(running),
                        Err(why) => Event::RestoreFailed(why),
                    }
                });
            }
            Effect::Probe => {
                if let Some(running) = self.record.life.running() {
                    self.seen.send_replace(Seen::Deaf);
                    let (events, seen) = (Arc::clone(&self.events), self.seen.clone());
                    self.watchers.spawn(async move {
                        boot::check(&*host, &events, &record, running, &seen).await;
                        Event::Accepted
                    });
                }
            }
            Effect::Limit => host.limit(&record).await,
            Effect::Freeze => {
                if let Err(why) = host.freeze(&record).await {
                    self.work.spawn(async move { Event::FreezeFailed(why) });
                }
            }
            Effect::PageOut => {
                let stop = Arc::new(AtomicBool::new(false));
                self.stop_paging = Arc::clone(&stop);
                self.paging.spawn(async move {
                    match host.page_out(&record, stop).await {
                        Ok(swapped) => Event::Paged(swapped),
                        Err(why) => Event::PageOutFailed(why),
                    }
                });
            }
            Effect::PageIn => host.page_in(&record).await,
            Effect::Thaw => self.thaw().await,
            Effect::Terminate => {
                if let Some(running) = self.record.life.running() {
                    host.terminate(&record, running).await;
                }
            }
            Effect::Collect => {
                if let Some(running) = self.record.life.running() {
                    self.work.spawn(async move { Event::Collected(host.collect(&record, running).await) });
                }
            }
            Effect::Clear => {
                self.work.spawn(async move {
                    host.clear(&record).await;
                    Event::Cleared
                });
            }
            Effect::Remove => {
                // Whatever else was under way has ended, by the machine's rule, or only watches.
                self.watchers = JoinSet::new();
                self.work.spawn(remove(host, Arc::clone(&self.events), record));
            }
            Effect::Tell(kind, message) => {
                host.say(&record, &message);
                self.events.about(&record.life.spec, kind, message);
            }
        }
    }

    /// Lets the app see to its being awake again; nobody waits for that.
    pub(super) fn tell_awake(&mut self, before: &Life) {
        let slept = match before.state {
            State::Frozen { .. } | State::FallingAsleep { .. } | State::Dumping { .. } => true,
            State::Launching { .. } | State::Booting { .. } => before.woken.is_some(),
            _ => false,
        };
        if slept && matches!(self.record.life.state, State::Ready { .. }) {
            let (host, events, record) = (Arc::clone(&self.host), Arc::clone(&self.events), self.record.clone());
            let run = async move { run_hook(&*host, &events, &record, Hook::AfterWake).await };
            self.waking = Some(AbortOnDropHandle::new(tokio::spawn(run)));
        }
    }

    /// Waits for the exit of what runs now, and for nothing else any more.
    pub(super) fn watch(&mut self) {
        self.watchers = JoinSet::new();
        if self.is_exiting() {
            return;
        }
        if let Some(running) = self.record.life.running() {
            let (host, record) = (Arc::clone(&self.host), self.record.clone());
            self.watchers.spawn(async move {
                host.gone(&record, running).await;
                Event::Gone
            });
        }
        if let State::FallingAsleep { ticket, .. } = self.record.life.state {
            let (followers, id) = (Arc::clone(&self.followers), self.record.life.spec.id.clone());
            let (host, events, record) = (Arc::clone(&self.host), Arc::clone(&self.events), self.record.clone());
            self.waking = None;
            self.watchers.spawn(async move {
                followers.quiet(id, ticket).await;
                // Whoever asks meanwhile keeps it awake: this is dropped then.
                run_hook(&*host, &events, &record, Hook::BeforeSleep).await;
                Event::Quiet { ticket }
            });
        }
    }
}

/// Removes everything, however often that takes: the address is given back only when nothing has it.
pub(super) async fn remove<H: Host>(host: Arc<H>, events: Arc<EventLog>, record: Record) -> Event {
    let mut pause = FIRST_REMOVAL_PAUSE;
    while let Err(error) = host.remove(&record).await {
        if pause == FIRST_REMOVAL_PAUSE {
            let text = format!("cannot be removed, trying again until it is: {error}");
            events.about(&record.life.spec, EventKind::Node, text);
        } else {
            tracing::warn!(instance = %record.life.spec.id, "still cannot be removed: {error}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_REMOVAL_PAUSE);
    }
    Event::Cleared
}

/// Runs a hook of the app; what goes wrong is told, and changes nothing.
async fn run_hook<H: Host>(host: &H, events: &EventLog, record: &Record, hook: Hook) {
    if let Err(text) = host.hook(record, hook).await {
        host.say(record, &text);
        events.about(&record.life.spec, EventKind::Sleep, text);
    }
}
