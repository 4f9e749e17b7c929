//! The platform's own lines in a log, in two capped files of which one is current.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

const CAP: u64 = 256 << 10;

pub(super) fn files(folder: &Path) -> [PathBuf; 2] {
    [folder.join("platform.0"), folder.join("platform.1")]
}

/// Adds a line to the log in `folder`. Best effort: a log that cannot be written stops nothing.
pub fn say(folder: &Path, text: &str) {
    if let Err(error) = add(folder, text) {
        tracing::warn!("cannot write to the log in {}: {error}", folder.display());
    }
}

fn add(folder: &Path, text: &str) -> std::io::Result<()> {
    let [zero, one] = files(folder);
    let changed = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    let (current, other) = if changed(&one) > changed(&zero) { (one, zero) } else { (zero, one) };
    let mut file = File::options().create(true).append(true).open(&current)?;
    if file.metadata()?.len() > CAP {
        file = File::create(&other)?;
    }
    let now = Timestamp::now().as_nanosecond();
    let record: String = text.lines().map(|line| format!("{now} p {line}\n")).collect();
    file.write_all(record.as_bytes())
}
