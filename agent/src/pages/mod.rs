//! The memory of processes that stand still: out to the node's swap, and back before they go on.
//!
//! What was touched soon after an earlier wake is the working set: it is read back in one go, instead of
//! page by page as the processes ask for it. Who sleeps when is not known here.

mod advice;
mod working_set;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use advice::{Advice, advise};
pub use working_set::WorkingSet;

/// So much is paged out between two looks at whether somebody waits: some milliseconds.
const PIECE: u64 = 4 << 20;

/// Why nothing can be paged out on this host, if it cannot. Looked at anew each time: swap may be switched on at any moment.
#[must_use]
pub fn no_swap() -> Option<String> {
    let text = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let free: u64 = text.lines().skip(1).filter_map(free_of).sum();
    match (text.lines().count(), free) {
        (0 | 1, _) => Some("the node has no swap (drowse doctor tells how to get some)".to_owned()),
        (_, 0) => Some("the node's swap is full".to_owned()),
        _ => None,
    }
}

/// Free KiB by a line of `/proc/swaps`: name, type, size, used, priority.
fn free_of(line: &str) -> Option<u64> {
    let mut words = line.split_ascii_whitespace().skip(2);
    let size: u64 = words.next()?.parse().ok()?;
    Some(size.saturating_sub(words.next()?.parse().ok()?))
}

/// A range of addresses of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
}

/// What a process has mapped and can read or write, without what the kernel shows it.
fn mapped(pid: i32) -> std::io::Result<Vec<Range>> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("maps"))?;
    Ok(text.lines().filter_map(range_of).collect())
}

/// By a line of `/proc/PID/maps`: addresses, rights, offset, device, inode, name.
fn range_of(line: &str) -> Option<Range> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let rights = words.next()?;
    let is_the_kernels = words.nth(3).is_some_and(|name| name.starts_with("[v"));
    if rights.starts_with("---") || is_the_kernels {
        return None;
    }
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(Range { start: number(start)?, end: number(end)? })
}

fn open(pid: i32) -> Option<OwnedFd> {
    Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
}

/// Pages out what these processes alone have mapped, until `stop`. What the kernel does not take stays.
pub fn out(pids: &[i32], stop: &AtomicBool) {
    for pid in pids {
        let Some(process) = open(*pid) else { continue };
        for Range { start, end } in mapped(*pid).unwrap_or_default() {
            let mut at = start;
            while at < end {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let length = PIECE.min(end - at);
                // Locked and shared memory cannot be paged out, which is no error of anybody.
                let _ = advise(process.as_fd(), at, length, Advice::PageOut);
                at += length;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_touched_is_told_from_what_only_takes_addresses() {
        let lines = [
            ("7f0000000000-7f0000002000 rw-p 00000000 00:00 0 ", Some((0x7f00_0000_0000, 0x7f00_0000_2000))),
            ("55d0c0000000-55d0c0001000 r-xp 00000000 fe:00 12 /bin/a b", Some((0x55d0_c000_0000, 0x55d0_c000_1000))),
            ("7f0000000000-7f0000002000 ---p 00000000 00:00 0 ", None),
            ("7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]", None),
            ("nonsense", None),
        ];
        for (line, wanted) in lines {
            assert_eq!(range_of(line), wanted.map(|(start, end)| Range { start, end }), "{line}");
        }
    }

    #[test]
    fn free_swap_is_read_as_the_kernel_lists_it() {
        assert_eq!(free_of("/dev/zram0   partition\t262140\t\t1000\t\t100"), Some(261_140));
        assert_eq!(free_of("Filename"), None);
    }
}
