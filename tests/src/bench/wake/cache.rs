//! What of a folder's files is in the page cache: all or nothing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use rustix::fs::{Advice, fadvise};

/// Has all of it in memory: the bytes.
pub(super) fn read(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for path in files(folder)? {
        bytes += std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?.len() as u64;
    }
    Ok(bytes)
}

/// Has nothing of it in memory, and makes sure of that.
pub(super) fn drop(folder: &Path) -> anyhow::Result<()> {
    let files = files(folder)?;
    for path in &files {
        let file = File::open(path)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    let looked = Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES"]).args(&files).output();
    let looked = looked.context("cannot run fincore (Debian: util-linux)")?;
    let left: u64 =
        String::from_utf8_lossy(&looked.stdout).split_whitespace().filter_map(|n| n.parse::<u64>().ok()).sum();
    anyhow::ensure!(looked.status.success() && left == 0, "{left} bytes of {} stay in memory", folder.display());
    Ok(())
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.is_file()).collect())
}
