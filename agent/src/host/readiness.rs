//! Descriptors that are waited for.

#![allow(unsafe_code, reason = "tokio takes descriptors by a promise of their owner")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets the runtime wait until `descriptor` is readable.
///
/// # Errors
/// If it cannot be polled.
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: `OwnedFd` holds one open descriptor, the same one until it is dropped, and the
    // `AsyncFd` owns it.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}

/// Lets the runtime read and write `descriptor` as it gets ready. It must not block.
///
/// # Errors
/// If it cannot be polled.
pub fn both_ways(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as in `readable`.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE | Interest::WRITABLE) };
    registered.map_err(|error| error.into_parts().1)
}
