//! What comes in by the network, for those who read and block.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::sync::mpsc;

/// The chunks of a body as something that blocks until there is more. Not for tasks of the runtime.
pub(crate) struct Received {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Received {
    /// And where to send the chunks. Whoever sends an error has broken off.
    pub(crate) fn new() -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (chunks, received) = mpsc::channel(8);
        (chunks, Self { chunks: received, rest: Bytes::new() })
    }
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.rest = chunk?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}
