//! What pid 1 of a sandbox writes and how it is talked to, shared by the program and by those who
//! read it. Nothing here allocates or makes a system call.
//!
//! A sandbox's init outlives agents and upgrades for months, so both formats only ever grow.

pub mod protocol;
pub mod record;
