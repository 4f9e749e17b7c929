//! What goes between a client and the launcher: datagrams, with payloads in sealed memory files.
//!
//! A request is one datagram: a header, then the payload's descriptor, the descriptor of the socket
//! that the answer goes to, and those the request needs. With an answer socket per request no one
//! waits for another's answer, and a builder that dies closes its own.

use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};

use drowse_rootfs::IdRange;
use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};

pub(crate) use crate::datagram::{MAX_DESCRIPTORS, pair, receive, send};
use crate::failure::Failure;
use crate::message::{ProcessRequest, SandboxRequest, Task, WindowSize};

/// The most bytes of a payload.
const MAX_PAYLOAD: u64 = 8 << 20;
/// The most bytes of an answer.
pub(crate) const MAX_ANSWER: usize = 64 << 10;

const MAGIC: [u8; 4] = *b"DLCH";
const VERSION: u16 = 4;
/// Bytes of a request's header.
pub(crate) const HEADER_SIZE: usize = 8;

/// What a payload holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The program of init comes as the first descriptor.
    Hello,
    /// Nothing: namespaces are made ahead, and come back.
    Prepare,
    /// Nothing: the namespace that maps a range comes back.
    Map { ids: IdRange },
    /// Init's cgroups, two logs, the exits, the listening socket, the namespaces that were made ahead, and
    /// those that map the ranges.
    Build { sandbox: Box<SandboxRequest>, cgroups: usize, ready: bool, maps: Vec<IdRange> },
    /// Those of `Build`, with the disk that was made ahead (if one was) before those that map the ranges; the
    /// app's cgroups, its stdout and stderr, what it waits for before its exec, and the other ends of the two.
    Launch {
        sandbox: Box<SandboxRequest>,
        cgroups: usize,
        ready: bool,
        disk: bool,
        maps: Vec<IdRange>,
        process: Box<ProcessRequest>,
        app_cgroups: usize,
    },
    /// Init, the app's cgroups, and the streams that are passed: stdout, stderr, stdin if there is one.
    Start { process: Box<ProcessRequest>, cgroups: usize, streams: Streams, task: Task },
}

/// What a process has as its streams.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Streams {
    /// Descriptors that come along.
    Passed { stdin: bool },
    /// A terminal of this size, whose other end is answered after the pidfd.
    Terminal(WindowSize),
}

/// What comes back, with the pidfd for a success of `Build` and `Start`, and both for one of `Launch`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done(Done),
    Failed(Failure),
}

/// What was made.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
    pub(crate) pid_inside: i32,
    /// What was asked for and could only be had in part.
    pub(crate) shortfalls: Vec<Failure>,
    /// What became of the first process, where one was to be started in what was built.
    pub(crate) app: Option<Box<Result<Done, Failure>>>,
}

/// What the launcher must know before it looks into a payload, which only builders do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The first request; nothing is made.
    Hello,
    /// Everything that a builder does.
    Build,
}

/// The header of every request.
pub(crate) fn header(kind: Kind) -> [u8; HEADER_SIZE] {
    let mut header = [0; HEADER_SIZE];
    header[..4].copy_from_slice(&MAGIC);
    header[4..6].copy_from_slice(&VERSION.to_le_bytes());
    header[6] = u8::from(kind == Kind::Build);
    header
}

/// What a header says; else what is wrong with it.
pub(crate) fn read_header(bytes: &[u8]) -> Result<Kind, String> {
    if bytes.len() < HEADER_SIZE || bytes[..4] != MAGIC {
        return Err("not a request to a launcher".to_owned());
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if version != VERSION {
        return Err(format!(
            "the request has version {version}, this launcher speaks {VERSION}: agent and launcher are of different releases"
        ));
    }
    Ok(if bytes[6] == 0 { Kind::Hello } else { Kind::Build })
}

/// A memory file with these contents that nobody can change any more.
pub(crate) fn sealed(name: &str, contents: &mut dyn Read, executable: bool) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let kind = if executable { MemfdFlags::EXEC } else { MemfdFlags::NOEXEC_SEAL };
    let file = match rustix::fs::memfd_create(name, flags | kind) {
        // Kernels before 6.3 know neither flag; there every memory file can be executed.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
        other => other?,
    };
    let mut file = std::fs::File::from(file);
    io::copy(contents, &mut file)?;
    file.flush()?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

/// Whether nobody can change the file any more.
pub(crate) fn is_sealed(file: impl AsFd) -> bool {
    let wanted = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(wanted))
}

/// Puts a request's payload into a sealed memory file.
pub(crate) fn payload(request: &Request) -> io::Result<OwnedFd> {
    let bytes = serde_json::to_vec(request)?;
    sealed("drowse-request", &mut bytes.as_slice(), false)
}

/// Reads a request's payload.
pub(crate) fn read_payload(file: OwnedFd) -> io::Result<Request> {
    if !is_sealed(&file) {
        return Err(io::Error::other("the payload is not sealed"));
    }
    let mut file = std::fs::File::from(file);
    let size = file.metadata()?.len();
    if size > MAX_PAYLOAD {
        return Err(io::Error::other(format!("the payload has {size} bytes, more than {MAX_PAYLOAD}")));
    }
    file.rewind()?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    file.read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_can_still_change_is_refused() {
        let file = rustix::fs::memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::write(&file, b"\"Hello\"").unwrap();
        assert!(read_payload(file).is_err());
        assert!(matches!(read_payload(payload(&Request::Hello).unwrap()), Ok(Request::Hello)));
    }

    #[test]
    fn a_header_of_another_release_is_named() {
        assert!(read_header(&header(Kind::Build)) == Ok(Kind::Build));
        let mut newer = header(Kind::Hello);
        newer[4] = 9;
        assert!(read_header(&newer).unwrap_err().contains("version 9"));
        assert!(read_header(b"").is_err());
    }
}
