//! A bundle as an image: its root becomes a layer, its description a label, so that bundles are
//! stored, fetched and started like everything else.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use drowse_api::Digest;
use drowse_api::image::LABEL_TYPE;
use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::check::IDS;
use super::{AllowList, BundleError, Refusal, Refusals, check, read};
use crate::archive::{Limits, decompressed};
use crate::json;
use crate::overlay::IdRange;
use crate::store::{Image, ImageStore, StoreError};
use crate::unpack::{self, Policy};

/// Label with the whole of a bundle's `config.json`.
const LABEL_SPEC: &str = "dev.drowse.bundle.config";

/// The description that an image was imported with, if it was a bundle.
///
/// # Errors
/// When the label does not hold a description.
pub fn spec_of_image(image: &Image) -> Result<Option<Spec>, BundleError> {
    let labels = image.config.config().as_ref().and_then(|config| config.labels().as_ref());
    let Some(text) = labels.and_then(|labels| labels.get(LABEL_SPEC)) else { return Ok(None) };
    json::parse(text.as_bytes())
        .map(Some)
        .map_err(|source| BundleError::Malformed { path: format!("image {}", image.digest).into(), source })
}

impl ImageStore {
    /// Makes an image of a bundle that a user sent as an archive (tar, plain or compressed by gzip or
    /// zstd) of `config.json` and its root folder. Owners and permissions are kept as numbers.
    ///
    /// # Errors
    /// [`StoreError::Archive`] with the entry that is refused; as [`import_bundle`](Self::import_bundle).
    pub fn import_bundle_archive(&self, archive: File, allow: &AllowList) -> Result<Digest, StoreError> {
        let folder = self.temporary_folder()?;
        let stream = decompressed(archive, Limits::UPLOAD)?;
        unpack::unpack(stream, folder.path(), Policy::Bundle, Limits::UPLOAD).map_err(StoreError::Archive)?;
        self.import_bundle(folder.path(), allow)
    }

    /// Makes an image of the bundle in `dir`, if it asks for nothing but what `allow` has.
    ///
    /// # Errors
    /// [`StoreError::Bundle`] with every field that is refused and what to do.
    pub fn import_bundle(&self, dir: &Path, allow: &AllowList) -> Result<Digest, StoreError> {
        let bundle = |source| StoreError::Bundle { path: dir.to_owned(), source };
        let spec = read(dir).map_err(bundle)?;
        check(&spec, allow).map_err(|refusals| bundle(refusals.into()))?;
        let missing = Refusal { field: "process".to_owned(), found: "missing".to_owned(), advice: "add it" };
        let process = spec.process().clone().ok_or_else(|| bundle(Refusals(vec![missing]).into()))?;
        let text = serde_json::to_string(&spec)
            .map_err(|source| bundle(BundleError::Malformed { path: dir.join("config.json"), source }))?;
        let root = open_root(dir, &spec).map_err(bundle)?;
        // By descriptor, so that what was checked is what is read.
        let root = format!("/proc/self/fd/{}/.", std::os::fd::AsRawFd::as_raw_fd(&root.as_fd()));
        let ids = IdRange { first: 0, count: IDS };
        let layer = self.capture_layer(Path::new(&root), ids, &|_| true).map_err(|error| match error {
            StoreError::Capture { source, .. } => StoreError::Capture { path: dir.to_owned(), source },
            other => other,
        })?;
        self.compose(None, &[layer], &|image| {
            // What other tools read; we run what the label says.
            let mut config = image.config().clone().unwrap_or_default();
            config.set_entrypoint(process.args().clone());
            config.set_env(process.env().clone());
            config.set_working_dir(Some(process.cwd().display().to_string()));
            config.set_user(Some(format!("{}:{}", process.user().uid(), process.user().gid())));
            let labels = [(LABEL_TYPE, "bundle".to_owned()), (LABEL_SPEC, text.clone())];
            config.set_labels(Some(labels.map(|(key, value)| (key.to_owned(), value)).into()));
            image.set_config(Some(config));
        })
    }
}

/// The bundle's root folder, inside the bundle and over no link.
fn open_root(dir: &Path, spec: &Spec) -> Result<std::os::fd::OwnedFd, BundleError> {
    let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    let io = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |error: rustix::io::Errno| BundleError::Io { action, path, source: error.into() }
    };
    if root.as_os_str().is_empty() || root.is_absolute() {
        return Err(BundleError::Unfit {
            field: "root.path",
            problem: format!("{root:?} must be a folder of the bundle, as \"rootfs\""),
        });
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let bundle = rustix::fs::openat(CWD, dir, flags, Mode::empty()).map_err(io("open", dir))?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(&bundle, &root, flags, Mode::empty(), resolve).map_err(io("open", &dir.join(&root)))
}
