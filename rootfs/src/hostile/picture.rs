//! What a folder holds, so that two looks at it can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// For each path below `root` its type, mode, owner, time, and content or target.
///
/// # Panics
/// Where it cannot be read.
#[must_use]
pub fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut picture = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("metadata");
            let content = if metadata.is_symlink() {
                fs::read_link(&path).expect("a link").as_os_str().as_bytes().to_vec()
            } else if metadata.is_file() {
                fs::read(&path).expect("a file")
            } else {
                format!("device {:x}", metadata.rdev()).into_bytes()
            };
            let line = format!(
                "{:o} {}:{} {} {}",
                metadata.mode(),
                metadata.uid(),
                metadata.gid(),
                metadata.mtime(),
                String::from_utf8_lossy(&content)
            );
            picture.insert(path.strip_prefix(root).expect("below the root").to_owned(), line);
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    picture
}
