//! One request, carried out by a process that exists for nothing else.

use std::os::fd::OwnedFd;

use drowse_rootfs::IdRange;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::{idmap, process, ready, sandbox, send_answer};
use crate::failure::{Failure, Step};
use crate::sys;
use crate::wire::{self, Answer, Done, Request, Streams};

/// The exit code of a builder that has answered.
const ANSWERED: i32 = 0;

/// Carries out the request in `payload` and answers it: with the pidfd of what was made, and what
/// else belongs to it.
pub(super) fn run(payload: OwnedFd, answer: &OwnedFd, descriptors: Vec<OwnedFd>, init: &OwnedFd) -> i32 {
    sys::reset_signals();
    // What is half built goes with the builder, and the builder with the launcher.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    match carry_out(payload, descriptors, init) {
        Ok((done, made)) => send_answer(answer, &Answer::Done(done), &made),
        Err(failure) => send_answer(answer, &Answer::Failed(failure), &[]),
    }
    ANSWERED
}

fn carry_out(payload: OwnedFd, descriptors: Vec<OwnedFd>, init: &OwnedFd) -> Result<(Done, Vec<OwnedFd>), Failure> {
    let request = wire::read_payload(payload).map_err(|error| Failure::os(Step::Request, "payload", error))?;
    let mut descriptors = Descriptors(descriptors.into_iter());
    match request {
        Request::Hello => Err(Failure::refused(Step::Request, "order", "a greeting is not for builders")),
        Request::Prepare => ready::prepare(),
        Request::Map { ids } => idmap::make(ids).map(|namespace| (Done::default(), vec![namespace])),
        Request::Build { sandbox, cgroups, ready, maps } => {
            let given = descriptors.of_sandbox(cgroups, ready, false, maps)?;
            sandbox::build(&sandbox, given, None, init).map(|built| (built.done, vec![built.init]))
        }
        Request::Launch { sandbox, cgroups, ready, disk, maps, process, app_cgroups } => {
            let mut given = descriptors.of_sandbox(cgroups, ready, disk, maps)?;
            let its = process::Given {
                cgroups: descriptors.several(app_cgroups)?,
                streams: process::Streams::Passed {
                    stdin: None,
                    stdout: descriptors.one()?,
                    stderr: descriptors.one()?,
                },
                gate: Some(descriptors.one()?),
            };
            given.pipes = Some([descriptors.one()?, descriptors.one()?]);
            let mut built = sandbox::build(&sandbox, given, Some((&process, its)), init)?;
            let mut made = vec![built.init];
            built.done.app = built.first.map(|first| {
                Box::new(first.map(|(app, its)| {
                    made.extend(its);
                    app
                }))
            });
            Ok((built.done, made))
        }
        Request::Start { process, cgroups, streams, task } => {
            let init = descriptors.one()?;
            let given = process::Given {
                cgroups: descriptors.several(cgroups)?,
                streams: match streams {
                    Streams::Passed { stdin } => process::Streams::Passed {
                        stdout: descriptors.one()?,
                        stderr: descriptors.one()?,
                        stdin: if stdin { Some(descriptors.one()?) } else { None },
                    },
                    Streams::Terminal(size) => process::Streams::terminal(size)?,
                },
                gate: None,
            };
            process::start(&process, &task, &init, given)
        }
    }
}

/// Descriptors of a request, in their order.
struct Descriptors(std::vec::IntoIter<OwnedFd>);

impl Descriptors {
    fn one(&mut self) -> Result<OwnedFd, Failure> {
        self.0.next().ok_or_else(|| Failure::refused(Step::Request, "descriptors", "some are missing"))
    }

    fn of_sandbox(
        &mut self,
        cgroups: usize,
        ready: bool,
        disk: bool,
        maps: Vec<IdRange>,
    ) -> Result<sandbox::Given, Failure> {
        Ok(sandbox::Given {
            cgroups: self.several(cgroups)?,
            log: [self.one()?, self.one()?],
            exits: self.one()?,
            socket: self.one()?,
            ready: self.several(if ready { ready::SPACES.len() } else { 0 })?,
            disk: if disk { Some(self.one()?) } else { None },
            pipes: None,
            maps: maps.into_iter().map(|ids| Ok((ids, self.one()?))).collect::<Result<_, Failure>>()?,
        })
    }

    fn several(&mut self, count: usize) -> Result<Vec<OwnedFd>, Failure> {
        (0..count).map(|_| self.one()).collect()
    }
}
