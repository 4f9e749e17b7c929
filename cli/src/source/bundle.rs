//! Chooses what of an OCI bundle is deployed: config.json and all of rootfs, with numeric owners
//! and all permission bits. What the bundle may ask for is judged by the platform.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use drowse_api::MemoryBytes;
use ignore::WalkBuilder;
use serde::Deserialize;

use super::folder::{kind, unreadable};
use super::{Entry, EntryKind, LeftOut, Source, SourceError};

const CONFIG: &str = "config.json";
const ROOT: &str = "rootfs";

/// The part of a bundle's configuration that decides what is packed.
#[derive(Deserialize)]
struct Config {
    root: Option<Root>,
}

#[derive(Deserialize)]
struct Root {
    path: PathBuf,
}

/// Whether the folder looks like a bundle.
pub fn looks_like_one(folder: &Path) -> bool {
    folder.join(CONFIG).is_file() && folder.join(ROOT).is_dir()
}

/// Chooses and checks the entries of the bundle in `folder`.
///
/// # Errors
/// When it is no bundle, or holds what cannot be packed.
pub fn choose(folder: &Path) -> Result<Source, SourceError> {
    check_config(folder)?;
    let mut source = Source {
        root: folder.to_owned(),
        entries: Vec::new(),
        size: MemoryBytes(0),
        left_out: Vec::new(),
        warnings: Vec::new(),
    };
    for top in [CONFIG, ROOT] {
        let mut builder = WalkBuilder::new(folder.join(top));
        builder.standard_filters(false).follow_links(false).sort_by_file_name(Ord::cmp);
        for found in builder.build() {
            let found = found.map_err(|error| unreadable(&folder.join(top), &error))?;
            if is_device_node(folder, found.path()) {
                let path = found.path().strip_prefix(folder).unwrap_or(found.path()).to_owned();
                source.left_out.push(LeftOut { path, why: "a device: sandboxes have a /dev of their own" });
                continue;
            }
            let entry = entry(folder, found.path())?;
            if let EntryKind::File(size) = entry.kind {
                source.size.0 += size;
            }
            source.entries.push(entry);
        }
    }
    source.check_limits()
}

fn check_config(folder: &Path) -> Result<(), SourceError> {
    let wrong = |why: String| SourceError::NotABundle { path: folder.to_owned(), why };
    let text = fs::read(folder.join(CONFIG)).map_err(|error| wrong(format!("cannot read {CONFIG}: {error}")))?;
    let config: Config = serde_json::from_slice(&text).map_err(|error| wrong(format!("{CONFIG}: {error}")))?;
    let root = config.root.map(|root| root.path).unwrap_or_default();
    // Compared by components: "rootfs", "./rootfs" and "rootfs/" are one.
    if Path::new(".").join(&root).components().ne(Path::new(".").join(ROOT).components()) {
        return Err(wrong(format!("root.path in {CONFIG} is {:?} and must be {ROOT:?}", root.display().to_string())));
    }
    if !folder.join(ROOT).is_dir() {
        return Err(wrong(format!("it has no folder {ROOT}")));
    }
    Ok(())
}

/// Whether it is a device where every root has some: in its `/dev`.
fn is_device_node(folder: &Path, path: &Path) -> bool {
    path.starts_with(folder.join(ROOT).join("dev"))
        && fs::symlink_metadata(path).is_ok_and(|found| {
            let kind = found.file_type();
            kind.is_char_device() || kind.is_block_device()
        })
}

fn entry(folder: &Path, path: &Path) -> Result<Entry, SourceError> {
    let unreadable = |source| SourceError::Unreadable { path: path.to_owned(), source };
    let metadata = fs::symlink_metadata(path).map_err(unreadable)?;
    let kind = kind(path, &metadata)?;
    if let EntryKind::File(_) = kind {
        fs::File::open(path).map_err(unreadable)?;
    }
    Ok(Entry {
        path: path.strip_prefix(folder).unwrap_or(path).to_owned(),
        kind,
        mode: metadata.permissions().mode() & 0o7777,
        owner: (u64::from(metadata.uid()), u64::from(metadata.gid())),
        modified: u64::try_from(metadata.mtime()).unwrap_or_default(),
    })
}
