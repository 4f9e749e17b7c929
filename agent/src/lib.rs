//! The daemon of one host: runs instances and builds.
//!
//! What it decided and what it runs is on disk before it is acted on, so that a new agent adopts
//! everything its predecessor left. It knows nothing of apps' domains, users' plans or other nodes.

pub mod config;
