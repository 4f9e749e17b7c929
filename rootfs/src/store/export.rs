//! Images for programs that read OCI layouts: as folders of their own, whose blobs are the store's files.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use drowse_api::Digest;
use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndexBuilder, MediaType};

use super::error::At;
use super::index::{LAYOUT, oci_digest};
use super::{ImageStore, StoreError};

/// The name of the image in its layout.
const NAME: &str = "image";

impl ImageStore {
    /// Makes a layout in the new folder `folder` that holds this image as `image`. Blobs are hard links where
    /// that can be: whoever is shown the folder must not be able to write it.
    ///
    /// # Errors
    /// When a part of the image is missing, or the file system refuses.
    pub fn export_layout(&self, image: &Digest, folder: &Path) -> Result<(), StoreError> {
        let image = self.image(image)?;
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).at("make", &blobs)?;
        let config = Digest::parse(image.manifest.config().digest().to_string());
        let config = config.map_err(|error| StoreError::unfit(image.digest.as_str(), error.to_string()))?;
        let parts: BTreeSet<&Digest> =
            image.layers.iter().map(|layer| &layer.blob).chain([&image.digest, &config]).collect();
        for part in parts {
            // Noted as in use, and known to be here.
            drop(self.open_blob(part)?);
            let (from, to) = (self.blob_path(part), blobs.join(part.hex()));
            match fs::hard_link(&from, &to) {
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => fs::copy(&from, &to).map(drop),
                other => other,
            }
            .at("link", &to)?;
        }
        let unfit = |error: oci_spec::OciSpecError| StoreError::unfit("a layout", error.to_string());
        let size = fs::metadata(self.blob_path(&image.digest)).at("look at", &self.blob_path(&image.digest))?.len();
        let mut descriptor = Descriptor::new(MediaType::ImageManifest, size, oci_digest(&image.digest)?);
        let name = [(ANNOTATION_REF_NAME.to_owned(), NAME.to_owned())];
        descriptor.set_annotations(Some(name.into()));
        let index = ImageIndexBuilder::default()
            .schema_version(2_u32)
            .media_type(MediaType::ImageIndex)
            .manifests(vec![descriptor])
            .build()
            .map_err(unfit)?;
        let path = folder.join("index.json");
        let text = serde_json::to_vec(&index).map_err(|source| StoreError::Malformed {
            path: path.clone(),
            what: "image index",
            source,
        })?;
        fs::write(&path, text).at("write", &path)?;
        let path = folder.join("oci-layout");
        fs::write(&path, LAYOUT).at("write", &path)
    }
}
