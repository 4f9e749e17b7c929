//! Tags: the index of the layout, whose descriptors carry a name as an annotation.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};

use drowse_api::Digest;
use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageIndexBuilder, MediaType};
use rustix::fs::FlockOperation;

use super::error::At;
use super::{ImageStore, StoreError};

pub(super) const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// A name for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// The name: `stack/python`, `deps/KEY`.
    pub name: String,
    /// The manifest.
    pub image: Digest,
    /// What else was noted with it.
    pub notes: HashMap<String, String>,
}

impl ImageStore {
    /// Names an image; a name that is already given moves.
    ///
    /// # Errors
    /// When the image is not here or the index cannot be written.
    pub fn tag(&self, name: &str, image: &Digest) -> Result<(), StoreError> {
        self.tag_with_notes(name, image, HashMap::new())
    }

    /// As [`tag`](Self::tag), with notes that are kept beside the name.
    ///
    /// # Errors
    /// When the image is not here or the index cannot be written.
    pub fn tag_with_notes(&self, name: &str, image: &Digest, notes: HashMap<String, String>) -> Result<(), StoreError> {
        let size = self.open_blob(image)?.metadata().at("look at", &self.blob_path(image))?.len();
        let mut annotations = notes;
        annotations.insert(ANNOTATION_REF_NAME.to_owned(), name.to_owned());
        let mut descriptor = Descriptor::new(MediaType::ImageManifest, size, oci_digest(image)?);
        descriptor.set_annotations(Some(annotations));
        self.change_index(|manifests| {
            manifests.retain(|other| reference(other) != Some(name));
            manifests.push(descriptor);
        })
    }

    /// Forgets a name. The image stays.
    ///
    /// # Errors
    /// When the index cannot be read or written.
    pub fn untag(&self, name: &str) -> Result<(), StoreError> {
        self.change_index(|manifests| manifests.retain(|other| reference(other) != Some(name)))
    }

    /// The image of this name, if there is one.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn tagged(&self, name: &str) -> Result<Option<Digest>, StoreError> {
        Ok(self.tags()?.into_iter().find(|tag| tag.name == name).map(|tag| tag.image))
    }

    /// All names.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn tags(&self) -> Result<Vec<Tag>, StoreError> {
        self.read_index()?
            .manifests()
            .iter()
            .filter_map(|descriptor| {
                let mut notes = descriptor.annotations().clone()?;
                let name = notes.remove(ANNOTATION_REF_NAME)?;
                Some(own_digest(descriptor.digest()).map(|image| Tag { name, image, notes }))
            })
            .collect()
    }

    pub(super) fn write_layout_file(&self) -> Result<(), StoreError> {
        let path = self.dir().join("oci-layout");
        if !path.exists() {
            self.replace("oci-layout", LAYOUT.as_bytes())?;
        }
        Ok(())
    }

    pub(super) fn read_index(&self) -> Result<ImageIndex, StoreError> {
        let path = self.dir().join("index.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| StoreError::Malformed {
                path,
                what: "image index",
                source,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => ImageIndexBuilder::default()
                .schema_version(2_u32)
                .media_type(MediaType::ImageIndex)
                .manifests(Vec::new())
                .build()
                .map_err(|error| StoreError::unfit("a new index", error.to_string())),
            Err(error) => Err(error).at("read", &path),
        }
    }

    fn change_index(&self, change: impl FnOnce(&mut Vec<Descriptor>)) -> Result<(), StoreError> {
        let path = self.dir().join("index.lock");
        let lock = File::options().create(true).append(true).open(&path).at("open", &path)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).at("lock", &path)?;
        let mut index = self.read_index()?;
        let mut manifests = index.manifests().clone();
        change(&mut manifests);
        index.set_manifests(manifests);
        let bytes = serde_json::to_vec_pretty(&index).map_err(|source| StoreError::Malformed {
            path: self.dir().join("index.json"),
            what: "image index",
            source,
        })?;
        self.replace("index.json", &bytes)
    }

    /// Writes a file of the layout: temporary, synced, renamed, the folder synced.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (mut file, temporary) = self.temporary_file()?;
        file.write_all(bytes).at("write", &temporary)?;
        file.as_file().sync_all().at("sync", &temporary)?;
        let path = self.dir().join(name);
        file.persist(&path).map_err(|error| error.error).at("name", &path)?;
        self.sync_folder("")
    }
}

pub(super) fn reference(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(ANNOTATION_REF_NAME).map(String::as_str)
}

/// The specification's type for one of our digests.
pub(super) fn oci_digest(digest: &Digest) -> Result<oci_spec::image::Digest, StoreError> {
    digest
        .as_str()
        .parse()
        .map_err(|error: oci_spec::OciSpecError| StoreError::unfit(digest.as_str(), error.to_string()))
}

/// Our type for one of the specification's digests, of which we take sha256 alone.
pub(super) fn own_digest(digest: &oci_spec::image::Digest) -> Result<Digest, StoreError> {
    Digest::parse(digest.to_string()).map_err(|error| StoreError::unfit(digest.to_string(), error.to_string()))
}
