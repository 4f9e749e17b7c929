//! Builds sandboxes and starts processes in them, by a small single-threaded program of its own.
//!
//! A threaded daemon must not fork: its child may deadlock in malloc. So the agent starts
//! `drowse-launcher` before it has threads and commands it over a socket; this library has both
//! sides, and the client for the init that is pid 1 of every sandbox. It knows nothing of
//! instances, images or networks: it gets paths, descriptors and a `config.json`.

pub mod datagram;
pub mod disk;
pub mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod init;
pub mod message;
pub mod process;
pub mod rules;
pub mod seccomp;
pub mod server;

mod client;
mod sys;
mod wire;

pub use client::{AppFds, Launcher, LauncherError, Launching, ProcessFds, Ready, Sandbox, SandboxFds, Started};
pub use failure::{Cause, Failure, Step};
pub use message::{
    Bind, Clock, ClockOffset, InjectedFile, ProcessRequest, SandboxRequest, SeccompProfile, Task, WindowSize,
};
