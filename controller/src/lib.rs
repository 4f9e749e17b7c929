//! The controller: what users want, the plan that follows from it, and the API for both.
//!
//! Records ([`model`]) change in one place ([`ledger`]), by steps that a pure [`plan`] or a call of
//! the [`api`] decides. The [`reconcile`] loop looks at a [`picture`] of what is desired and what
//! is, and moves the world one step; [`nodes`] carries out its calls. Routers are told by
//! [`routes`]. It knows nothing of namespaces, images' insides or sockets of visitors.

#![deny(unsafe_code)]

pub mod activity;
pub mod agent;
pub mod api;
pub mod config;
pub mod desired;
mod doors;
pub mod drain;
pub mod events;
pub mod ledger;
pub mod model;
pub mod nodes;
pub mod peer;
pub mod phase;
pub mod picture;
pub mod plan;
pub mod reconcile;
pub mod rehearsal;
pub mod routers;
pub mod routes;
pub mod serve;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod sleep;
pub mod tokens;
pub mod vault;

#[cfg(test)]
mod tests;
