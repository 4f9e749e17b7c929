//! A generator of hostile archives, for tests: each case of [`corpus`] must be refused with one error that
//! names what is wrong, at every door through which archives come, and leave nothing behind.
//!
//! A new attack is one line in `corpus.rs`. The tests of `unpack` and `store` send all of them through this
//! crate, those of the agent through its API, and fuzzing begins with them.

mod archive;
mod corpus;
mod costly;
mod picture;

use std::path::Path;

pub use archive::{Archive, record};
pub use corpus::{bombs, corpus};
pub use picture::picture;

/// Where an archive comes in, which decides what it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// As a layer of an image.
    Layer,
    /// As a runtime bundle.
    Bundle,
    /// As an app's source.
    Upload,
}

/// An archive that must be refused.
#[derive(Debug, Clone)]
pub struct Case {
    /// The doors at which it is refused so.
    pub doors: &'static [Door],
    /// What is said of it.
    pub error: String,
    /// The archive, plain or compressed.
    pub archive: Vec<u8>,
}

/// A folder that no archive may change.
///
/// # Panics
/// Where it cannot be written.
pub fn make_canary(folder: &Path) {
    let write = || {
        std::fs::create_dir_all(folder.join("folder"))?;
        std::fs::write(folder.join("secret"), "secret")
    };
    write().unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
}
