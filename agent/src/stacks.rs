//! The base images of the node, as they are told to callers.

use drowse_api::agent::Stack;
use drowse_rootfs::{ImageStore, StoreError};

/// Those that are built.
///
/// # Errors
/// If the store cannot be read.
pub fn list(store: &ImageStore) -> Result<Vec<Stack>, StoreError> {
    let stacks = drowse_rootfs::stacks::list(store)?.into_iter();
    Ok(stacks.map(|stack| Stack { name: stack.name, image: stack.image, size: stack.size }).collect())
}
