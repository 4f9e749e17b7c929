//! One request, carried out by a process that exists for nothing else.

use std::os::fd::OwnedFd;

use rustix::process::{Signal, set_parent_process_death_signal};

use super::{process, sandbox, send_answer};
use crate::failure::{Failure, Step};
use crate::sys;
use crate::wire::{self, Answer, Done, Request};

/// The exit code of a builder that has answered.
const ANSWERED: i32 = 0;

/// Carries out the request in `payload` and answers it.
pub(super) fn run(payload: OwnedFd, answer: &OwnedFd, descriptors: Vec<OwnedFd>, init: &OwnedFd) -> i32 {
    sys::reset_signals();
    // What is half built goes with the builder, and the builder with the launcher.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    match carry_out(payload, descriptors, init) {
        Ok((done, pidfd)) => send_answer(answer, &Answer::Done(done), Some(&pidfd)),
        Err(failure) => send_answer(answer, &Answer::Failed(failure), None),
    }
    ANSWERED
}

fn carry_out(payload: OwnedFd, descriptors: Vec<OwnedFd>, init: &OwnedFd) -> Result<(Done, OwnedFd), Failure> {
    let request = wire::read_payload(payload).map_err(|error| Failure::os(Step::Request, "payload", error))?;
    let mut descriptors = Descriptors(descriptors.into_iter());
    match request {
        Request::Hello => Err(Failure::refused(Step::Request, "order", "a greeting is not for builders")),
        Request::Build { sandbox, cgroups } => {
            let given = sandbox::Given {
                cgroups: descriptors.several(cgroups)?,
                log: [descriptors.one()?, descriptors.one()?],
                exits: descriptors.one()?,
                socket: descriptors.one()?,
            };
            sandbox::build(&sandbox, given, init)
        }
        Request::Start { process, cgroups, stdin } => {
            let given = process::Given {
                init: descriptors.one()?,
                cgroups: descriptors.several(cgroups)?,
                stdout: descriptors.one()?,
                stderr: descriptors.one()?,
                stdin: if stdin { Some(descriptors.one()?) } else { None },
            };
            process::start(&process, given)
        }
    }
}

/// Descriptors of a request, in their order.
struct Descriptors(std::vec::IntoIter<OwnedFd>);

impl Descriptors {
    fn one(&mut self) -> Result<OwnedFd, Failure> {
        self.0.next().ok_or_else(|| Failure::refused(Step::Request, "descriptors", "some are missing"))
    }

    fn several(&mut self, count: usize) -> Result<Vec<OwnedFd>, Failure> {
        (0..count).map(|_| self.one()).collect()
    }
}
