//! Sandboxes with the real launcher and the real init. These need root, and a static busybox.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "as in all tests")]

mod support;

mod cgroups;
mod disks;
mod exits;
mod filter;
mod hostile;
mod identity;
mod lives;
mod logs;
mod ready;
mod root_inside;
mod view;
