//! What an app finds at `/run/drowse`: a socket for leases, by which it stays awake for a while, and a
//! file that tells how it slept.
//!
//! The folder is the host's and read-only inside; there is one for each instance, so whoever connects
//! is of that instance.

mod door;
mod lease;
pub mod state;

pub use door::Doors;

/// Where the folder is inside.
pub const PATH: &str = "/run/drowse";
