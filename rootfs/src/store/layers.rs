//! Unpacked layers: each on disk once, whoever uses it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use drowse_api::Digest;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::error::At;
use super::{Image, ImageStore, Layer, StoreError};
use crate::archive::{Limits, decompressed};
use crate::capture::{self, Rules};
use crate::digest::Hashed;
use crate::overlay::IdRange;
use crate::unpack::{self, Policy, UnpackError};

impl ImageStore {
    /// The unpacked layers of an image, the bottom one first. Those that are not on disk yet are
    /// unpacked; whoever asks for the same one meanwhile waits.
    ///
    /// # Errors
    /// [`StoreError::Unpack`] with the layer and the entry that is refused; nothing of it is kept.
    pub fn unpack(&self, image: &Image) -> Result<Vec<PathBuf>, StoreError> {
        self.unpack_layers(&image.layers)
    }

    /// As [`unpack`](Self::unpack), for some layers of an image or of several.
    ///
    /// # Errors
    /// As [`unpack`](Self::unpack).
    pub fn unpack_layers(&self, layers: &[Layer]) -> Result<Vec<PathBuf>, StoreError> {
        layers.iter().map(|layer| self.unpack_layer(layer)).collect()
    }

    /// Makes a layer of what an overlay's upper folder holds: whiteouts and opaque folders in the
    /// specification's form, host ids of `ids` as the image's ids again. `keep` is asked for each
    /// path relative to `upper`; a folder it leaves out takes all below with it.
    ///
    /// # Errors
    /// [`StoreError::Capture`] with the path that cannot be kept, as a file that belongs to somebody
    /// outside of `ids`.
    pub fn capture_layer(&self, upper: &Path, ids: IdRange, keep: &dyn Fn(&Path) -> bool) -> Result<Layer, StoreError> {
        self.capture(upper, &Rules { prefix: "", ids, keep })
    }

    /// Makes a layer of an archive that a user sent (tar, plain or compressed by gzip or zstd): its
    /// files below `prefix`, owned by `owner`, with modes 0755 or 0644. Only files, folders and
    /// symbolic links; `.git` is left out.
    ///
    /// # Errors
    /// [`StoreError::Archive`] with the entry that is refused.
    pub fn layer_from_archive(&self, archive: File, prefix: &str, owner: u32) -> Result<Layer, StoreError> {
        let folder = self.temporary_folder()?;
        let root = folder.path().join("root");
        fs::create_dir(&root).at("make", &root)?;
        // What the archive does not say of its root.
        let mut plain = fs::metadata(&root).at("look at", &root)?.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut plain, 0o755);
        fs::set_permissions(&root, plain).at("set the mode of", &root)?;
        std::os::unix::fs::chown(&root, Some(owner), Some(owner)).at("give away", &root)?;
        let stream = decompressed(archive, Limits::UPLOAD)?;
        unpack::unpack(stream, &root, Policy::Upload { owner }, Limits::UPLOAD).map_err(StoreError::Archive)?;
        // Unpacking dated it: the same upload must be the same layer, whenever it comes.
        rustix::fs::utimensat(CWD, &root, &epoch(), rustix::fs::AtFlags::empty()).at("date", &root)?;
        let rules = Rules { prefix: prefix.trim_matches('/'), ids: IdRange::IDENTITY, keep: &|_| true };
        self.capture(&root, &rules)
    }

    /// Where an unpacked layer is or would be.
    #[must_use]
    pub fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.dir().join("layers").join(diff_id.hex())
    }

    pub(crate) fn capture(&self, folder: &Path, rules: &Rules<'_>) -> Result<Layer, StoreError> {
        let layer = self.put_layer(|out| {
            capture::write_layer(folder, rules, out)
                .map(drop)
                .map_err(|source| StoreError::Capture { path: folder.to_owned(), source })
        })?;
        self.unpack_layer(&layer)?;
        Ok(layer)
    }

    fn unpack_layer(&self, layer: &Layer) -> Result<PathBuf, StoreError> {
        self.note_layer(&layer.diff_id);
        let path = self.layer_path(&layer.diff_id);
        if path.is_dir() {
            return Ok(path);
        }
        let turn = {
            let mut unpacking = self.inner.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(unpacking.entry(layer.diff_id.clone()).or_default())
        };
        let result = {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            if path.is_dir() { Ok(()) } else { self.unpack_now(layer, &path) }
        };
        let mut unpacking = self.inner.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        // Two handles are left when nobody else waits: the map's and ours.
        if Arc::strong_count(&turn) <= 2 {
            unpacking.remove(&layer.diff_id);
        }
        drop(unpacking);
        result.map(|()| path)
    }

    fn unpack_now(&self, layer: &Layer, path: &Path) -> Result<(), StoreError> {
        let folder = self.temporary_folder()?;
        let root = folder.path().join("root");
        fs::create_dir(&root).at("make", &root)?;
        fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o755)).at("set the mode of", &root)?;
        let refused = |source: UnpackError| StoreError::Unpack { layer: layer.blob.clone(), source };
        let stream =
            decompressed(self.open_blob(&layer.blob)?, Limits::LAYER).map_err(|error| refused(error.into()))?;
        let mut stream = Hashed::new(stream);
        unpack::unpack(&mut stream, &root, Policy::Layer, Limits::LAYER).map_err(refused)?;
        let (_, found, _) = stream.finish();
        if found != layer.diff_id {
            return Err(StoreError::WrongDigest { expected: layer.diff_id.clone(), found });
        }
        let opened = File::open(&root).at("open", &root)?;
        rustix::fs::syncfs(&opened).at("sync", &root)?;
        match rustix::fs::renameat_with(CWD, &root, CWD, path, RenameFlags::NOREPLACE) {
            // Another process was faster with the same content.
            Err(Errno::EXIST) => Ok(()),
            other => {
                other.at("name", path)?;
                self.sync_folder("layers")
            }
        }
    }
}

fn epoch() -> rustix::fs::Timestamps {
    let time = rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::fs::Timestamps { last_access: time, last_modification: time }
}
