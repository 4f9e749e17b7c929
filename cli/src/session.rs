//! A process inside, seen from here: what it is asked for, what it is sent, what it sends.

use std::sync::Arc;

use drowse_api::client::{Client, Tunnel};
use drowse_api::exec::{
    Decoder, Ended, ExecRequest, Frame, FromProcess, MAX_PAYLOAD, PROTOCOL, ToProcess, WINDOW, WindowSize,
};
use drowse_api::{ErrorCode, Problem};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};
use tokio::sync::{Semaphore, mpsc};

/// Frames that wait to be sent.
const WAITING: usize = 8;

/// What it sends.
#[derive(Debug)]
pub enum Event {
    /// Of its standard output or terminal.
    Output(Vec<u8>),
    /// Of its standard error.
    Error(Vec<u8>),
    /// It ended; nothing follows.
    Ended(Ended),
}

/// A process that runs for as long as this is there.
#[derive(Debug)]
pub struct Session {
    reader: ReadHalf<Tunnel>,
    decoder: Decoder,
    buffer: Vec<u8>,
    sender: Sender,
}

/// The way to the process.
#[derive(Debug, Clone)]
pub struct Sender {
    frames: mpsc::Sender<ToProcess>,
    /// How many bytes of input may still be sent before some are taken.
    room: Arc<Semaphore>,
}

impl Session {
    /// Starts it.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub async fn open(client: &Client, path: &str, request: &ExecRequest) -> Result<Self, Problem> {
        let (reader, mut writer) = tokio::io::split(client.tunnel(path, PROTOCOL, request).await?);
        let (frames, mut waiting) = mpsc::channel::<ToProcess>(WAITING);
        tokio::spawn(async move {
            while let Some(frame) = waiting.recv().await {
                // That the other side is gone is seen by who reads.
                if writer.write_all(&frame.to_bytes()).await.is_err() || writer.flush().await.is_err() {
                    return;
                }
            }
        });
        let sender = Sender { frames, room: Arc::new(Semaphore::new(WINDOW)) };
        Ok(Self { reader, decoder: Decoder::default(), buffer: vec![0; MAX_PAYLOAD], sender })
    }

    /// The way to it.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// The next that it sends.
    ///
    /// # Errors
    /// When the connection broke, or the node gave the process up.
    pub async fn next(&mut self) -> Result<Event, Problem> {
        loop {
            let frame = self.decoder.take().map_err(|error| {
                Problem::new(ErrorCode::Internal, format!("the node sent what is not expected: {error}"))
            })?;
            match frame {
                Some(FromProcess::Output(bytes)) => return Ok(Event::Output(bytes)),
                Some(FromProcess::Error(bytes)) => return Ok(Event::Error(bytes)),
                Some(FromProcess::Ended(ended)) => return Ok(Event::Ended(ended)),
                Some(FromProcess::Failed(problem)) => return Err(problem),
                Some(FromProcess::Taken(count)) => self.sender.room.add_permits(count as usize),
                None => match self.reader.read(&mut self.buffer).await {
                    Ok(0) | Err(_) => return Err(broken()),
                    Ok(length) => self.decoder.feed(&self.buffer[..length]),
                },
            }
        }
    }
}

fn broken() -> Problem {
    Problem::new(ErrorCode::Unavailable, "the connection to the command broke off, and the command is ended")
        .hint("the node's agent, the controller or the router was restarted: try again, `drowse events` may tell more")
}

impl Sender {
    /// Sends input, as fast as it is taken. Nothing if the process is gone.
    pub async fn input(&self, bytes: &[u8]) {
        for part in bytes.chunks(MAX_PAYLOAD) {
            let wanted = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let Ok(room) = self.room.acquire_many(wanted).await else { return };
            room.forget();
            if self.frames.send(ToProcess::Input(part.to_vec())).await.is_err() {
                return;
            }
        }
    }

    /// Its standard input ends.
    pub async fn end_of_input(&self) {
        let _ = self.frames.send(ToProcess::EndOfInput).await;
    }

    /// A signal for its process group.
    pub async fn signal(&self, number: i32) {
        if let Ok(number) = u8::try_from(number) {
            let _ = self.frames.send(ToProcess::Signal(number)).await;
        }
    }

    /// Its terminal has another size.
    pub async fn resize(&self, size: WindowSize) {
        let _ = self.frames.send(ToProcess::Resize(size)).await;
    }
}
