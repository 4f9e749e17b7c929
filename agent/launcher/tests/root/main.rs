//! Sandboxes with the real launcher and the real init. These need root, and a static busybox.

mod support;

mod exits;
mod filter;
mod hostile;
mod identity;
mod lives;
mod logs;
mod view;
