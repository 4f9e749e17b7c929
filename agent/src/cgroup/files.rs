//! Reading and writing the files of control groups, with errors that name the file.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::CgroupError;

/// How long a dying group is waited for when it is removed.
const REMOVE_WAIT: Duration = Duration::from_secs(2);

pub(super) fn failed(action: impl Into<String>, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let (action, path) = (action.into(), path.to_owned());
    move |source| CgroupError::Io { action, path, source }
}

pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    std::fs::read_to_string(path).map_err(failed("read", path))
}

/// Writes in one call, as the kernel wants it, to a file that must be there.
pub(super) fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    let written = OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(failed(format!("write {text:?} to"), path))
}

/// As [`write`], and then reads it back.
pub(super) fn write_checked(path: &Path, text: &str) -> Result<(), CgroupError> {
    write(path, text)?;
    check(path, text)
}

pub(super) fn check(path: &Path, wanted: &str) -> Result<(), CgroupError> {
    let found = read(path)?.trim().to_owned();
    if found == wanted {
        return Ok(());
    }
    Err(CgroupError::NotTaken { path: path.to_owned(), wanted: wanted.to_owned(), found })
}

pub(super) fn read_number(path: &Path) -> Result<u64, CgroupError> {
    let text = read(path)?;
    let text = text.trim();
    if text == "max" {
        return Ok(u64::MAX);
    }
    text.parse().map_err(|_| CgroupError::Form { path: path.to_owned(), found: text.to_owned() })
}

/// The number behind `key` in a file of `KEY NUMBER` lines.
pub(super) fn read_key(path: &Path, key: &str) -> Result<u64, CgroupError> {
    let text = read(path)?;
    let number = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok());
    number.ok_or_else(|| CgroupError::Form { path: path.to_owned(), found: text })
}

/// `None` where the file is not there: a group that was never made or is gone.
pub(super) fn if_there<T>(result: Result<T, CgroupError>) -> Result<Option<T>, CgroupError> {
    match result {
        Ok(value) => Ok(Some(value)),
        // A group removed between opening and reading answers ENODEV.
        Err(CgroupError::Io { source, .. })
            if source.kind() == ErrorKind::NotFound || source.raw_os_error() == Some(libc::ENODEV) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn make(folder: &Path) -> Result<(), CgroupError> {
    make_new(folder).map(drop)
}

/// As [`make`]; whether it was not there.
pub(super) fn make_new(folder: &Path) -> Result<bool, CgroupError> {
    match std::fs::create_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("make", folder)(error)),
    }
}

/// `cgroup.procs` of version 2, or `tasks` of version 1: a process that attaches itself alone by the
/// latter need not wait for the kernel's readers of process groups.
pub(super) fn open_procs(folder: &Path, name: &str) -> Result<OwnedFd, CgroupError> {
    let path = folder.join(name);
    Ok(OpenOptions::new().write(true).open(&path).map_err(failed("open", &path))?.into())
}

pub(super) fn pids(folder: &Path) -> Result<Vec<i32>, CgroupError> {
    let text = if_there(read(&folder.join("cgroup.procs")))?.unwrap_or_default();
    // A process of another pid namespace shows as 0, which names nobody.
    Ok(text.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| *pid > 0).collect())
}

/// The pids in `folder` and in the groups below it.
pub(super) fn pids_below(folder: &Path) -> Result<Vec<i32>, CgroupError> {
    let mut found = pids(folder)?;
    for child in children(folder)? {
        found.extend(pids_below(&child)?);
    }
    Ok(found)
}

/// The folders inside `folder`; none if it is not there.
pub(super) fn children(folder: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", folder))?;
        if entry.file_type().map_err(failed("list", folder))?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Removes a group with all below it, waiting a little for those whose last process is still dying.
pub(super) fn remove_tree(folder: &Path) -> Result<(), CgroupError> {
    for child in children(folder)? {
        remove_tree(&child)?;
    }
    let end = Instant::now() + REMOVE_WAIT;
    let mut pause = Duration::from_millis(1);
    loop {
        match std::fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // The kernel has no notice for "the last task is unhashed" on version 1: look again.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < end => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(error) => return Err(failed("remove", folder)(error)),
        }
    }
}

/// Removes a group if nothing is in it.
pub(super) fn remove_if_empty(folder: &Path) -> Result<(), CgroupError> {
    match std::fs::remove_dir(folder) {
        Err(error)
            if error.kind() != ErrorKind::NotFound
                && !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) =>
        {
            Err(failed("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

pub(super) fn open(path: &Path) -> Result<File, CgroupError> {
    File::open(path).map_err(failed("open", path))
}
