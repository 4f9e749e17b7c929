//! Images from registries on this host's own loopback, which the operator names. They are asked without TLS, and
//! by the agent itself, since no sandbox reaches the host's loopback. All other registries are asked from within a
//! sandbox, by a program of its own: see `build::image`.
//!
//! What a registry answers is hostile all the same: bodies are bounded, digests are checked while blobs are stored, no
//! answer leads anywhere else, and nothing of a registry's own words is repeated to anybody.

mod access;
mod connection;
mod error;
mod pull;

pub use error::RegistryError;
pub use pull::{is_own, pull};
