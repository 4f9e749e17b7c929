//! The real host: what instances, builds and the file server need, done with the kernel.

mod ask;
mod clock;
mod ending;
pub mod error;
pub mod files;
pub mod hibernate;
pub mod home;
pub mod image;
mod kept;
mod launch;
mod node;
pub mod paging;
pub mod plan;
pub mod process;
mod profile;
mod reached;
pub mod readiness;
pub mod ready;
pub mod sandbox;
pub mod sites;

pub use ending::Ended;
pub use node::Node;
pub use sites::{SITES, is_published, prepare as prepare_sites, sites_home, sites_image, sites_spec};
