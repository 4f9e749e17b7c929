//! Blobs: files named by what they hash to.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;

use drowse_api::{Digest, MemoryBytes};
use oci_spec::image::MediaType;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use super::error::At;
use super::{ImageStore, StoreError};
use crate::digest::{self, Hashed};
use crate::json;

/// The largest manifest, index or configuration that is read (as registries limit them).
pub(crate) const LARGEST_DOCUMENT: u64 = 4 << 20;

impl ImageStore {
    /// Where a blob is or would be.
    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir().join("blobs/sha256").join(digest.hex())
    }

    /// Stores what `reader` gives, and says what it hashes to and its size. With `expected`,
    /// anything else is refused; more than `limit` bytes are refused at the byte that is too many.
    ///
    /// # Errors
    /// [`StoreError::WrongDigest`], [`StoreError::TooLarge`], or what failed; nothing is stored.
    pub fn put_blob(
        &self,
        reader: impl Read,
        expected: Option<&Digest>,
        limit: u64,
    ) -> Result<(Digest, u64), StoreError> {
        let (mut file, path) = self.temporary_file()?;
        let mut reader = Hashed::new(reader.take(limit.saturating_add(1)));
        let mut buffer = vec![0_u8; 256 << 10];
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(StoreError::Source(error)),
            };
            file.write_all(&buffer[..read]).at("write", &path)?;
        }
        let (_, digest, size) = reader.finish();
        if size > limit {
            return Err(StoreError::TooLarge { limit: MemoryBytes(limit) });
        }
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(StoreError::WrongDigest { expected: expected.clone(), found: digest });
        }
        self.commit(file, &digest)?;
        Ok((digest, size))
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        self.note_blob(digest);
        let path = self.blob_path(digest);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::Missing { digest: digest.clone(), store: self.dir().to_owned() })
            }
            other => other.at("open", &path),
        }
    }

    /// Whether a blob is here.
    #[must_use]
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.note_blob(digest);
        self.blob_path(digest).exists()
    }

    pub(super) fn temporary_file(&self) -> Result<(NamedTempFile, PathBuf), StoreError> {
        let tmp = self.dir().join("tmp");
        let file = tempfile::Builder::new().prefix("blob-").tempfile_in(&tmp).at("make a file in", &tmp)?;
        let path = file.path().to_owned();
        Ok((file, path))
    }

    /// Gives a complete temporary file its name.
    pub(super) fn commit(&self, file: NamedTempFile, digest: &Digest) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        file.as_file().sync_all().at("sync", file.path())?;
        self.note_blob(digest);
        file.persist(&path).map_err(|error| error.error).at("name", &path)?;
        self.sync_folder("blobs/sha256")
    }

    /// A layer's blob, written by `write`, which is given a sink for the uncompressed archive.
    pub(super) fn put_layer(
        &self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), StoreError>,
    ) -> Result<super::Layer, StoreError> {
        let (file, path) = self.temporary_file()?;
        let compressed = Hashed::new(BufWriter::with_capacity(256 << 10, file));
        // Level 1: layers are read far more often than they are sent.
        let encoder = zstd::Encoder::new(compressed, 1).at("write", &path)?;
        let mut archive = Hashed::new(encoder);
        write(&mut archive)?;
        let (encoder, diff_id, _) = archive.finish();
        let (buffered, blob, size) = encoder.finish().at("write", &path)?.finish();
        let file = buffered.into_inner().map_err(io::IntoInnerError::into_error).at("write", &path)?;
        self.commit(file, &blob)?;
        Ok(super::Layer { blob, size, diff_id, media_type: MediaType::ImageLayerZstd })
    }

    /// Stores a document and says its digest and size.
    pub(super) fn put_document(&self, document: &impl Serialize) -> Result<(Digest, u64), StoreError> {
        let bytes = serde_json::to_vec(document).map_err(|source| StoreError::Malformed {
            path: self.dir().to_owned(),
            what: "document",
            source,
        })?;
        let digest = digest::of(&bytes);
        if !self.has_blob(&digest) {
            self.put_blob(&bytes[..], Some(&digest), LARGEST_DOCUMENT)?;
        }
        Ok((digest, bytes.len() as u64))
    }

    /// Reads a document and checks that it still is what its name says.
    pub(super) fn document<T: DeserializeOwned>(&self, digest: &Digest, what: &'static str) -> Result<T, StoreError> {
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        self.open_blob(digest)?.take(LARGEST_DOCUMENT + 1).read_to_end(&mut bytes).at("read", &path)?;
        if bytes.len() as u64 > LARGEST_DOCUMENT {
            return Err(StoreError::TooLarge { limit: MemoryBytes(LARGEST_DOCUMENT) });
        }
        let found = digest::of(&bytes);
        if found != *digest {
            return Err(StoreError::WrongDigest { expected: digest.clone(), found });
        }
        json::parse(&bytes).map_err(|source| StoreError::Malformed { path, what, source })
    }
}
