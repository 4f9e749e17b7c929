//! Giving memory back to the kernel. The allocator keeps what thousands of connections had while they
//! were busy, in pieces between those of others, until it is told to look for whole free pages.

#![allow(unsafe_code)]

/// Gives every whole free page back. Takes milliseconds for a heap of a hundred megabytes.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointer, is thread-safe, and frees only what nobody owns.
    unsafe {
        libc::malloc_trim(0);
    }
}
