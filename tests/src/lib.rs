//! System tests and benchmarks: a whole Drowse of its own for each test, and what tests do with it.
//!
//! A test starts a [`World`](world::World): agent, controller and router as real processes with
//! folders, addresses, cgroups and tables that nothing else uses. It deploys apps, visits them
//! through the router, kills daemons, reboots; and whatever happens, nothing stays behind.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "what tests and benchmarks say is for whoever runs them")]

pub mod apps;
pub mod bench;
pub mod browser;
pub mod chaos;
pub mod database;
pub mod floods;
pub mod http;
pub mod isolation;
pub mod load;
pub mod machine;
pub mod programs;
pub mod pty;
pub mod registry;
pub mod swap;
pub mod traffic;
pub mod visit;
pub mod wait;
pub mod world;
