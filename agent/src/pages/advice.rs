//! Telling the kernel what to do with the memory of another process.

#![allow(unsafe_code, reason = "the C library has no wrapper for process_madvise")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    /// Write it out and let it go.
    PageOut,
    /// Read it, since it will be needed.
    WillNeed,
}

/// For `length` bytes at `start` in the process.
pub(super) fn advise(process: BorrowedFd<'_>, start: u64, length: u64, advice: Advice) -> io::Result<()> {
    let number = |value: u64| usize::try_from(value).map_err(io::Error::other);
    let range = libc::iovec { iov_base: std::ptr::without_provenance_mut(number(start)?), iov_len: number(length)? };
    let advice = match advice {
        Advice::PageOut => libc::MADV_PAGEOUT,
        Advice::WillNeed => libc::MADV_WILLNEED,
    };
    // SAFETY: the kernel reads the one range, which lives until the call returns; the addresses in it are the
    // other process's, whose contents neither advice changes.
    let done =
        unsafe { libc::syscall(libc::SYS_process_madvise, process.as_raw_fd(), &raw const range, 1_usize, advice, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
