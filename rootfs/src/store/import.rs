//! Images from outside: OCI layouts as folders or archives, and runtime bundles. All of it is
//! taken as hostile; what is stored was checked against its digest.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use drowse_api::Digest;
use oci_spec::image::{Arch, Descriptor, ImageIndex, ImageManifest, MediaType, Os};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use serde::de::DeserializeOwned;

use super::blobs::LARGEST_DOCUMENT;
use super::error::At;
use super::index::{own_digest, reference};
use super::{ImageStore, StoreError};
use crate::archive::{Limits, decompressed};
use crate::json;
use crate::unpack::{self, Policy};

/// The largest layer that is taken, compressed.
const LARGEST_LAYER: u64 = 8 << 30;
/// How deep indexes may point to indexes.
const DEEPEST_INDEX: usize = 4;

impl ImageStore {
    /// Takes over an image from an OCI image layout: a folder, or a tar archive of one (plain, gzip
    /// or zstd). With `reference` the image of that name, else the only one. Of several platforms,
    /// this machine's.
    ///
    /// # Errors
    /// When it is no layout, has no such image, or a blob is not what its digest says.
    pub fn import_layout(&self, path: &Path, reference: Option<&str>) -> Result<Digest, StoreError> {
        if fs::metadata(path).at("look at", path)?.is_dir() {
            return self.import_folder(path, path, reference);
        }
        let folder = self.temporary_folder()?;
        let archive = File::open(path).at("open", path)?;
        let stream = decompressed(archive, Limits::LAYER)?;
        unpack::unpack(stream, folder.path(), Policy::Upload { owner: 0 }, Limits::LAYER)
            .map_err(StoreError::Archive)?;
        self.import_folder(folder.path(), path, reference)
    }

    /// Takes over an image from a layout that a sandbox left at `path` below `root`, its upper folder. No link is
    /// followed: whoever wrote there must not choose another folder of the host.
    ///
    /// # Errors
    /// As [`import_layout`](Self::import_layout); when a link is on the way.
    pub fn import_layout_below(&self, root: &Path, path: &str, reference: Option<&str>) -> Result<Digest, StoreError> {
        let shown = root.join(path);
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let upper = rustix::fs::openat(CWD, root, flags, Mode::empty()).at("open", root)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let folder = rustix::fs::openat2(&upper, path, flags, Mode::empty(), resolve).at("open", &shown)?;
        let opened = format!("/proc/self/fd/{}/.", std::os::fd::AsRawFd::as_raw_fd(&folder));
        self.import_folder(Path::new(&opened), &shown, reference)
    }

    fn import_folder(&self, folder: &Path, shown: &Path, name: Option<&str>) -> Result<Digest, StoreError> {
        let source = Source::open(folder, shown)?;
        let layout: serde_json::Value = source.document("oci-layout", "OCI layout file")?;
        let version = layout.get("imageLayoutVersion").and_then(serde_json::Value::as_str).unwrap_or_default();
        if !version.starts_with("1.") {
            return Err(source.unfit(format!("its layout version {version:?} is unknown; 1.0.0 is supported")));
        }
        let index: ImageIndex = source.document("index.json", "image index")?;
        let mut descriptor = source.choose(&index, name)?;
        for _ in 0..DEEPEST_INDEX {
            if !is_index(descriptor.media_type()) {
                return self.import_image(&source, &descriptor);
            }
            let digest = self.copy_blob(&source, &descriptor, LARGEST_DOCUMENT)?;
            self.is_what_it_says(&source, &digest, &descriptor)?;
            let index: ImageIndex = self.document(&digest, "image index")?;
            descriptor = source.choose(&index, None)?;
        }
        Err(source.unfit("its indexes are nested too deeply"))
    }

    fn import_image(&self, source: &Source, descriptor: &Descriptor) -> Result<Digest, StoreError> {
        let digest = self.copy_blob(source, descriptor, LARGEST_DOCUMENT)?;
        self.is_what_it_says(source, &digest, descriptor)?;
        let manifest: ImageManifest = self.document(&digest, "image manifest")?;
        self.copy_blob(source, manifest.config(), LARGEST_DOCUMENT)?;
        for layer in manifest.layers() {
            if !layer.media_type().to_string().contains("tar") {
                return Err(source.unfit(format!("its layer {} has the type {}", layer.digest(), layer.media_type())));
            }
            self.copy_blob(source, layer, LARGEST_LAYER)?;
        }
        Ok(self.image(&digest)?.digest)
    }

