//! How a builder and the process that it makes talk until that process executes its program: then
//! the other end closes by itself, which is the news that it worked.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, OrFail, Step};
use crate::wire;

/// How long a builder waits for a child of its own. Less than it has itself.
pub(super) const CHILD_LIMIT: Duration = Duration::from_secs(8);

/// What the new process says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// It could not go on, and ends.
    Failed(Failure),
    /// Something was asked for that this host can only do in part; it goes on.
    Shortfall(Failure),
    /// Everything is done but the exec; an app waits to be told. Whoever is gone without this word was
    /// killed before: a channel is closed by an end as it is by an exec.
    Ready,
}

/// What the builder hears.
#[derive(Debug)]
pub(super) enum Heard {
    Word(Word),
    /// The controlling end of the process's terminal.
    Terminal(OwnedFd),
    /// The other end is closed: the program runs, or the process is dead.
    Closed,
}

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// The builder's end and the other one.
    pub(super) fn pair() -> Result<(Self, Self), Failure> {
        let (ours, theirs) = wire::pair().or_fail(Step::Report, "a new process")?;
        Ok((Self(ours), Self(theirs)))
    }

    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// Says something; if nobody listens, nobody wants to know.
    pub(super) fn say(&self, word: &Word) {
        say(&self.0, word);
    }

    /// Tells the other end to go on, with a descriptor for it if there is one.
    pub(super) fn pass(&self, number: i32, descriptor: Option<&OwnedFd>) -> io::Result<()> {
        let descriptors: Vec<_> = descriptor.iter().map(|descriptor| descriptor.as_fd()).collect();
        wire::send(&self.0, &number.to_le_bytes(), &descriptors)
    }

    /// Waits for what [`Channel::pass`] sends.
    pub(super) fn take(&self) -> io::Result<(i32, Option<OwnedFd>)> {
        self.wait(Instant::now() + CHILD_LIMIT)?;
        let mut number = [0; 4];
        match wire::receive(&self.0, &mut number)? {
            Some((4, descriptors)) => Ok((i32::from_le_bytes(number), descriptors.into_iter().next())),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    }

    /// Waits for the next word.
    pub(super) fn hear(&self, deadline: Instant) -> io::Result<Heard> {
        self.wait(deadline)?;
        let mut buffer = vec![0; wire::MAX_ANSWER];
        match wire::receive(&self.0, &mut buffer)? {
            Some((length, mut descriptors)) => match descriptors.pop() {
                Some(terminal) => Ok(Heard::Terminal(terminal)),
                None => Ok(Heard::Word(serde_json::from_slice(&buffer[..length])?)),
            },
            None => Ok(Heard::Closed),
        }
    }

    fn wait(&self, deadline: Instant) -> io::Result<()> {
        if is_readable(&self.0, deadline.saturating_duration_since(Instant::now()))? {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
        }
    }
}

/// As [`Channel::say`], over a descriptor that was moved to another number.
pub(super) fn say(to: impl AsFd, word: &Word) {
    if let Ok(bytes) = serde_json::to_vec(word) {
        let _ = wire::send(to, &bytes, &[]);
    }
}

/// Whether there is something to read within `limit`. A pidfd is readable when its process ended.
pub(super) fn is_readable(descriptor: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(descriptor, PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until the builder lets this process go on; an error if the builder is gone instead.
pub(super) fn await_leave(from: impl AsFd) -> io::Result<()> {
    match wire::receive(from, &mut [0; 4])? {
        Some(_) => Ok(()),
        None => Err(io::Error::from_raw_os_error(libc::EPIPE)),
    }
}
