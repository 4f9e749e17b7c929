//! The last known table and addresses, as files: what the router serves by when it starts while
//! controller and agent are down.
//!
//! Two lines of JSON: what the file is, with the version and the checksum of the second; and the
//! value. They arrive by write, fsync, rename and fsync of the folder.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const VERSION: u32 = 1;
const LARGEST: u64 = 64 << 20;

/// A file that holds one value.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    path: PathBuf,
    /// What it is, in its first line.
    format: &'static str,
}

/// Why a saved value cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SavedError {
    /// It cannot be read or written.
    #[error("cannot use {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// It is not what was written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: &'static str },
    /// A newer Drowse wrote it.
    #[error("{} has version {version}; this router reads version {VERSION}", path.display())]
    Newer { path: PathBuf, version: u32 },
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    version: u32,
    sha256: String,
}

impl Saved {
    pub(crate) fn new(folder: &Path, name: &str, format: &'static str) -> Self {
        Self { path: folder.join(name), format }
    }

    /// The value, if one was ever saved.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<Option<T>, SavedError> {
        let failed = |source| SavedError::Io { path: self.path.clone(), source };
        let damaged = |what| SavedError::Damaged { path: self.path.clone(), what };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > LARGEST {
            return Err(damaged("it is too large"));
        }
        let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| damaged("it has no second line"))?;
        let (head, value) = (&bytes[..end], &bytes[end + 1..]);
        let value = value.strip_suffix(b"\n").ok_or_else(|| damaged("it is cut off"))?;
        let head: Head = serde_json::from_slice(head).map_err(|_| damaged("its first line is not ours"))?;
        if head.format != self.format {
            return Err(damaged("it holds something else"));
        }
        if head.version != VERSION {
            return Err(SavedError::Newer { path: self.path.clone(), version: head.version });
        }
        if head.sha256 != checksum(value) {
            return Err(damaged("its checksum does not match"));
        }
        serde_json::from_slice(value).map(Some).map_err(|_| damaged("its value cannot be read"))
    }

    /// Replaces the value.
    pub(crate) fn write<T: Serialize>(&self, value: &T) -> Result<(), SavedError> {
        self.replace(value).map_err(|source| SavedError::Io { path: self.path.clone(), source })
    }

    fn replace<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let value = serde_json::to_vec(value)?;
        let head = Head { format: self.format.to_owned(), version: VERSION, sha256: checksum(&value) };
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        serde_json::to_writer(&mut file, &head)?;
        file.write_all(b"\n")?;
        file.write_all(&value)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        match self.path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

fn checksum(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_read_back_and_damage_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let saved = Saved::new(folder.path(), "x.json", "drowse-test");
        assert_eq!(saved.read::<Vec<u32>>().expect("reads"), None);
        saved.write(&vec![1, 2, 3]).expect("writes");
        assert_eq!(saved.read::<Vec<u32>>().expect("reads"), Some(vec![1, 2, 3]));
        let whole = fs::read(&saved.path).expect("reads");
        for cut in 0..whole.len() {
            fs::write(&saved.path, &whole[..cut]).expect("writes");
            assert!(saved.read::<Vec<u32>>().is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&saved.path, &damaged).expect("writes");
            assert!(saved.read::<Vec<u32>>().is_err(), "changed at {at}");
        }
        let newer = String::from_utf8(whole).expect("text").replace("\"version\":1", "\"version\":2");
        fs::write(&saved.path, newer).expect("writes");
        let error = saved.read::<Vec<u32>>().expect_err("newer").to_string();
        assert!(error.contains("has version 2; this router reads version 1"), "{error}");
    }
}
