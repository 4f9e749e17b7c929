//! What an instance or a build wrote: init's two capped files and the platform's own lines, read as
//! one stream in the order of time.
//!
//! A record is `UNIX-NANOSECONDS KIND TEXT` and a line end, KIND being `o`, `e` or `p`. It knows
//! nothing of who reads.

mod follow;
mod platform;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use drowse_api::instance::{LogLine, LogStream};
pub use follow::Follower;
use jiff::Timestamp;
pub use platform::say;

/// The size at which init goes over to its other file, in bytes.
pub const FILE_CAP: u64 = 4 << 20;

/// The files of one log.
#[must_use]
pub fn files(folder: &Path) -> [PathBuf; 4] {
    let [zero, one] = platform::files(folder);
    [folder.join("log.0"), folder.join("log.1"), zero, one]
}

/// The last `count` lines.
#[must_use]
pub fn tail(folder: &Path, count: usize) -> Vec<LogLine> {
    Follower::new(folder, count).poll()
}

/// The last `count` lines that the app itself wrote, as plain text.
#[must_use]
pub fn last_words(folder: &Path, count: usize) -> Vec<String> {
    let mut lines = VecDeque::new();
    for line in tail(folder, usize::MAX) {
        if line.stream == LogStream::Platform {
            continue;
        }
        if lines.len() == count {
            lines.pop_front();
        }
        lines.push_back(line.text);
    }
    lines.into()
}

/// One record without its line end; `None` if it is none.
fn parse(record: &[u8]) -> Option<LogLine> {
    let mut parts = record.splitn(3, |byte| *byte == b' ');
    let nanos: i128 = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let stream = match parts.next()? {
        b"o" => LogStream::Out,
        b"e" => LogStream::Err,
        b"p" => LogStream::Platform,
        _ => return None,
    };
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    Some(LogLine { at: Timestamp::from_nanosecond(nanos).ok()?, stream, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn the_files_are_read_as_one_in_the_order_of_time() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("log.0"), "30 o three\n40 e four\n").expect("writes");
        std::fs::write(folder.path().join("log.1"), "10 o one\n20 o two words\nnot a record\n").expect("writes");
        std::fs::write(folder.path().join("platform.0"), "25 p between\n").expect("writes");
        assert_eq!(texts(&tail(folder.path(), 10)), ["one", "two words", "between", "three", "four"]);
        assert_eq!(texts(&tail(folder.path(), 2)), ["three", "four"]);
        assert_eq!(last_words(folder.path(), 3), ["two words", "three", "four"]);
    }

    #[test]
    fn a_log_that_is_not_there_is_empty() {
        assert!(tail(Path::new("/nonexistent"), 10).is_empty());
    }

    #[test]
    fn a_text_that_is_no_utf_8_is_shown_with_replacements() {
        let line = parse(b"1 e caf\xe9").expect("a record");
        assert_eq!(line.text, "caf\u{fffd}");
        assert_eq!(parse(b"1 o ").expect("an empty line").text, "");
    }
}
