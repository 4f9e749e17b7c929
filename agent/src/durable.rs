//! Files that must survive a crash: written beside, synced, renamed, and the folder synced.
//!
//! A file is one line, `MAGIC vVERSION sha256:HEX LENGTH`, and then LENGTH bytes of JSON, so that a
//! person can read it and a torn, cut or foreign file is told from a good one. The checksum covers
//! the first two words and the JSON. This module knows nothing of what the records mean, and one
//! file has one writer at a time.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// The largest file that is written or read.
pub const MAX_SIZE: u64 = 64 << 20;

/// Longest first line: a magic word, a version, 64 hexadecimal digits, a length.
const MAX_HEADER: usize = 200;

/// Why a file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// A call on the file failed.
    #[error("cannot {action} {path}")]
    Io {
        /// `read`, `write`, `sync`, `rename`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The record cannot be written as JSON.
    #[error("the record for {path} cannot be written as JSON")]
    Encode {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// The file is not whole, or not ours.
    #[error("{path} is damaged: {what}")]
    Corrupted {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The file was written by a newer program.
    #[error(
        "{path} has version {found} of its form and this program reads up to {known}: install the newer version again"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The file is larger than [`MAX_SIZE`].
    #[error("{path} has {size} bytes; at most {MAX_SIZE} are allowed")]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
}

impl DurableError {
    /// Whether the file's content is at fault, so that [`quarantine`] helps: not when it is newer, and
    /// not when it could not be read at all.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupted { .. } | Self::TooLarge { .. })
    }
}

/// Replaces the file at `path` by `record`, so that after any crash either the old or the new one is
/// there, whole. The folder must be there. `magic` is one word; the file is readable by its owner only.
///
/// # Errors
/// If a step fails; the old file is then untouched, unless only the sync of the folder failed.
pub fn save<T: Serialize>(path: &Path, magic: &str, version: u32, record: &T) -> Result<(), DurableError> {
    write(path, magic, version, record)?.commit()
}

/// As [`save`], for what a reboot makes meaningless: after the death of this process the old or the new
/// file is there, whole; after that of the host it may be damaged. It does not wait for the disk.
///
/// # Errors
/// As [`save`].
pub fn save_until_reboot<T: Serialize>(path: &Path, magic: &str, version: u32, record: &T) -> Result<(), DurableError> {
    write(path, magic, version, record).and_then(|written| written.rename())
}

/// The first half of [`save`]: whether there is room is known, and the file at `path` is still the old one.
///
/// # Errors
/// If the new one cannot be written.
pub fn write<T: Serialize>(path: &Path, magic: &str, version: u32, record: &T) -> Result<Written, DurableError> {
    let failed = |action| move |source| DurableError::Io { action, path: path.to_owned(), source };
    let body = serde_json::to_vec(record).map_err(|source| DurableError::Encode { path: path.to_owned(), source })?;
    let mut bytes =
        format!("{magic} v{version} sha256:{} {}\n", checksum(magic, version, &body), body.len()).into_bytes();
    bytes.extend_from_slice(&body);
    let size = bytes.len() as u64;
    if size > MAX_SIZE {
        return Err(DurableError::TooLarge { path: path.to_owned(), size });
    }
    let new = beside(path, ".new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed("write"))?;
    if let Err(error) = file.write_all(&bytes) {
        // What is left of a full disk's attempt would only take more of it.
        let _ = std::fs::remove_file(&new);
        return Err(failed("write")(error));
    }
    Ok(Written { path: path.to_owned(), new, file })
}

/// A record that is written beside its file, and not in its place yet.
#[derive(Debug)]
#[must_use]
pub struct Written {
    path: PathBuf,
    new: PathBuf,
    file: File,
}

impl Written {
    /// The second half of [`save`].
    ///
    /// # Errors
    /// As [`save`].
    pub fn commit(self) -> Result<(), DurableError> {
        if let Err(error) = self.file.sync_all() {
            let _ = std::fs::remove_file(&self.new);
            return Err(self.failed("sync")(error));
        }
        self.rename()?;
        sync_folder(&self.path).map_err(self.failed("sync the folder of"))
    }

    fn rename(&self) -> Result<(), DurableError> {
        fail::fail_point!("durable-before-rename");
        std::fs::rename(&self.new, &self.path).map_err(self.failed("rename"))?;
        fail::fail_point!("durable-after-rename");
        Ok(())
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> DurableError + use<> {
        let path = self.path.clone();
        move |source| DurableError::Io { action, path, source }
    }
}

/// Reads the record at `path`; none if there is no file. Older versions than `version` are handed to
/// `T` too, which must know how to read them.
///
/// # Errors
/// [`DurableError::Corrupted`], [`DurableError::Newer`], [`DurableError::TooLarge`], or the read's own.
pub fn load<T: DeserializeOwned>(path: &Path, magic: &str, version: u32) -> Result<Option<T>, DurableError> {
    let failed = |source| DurableError::Io { action: "read", path: path.to_owned(), source };
    let corrupted = |what: String| DurableError::Corrupted { path: path.to_owned(), what };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let size = file.metadata().map_err(failed)?.len();
    if size > MAX_SIZE {
        return Err(DurableError::TooLarge { path: path.to_owned(), size });
    }
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
    let header = Header::read(&bytes, magic).map_err(corrupted)?;
    if header.version > version {
        return Err(DurableError::Newer { path: path.to_owned(), found: header.version, known: version });
    }
    let body = &bytes[header.end..];
    if body.len() != header.length {
        return Err(corrupted(format!("it holds {} bytes of {}", body.len(), header.length)));
    }
    if checksum(magic, header.version, body) != header.digest {
        return Err(corrupted("its checksum does not fit its content".to_owned()));
    }
    serde_json::from_slice(body)
        .map(Some)
        .map_err(|e| corrupted(format!("its content is not the expected record: {e}")))
}

/// Moves a file that cannot be used aside, to `PATH.corrupt` (`.corrupt.1` and so on if that is
/// taken), so that nothing is lost and the next start is clean. Returns where it is now.
///
/// # Errors
/// If it cannot be renamed.
pub fn quarantine(path: &Path) -> Result<PathBuf, DurableError> {
    let failed = |source| DurableError::Io { action: "set aside", path: path.to_owned(), source };
    let names = std::iter::once(".corrupt".to_owned()).chain((1..).map(|n| format!(".corrupt.{n}")));
    for name in names {
        let aside = beside(path, &name);
        if !aside.try_exists().map_err(failed)? {
            std::fs::rename(path, &aside).map_err(failed)?;
            sync_folder(path).map_err(failed)?;
            return Ok(aside);
        }
    }
    Err(failed(io::ErrorKind::AlreadyExists.into()))
}

struct Header {
    version: u32,
    digest: String,
    length: usize,
    end: usize,
}

impl Header {
    fn read(bytes: &[u8], magic: &str) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("it is empty".to_owned());
        }
        let end = bytes.iter().take(MAX_HEADER).position(|b| *b == b'\n').ok_or("it has no first line")?;
        let line = std::str::from_utf8(&bytes[..end]).map_err(|_| "its first line is no text")?;
        let mut words = line.split(' ');
        if words.next() != Some(magic) {
            return Err(format!("it does not begin with {magic:?}"));
        }
        let wrong = "its first line is not \"MAGIC vVERSION sha256:HEX LENGTH\"";
        let version = words.next().and_then(|w| w.strip_prefix('v')).and_then(|w| w.parse().ok()).ok_or(wrong)?;
        let digest = words.next().and_then(|w| w.strip_prefix("sha256:")).ok_or(wrong)?.to_owned();
        let length = words.next().and_then(|w| w.parse().ok()).ok_or(wrong)?;
        Ok(Self { version, digest, length, end: end + 1 })
    }
}

fn checksum(magic: &str, version: u32, body: &[u8]) -> String {
    let digest = Sha256::new().chain_update(format!("{magic} v{version}\n")).chain_update(body).finalize();
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: &str = "drowse-test";

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder for the test")
    }

    fn load_error(path: &Path) -> DurableError {
        load::<Vec<u32>>(path, MAGIC, 3).expect_err("a file that cannot be used")
    }

    #[test]
    fn what_was_saved_is_loaded_and_nothing_else_is_left() {
        let folder = folder();
        let path = folder.path().join("record.json");
        assert!(load::<Vec<u32>>(&path, MAGIC, 3).expect("no file").is_none());
        save(&path, MAGIC, 3, &vec![1, 2]).expect("first");
        save(&path, MAGIC, 3, &vec![3]).expect("replaced");
        assert_eq!(load::<Vec<u32>>(&path, MAGIC, 3).expect("load"), Some(vec![3]));
        assert_eq!(std::fs::read_dir(folder.path()).expect("list").count(), 1);
    }

    #[test]
    fn any_cut_and_any_changed_byte_is_noticed() {
        let folder = folder();
        let path = folder.path().join("record.json");
        save(&path, MAGIC, 3, &vec![10, 20, 30]).expect("save");
        let whole = std::fs::read(&path).expect("read");
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("cut");
            assert!(load_error(&path).is_damage(), "cut to {length}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).expect("change");
            let error = load_error(&path);
            assert!(error.is_damage() || matches!(error, DurableError::Newer { .. }), "byte {at}: {error}");
        }
    }

    #[test]
    fn a_newer_form_is_refused_and_never_quarantined() {
        let folder = folder();
        let path = folder.path().join("record.json");
        save(&path, MAGIC, 4, &vec![1]).expect("save");
        let error = load_error(&path);
        assert!(!error.is_damage());
        assert!(error.to_string().contains("version 4") && error.to_string().contains("up to 3"), "{error}");
    }

    #[test]
    fn a_file_of_something_else_and_a_huge_one_are_refused() {
        let folder = folder();
        let path = folder.path().join("record.json");
        save(&path, "other", 1, &vec![1]).expect("save");
        assert!(load_error(&path).to_string().contains("does not begin with \"drowse-test\""));
        File::create(&path).and_then(|file| file.set_len(MAX_SIZE + 1)).expect("a sparse file");
        assert!(matches!(load_error(&path), DurableError::TooLarge { .. }));
    }

    #[test]
    fn quarantine_keeps_every_damaged_file() {
        let folder = folder();
        let path = folder.path().join("record.json");
        for expected in ["record.json.corrupt", "record.json.corrupt.1", "record.json.corrupt.2"] {
            std::fs::write(&path, expected).expect("write");
            let aside = quarantine(&path).expect("set aside");
            assert_eq!(aside, folder.path().join(expected));
            assert_eq!(std::fs::read_to_string(&aside).expect("kept"), expected);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_failed_save_leaves_the_old_record_and_no_litter() {
        let folder = folder();
        let path = folder.path().join("record.json");
        save(&path, MAGIC, 3, &vec![1]).expect("save");
        // A folder in the way of the new file makes the write fail, also for root.
        std::fs::create_dir(beside(&path, ".new")).expect("an obstacle");
        assert!(save(&path, MAGIC, 3, &vec![2]).is_err());
        assert_eq!(load::<Vec<u32>>(&path, MAGIC, 3).expect("load"), Some(vec![1]));
    }
}
