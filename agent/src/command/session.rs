//! A command and its client, joined: bytes both ways, bounded and never further than the other side
//! follows, until one of them ends. Then nothing of the command is left.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use drowse_api::exec::{Decoder, Ended, ExitStatus, Frame, FromProcess, ToProcess, WINDOW, WindowSize};
use drowse_api::{ErrorCode, Problem};
use rustix::fs::OFlags;
use rustix::process::Signal;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::start::{Ends, Running, counts_kills};
use super::{Commands, blocking};
use crate::host::process;
use crate::host::readiness::both_ways;

/// Bytes read at once.
const CHUNK: usize = 16 << 10;
/// Frames that wait for the client.
const WAITING: usize = 4;
/// How long a command has to end after its client went.
const HANG_UP: Duration = Duration::from_secs(5);
/// How long a client may take for what it is told of streams that cannot be used.
const LAST_BYTES: Duration = Duration::from_secs(60);
/// The end-of-file character of a terminal, as it is set up.
const END_OF_FILE: u8 = 4;

/// Why a session is over.
enum Over {
    /// The command ended.
    Ended,
    /// The client is gone, or sends what is no frame.
    Gone,
    /// The agent ends.
    Agent,
}

impl Commands {
    /// Joins `running` to its client until one of them ends, then removes what is left of it.
    pub async fn serve(&self, running: Running, client: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let Running { cage, main, ends, app, lease } = running;
        let (reader, writer) = tokio::io::split(client);
        let (out, outgoing) = mpsc::channel(WAITING);
        let mut writing = tokio::spawn(write(writer, outgoing));
        let (sides, pumps) = match Sides::open(ends, &out) {
            Ok(opened) => opened,
            Err(error) => {
                let detail = format!("the streams of the command cannot be used: {error}");
                let _ = out.send(FromProcess::Failed(Problem::new(ErrorCode::HostUnfit, detail))).await;
                drop(out);
                self.finish(Running { cage, main, ends: None, app, lease }).await;
                let _ = tokio::time::timeout(LAST_BYTES, writing).await;
                return;
            }
        };
        let mut heard = std::pin::pin!(self.hear(reader, sides, cage.clone(), main.identity.pid));
        let over = tokio::select! {
            () = process::ended(main.identity) => Over::Ended,
            () = &mut heard => Over::Gone,
            _ = &mut writing => Over::Gone,
            () = self.end.cancelled() => Over::Agent,
        };
        let cgroups = Arc::clone(&self.node.sandboxes.cgroups);
        match over {
            Over::Ended => {
                let (owned, counts) = (cage.clone(), Arc::clone(&cgroups));
                let ended = blocking(move || {
                    let status = owned.status(main);
                    let killed_for_memory = counts_kills(&*counts, &owned, main);
                    // What it has left behind holds its streams open.
                    let _ = owned.kill(&*counts);
                    Ok((status, killed_for_memory))
                });
                let (status, for_memory) = ended.await.unwrap_or((ExitStatus::Unknown, false));
                let app_ended = app.is_some_and(|app| !process::is_alive(app));
                let last = async {
                    pumps.drained().await;
                    let note = explained(status, for_memory, app_ended);
                    let _ = out.send(FromProcess::Ended(Ended { status, note })).await;
                    drop(out);
                    let _ = writing.await;
                };
                tokio::select! {
                    () = last => {}
                    () = &mut heard => {}
                    // Its user may read for hours what it has left behind.
                    () = self.end.cancelled() => {}
                }
            }
            Over::Gone => {
                let owned = cage.clone();
                let _ = blocking(move || {
                    let _ = owned.signal(&*cgroups, Signal::HUP, None);
                    let _ = owned.signal(&*cgroups, Signal::CONT, None);
                    Ok(())
                })
                .await;
                // A terminal hangs up when its last end here is closed.
                drop(pumps);
                let _ = tokio::time::timeout(HANG_UP, process::ended(main.identity)).await;
            }
            Over::Agent => {
                let problem = Problem::new(ErrorCode::Unavailable, "the agent ends, and the command with it");
                let _ = out.try_send(FromProcess::Failed(problem));
                drop(out);
                let _ = tokio::time::timeout(Duration::from_millis(500), writing).await;
            }
        }
        self.finish(Running { cage, main, ends: None, app, lease }).await;
    }

