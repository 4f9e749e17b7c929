//! The images of a node: a content-addressed OCI image layout on disk, with its layers unpacked.
//!
//! ```text
//! DIR/oci-layout, index.json     as the OCI image specification has them; tags are annotations
//!     blobs/sha256/HEX           manifests, configurations, layers, uploads
//!     layers/HEX                 unpacked layers, named by the digest of the uncompressed archive
//!     tmp/                       what is being made; emptied when nobody else has the store open
//!     lock, index.lock           file locks: users of the store, writers of the index
//!     sweep.lock                 file lock: who removes what nobody needs, or must not meet that
//! ```
//!
//! Everything appears by rename after it was written, checked and synced, so that a crash leaves
//! either the whole of it or nothing. Several processes may have one store open.

mod blobs;
mod compose;
mod error;
mod export;
mod import;
mod index;
mod layers;
mod retain;
mod uses;

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use drowse_api::Digest;
use oci_spec::image::{ImageConfiguration, ImageManifest, MediaType};
use rustix::fs::FlockOperation;
use tempfile::TempDir;

use error::At;
pub use error::StoreError;
pub use index::Tag;
pub use retain::{Removed, Roots};
pub use uses::Hold;

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The blob as it is stored, mostly compressed.
    pub blob: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// How the blob is compressed.
    pub media_type: MediaType,
}

/// An image whose manifest and configuration were read and checked.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The configuration.
    pub config: ImageConfiguration,
    /// The layers, the bottom one first.
    pub layers: Vec<Layer>,
}

/// The images of a node. Clones share one store.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Layers that are being unpacked: whoever wants the same one waits. A plain lock, since what
    /// happens under it is blocking work anyway.
    unpacking: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
    uses: uses::Uses,
    /// Held shared for as long as the store is open.
    _lock: File,
}

impl ImageStore {
    /// Opens the store in `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// When `dir` cannot be made or written, or holds something else.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        for folder in ["", "blobs/sha256", "layers", "tmp"] {
            let path = dir.join(folder);
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&path).at("make", &path)?;
        }
        // Layers hold what users uploaded, with its owners: other users of the host stay out.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).at("protect", dir)?;
        let lock_path = dir.join("lock");
        let lock = File::options().create(true).append(true).open(&lock_path).at("open", &lock_path)?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            empty(&dir.join("tmp"))?;
        }
        rustix::fs::flock(&lock, FlockOperation::LockShared).at("lock", &lock_path)?;
        let (dir, unpacking, uses) = (dir.to_owned(), Mutex::default(), uses::Uses::default());
        let store = Self { inner: Arc::new(Inner { dir, unpacking, uses, _lock: lock }) };
        store.write_layout_file()?;
        store.read_index()?;
        Ok(store)
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// A folder on the store's file system that is removed with the value.
    pub(crate) fn temporary_folder(&self) -> Result<TempDir, StoreError> {
        let tmp = self.dir().join("tmp");
        tempfile::Builder::new().prefix("work-").tempdir_in(&tmp).at("make a folder in", &tmp)
    }

    /// Makes the rename of something in `folder` durable.
    fn sync_folder(&self, folder: &str) -> Result<(), StoreError> {
        let path = self.dir().join(folder);
        File::open(&path).and_then(|folder| folder.sync_all()).at("sync", &path)
    }
}

/// Removes what a crash left behind.
fn empty(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).at("read", folder)? {
        let entry = entry.at("read", folder)?;
        let path = entry.path();
        let removed = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        removed.at("remove", &path)?;
    }
    Ok(())
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod sweeps;
#[cfg(test)]
mod tests;
