//! Where something that is copied goes.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::{CopyError, is_kernels_own, is_name};

/// A name in an open folder: from here on no path is looked up any more.
#[derive(Debug)]
pub struct Place {
    pub(crate) folder: OwnedFd,
    pub(crate) name: OsString,
    /// As users know it.
    pub(crate) shown: PathBuf,
}

impl Place {
    /// Into `path` under `name`, if `path` is a folder that is there; else `path` itself, whose parent
    /// must be there. The user's own links on the way are followed.
    ///
    /// # Errors
    /// If there is no such folder, or one that can hold no files.
    pub fn find(path: &Path, name: &OsStr) -> Result<Self, CopyError> {
        let refused = |why| CopyError::Refused { path: path.to_owned(), why };
        if !is_name(name) {
            return Err(CopyError::Refused { path: name.into(), why: "it is not a name" });
        }
        let ends_as_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let place = match open(path) {
            Ok(folder) => Self { folder, name: name.to_owned(), shown: path.join(name) },
            Err(Errno::NOENT) if ends_as_folder => return Err(CopyError::NotFound { path: path.to_owned() }),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                let own = path.file_name().filter(|_| !ends_as_folder);
                let own = own.ok_or_else(|| refused("it is not a folder"))?;
                let parent = match path.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                let folder = open(parent).map_err(|error| CopyError::io("open", parent, error))?;
                Self { folder, name: own.to_owned(), shown: path.to_owned() }
            }
            Err(error) => return Err(CopyError::io("open", path, error)),
        };
        let on = rustix::fs::fstatfs(&place.folder).map_err(|error| CopyError::io("look at", path, error))?;
        if is_kernels_own(&on) {
            return Err(refused("it is in a file system of the kernel's own"));
        }
        Ok(place)
    }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
