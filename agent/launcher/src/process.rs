//! How a process is told from a later one with its number.

use std::io;

/// When a process began, in clock ticks since the host's boot: field 22 of `/proc/PID/stat` (proc(5)).
///
/// # Errors
/// There is no such process.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name in brackets that may hold anything; the state follows as field 3.
    let time = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19)?.parse().ok());
    time.ok_or_else(|| io::Error::other("the stat of the process has no start time"))
}
