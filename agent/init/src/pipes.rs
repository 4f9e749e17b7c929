//! The app's pipes: read as they fill, cut into lines. Nothing that the app does with them can stop
//! init, and nothing that happens to the log can stop the app.

use crate::log::Log;
use crate::sys;

/// Pairs of pipes at once: of the app, of an earlier incarnation whose children live on.
const PAIRS: usize = 8;
/// A longer line is cut into several.
const LONGEST_LINE: usize = 4096;
/// Bytes read at once.
const CHUNK: usize = 8192;

/// One reading end.
struct Pipe {
    descriptor: i32,
    stream: u8,
    partial: [u8; LONGEST_LINE],
    length: usize,
}

/// All that are open, in the order in which they came: pairs at 2n and 2n + 1.
pub struct Pipes {
    pipes: [Pipe; PAIRS * 2],
    next: usize,
    chunk: [u8; CHUNK],
}

impl Pipe {
    const NONE: Self = Self { descriptor: 0, stream: 0, partial: [0; LONGEST_LINE], length: 0 };

    /// Descriptor 0 is /dev/null, so it stands for none: the table starts as zeroes.
    fn is_open(&self) -> bool {
        self.descriptor > 0
    }

    fn feed(&mut self, mut chunk: &[u8], log: &mut Log) {
        let now = sys::now();
        while !chunk.is_empty() {
            let room = LONGEST_LINE - self.length;
            match chunk.iter().take(room).position(|byte| *byte == b'\n') {
                Some(end) => {
                    log.add(now, self.stream, &self.partial[..self.length], &chunk[..end]);
                    self.length = 0;
                    chunk = &chunk[end + 1..];
                }
                None if chunk.len() >= room => {
                    log.add(now, self.stream, &self.partial[..self.length], &chunk[..room]);
                    self.length = 0;
                    chunk = &chunk[room..];
                }
                None => {
                    self.partial[self.length..self.length + chunk.len()].copy_from_slice(chunk);
                    self.length += chunk.len();
                    chunk = &[];
                }
            }
        }
    }

    fn write_partial_line(&mut self, log: &mut Log) {
        if self.length > 0 {
            log.add(sys::now(), self.stream, &self.partial[..self.length], &[]);
            self.length = 0;
        }
    }

    fn close(&mut self, log: &mut Log) {
        self.write_partial_line(log);
        sys::close(self.descriptor);
        self.descriptor = 0;
    }
}

impl Pipes {
    pub const fn new() -> Self {
        Self { pipes: [Pipe::NONE; PAIRS * 2], next: 0, chunk: [0; CHUNK] }
    }

    /// Drains a new pair from now on. Where there is no room the oldest pair is closed.
    pub fn add(&mut self, epoll: i32, pair: [i32; 2], log: &mut Log) -> Result<(), i32> {
        if pair.iter().any(|descriptor| *descriptor < 0) {
            pair.into_iter().for_each(sys::close);
            return Err(libc::EBADF);
        }
        let free = (0..PAIRS).find(|at| !self.pipes[at * 2].is_open() && !self.pipes[at * 2 + 1].is_open());
        let at = free.unwrap_or(self.next) * 2;
        self.next = (at / 2 + 1) % PAIRS;
        for (pipe, (descriptor, stream)) in self.pipes[at..at + 2].iter_mut().zip(pair.into_iter().zip(*b"oe")) {
            if pipe.is_open() {
                pipe.close(log);
            }
            pipe.descriptor = descriptor;
            pipe.stream = stream;
            sys::change_flags(descriptor, libc::O_NONBLOCK, 0);
        }
        log.flush();
        pair.into_iter().try_for_each(|descriptor| sys::watch(epoll, descriptor))
    }

    /// Reads what is there, once: the others get their turn.
    pub fn drain(&mut self, descriptor: i32, log: &mut Log) {
        let Some(pipe) = self.pipes.iter_mut().find(|pipe| pipe.descriptor == descriptor) else {
            return;
        };
        match sys::read(descriptor, &mut self.chunk) {
            Ok(0) => pipe.close(log),
            Ok(length) => pipe.feed(&self.chunk[..length], log),
            Err(libc::EAGAIN | libc::EINTR) => {}
            Err(_) => pipe.close(log),
        }
        log.flush();
    }

    pub fn has_partial_line(&self) -> bool {
        self.pipes.iter().any(|pipe| pipe.length > 0)
    }

    /// Writes lines whose end has not come.
    pub fn write_partial_lines(&mut self, log: &mut Log) {
        for pipe in &mut self.pipes {
            pipe.write_partial_line(log);
        }
        log.flush();
    }

    pub fn open_count(&self) -> u32 {
        self.pipes.iter().filter(|pipe| pipe.is_open()).count() as u32
    }
}
