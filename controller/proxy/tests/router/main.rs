//! The router as visitors, instances, the controller and the agent meet it.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod crowd;
mod errors;
mod forwarding;
mod learning;
mod sleeping;
mod smuggling;
mod streaming;
mod support;
mod swaps;
mod upgrades;
