//! Chooses what of a folder is deployed: all but what ignore files name and what never belongs.
//!
//! `.gitignore` counts as git counts it: inside a repository the files above the folder count too,
//! outside of one the folder's own do. A folder that its repository ignores altogether (a build's
//! output) is deployed by its own rules. `.drowseignore` has the same form and the last word.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use drowse_api::MemoryBytes;
use drowse_api::image::APP_ID;
use ignore::{DirEntry, WalkBuilder};

use super::{Entry, EntryKind, LeftOut, Source, SourceError};

/// Our own ignore file.
const IGNORE_FILE: &str = ".drowseignore";

/// Never deployed, wherever they are: made again by the build, or of no use to an app.
const NEVER: &[&str] = &[".git", ".hg", ".svn", "node_modules", ".venv", "__pycache__", ".DS_Store"];
/// Marks a virtual environment of Python, whatever its name.
const VENV_MARK: &str = "pyvenv.cfg";

const WHY_NEVER: &str = "never deployed";
const WHY_IGNORED: &str = "named in an ignore file";

/// Chooses and checks the entries of `root`.
///
/// # Errors
/// When something in it cannot be deployed.
pub fn choose(root: &Path) -> Result<Source, SourceError> {
    if !fs::metadata(root).is_ok_and(|found| found.is_dir()) {
        return Err(SourceError::NotAFolder { path: root.to_owned() });
    }
    let is_in_repository = is_in_repository(root);
    let mut chosen = walk(root, is_in_repository)?;
    if chosen.entries.is_empty() && is_in_repository {
        chosen = walk(root, false)?;
    }
    let mut source = Source {
        root: root.to_owned(),
        entries: Vec::new(),
        size: MemoryBytes(0),
        left_out: left_out(root, &chosen.entries),
        warnings: chosen.warnings,
    };
    for found in &chosen.entries {
        let entry = entry(root, found)?;
        if let EntryKind::File(size) = entry.kind {
            source.size.0 += size;
        }
        source.entries.push(entry);
    }
    source.check_limits()
}

struct Walked {
    entries: Vec<DirEntry>,
    warnings: Vec<String>,
}

/// All that is chosen; `above` is whether the ignore files above the folder count.
fn walk(root: &Path, above: bool) -> Result<Walked, SourceError> {
    let mut builder = walker(root);
    builder.git_ignore(true).require_git(false).parents(above).add_custom_ignore_filename(IGNORE_FILE);
    builder.filter_entry(|found| found.depth() == 0 || !never_belongs(found));
    let mut walked = Walked { entries: Vec::new(), warnings: Vec::new() };
    for found in builder.build() {
        let found = found.map_err(|error| unreadable(root, &error))?;
        if let Some(error) = found.error() {
            walked.warnings.push(format!("an ignore file has a line that is not understood: {error}"));
        }
        if found.depth() > 0 {
            walked.entries.push(found);
        }
    }
    Ok(walked)
}

/// Everything beside what was chosen. What stays behind is not looked into: it may be large, or
/// not for us to read.
fn left_out(root: &Path, chosen: &[DirEntry]) -> Vec<LeftOut> {
    let kept: HashSet<PathBuf> = chosen.iter().map(|found| found.path().to_owned()).collect();
    let (sender, receiver) = std::sync::mpsc::channel();
    let base = root.to_owned();
    let mut builder = walker(root);
    builder.filter_entry(move |found| {
        let why = match () {
            () if found.depth() == 0 || kept.contains(found.path()) => return true,
            () if never_belongs(found) => WHY_NEVER,
            () => WHY_IGNORED,
        };
        // The receiver lives as long as the walk.
        let _ = sender.send(LeftOut { path: below(&base, found.path()), why });
        false
    });
    // Whatever cannot be read was refused when the entries were chosen.
    builder.build().for_each(drop);
    drop(builder);
    receiver.into_iter().collect()
}

fn walker(root: &Path) -> WalkBuilder {
    let mut builder = WalkBuilder::new(root);
    builder.standard_filters(false).follow_links(false).sort_by_file_name(Ord::cmp);
    builder
}

fn never_belongs(found: &DirEntry) -> bool {
    NEVER.iter().any(|name| found.file_name() == *name)
        || (found.file_type().is_some_and(|kind| kind.is_dir()) && found.path().join(VENV_MARK).is_file())
}

fn is_in_repository(root: &Path) -> bool {
    let Ok(full) = std::path::absolute(root) else { return false };
    full.ancestors().any(|folder| folder.join(".git").exists())
}

fn below(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_owned()
}

/// What the walk could not read.
pub(super) fn unreadable(root: &Path, error: &ignore::Error) -> SourceError {
    let mut path = root.to_owned();
    let mut inner = error;
    while let ignore::Error::WithPath { err, .. } | ignore::Error::WithDepth { err, .. } = inner {
        if let ignore::Error::WithPath { path: named, .. } = inner {
            path.clone_from(named);
        }
        inner = err;
    }
    // The library's own text names the path again.
    let source = match inner.io_error() {
        Some(error) => error.kind().into(),
        None => io::Error::other(inner.to_string()),
    };
    SourceError::Unreadable { path, source }
}

/// Looks at one thing that was found, and makes an entry of it or refuses it.
fn entry(root: &Path, found: &DirEntry) -> Result<Entry, SourceError> {
    let path = found.path();
    let unreadable = |source| SourceError::Unreadable { path: path.to_owned(), source };
    let metadata = fs::symlink_metadata(path).map_err(unreadable)?;
    let kind = kind(path, &metadata)?;
    if let EntryKind::Link(target) = &kind
        && !stays_inside(&below(root, path), target)
    {
        return Err(SourceError::LinkOutside { path: path.to_owned(), target: target.clone() });
    }
    if let EntryKind::File(_) = kind {
        // Found out now, before anything is sent.
        fs::File::open(path).map_err(unreadable)?;
    }
    let is_runnable = metadata.is_dir() || metadata.permissions().mode() & 0o100 != 0;
    Ok(Entry {
        path: below(root, path),
        kind,
        // Not the bits themselves: they depend on the umask of whoever checked the folder out.
        mode: if is_runnable { 0o755 } else { 0o644 },
        owner: (u64::from(APP_ID), u64::from(APP_ID)),
        modified: u64::try_from(metadata.mtime()).unwrap_or_default(),
    })
}

/// What lies at `path`; refuses what is neither file, folder nor link.
pub(super) fn kind(path: &Path, metadata: &Metadata) -> Result<EntryKind, SourceError> {
    let special = |what| Err(SourceError::Special { path: path.to_owned(), what });
    let kind = metadata.file_type();
    if kind.is_file() {
        Ok(EntryKind::File(metadata.len()))
    } else if kind.is_dir() {
        Ok(EntryKind::Folder)
    } else if kind.is_symlink() {
        let target = fs::read_link(path);
        target.map(EntryKind::Link).map_err(|source| SourceError::Unreadable { path: path.to_owned(), source })
    } else if kind.is_fifo() {
        special("named pipe")
    } else if kind.is_socket() {
        special("socket")
    } else {
        special("device")
    }
}

/// Whether a link at `path` with this target leads to a place below the root, by names alone.
fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}
