//! The agent's side of a sandbox's init: its socket, and the exits it recorded.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use drowse_init::protocol::{self, Request};
use drowse_init::record;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

pub use drowse_init::protocol::Answer as InitState;
pub use drowse_init::record::ExitRecord;

use crate::wire;

/// How long init may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What can go wrong with an init.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it, the fields are their parts")]
pub enum InitError {
    #[error("listening for init on {}", .path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("connecting to init at {}", .path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("asking init to {what}")]
    Ask { what: &'static str, source: io::Error },
    #[error("init is gone")]
    Gone,
    #[error("init does not know how to {what}: it is older than this agent")]
    Unsupported { what: &'static str },
    #[error("reading the exit records")]
    Exits { source: io::Error },
}

/// Makes the socket that a new sandbox's init will listen on. A socket left there is replaced.
///
/// # Errors
/// The folder is missing, or the path is longer than a socket's may be (107 bytes).
pub fn listen(path: &Path) -> Result<OwnedFd, InitError> {
    let listen = || -> io::Result<OwnedFd> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        rustix::net::listen(&socket, 16)?;
        Ok(socket)
    };
    listen().map_err(|source| InitError::Listen { path: path.to_owned(), source })
}

/// A connection to an init. Calls block, for at most a few seconds.
#[derive(Debug)]
pub struct InitClient {
    socket: OwnedFd,
}

impl InitClient {
    /// Connects to the init that listens at `path`.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path) -> Result<Self, InitError> {
        let connect = || -> io::Result<OwnedFd> {
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_LIMIT))?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(ANSWER_LIMIT))?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(socket)
        };
        let socket = connect().map_err(|source| InitError::Connect { path: path.to_owned(), source })?;
        Ok(Self { socket })
    }

    /// Hands over the reading ends of a new app's pipes. Init drains them into the log until their
    /// writers are gone, also when the agent is.
    ///
    /// # Errors
    /// Init is gone or has no room for more pipes.
    pub fn attach(&self, incarnation: u32, stdout: OwnedFd, stderr: OwnedFd) -> Result<InitState, InitError> {
        let request = Request { kind: protocol::ATTACH, argument: u64::from(incarnation) };
        self.ask("take over pipes", request, &[stdout.as_fd(), stderr.as_fd()])
    }

    /// Keeps the exit of a process where stray children cannot push it out of the records. To be
    /// called after each [`crate::Launcher::start`] of an app.
    ///
    /// # Errors
    /// Init is gone.
    pub fn watch(&self, pid_inside: i32) -> Result<InitState, InitError> {
        let argument = u64::from(pid_inside.unsigned_abs());
        self.ask("watch a process", Request { kind: protocol::WATCH, argument }, &[])
    }

    /// How init is.
    ///
    /// # Errors
    /// Init is gone.
    pub fn state(&self) -> Result<InitState, InitError> {
        self.ask("tell its state", Request { kind: protocol::STATE, argument: 0 }, &[])
    }

    /// Ends init, and with it the sandbox and everything in it. Its pidfd tells when it is done.
    ///
    /// # Errors
    /// Init could not be asked; that it is gone is none.
    pub fn shutdown(&self) -> Result<(), InitError> {
        match self.ask("end", Request { kind: protocol::SHUTDOWN, argument: 0 }, &[]) {
            Ok(_) | Err(InitError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn ask(
        &self,
        what: &'static str,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<InitState, InitError> {
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => InitError::Gone,
            _ => InitError::Ask { what, source },
        };
        wire::send(&self.socket, &request.to_bytes(), descriptors).map_err(failed)?;
        let mut buffer = [0; 256];
        let Some((length, _)) = wire::receive(&self.socket, &mut buffer).map_err(failed)? else {
            return Err(InitError::Gone);
        };
        let state = InitState::from_bytes(&buffer[..length])
            .ok_or_else(|| InitError::Ask { what, source: io::Error::other("the answer is none of init's") })?;
        match state.status {
            0 => Ok(state),
            protocol::UNSUPPORTED => Err(InitError::Unsupported { what }),
            errno => Err(InitError::Ask { what, source: io::Error::from_raw_os_error(errno) }),
        }
    }
}

/// All exits in a sandbox's file, in the order in which they were recorded.
///
/// # Errors
/// The file cannot be read.
pub fn read_exits(file: &File) -> Result<Vec<ExitRecord>, InitError> {
    let read = || -> io::Result<Vec<ExitRecord>> {
        let size = file.metadata()?.len().min(record::FILE_LIMIT);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        let mut length = 0;
        while length < bytes.len() {
            match file.read_at(&mut bytes[length..], length as u64)? {
                0 => break,
                more => length += more,
            }
        }
        let slots = bytes[..length].chunks(record::RECORD_SIZE);
        let mut records: Vec<_> = slots.filter_map(ExitRecord::from_bytes).collect();
        records.sort_by_key(|record| record.sequence);
        Ok(records)
    };
    read().map_err(|source| InitError::Exits { source })
}
