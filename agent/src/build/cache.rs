//! What package managers of a user fetched, kept for the next build: on a disk of its own, so that no
//! build fills the host with it. One build at a time has it; another one of the same user, at the same
//! time, does without.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use drowse_api::UserId;
use drowse_api::image::APP_ID;
use drowse_api::instance::Limits;
use drowse_launcher::Bind;
use drowse_launcher::disk::Disk;
use drowse_rootfs::IdRange;

use crate::disk::DiskError;
use crate::host::Node;
use crate::host::error::SandboxError;
use crate::host::home::{remove_file, remove_folder};

const INSIDE: &str = "/cache";

/// The cache of one step of a build, which has it until this is dropped.
pub(super) enum Cache {
    /// A disk, locked by the open file.
    Disk { image: PathBuf, _lock: File },
    /// A folder of the host, where it makes no disks.
    Folder(PathBuf),
    /// Another build has it.
    None,
}

/// The disk of a cache: as it is, or an empty one of `owner` if there is none, or it is nearly full. Blocking.
pub(super) fn on_a_disk(node: &Node, image: &Path, owner: Option<u32>, limits: &Limits) -> Result<(), SandboxError> {
    let io = |action| move |source| SandboxError::io(action, image, source);
    if std::fs::metadata(image).is_ok_and(|disk| disk.blocks() * 512 > limits.disk.0 / 4 * 3) {
        // A full one would fail builds; all that is in it can be had again.
        remove_file(image).map_err(io("remove"))?;
    }
    if !image.exists() {
        node.sandboxes.disks.make(image, limits)?;
        let disk = Disk::open(image).map_err(DiskError::from)?;
        remove_folder(&disk.path().join("lost+found")).map_err(io("prepare"))?;
        chown(disk.path(), owner, owner).map_err(io("prepare"))?;
    }
    Ok(())
}

impl Cache {
    /// Opens that of `user`, or makes it. Blocking.
    pub(super) fn open(node: &Node, user: &UserId, ids: IdRange, limits: &Limits) -> Result<Self, SandboxError> {
        let all = node.config.data_dir.join("cache");
        let folder = all.join(user.as_str());
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| SandboxError::io(action, &path, source)
        };
        let owner = ids.to_host(APP_ID);
        std::fs::create_dir_all(&all).map_err(io("make", &all))?;
        if !node.sandboxes.disks.is_limited() {
            std::fs::create_dir_all(&folder).map_err(io("make", &folder))?;
            chown(&folder, owner, owner).map_err(io("change the owner of", &folder))?;
            return Ok(Self::Folder(folder));
        }
        let path = all.join(format!("{user}.lock"));
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(io("open", &path))?;
        if lock.try_lock().is_err() {
            return Ok(Self::None);
        }
        // Of a release that had no disks, or of a time in which the host made none.
        remove_folder(&folder).map_err(io("remove", &folder))?;
        let image = all.join(format!("{user}.disk"));
        on_a_disk(node, &image, owner, limits)?;
        Ok(Self::Disk { image, _lock: lock })
    }

    /// How it appears in the sandbox.
    pub(super) fn bind(&self) -> Option<Bind> {
        let bind = |source: &PathBuf, is_disk| Bind {
            source: source.clone(),
            target: INSIDE.into(),
            read_only: false,
            idmap: None,
            is_disk,
        };
        match self {
            Self::Disk { image, .. } => Some(bind(image, true)),
            Self::Folder(folder) => Some(bind(folder, false)),
            Self::None => None,
        }
    }

    /// Where npm keeps what it fetched.
    pub(super) fn npm(&self) -> &'static str {
        if matches!(self, Self::None) { "/tmp/cache/npm" } else { "/cache/npm" }
    }

    /// Where pip does.
    pub(super) fn pip(&self) -> &'static str {
        if matches!(self, Self::None) { "/tmp/cache/pip" } else { "/cache/pip" }
    }
}
