//! What others ask of an instance, and what they are answered.

use std::time::Duration;

use drowse_api::agent::StopRequest;
use drowse_api::instance::{InstanceSpec, InstanceStatus, Workload};
use drowse_api::sleep::{Depth, SleepRequest};
use drowse_api::{Epoch, ErrorCode, Problem};

use super::{Actor, Command, keep_problem};
use crate::instance::host::Host;
use crate::instance::state::{Bed, Event, State};

impl<H: Host> Actor<H> {
    pub(super) async fn command(&mut self, command: Command) {
        match command {
            Command::Put(spec, answer) => {
                let _ = answer.send(self.put(*spec).await);
            }
            Command::Stop(request, answer) => {
                let _ = answer.send(self.stop(request).await);
            }
            Command::Sleep(request, answer) => match self.sleep(request).await {
                Ok(()) => {
                    self.lulling.push(answer);
                    self.answer_lulling();
                }
                Err(problem) => {
                    let _ = answer.send(Err(problem));
                }
            },
            Command::Demand(demand, answer) => {
                // What could not be written is tried again; the app goes on meanwhile.
                let woken = self.happen(Event::Demand(demand.cause)).await;
                let status = self.record.status();
                let _ = answer.send(match woken {
                    Err(error) if !status.state.serves() => Err(keep_problem(&error)),
                    _ => Ok(status),
                });
            }
            Command::Delete(epoch, answer) => match self.check_epoch(epoch) {
                Err(problem) => {
                    let _ = answer.send(Err(problem));
                }
                Ok(()) => {
                    self.waiting.push(answer);
                    // Also where it cannot be written: it makes room, and is answered only when all is gone.
                    let _ = self.happen(Event::Delete(epoch)).await;
                }
            },
        }
    }

    async fn put(&mut self, spec: InstanceSpec) -> Result<InstanceStatus, Problem> {
        self.check_epoch(spec.epoch)?;
        if self.record.life.is_being_removed() {
            return Err(Problem::new(ErrorCode::Conflict, format!("instance {} is being removed", spec.id)));
        }
        let have = &self.record.life.spec;
        if spec.epoch == have.epoch && spec != *have {
            let detail = format!("instance {} has another spec at epoch {}", spec.id, spec.epoch);
            return Err(Problem::new(ErrorCode::Conflict, detail).hint("raise the epoch with every change"));
        }
        if spec.epoch > have.epoch {
            self.happen(Event::Put(Box::new(spec))).await.map_err(|error| keep_problem(&error))?;
        }
        self.answer().await
    }

    async fn stop(&mut self, request: StopRequest) -> Result<InstanceStatus, Problem> {
        self.check_epoch(request.epoch)?;
        let grace = Duration::from_secs(request.grace_seconds.into());
        let event = Event::Stop { epoch: request.epoch, grace, reason: request.reason };
        self.happen(event).await.map_err(|error| keep_problem(&error))?;
        self.answer().await
    }

    /// Lets it fall asleep. What sleeps already, deeply enough, sleeps on.
    async fn sleep(&mut self, request: SleepRequest) -> Result<(), Problem> {
        self.check_epoch(request.epoch)?;
        let spec = &self.record.life.spec;
        let conflict = |detail: String| Err(Problem::new(ErrorCode::Conflict, detail));
        if request.epoch > spec.epoch {
            return conflict(format!("instance {} was not told decision {} yet", spec.id, request.epoch));
        }
        if spec.workload == Workload::Site {
            return conflict(format!("instance {} is a static site: nothing of it could sleep", spec.id));
        }
        let cannot = match request.depth {
            Depth::Paused | Depth::Cold => None,
            Depth::Paged => self.host.no_paging().or_else(|| self.record.life.no_paging.clone()),
            Depth::Snapshot => self.host.no_snapshots().or_else(|| self.record.status().no_snapshot),
        };
        if let Some(why) = cannot {
            let (id, depth) = (spec.id.clone(), request.depth);
            if depth == Depth::Paged {
                // Whoever decides by what is shown passes it over from now on.
                self.happen(Event::PageOutFailed(why.clone())).await.map_err(|error| keep_problem(&error))?;
            }
            return conflict(format!("instance {id} cannot be put to sleep as deeply as {depth}: {why}"));
        }
        let grace = Duration::from_secs(request.grace_seconds.into());
        let bed = Bed { depth: request.depth, grace, reason: request.reason };
        let ticket = self.followers.number();
        self.happen(Event::Sleep { bed, ticket }).await.map_err(|error| keep_problem(&error))
    }

    /// Tells those who wait for its sleep what became of it.
    pub(super) fn answer_lulling(&mut self) {
        let status = self.record.status();
        let is_on_its_way = matches!(self.record.life.state, State::FallingAsleep { .. } | State::Dumping { .. })
            || !self.paging.is_empty();
        if self.lulling.is_empty() || is_on_its_way {
            return;
        }
        let outcome = if status.state.is_asleep() {
            Ok(status)
        } else {
            let detail = format!("instance {} stays awake: it is needed, or was not ready", status.id);
            Err(Problem::new(ErrorCode::Conflict, detail).hint("`drowse explain` tells what keeps it awake"))
        };
        for answer in self.lulling.drain(..) {
            let _ = answer.send(outcome.clone());
        }
    }

    fn check_epoch(&self, epoch: Epoch) -> Result<(), Problem> {
        let spec = &self.record.life.spec;
        if epoch >= spec.epoch {
            return Ok(());
        }
        let detail = format!("instance {} is at epoch {}; {epoch} is older", spec.id, spec.epoch);
        Err(Problem::new(ErrorCode::StaleEpoch, detail))
    }

    /// The status, once it is on disk.
    async fn answer(&mut self) -> Result<InstanceStatus, Problem> {
        if self.unwritten {
            self.keep().await.map_err(|error| keep_problem(&error))?;
        }
        Ok(self.record.status())
    }
}
