//! Which pages the processes of an app touched soon after they were woken.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use drowse_api::instance::ProcessIdentity;
use drowse_launcher::process::start_time;
use serde::{Deserialize, Serialize};

use super::advice::{Advice, advise};
use super::{Range, mapped, open};

/// More is not read ahead: it would take longer than what it saves.
const MOST: u64 = 64 << 20;
/// Bytes of an entry of `/proc/PID/pagemap`, and its bit of a page in memory (proc_pid_pagemap(5)).
const ENTRY: usize = 8;
const PRESENT: u64 = 1 << 63;
/// Entries read at once.
const AT_ONCE: usize = 4096;

/// Pages of several processes. Of another incarnation of them it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingSet(Vec<OfOne>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OfOne {
    process: ProcessIdentity,
    /// Address and length of each run of pages.
    runs: Vec<(u64, u64)>,
}

impl WorkingSet {
    /// What of these processes is in memory now. One that has ended is passed over.
    #[must_use]
    pub fn of(pids: &[i32]) -> Self {
        let (mut found, mut left) = (Vec::new(), MOST);
        for pid in pids {
            let (Ok(start_time), Ok(ranges)) = (start_time(*pid), mapped(*pid)) else { continue };
            let Ok(pages) = File::open(Path::new("/proc").join(pid.to_string()).join("pagemap")) else { continue };
            let mut runs = Vec::new();
            for range in ranges {
                present(&pages, range, &mut runs, &mut left);
            }
            found.push(OfOne { process: ProcessIdentity { pid: *pid, start_time }, runs });
        }
        Self(found)
    }

    /// Bytes of all of it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.iter().flat_map(|one| &one.runs).map(|(_, length)| length).sum()
    }

    /// Reads it back from swap, and files from the disk.
    pub fn fetch(&self) {
        for OfOne { process, runs } in &self.0 {
            let Some(opened) = open(process.pid).filter(|_| start_time(process.pid).ok() == Some(process.start_time))
            else {
                continue;
            };
            for (start, length) in runs {
                // What is mapped no more needs nothing.
                let _ = advise(opened.as_fd(), *start, *length, Advice::WillNeed);
            }
        }
    }
}

/// Bytes of a page.
fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

/// Adds the runs of pages of `range` that are in memory, until nothing is `left`.
fn present(pages: &File, range: Range, runs: &mut Vec<(u64, u64)>, left: &mut u64) {
    let page = page_size();
    let mut entries = [0; AT_ONCE * ENTRY];
    let mut at = range.start;
    while at < range.end && *left > 0 {
        let wanted = usize::try_from((range.end - at) / page).unwrap_or(AT_ONCE).min(AT_ONCE) * ENTRY;
        let Ok(read) = pages.read_at(&mut entries[..wanted], at / page * ENTRY as u64) else { return };
        if read < ENTRY {
            return;
        }
        for entry in entries[..read].chunks_exact(ENTRY) {
            let bits = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
            if bits & PRESENT != 0 && *left >= page {
                *left -= page;
                match runs.last_mut() {
                    Some((start, length)) if *start + *length == at => *length += page,
                    _ => runs.push((at, page)),
                }
            }
            at += page;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_is_in_it_and_what_was_not_is_not() {
        let page = usize::try_from(page_size()).expect("it fits");
        let room = vec![0_u8; 64 * page];
        let first = (room.as_ptr() as usize).next_multiple_of(page) + page;
        let ours = std::process::id().cast_signed();
        let has = |set: &WorkingSet, at: usize| {
            let at = at as u64;
            set.0[0].runs.iter().any(|(start, length)| (*start..*start + *length).contains(&at))
        };
        let before = WorkingSet::of(&[ours]);
        assert!(before.size() > 0 && !has(&before, first + 20 * page), "zeroed memory of this size is untouched");
        let mut room = room;
        let at = first + 20 * page - room.as_ptr() as usize;
        room[at] = 1;
        let after = WorkingSet::of(&[ours]);
        assert!(has(&after, first + 20 * page));
        after.fetch();
        assert_eq!(room[at], 1);
        assert_eq!(WorkingSet::of(&[i32::MAX]), WorkingSet::default());
    }
}