    /// Refuses a document that is a manifest to one reader and an index to another.
    fn is_what_it_says(&self, source: &Source, digest: &Digest, descriptor: &Descriptor) -> Result<(), StoreError> {
        let document: serde_json::Value = self.document(digest, "image manifest or index")?;
        let is_both = document.get("manifests").is_some()
            && ["config", "layers"].iter().any(|field| document.get(field).is_some());
        if is_both {
            return Err(source.unfit(format!("{digest} is a manifest and an index at once")));
        }
        match document.get("mediaType") {
            Some(own) if own.as_str() != Some(descriptor.media_type().as_ref()) => Err(source.unfit(format!(
                "{digest} calls itself {own}, and is referred to as {:?}",
                descriptor.media_type().to_string()
            ))),
            _ => Ok(()),
        }
    }

    fn copy_blob(&self, source: &Source, descriptor: &Descriptor, limit: u64) -> Result<Digest, StoreError> {
        let digest = own_digest(descriptor.digest())?;
        if self.has_blob(&digest) {
            return Ok(digest);
        }
        if descriptor.size() > limit {
            return Err(source.unfit(format!("its blob {digest} is larger than allowed")));
        }
        let name = format!("blobs/sha256/{}", digest.hex());
        let file = source.file(&name)?;
        let size = file.metadata().at("look at", &source.shown.join(&name))?.len();
        if size != descriptor.size() {
            let announced = descriptor.size();
            return Err(source.unfit(format!("its blob {digest} has {size} bytes, and is said to have {announced}")));
        }
        self.put_blob(file, Some(&digest), size)?;
        Ok(digest)
    }
}

/// The layout that is imported: names in it are resolved beneath it and over no link.
struct Source {
    folder: OwnedFd,
    shown: PathBuf,
}

impl Source {
    fn open(folder: &Path, shown: &Path) -> Result<Self, StoreError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, folder, flags, Mode::empty()).at("open", folder)?;
        Ok(Self { folder: opened, shown: shown.to_owned() })
    }

    fn unfit(&self, reason: impl Into<String>) -> StoreError {
        StoreError::unfit(self.shown.display().to_string(), reason)
    }

    fn file(&self, name: &str) -> Result<File, StoreError> {
        let path = self.shown.join(name);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = rustix::fs::openat2(&self.folder, name, flags, Mode::empty(), resolve).at("open", &path)?;
        let stat = rustix::fs::fstat(&file).at("look at", &path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.unfit(format!("{name} is no regular file")));
        }
        Ok(file.into())
    }

    fn document<T: DeserializeOwned>(&self, name: &str, what: &'static str) -> Result<T, StoreError> {
        let path = self.shown.join(name);
        let mut bytes = Vec::new();
        self.file(name)?.take(LARGEST_DOCUMENT).read_to_end(&mut bytes).at("read", &path)?;
        json::parse(&bytes).map_err(|source| StoreError::Malformed { path, what, source })
    }

    /// The manifest of this name, or the only one, or this machine's.
    fn choose(&self, index: &ImageIndex, name: Option<&str>) -> Result<Descriptor, StoreError> {
        let named: Vec<&Descriptor> =
            index.manifests().iter().filter(|found| name.is_none() || reference(found) == name).collect();
        if let [only] = named[..] {
            return Ok(only.clone());
        }
        let here = |found: &&&Descriptor| {
            found
                .platform()
                .as_ref()
                .is_some_and(|platform| *platform.os() == Os::Linux && *platform.architecture() == Arch::default())
        };
        let fitting: Vec<_> = named.iter().filter(here).collect();
        match (&fitting[..], name) {
            ([found, others @ ..], _) if others.iter().all(|other| other.digest() == found.digest()) => {
                Ok((**found).clone())
            }
            ([_, ..], Some(name)) => Err(self.unfit(format!("it has several images named {name:?} for this machine"))),
            ([], Some(name)) if named.is_empty() => Err(self.unfit(format!("it has no image named {name:?}"))),
            _ => {
                let names: Vec<&str> = index.manifests().iter().filter_map(reference).collect();
                Err(self.unfit(format!("choose one of its images by name: {}", names.join(", "))))
            }
        }
    }
}

fn is_index(media_type: &MediaType) -> bool {
    *media_type == MediaType::ImageIndex
        || media_type.to_string() == "application/vnd.docker.distribution.manifest.list.v2+json"
}
