//! A bundle as an image: its root becomes a layer, its description a label, so that bundles are
//! stored, fetched and started like everything else.

use std::os::fd::AsFd;
use std::path::{Component, Path};

use drowse_api::Digest;
use drowse_api::image::LABEL_TYPE;
use oci_spec::runtime::{Process, Spec};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::{AllowList, BundleError, check, json, read};
use crate::overlay::IdRange;
use crate::store::{Image, ImageStore, StoreError};

/// Label with the whole of a bundle's `config.json`.
const LABEL_SPEC: &str = "dev.drowse.bundle.config";
/// Ids that an image may use (one user's range).
const IDS: u32 = 65_536;

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
    /// Makes an image of the bundle in `dir`, if it asks for nothing but what `allow` has.
    ///
    /// # Errors
    /// [`StoreError::Bundle`] with every field that is refused and what to do.
    pub fn import_bundle(&self, dir: &Path, allow: &AllowList) -> Result<Digest, StoreError> {
        let bundle = |source| StoreError::Bundle { path: dir.to_owned(), source };
        let spec = read(dir).map_err(bundle)?;
        check(&spec, allow).map_err(|refusals| bundle(refusals.into()))?;
        let process = checked_process(&spec).map_err(bundle)?;
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

fn checked_process(spec: &Spec) -> Result<Process, BundleError> {
    let unfit = |field, problem: &str| Err(BundleError::Unfit { field, problem: problem.to_owned() });
    let Some(process) = spec.process() else {
        return unfit("process", "it is missing; a bundle must say what to run");
    };
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return unfit("process.args", "it is empty; a bundle must say what to run");
    }
    if !process.cwd().is_absolute() || process.cwd().components().any(|part| part == Component::ParentDir) {
        return unfit("process.cwd", "write an absolute path without \"..\"");
    }
    let user = process.user();
    let groups = user.additional_gids().iter().flatten().copied();
    if let Some(id) = [user.uid(), user.gid()].into_iter().chain(groups).find(|id| *id >= IDS) {
        return Err(BundleError::Id { id, count: IDS });
    }
    Ok(process.clone())
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
