//! What buildah keeps of a user's earlier builds, so that the next one does only what is new: on a disk of its own, of
//! the size of a build's, so that no Dockerfile fills the host with layers. One build at a time has it; another one of
//! the same user, at the same time, begins with an empty one, which ends with it.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use drowse_api::UserId;
use drowse_api::instance::Limits;
use drowse_launcher::Bind;
use drowse_rootfs::IdRange;
use rustix::fs::FlockOperation;

use super::cache::on_a_disk;
use crate::host::Node;
use crate::host::error::SandboxError;
use crate::host::home::{Home, remove_folder};

/// Inside.
const LAYERS: &str = "/var/lib/containers";
/// A disk holds the files of whole base images.
const FILES: u32 = 1 << 18;

/// The layers for one build, which has them until this is dropped.
pub(super) struct Layers {
    place: Place,
    _turn: Option<File>,
}

enum Place {
    Disk(PathBuf),
    /// Where the host makes no disks. Forgotten as a whole when there is more in it than this.
    Folder(PathBuf, u64),
}

impl Layers {
    /// Opens those of `user`, or makes them. Blocking.
    pub(super) fn open(
        node: &Node,
        user: &UserId,
        home: &Home,
        ids: IdRange,
        limits: &Limits,
    ) -> Result<Self, SandboxError> {
        // Beside the other caches, which belong to the app's user: whoever owns a folder decides where a path in it
        // leads.
        let all = node.config.data_dir.join("layers");
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| SandboxError::io(action, &path, source)
        };
        let make =
            |path: &Path| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("make", path));
        make(&all)?;
        let lock = all.join(format!("{user}.lock"));
        let turn = File::options().create(true).append(true).open(&lock).map_err(io("open", &lock))?;
        let is_free = rustix::fs::flock(&turn, FlockOperation::NonBlockingLockExclusive).is_ok();
        let folder = if is_free { all.join(user.as_str()) } else { home.folder.join("storage") };
        let owner = ids.to_host(0);
        let place = if node.sandboxes.disks.is_limited() {
            // Of a release that had no disks here.
            remove_folder(&folder).map_err(io("remove", &folder))?;
            let image = folder.with_extension("disk");
            on_a_disk(node, &image, owner, &Limits { files: FILES.max(limits.files), ..*limits })?;
            Place::Disk(image)
        } else {
            make(&folder)?;
            chown(&folder, owner, owner).map_err(io("change the owner of", &folder))?;
            Place::Folder(folder, limits.disk.0)
        };
        Ok(Self { place, _turn: is_free.then_some(turn) })
    }

    /// How they appear in the sandbox. Their files have host ids of the user's range already.
    pub(super) fn bind(&self) -> Bind {
        let (source, is_disk) = match &self.place {
            Place::Disk(image) => (image, true),
            Place::Folder(folder, _) => (folder, false),
        };
        Bind { source: source.clone(), target: LAYERS.into(), read_only: false, idmap: None, is_disk }
    }

    /// A folder that took too much is forgotten, all of it: which layers the next build needs only buildah knows. A
    /// disk that is nearly full is, when it is opened. Blocking.
    pub(super) fn tidy(&self) -> std::io::Result<()> {
        match &self.place {
            Place::Folder(folder, most) if size_of(folder)? > *most => remove_folder(folder),
            Place::Folder(..) | Place::Disk(_) => Ok(()),
        }
    }
}

/// What the files below a folder take on disk. No link is followed.
fn size_of(folder: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut folders = vec![folder.to_owned()];
    let mut size = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let found = entry.metadata()?;
            size += found.blocks() * 512;
            if found.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(size)
}
