//! The daemon of one host: runs instances and builds.
//!
//! What it decided and what it runs is on disk before it is acted on, so that a new agent adopts
//! everything its predecessor left. It knows nothing of apps' domains, users' plans or other nodes.

#![deny(unsafe_code)]

pub mod addresses;
pub mod api;
pub mod build;
pub mod cgroup;
pub mod cleanup;
pub mod command;
pub mod config;
pub mod daemon;
pub mod disk;
pub mod doctor;
pub mod durable;
pub mod events;
pub mod host;
pub mod identity;
pub mod inside;
pub mod instance;
pub mod listening;
pub mod logs;
pub mod network;
pub mod pages;
pub mod problem;
mod received;
pub mod registry;
mod rules;
pub mod snapshot;
pub mod stacks;
pub mod sweep;
