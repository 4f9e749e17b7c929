//! What a folder has that is not already so in the layers below it.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const CHUNK: usize = 64 << 10;

/// Whether `path` of `root` has to be in a layer over `layers`, the bottom one first. Folders always are; whatever
/// cannot be compared is, too.
pub(super) fn differs(root: &Path, layers: &[PathBuf], path: &Path) -> bool {
    let ours = root.join(path);
    let Ok(found) = fs::symlink_metadata(&ours) else { return true };
    let below = layers.iter().rev().map(|layer| layer.join(path));
    let below = below.filter_map(|path| Some((fs::symlink_metadata(&path).ok()?, path))).next();
    below.is_none_or(|(there, path)| !is_same(&found, &ours, &there, &path).unwrap_or(false))
}

fn is_same(found: &Metadata, ours: &Path, there: &Metadata, below: &Path) -> std::io::Result<bool> {
    let owner = |of: &Metadata| (of.mode(), of.uid(), of.gid());
    if owner(found) != owner(there) {
        return Ok(false);
    }
    if found.is_symlink() {
        return Ok(fs::read_link(ours)? == fs::read_link(below)?);
    }
    Ok(found.is_file() && found.len() == there.len() && have_same_bytes(&File::open(ours)?, &File::open(below)?)?)
}

/// Of two files of one length.
fn have_same_bytes(mut one: &File, mut other: &File) -> std::io::Result<bool> {
    let (mut of_one, mut of_other) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let length = one.read(&mut of_one)?;
        if length == 0 {
            return Ok(true);
        }
        other.read_exact(&mut of_other[..length])?;
        if of_one[..length] != of_other[..length] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_what_is_not_below_already_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, below) = (folder.path().join("root"), folder.path().join("below"));
        for side in [&root, &below] {
            fs::create_dir_all(side.join("lib")).expect("a folder");
            for (name, text) in [("lib/same", "a"), ("lib/mode", "b"), ("lib/text", "c")] {
                fs::write(side.join(name), text).expect("a file");
            }
            symlink("same", side.join("lib/link")).expect("a link");
        }
        fs::write(root.join("lib/text"), "d").expect("a file");
        fs::write(root.join("lib/new"), "e").expect("a file");
        fs::set_permissions(root.join("lib/mode"), fs::Permissions::from_mode(0o755)).expect("rights");
        let kept = |layers: &[PathBuf]| {
            ["lib", "lib/same", "lib/link", "lib/mode", "lib/text", "lib/new"]
                .into_iter()
                .filter(|path| differs(&root, layers, Path::new(path)))
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(&[below]), ["lib", "lib/mode", "lib/text", "lib/new"]);
        assert_eq!(kept(&[]).len(), 6, "all of it where nothing is below");
    }
}
