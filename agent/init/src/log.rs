//! Two capped files that take turns: at its limit the other one is emptied and written on. Each
//! record is a line, `<unix nanos> <o|e> <text>`.

use crate::sys;

/// The limit of a file if none is given.
pub const DEFAULT_LIMIT: u64 = 8 << 20;
/// Less makes no sense: a record has to fit.
const SMALLEST_LIMIT: u64 = 16 << 10;
/// Records collected for one write.
const COLLECTED: usize = 16 << 10;
/// Room for a timestamp, the stream and two spaces.
const PREFIX: usize = 24;

/// The files, and records that are not written yet.
pub struct Log {
    files: [i32; 2],
    current: usize,
    size: u64,
    limit: u64,
    dropped: u64,
    collected: [u8; COLLECTED],
    length: usize,
}

impl Log {
    pub const fn new() -> Self {
        Self { files: [0; 2], current: 0, size: 0, limit: 0, dropped: 0, collected: [0; COLLECTED], length: 0 }
    }

    /// Goes on where an earlier init stopped: the file that was changed last is the current one.
    pub fn open(&mut self, files: [i32; 2], limit: u64) {
        self.files = files;
        self.limit = limit.max(SMALLEST_LIMIT);
        for file in files {
            sys::change_flags(file, libc::O_APPEND, 0);
        }
        let (first, second) = (sys::size_and_change(files[0]), sys::size_and_change(files[1]));
        self.current = usize::from(second.0 > 0 && (first.0 == 0 || second.1 > first.1));
        self.size = if self.current == 0 { first.0 } else { second.0 };
    }

    /// Adds a record; it is written by [`Log::flush`], or before if the room is used up.
    pub fn add(&mut self, at: u64, stream: u8, start: &[u8], end: &[u8]) {
        let needed = PREFIX + start.len() + end.len() + 1;
        if self.length + needed > COLLECTED {
            self.flush();
        }
        let mut digits = [0u8; 20];
        let mut from = digits.len();
        let mut rest = at;
        loop {
            from -= 1;
            digits[from] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        for part in [&digits[from..], &[b' ', stream, b' '], start, end, b"\n"] {
            self.collected[self.length..self.length + part.len()].copy_from_slice(part);
            self.length += part.len();
        }
    }

    /// Writes what was added.
    pub fn flush(&mut self) {
        let length = self.length as u64;
        if length == 0 {
            return;
        }
        if self.size + length > self.limit {
            self.current = 1 - self.current;
            sys::truncate(self.files[self.current]);
            self.size = 0;
        }
        match sys::write_all(self.files[self.current], &self.collected[..self.length]) {
            Ok(()) => self.size += length,
            // The disk is full: the log has a hole, the app goes on.
            Err(written) => {
                self.size += written as u64;
                self.dropped += length - written as u64;
            }
        }
        self.length = 0;
    }

    pub fn current(&self) -> u32 {
        self.current as u32
    }

    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}