    /// Ends a command, and removes everything that was made for it.
    pub async fn finish(&self, running: Running) {
        let Running { cage, ends, lease, .. } = running;
        drop(ends);
        let cgroups = Arc::clone(&self.node.sandboxes.cgroups);
        let place = cage.home().place.clone();
        let removed = blocking(move || Ok(cage.kill(&*cgroups).and_then(|()| cage.remove(&*cgroups))));
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(%place, "cannot clean up after a command: {error}");
        }
        if let Some(lease) = lease {
            lease.give_back().await;
        }
    }

    /// Reads the client until it is gone.
    async fn hear(&self, mut reader: impl AsyncRead + Unpin, mut sides: Sides, cage: super::cage::Cage, group: i32) {
        let (mut decoder, mut buffer) = (Decoder::default(), vec![0; CHUNK]);
        loop {
            let length = match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => length,
            };
            decoder.feed(&buffer[..length]);
            loop {
                let frame = match decoder.take() {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(error) => return tracing::debug!("a client was given up: {error}"),
                };
                match frame {
                    // A client that sends more than it may waits here, with its signals behind it.
                    ToProcess::Input(bytes) => sides.input(&bytes).await,
                    ToProcess::EndOfInput => sides.end_of_input().await,
                    ToProcess::Resize(size) => sides.resize(size),
                    ToProcess::Signal(number) => {
                        let Some(signal) = Signal::from_named_raw(number.into()) else { continue };
                        let (owned, cgroups) = (cage.clone(), Arc::clone(&self.node.sandboxes.cgroups));
                        let _ = blocking(move || {
                            let _ = owned.signal(&*cgroups, signal, Some(group));
                            Ok(())
                        })
                        .await;
                    }
                }
            }
        }
    }
}

