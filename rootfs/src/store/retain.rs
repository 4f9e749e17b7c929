//! Mark and sweep: what neither a tag nor a root names, nobody uses and nobody has just put is
//! removed.

use std::collections::HashSet;
use std::fs::{self, DirEntry, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use drowse_api::{Digest, MemoryBytes};
use oci_spec::image::{ImageConfiguration, ImageManifest};
use rustix::fs::FlockOperation;

use super::error::At;
use super::index::own_digest;
use super::uses::Part;
use super::{ImageStore, StoreError};

/// Older temporary files were left behind by something that was killed.
const STALE: Duration = Duration::from_hours(24);
/// What is on its way out, in `tmp`.
const GONE: &str = "gone-";

/// What is needed beside what has a tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// Manifests: with their configuration and layers, packed and unpacked.
    pub images: HashSet<Digest>,
    /// Single blobs, as uploads that are to be built.
    pub blobs: HashSet<Digest>,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many blobs.
    pub blobs: usize,
    /// How many unpacked layers.
    pub layers: usize,
    /// Size of the blobs.
    pub size: MemoryBytes,
}

/// What a sweep leaves alone.
#[derive(Debug, Default)]
struct Marked {
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
}

impl ImageStore {
    /// Removes what is not needed: neither named by a tag or one of the `roots`, nor used under a
    /// [`hold`](Self::hold), nor, for blobs, put within the last `grace`. `roots` is asked after the
    /// sweep has begun to keep whatever is used, so that nothing can change hands unseen. Unpacked
    /// layers need no grace: they are made again from their blobs. Nothing happens while another
    /// process makes a stack: then the answer is none.
    ///
    /// # Errors
    /// Those of `roots`; when a tag or a root cannot be read, and nothing was removed; or what the
    /// file system refused.
    pub fn retain<E: From<StoreError>>(
        &self,
        roots: impl FnOnce() -> Result<Roots, E>,
        grace: Duration,
    ) -> Result<Option<Removed>, E> {
        let lock = self.sweep_lock()?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        self.sweep_temporary()?;
        let hold = self.hold_with_others();
        let mut roots = roots()?;
        roots.images.extend(self.tags()?.into_iter().map(|tag| tag.image));
        let marked = self.mark(roots)?;
        let removed = self.sweep(&marked, grace)?;
        drop(hold);
        Ok(Some(removed))
    }

    /// Keeps sweeps of other processes away for as long as the file is open.
    pub(crate) fn hold_off_sweeps(&self) -> Result<File, StoreError> {
        let lock = self.sweep_lock()?;
        rustix::fs::flock(&lock, FlockOperation::LockShared).at("lock", &self.dir().join("sweep.lock"))?;
        Ok(lock)
    }

    fn sweep_lock(&self) -> Result<File, StoreError> {
        let path = self.dir().join("sweep.lock");
        File::options().create(true).append(true).open(&path).at("open", &path)
    }

    /// Follows every root to all that it is made of. A root that is not here names nothing.
    fn mark(&self, roots: Roots) -> Result<Marked, StoreError> {
        let mut marked = Marked { blobs: roots.blobs, ..Marked::default() };
        for image in roots.images {
            let Some(manifest) = here(self.document::<ImageManifest>(&image, "image manifest"))? else { continue };
            marked.blobs.insert(image);
            for layer in manifest.layers() {
                marked.blobs.insert(own_digest(layer.digest())?);
            }
            let config = own_digest(manifest.config().digest())?;
            let document = here(self.document::<ImageConfiguration>(&config, "image configuration"))?;
            for diff_id in document.iter().flat_map(|config| config.rootfs().diff_ids()) {
                let parsed = Digest::parse(diff_id.clone());
                marked.layers.insert(parsed.map_err(|e| StoreError::unfit(diff_id.clone(), e.to_string()))?);
            }
            marked.blobs.insert(config);
        }
        Ok(marked)
    }

    fn sweep(&self, marked: &Marked, grace: Duration) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        let blobs = self.dir().join("blobs/sha256");
        for (entry, digest) in named_by_digest(&blobs)? {
            if marked.blobs.contains(&digest) {
                continue;
            }
            let path = entry.path();
            // Its age is looked at under the lock, too: it may just have been put again.
            let size = self.inner.uses.unless_used(&Part::Blob(digest), || {
                let found = fs::symlink_metadata(&path).ok().filter(|found| is_older(found, grace))?;
                Some(fs::remove_file(&path).map(|()| found.size()))
            });
            if let Some(size) = size {
                removed.size.0 += size.at("remove", &path)?;
                removed.blobs += 1;
            }
        }
        for (entry, diff_id) in named_by_digest(&self.dir().join("layers"))? {
            if marked.layers.contains(&diff_id) {
                continue;
            }
            let (path, gone) = (entry.path(), self.dir().join("tmp").join(format!("{GONE}{}", diff_id.hex())));
            let renamed = self.inner.uses.unless_used(&Part::Layer(diff_id), || Some(fs::rename(&path, &gone)));
            if let Some(renamed) = renamed {
                renamed.at("remove", &path)?;
                fs::remove_dir_all(&gone).at("remove", &gone)?;
                removed.layers += 1;
            }
        }
        Ok(removed)
    }

    /// What a crash left in `tmp` while somebody else had the store open.
    fn sweep_temporary(&self) -> Result<(), StoreError> {
        let folder = self.dir().join("tmp");
        for entry in fs::read_dir(&folder).at("read", &folder)? {
            let entry = entry.at("read", &folder)?;
            let path = entry.path();
            let is_gone = entry.file_name().to_string_lossy().starts_with(GONE);
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            if !is_gone && !is_older(&found, STALE) {
                continue;
            }
            let done = if found.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            done.at("remove", &path)?;
        }
        Ok(())
    }
}

/// None for what is not here.
fn here<T>(found: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match found {
        Err(StoreError::Missing { .. }) => Ok(None),
        other => other.map(Some),
    }
}

/// Entries whose name is a digest; nothing else in there is ours.
fn named_by_digest(folder: &Path) -> Result<Vec<(DirEntry, Digest)>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).at("read", folder)? {
        let entry = entry.at("read", folder)?;
        if let Ok(digest) = Digest::parse(format!("sha256:{}", entry.file_name().to_string_lossy())) {
            found.push((entry, digest));
        }
    }
    Ok(found)
}

/// A date in the future is no age.
fn is_older(found: &fs::Metadata, age: Duration) -> bool {
    let modified = found.modified().ok();
    modified.and_then(|at| SystemTime::now().duration_since(at).ok()).is_some_and(|passed| passed >= age)
}
