//! OCI layouts, digests, unpacking, overlay plans, runtime bundles and stacks.
//!
//! Everything here is blocking and works on files alone: it knows nothing of processes in a
//! sandbox, of networks, or of who asks. What comes from outside (archives, layouts, bundles) is
//! taken as hostile: every path is resolved by the kernel beneath one folder, every size has a
//! cap, and what fails leaves nothing behind.

pub mod bundle;
pub mod overlay;
pub mod stacks;
pub mod store;

pub use drowse_api::Digest;
pub use overlay::{IdRange, OverlayPlan};
pub use store::{Image, ImageStore, Layer, StoreError};
