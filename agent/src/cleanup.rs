//! Frees the disk of what nobody needs: images and uploads of deployments that are gone, layers of
//! dependencies that were not used for the longest time.
//!
//! What is needed is known here without asking: a controller keeps the build of every deployment that
//! it may start again, and deletes it with the deployment; instances name their image in their
//! record. Whether anything may be removed is the store's to decide
//! ([`ImageStore::retain`](drowse_rootfs::ImageStore::retain)).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use drowse_api::Digest;
use drowse_rootfs::{ImageStore, Removed, Roots, StoreError};

use crate::build::{Builds, DamagedBuild};
use crate::durable::DurableError;
use crate::host::error::chain;
use crate::host::{Node, home};
use crate::instance::record;

/// How long at most until the disk is looked through again.
const AT_LEAST: Duration = Duration::from_hours(1);
/// Tags of layers of dependencies, and of the node's own programs.
const DEPENDENCIES: &str = "deps/";
const PROGRAMS: &str = "drowse/";
/// Note of a tag: when it was last used, in seconds since 1970.
const NOTE_USED: &str = "dev.drowse.used";

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The records of instances cannot be read.
    #[error(transparent)]
    Record(#[from] DurableError),
    /// Nobody knows which image an instance needs.
    #[error("the record of the instance in {0} is damaged")]
    DamagedInstance(PathBuf),
    /// Nobody knows what a build needs.
    #[error(transparent)]
    DamagedBuild(#[from] DamagedBuild),
}

/// The notes of a tag that is used now.
#[must_use]
pub fn used_now() -> HashMap<String, String> {
    HashMap::from([(NOTE_USED.to_owned(), jiff::Timestamp::now().as_second().to_string())])
}

/// Looks through the disk some time after the start, after builds that ended and were deleted, and
/// once an hour. `server` is the image of the file server. Never ends.
pub async fn run(node: Node, builds: Arc<Builds>, server: Option<Digest>) {
    loop {
        // After a start, controllers come first: with the builds that they wait for.
        tokio::time::sleep(Duration::from_secs(node.config.images.pause_seconds)).await;
        let (owned, roots, server) = (node.clone(), Arc::clone(&builds), server.clone());
        match tokio::task::spawn_blocking(move || once(&owned, &roots, server.as_ref())).await {
            Ok(Ok(Some(Removed { blobs: 0, layers: 0, .. }))) => {}
            Ok(Ok(Some(Removed { blobs, layers, size }))) => {
                tracing::info!("removed {blobs} blobs ({size}) and {layers} unpacked layers that nobody needs");
            }
            Ok(Ok(None)) => tracing::debug!("a stack is being built: images are looked through later"),
            Ok(Err(error)) => tracing::warn!("no images are removed: {}", chain(&error)),
            Err(error) => tracing::error!("looking through the images broke off: {error}"),
        }
        tokio::select! {
            () = builds.changed() => {}
            () = tokio::time::sleep(AT_LEAST) => {}
        }
    }
}

/// Removes what nobody needs. Blocking.
///
/// # Errors
/// If what is needed cannot be known: nothing is removed then.
pub fn once(node: &Node, builds: &Builds, server: Option<&Digest>) -> Result<Option<Removed>, CleanupError> {
    let settings = node.config.images;
    forget_names(&node.store, settings.keep_dependencies, server)?;
    node.store.retain(|| needed(node, builds), Duration::from_secs(settings.keep_uploads_seconds))
}

/// Untags layers of dependencies beyond the bound, and programs that a newer one replaced.
fn forget_names(store: &ImageStore, keep: usize, server: Option<&Digest>) -> Result<(), StoreError> {
    let tags = store.tags()?;
    let is_old = |image: &Digest| server.is_some_and(|server| server != image);
    for tag in tags.iter().filter(|tag| tag.name.starts_with(PROGRAMS) && is_old(&tag.image)) {
        store.untag(&tag.name)?;
    }
    let used = |notes: &HashMap<String, String>| notes.get(NOTE_USED).and_then(|at| at.parse::<i64>().ok());
    let mut layers: Vec<_> = tags.iter().filter(|tag| tag.name.starts_with(DEPENDENCIES)).collect();
    layers.sort_by_key(|tag| std::cmp::Reverse(used(&tag.notes)));
    for tag in layers.iter().skip(keep) {
        store.untag(&tag.name)?;
    }
    Ok(())
}

fn needed(node: &Node, builds: &Builds) -> Result<Roots, CleanupError> {
    let mut roots = builds.roots()?;
    for folder in [home::instances(&node.config), node.config.data_dir.join("system")] {
        roots.images.extend(images_of(node, &folder)?);
    }
    Ok(roots)
}

/// The images of the instances below `folder`, and those that their standing sandboxes were made from.
fn images_of(node: &Node, folder: &Path) -> Result<Vec<Digest>, CleanupError> {
    let found = record::find(folder, None)?;
    if let Some((folder, _)) = found.damaged.into_iter().next() {
        return Err(CleanupError::DamagedInstance(folder));
    }
    let images = found.records.into_iter().flat_map(|record| {
        let standing = node.sandboxes.image_of(&node.home(&record.life.spec));
        [Some(record.life.spec.image), standing]
    });
    Ok(images.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_of_dependencies_that_were_used_last_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = ImageStore::open(folder.path()).expect("a store");
        let image = store.compose(None, &[], &|_| {}).expect("an image");
        let tag = |name: &str, used: Option<i64>| {
            let notes = used.map(|at| (NOTE_USED.to_owned(), at.to_string()));
            store.tag_with_notes(name, &image, notes.into_iter().collect()).expect("tagged");
        };
        tag("deps/old", Some(10));
        tag("deps/new", Some(2_000));
        tag("deps/newer", Some(10_000));
        tag("deps/unknown", None);
        tag("stack/python", None);
        tag("drowse/drowse-sites-1", None);
        forget_names(&store, 2, None).expect("forgets");
        let names = || store.tags().expect("reads").into_iter().map(|tag| tag.name).collect::<Vec<_>>();
        assert_eq!(names(), ["deps/new", "deps/newer", "stack/python", "drowse/drowse-sites-1"]);
        let other = store.compose(None, &[], &|image| {
            image.set_author(Some("us".to_owned()));
        });
        forget_names(&store, 2, Some(&other.expect("an image"))).expect("forgets");
        assert_eq!(names(), ["deps/new", "deps/newer", "stack/python"]);
    }
}
