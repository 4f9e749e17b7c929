//! What a stack's folder gets and loses after the packages are in it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use super::{Recipe, StackError};

/// Left by the installation, of no use to apps, or different in every build.
const LEFTOVERS: [&str; 12] = [
    "etc/apt",
    "etc/machine-id",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "var/cache/apt",
    "var/cache/debconf",
    "var/cache/ldconfig",
    "var/lib/apt",
    "usr/share/doc",
    "usr/share/man",
];
/// Emptied: the sandbox mounts its own there, or their content is of the build.
const EMPTIED: [&str; 5] = ["dev", "run", "tmp", "var/log", "var/tmp"];
/// Mount targets of the files that every sandbox gets.
const TARGETS: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// Turns a folder with packages into the stack's root.
pub(super) fn finish(root: &Path, recipe: &Recipe) -> Result<(), StackError> {
    for name in LEFTOVERS.iter().copied().chain(recipe.remove.iter().map(String::as_str)) {
        remove(&root.join(name))?;
    }
    for name in EMPTIED {
        let folder = root.join(name);
        for entry in fs::read_dir(&folder).map_err(|source| io_error("read", &folder, source))? {
            remove(&entry.map_err(|source| io_error("read", &folder, source))?.path())?;
        }
    }
    for name in TARGETS {
        let path = root.join(name);
        remove(&path)?;
        fs::write(&path, "").map_err(|source| io_error("write", &path, source))?;
    }
    let user = &recipe.user;
    let (name, id) = (&user.name, user.id);
    append(root, "etc/passwd", &format!("{name}:x:{id}:{id}::{}:{}\n", user.home, user.shell))?;
    append(root, "etc/group", &format!("{name}:x:{id}:\n"))?;
    for name in &recipe.folders {
        let path = root.join(name);
        fs::create_dir_all(&path).map_err(|source| io_error("make", &path, source))?;
        chown(&path, Some(id), Some(id)).map_err(|source| io_error("give away", &path, source))?;
    }
    Ok(())
}

pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> StackError {
    StackError::Io { action, path: path.to_owned(), source }
}

/// Removes a file, link or folder with all below, if it is there.
fn remove(path: &PathBuf) -> Result<(), StackError> {
    let result = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    result.map_err(|source| io_error("remove", path, source))
}

fn append(root: &Path, name: &str, line: &str) -> Result<(), StackError> {
    let path = root.join(name);
    let file = fs::File::options().append(true).open(&path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|source| io_error("write", &path, source))
}
