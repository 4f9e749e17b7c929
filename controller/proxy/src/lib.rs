//! The visitors' HTTP router.
//!
//! It knows host names, instances and their addresses, and nothing of the store, of builds or of
//! how an instance is run. Its table comes by a stream from the controller, addresses by a stream
//! from the agent; both are kept in files, so that it serves with both of them gone.

#![deny(unsafe_code)]

mod admit;
mod asker;
mod body;
mod config;
mod connection;
mod control;
mod cookies;
mod fault;
mod forward;
mod gate;
mod headers;
mod host;
mod instance;
mod instead;
mod io;
mod keeper;
mod memory;
mod nap;
mod page;
mod picture;
mod reserved;
mod router;
mod saved;
mod shared;
mod stall;
mod tunnel;
mod upstream;
mod waker;
mod websocket;
mod woken;
mod worker;

pub use config::{Limits, RouterConfig};
pub use router::{Router, RouterError, run};
