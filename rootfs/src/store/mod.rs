//! The content-addressed store.
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drowse_api::Digest;
use oci_spec::image::{ImageConfiguration, ImageManifest, MediaType};

use crate::bundle::AllowList;
use crate::overlay::IdRange;

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

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// x
    #[error("unimplemented")]
    Unimplemented,
}

/// The store.
#[derive(Debug, Clone)]
pub struct ImageStore(Arc<PathBuf>);

#[allow(missing_docs, clippy::missing_errors_doc, unused_variables)]
impl ImageStore {
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn dir(&self) -> &Path {
        &self.0
    }
    pub fn put_blob(&self, reader: impl Read, expected: Option<&Digest>, limit: u64) -> Result<(Digest, u64), StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn has_blob(&self, digest: &Digest) -> bool {
        false
    }
    pub fn import_layout(&self, path: &Path, reference: Option<&str>) -> Result<Digest, StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn image(&self, manifest: &Digest) -> Result<Image, StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn unpack(&self, image: &Image) -> Result<Vec<PathBuf>, StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn unpack_layers(&self, layers: &[Layer]) -> Result<Vec<PathBuf>, StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn capture_layer(&self, upper: &Path, ids: IdRange, keep: &dyn Fn(&Path) -> bool) -> Result<Layer, StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn layer_from_archive(&self, archive: File, prefix: &str, owner: u32) -> Result<Layer, StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn compose(
        &self,
        base: Option<&Image>,
        layers: &[Layer],
        change: &dyn Fn(&mut ImageConfiguration),
    ) -> Result<Digest, StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn tag(&self, name: &str, digest: &Digest) -> Result<(), StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn untag(&self, name: &str) -> Result<(), StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn tagged(&self, name: &str) -> Result<Option<Digest>, StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn tags(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        Err(StoreError::Unimplemented)
    }
    pub fn import_bundle(&self, dir: &Path, allow: &AllowList) -> Result<Digest, StoreError> {
        Err(StoreError::Unimplemented)
    }
}
