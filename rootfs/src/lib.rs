//! OCI layouts, digests, unpacking, overlay plans, runtime bundles and stacks.
//!
//! Everything here is blocking and works on files alone: it knows nothing of processes in a
//! sandbox, of networks, or of who asks. What comes from outside (archives, layouts, bundles) is
//! taken as hostile: every path is resolved by the kernel beneath one folder, every size has a
//! cap, and what fails leaves nothing behind.

#![forbid(unsafe_code)]

pub mod archive;
pub mod bundle;
mod capture;
mod digest;
#[cfg(any(test, feature = "hostile"))]
pub mod fuzzing;
#[cfg(any(test, feature = "hostile"))]
pub mod hostile;
mod json;
pub mod overlay;
pub mod stacks;
pub mod store;
pub mod unpack;

#[cfg(test)]
mod testing;

pub use drowse_api::Digest;
pub use overlay::{IdRange, OverlayPlan};
pub use store::{Hold, Image, ImageStore, Layer, Removed, Roots, StoreError, Tag};
