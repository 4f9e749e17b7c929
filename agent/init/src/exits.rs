//! Reaps what has ended and writes it down where the agent looks, now or after it was away.

use drowse_init::record::{ExitRecord, OTHER_SLOTS, RECORD_SIZE, WATCHED_SLOTS};

use crate::sys;

/// Processes that can be watched at once.
const WATCHED: usize = 64;

/// The file, and who is watched (0: nobody).
pub struct Exits {
    file: i32,
    watched: [i32; WATCHED],
    next_watched: usize,
    sequence: u64,
    watched_records: u64,
    other_records: u64,
}

impl Exits {
    pub const fn new() -> Self {
        Self { file: 0, watched: [0; WATCHED], next_watched: 0, sequence: 0, watched_records: 0, other_records: 0 }
    }

    /// Empties the file: pids of another sandbox mean nothing in this one.
    pub fn open(&mut self, file: i32) {
        self.file = file;
        // With O_APPEND a write at an offset goes to the end all the same.
        sys::change_flags(file, 0, libc::O_APPEND);
        sys::truncate(file);
    }

    /// Keeps the exit of `pid` among those that strays cannot push out.
    pub fn watch(&mut self, pid: i32) {
        if pid > 0 && !self.watched.contains(&pid) {
            self.watched[self.next_watched] = pid;
            self.next_watched = (self.next_watched + 1) % WATCHED;
        }
    }

    /// Records everything that has ended.
    pub fn reap(&mut self) {
        while let Some((pid_inside, status)) = sys::reap() {
            self.sequence += 1;
            let record = ExitRecord { pid_inside, status, at: sys::now(), sequence: self.sequence };
            let watched = self.watched.iter_mut().find(|watched| **watched == pid_inside);
            let slot = match watched {
                Some(watched) => {
                    *watched = 0;
                    self.watched_records += 1;
                    (self.watched_records - 1) % WATCHED_SLOTS
                }
                None => {
                    self.other_records += 1;
                    WATCHED_SLOTS + (self.other_records - 1) % OTHER_SLOTS
                }
            };
            sys::write_at(self.file, &record.to_bytes(), slot * RECORD_SIZE as u64);
        }
    }

    pub fn recorded(&self) -> u64 {
        self.sequence
    }
}
