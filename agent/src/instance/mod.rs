//! Instances: what becomes of each, the task that sees to it, and all of them together.

pub mod actor;
mod boot;
pub mod budget;
pub mod followers;
pub mod host;
pub mod machine;
pub mod record;
pub mod registry;
mod shelf;
mod sleep;
pub mod state;

#[cfg(test)]
mod dumps;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod lives;
#[cfg(test)]
mod naps;
#[cfg(test)]
mod paged;
#[cfg(test)]
mod properties;

pub use registry::Instances;