/// Why it ended so, where the status does not tell.
fn explained(status: ExitStatus, for_memory: bool, app_ended: bool) -> Option<String> {
    match status {
        ExitStatus::Signalled(9) if for_memory => Some("the kernel killed it: the memory limit was reached".to_owned()),
        ExitStatus::Signalled(9) if app_ended => Some("the app ended, and with it what ran beside it".to_owned()),
        ExitStatus::Unknown => Some("how it ended was not recorded: its sandbox ended with it".to_owned()),
        _ => None,
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut outgoing: mpsc::Receiver<FromProcess>) {
    while let Some(frame) = outgoing.recv().await {
        if writer.write_all(&frame.to_bytes()).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

/// Where what the client sends goes.
struct Sides {
    /// Holds no more than the window.
    input: Option<DuplexStream>,
    terminal: Option<Arc<AsyncFd<OwnedFd>>>,
}

/// The tasks that move bytes. They end when this is dropped.
struct Pumps {
    outputs: tokio::task::JoinSet<()>,
    _input: tokio_util::task::AbortOnDropHandle<()>,
}

impl Pumps {
    /// Waits until all that was written has been taken over for the client.
    async fn drained(mut self) {
        while self.outputs.join_next().await.is_some() {}
    }
}

impl Sides {
    fn open(ends: Option<Ends>, out: &mpsc::Sender<FromProcess>) -> io::Result<(Self, Pumps)> {
        let ends = ends.ok_or_else(|| io::Error::other("they are in use"))?;
        let (input, inputs) = tokio::io::duplex(WINDOW);
        let mut outputs = tokio::task::JoinSet::new();
        let (terminal, taking) = match ends {
            Ends::Pipes { stdin, stdout, stderr } => {
                let (stdin, stdout) = (pipe::Sender::from_owned_fd(stdin)?, pipe::Receiver::from_owned_fd(stdout)?);
                let stderr = pipe::Receiver::from_owned_fd(stderr)?;
                outputs.spawn(read_pipe(stdout, out.clone(), FromProcess::Output));
                outputs.spawn(read_pipe(stderr, out.clone(), FromProcess::Error));
                (None, tokio::spawn(write_pipe(inputs, stdin, out.clone())))
            }
            Ends::Terminal(end) => {
                rustix::fs::fcntl_setfl(&end, rustix::fs::fcntl_getfl(&end)? | OFlags::NONBLOCK)?;
                let end = Arc::new(both_ways(end)?);
                outputs.spawn(read_terminal(Arc::clone(&end), out.clone()));
                let taking = tokio::spawn(write_terminal(inputs, Arc::clone(&end), out.clone()));
                (Some(end), taking)
            }
        };
        let taking = tokio_util::task::AbortOnDropHandle::new(taking);
        Ok((Self { input: Some(input), terminal }, Pumps { outputs, _input: taking }))
    }

    async fn input(&mut self, bytes: &[u8]) {
        if let Some(input) = &mut self.input {
            // Whoever takes it tells the client when it cannot.
            let _ = input.write_all(bytes).await;
        }
    }

    async fn end_of_input(&mut self) {
        if self.terminal.is_some() {
            self.input(&[END_OF_FILE]).await;
        } else {
            self.input = None;
        }
    }

    fn resize(&self, size: WindowSize) {
        let Some(terminal) = &self.terminal else { return };
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        // The kernel tells the processes on it by SIGWINCH.
        let _ = rustix::termios::tcsetwinsize(terminal.get_ref(), size);
    }
}

async fn read_pipe(mut pipe: pipe::Receiver, out: mpsc::Sender<FromProcess>, frame: fn(Vec<u8>) -> FromProcess) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        if out.send(frame(buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

/// What cannot be written any more is taken all the same: the command does not want it.
async fn write_pipe(mut inputs: DuplexStream, pipe: pipe::Sender, out: mpsc::Sender<FromProcess>) {
    let (mut pipe, mut buffer) = (Some(pipe), vec![0; CHUNK]);
    while let Ok(length @ 1..) = inputs.read(&mut buffer).await {
        if let Some(open) = &mut pipe
            && open.write_all(&buffer[..length]).await.is_err()
        {
            pipe = None;
        }
        if out.send(taken(length)).await.is_err() {
            return;
        }
    }
}

fn taken(length: usize) -> FromProcess {
    FromProcess::Taken(u32::try_from(length).unwrap_or(u32::MAX))
}

/// Ends with an error (EIO) when nobody inside has the terminal open any more.
async fn read_terminal(terminal: Arc<AsyncFd<OwnedFd>>, out: mpsc::Sender<FromProcess>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let Ok(mut ready) = terminal.readable().await else { return };
        match ready.try_io(|end| Ok(rustix::io::read(end.get_ref(), &mut buffer[..])?)) {
            Ok(Ok(length @ 1..)) => {
                if out.send(FromProcess::Output(buffer[..length].to_vec())).await.is_err() {
                    return;
                }
            }
            Ok(_) => return,
            Err(_not_ready) => {}
        }
    }
}

async fn write_terminal(mut inputs: DuplexStream, terminal: Arc<AsyncFd<OwnedFd>>, out: mpsc::Sender<FromProcess>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = inputs.read(&mut buffer).await {
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let Ok(mut ready) = terminal.writable().await else { return };
            match ready.try_io(|end| Ok(rustix::io::write(end.get_ref(), rest)?)) {
                Ok(Ok(written)) => rest = &rest[written..],
                // Hung up: what runs on it is ending.
                Ok(Err(_)) => break,
                Err(_not_ready) => {}
            }
        }
        if out.send(taken(length)).await.is_err() {
            return;
        }
    }
}
