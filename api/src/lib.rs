//! What Drowse's programs say to each other: checked ids and names, the records that travel,
//! the calls of the agent and of the controller, error codes, and a client for both.
//!
//! A leaf: it knows nothing of how an instance is run, stored or routed.

#![forbid(unsafe_code)]

pub mod agent;
#[cfg(feature = "client")]
pub mod client;
pub mod deployment;
pub mod error;
pub mod event;
pub mod exec;
pub mod ids;
pub mod image;
pub mod instance;
pub mod manifest;
pub mod platform;
pub mod reference;
pub mod routing;
pub mod secrets;
#[cfg(feature = "client")]
mod sink;
pub mod sleep;
pub mod units;
pub mod variable;

pub use error::{ErrorCode, Problem};
pub use ids::{
    AppName, ControllerId, DeploymentId, Digest, Epoch, EventLogId, HostName, InstanceId, NodeName, RunId, TokenId,
    UserId,
};
pub use reference::ImageReference;
pub use units::MemoryBytes;
