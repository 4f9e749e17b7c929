//! Reading on in a log whose writer truncates one of two files and goes over to it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use drowse_api::instance::LogLine;

/// The longest beginning that is compared to find out that a file was begun anew.
const HEAD: usize = 32;

/// A reader that remembers what it has read.
#[derive(Debug)]
pub struct Follower {
    files: Vec<Position>,
    /// How many of the lines found first are given.
    first: Option<usize>,
}

#[derive(Debug)]
struct Position {
    path: PathBuf,
    /// Everything before it was given.
    offset: u64,
    /// How the file began then: the time of its first record.
    head: Vec<u8>,
}

impl Follower {
    /// Begins with the last `tail` lines of the log in `folder`.
    #[must_use]
    pub fn new(folder: &Path, tail: usize) -> Self {
        let files =
            super::files(folder).into_iter().map(|path| Position { path, offset: 0, head: Vec::new() }).collect();
        Self { files, first: Some(tail) }
    }

    /// What was written since the last call, in the order of time. Blocking.
    pub fn poll(&mut self) -> Vec<LogLine> {
        let mut lines: Vec<LogLine> = self.files.iter_mut().flat_map(Position::read).collect();
        // Stable: lines of one file with the same time keep their order.
        lines.sort_by_key(|line| line.at);
        if let Some(tail) = self.first.take() {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        lines
    }
}

impl Position {
    fn read(&mut self) -> Vec<LogLine> {
        let Ok(mut file) = File::open(&self.path) else {
            (self.offset, self.head) = (0, Vec::new());
            return Vec::new();
        };
        let mut head = [0; HEAD];
        let length = file.read(&mut head).unwrap_or(0);
        if !head[..length].starts_with(&self.head) {
            self.offset = 0;
        }
        self.head = head[..length].to_vec();
        let Ok(size) = file.metadata().map(|meta| meta.len()) else { return Vec::new() };
        if size < self.offset {
            self.offset = 0;
        }
        // Files are capped by their writer; the cap here only guards against another one.
        let wanted = usize::try_from((size - self.offset).min(4 * super::FILE_CAP)).unwrap_or(0);
        let mut text = vec![0; wanted];
        let read = file.read_at(&mut text, self.offset).unwrap_or(0);
        let whole = text[..read].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.offset += whole as u64;
        text[..whole].split(|byte| *byte == b'\n').filter_map(super::parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn following_gives_each_line_once_also_over_a_change_of_files() {
        let folder = tempfile::tempdir().expect("folder");
        let (zero, one) = (folder.path().join("log.0"), folder.path().join("log.1"));
        std::fs::write(&zero, "1000000000000000001 o a\n1000000000000000002 o b\n10000").expect("writes");
        let mut follower = Follower::new(folder.path(), 1);
        assert_eq!(texts(&follower.poll()), ["b"]);
        let mut file = File::options().append(true).open(&zero).expect("opens");
        file.write_all(b"00000000000003 o c\n").expect("writes");
        std::fs::write(&one, "1000000000000000004 o d\n").expect("writes");
        assert_eq!(texts(&follower.poll()), ["c", "d"]);
        // Begun anew, and longer than before.
        std::fs::write(&zero, format!("1000000000000000005 o {}\n", "e".repeat(200))).expect("writes");
        assert_eq!(follower.poll().len(), 1);
        assert!(follower.poll().is_empty());
    }
}
