//! One CRIU: started on the host, waiting there for any sandbox, then inside one for a single request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use drowse_launcher::datagram;
use drowse_nsenter::message::{Entry, FIRST_KEPT};
use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};

use super::rpc::{Request, Response};
use crate::snapshot::SnapshotError;

/// How long it may take to enter a sandbox.
const ENTRY_LIMIT: Duration = Duration::from_secs(10);
/// The most bytes of an answer.
const MAX_ANSWER: usize = 16 << 10;

/// A program that waits to be told which sandbox to enter. Ends by itself when it is dropped.
pub struct Waiting {
    gate: OwnedFd,
    child: Child,
}

/// One inside.
pub struct Inside {
    rpc: OwnedFd,
    /// Of the process inside.
    pub process: OwnedFd,
    child: Child,
}

impl Waiting {
    /// Starts `program` with `object` preloaded. `kernel` keeps what it finds out about the kernel.
    pub fn start(program: &Path, object: &Path) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::Start { program: program.to_owned(), source };
        let (gate, theirs) = datagram::pair().map_err(failed)?;
        let mut command = Command::new(program);
        command
            // Plugins are looked for where nobody puts any; the image's folder of them would be the default.
            .args(["--no-default-config", "--libdir", &kept_path(KERNEL), "--unprivileged", "swrk"])
            .arg(drowse_nsenter::message::RPC.to_string())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LD_PRELOAD", object)
            .env(drowse_nsenter::VARIABLE.to_str().unwrap_or_default(), "1")
            .env("XDG_RUNTIME_DIR", kept_path(KERNEL))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let child = command.spawn().map_err(failed)?;
        Ok(Self { gate, child })
    }

    /// Takes it into the sandbox of the process that `sandbox` is.
    pub fn enter(
        mut self,
        entry: Entry,
        sandbox: BorrowedFd<'_>,
        kept: &[BorrowedFd<'_>],
        groups: &[BorrowedFd<'_>],
    ) -> Result<Inside, SnapshotError> {
        let talk = |source| SnapshotError::Talk { source };
        let (rpc, theirs) = datagram::pair().map_err(talk)?;
        let mut descriptors = vec![sandbox, theirs.as_fd()];
        descriptors.extend_from_slice(kept);
        descriptors.extend_from_slice(groups);
        if let Err(source) = datagram::send(&self.gate, &entry.to_bytes(), &descriptors) {
            return Err(self.ended().unwrap_or(SnapshotError::Talk { source }));
        }
        drop(theirs);
        let mut bytes = [0; 16];
        let arrived = match wait_readable(&self.gate, Instant::now() + ENTRY_LIMIT) {
            Ok(true) => datagram::receive(&self.gate, &mut bytes).map_err(talk)?,
            Ok(false) => None,
            Err(source) => return Err(SnapshotError::Talk { source }),
        };
        match arrived.and_then(|(_, descriptors)| descriptors.into_iter().next()) {
            Some(process) => Ok(Inside { rpc, process, child: self.child }),
            None => {
                let _ = self.child.kill();
                Err(self.ended().unwrap_or(SnapshotError::Entry { what: "it did not answer".to_owned() }))
            }
        }
    }

    fn ended(&mut self) -> Option<SnapshotError> {
        let status = self.child.wait().ok()?;
        let what = match status.code() {
            Some(errno @ 1..100) => io::Error::from_raw_os_error(errno).to_string(),
            _ => status.to_string(),
        };
        Some(SnapshotError::Entry { what })
    }
}

impl Inside {
    /// Asks for one thing, and waits for the answer and for its end; nothing if there is no answer by then.
    pub fn ask(mut self, request: &Request, limit: Option<Duration>) -> Result<Option<Response>, SnapshotError> {
        let talk = |source| SnapshotError::Talk { source };
        datagram::send(&self.rpc, &request.encode_to_vec(), &[]).map_err(talk)?;
        let far = Duration::from_secs(3600);
        if !wait_readable(&self.rpc, Instant::now() + limit.unwrap_or(far)).map_err(talk)? {
            self.kill();
            return Ok(None);
        }
        let mut bytes = vec![0; MAX_ANSWER];
        let answer = datagram::receive(&self.rpc, &mut bytes).map_err(talk)?;
        drop(self.rpc);
        let status = self.child.wait().map_err(talk)?;
        let Some((length, _)) = answer else {
            return Err(SnapshotError::Entry { what: format!("no answer, {status}") });
        };
        Response::decode(&bytes[..length]).map(Some).map_err(|error| talk(io::Error::other(error)))
    }

    fn kill(&mut self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Which of the kept descriptors is which.
pub const KERNEL: usize = 0;
pub const IMAGES: usize = 1;
/// The group of a dump, the first stream of a restore.
pub const FURTHER: usize = 2;

/// The number of a kept descriptor inside.
pub fn kept_number(at: usize) -> i32 {
    FIRST_KEPT + i32::try_from(at).unwrap_or_default()
}

/// A kept descriptor as a path.
pub fn kept_path(at: usize) -> String {
    format!("/proc/self/fd/{}", kept_number(at))
}

fn wait_readable(socket: &OwnedFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
