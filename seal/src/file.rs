//! The key on disk: one line, readable by its owner alone, written once and never changed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::{KEY, Key};

/// Before the key in its file.
const MAGIC: &str = "drowse-key-v1 ";

/// Longer than any key file.
const LONGEST: u64 = 200;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A call on it failed.
    #[error("cannot {action} the key file {path}")]
    Io {
        /// `read`, `make`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others can read it.
    #[error("others can read the key file {path}: chmod 600 {path}")]
    Open {
        /// Which file.
        path: PathBuf,
    },
    /// There is something else in it.
    #[error("{path} is no key file, or it is damaged: put back the copy of it that was backed up")]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("cannot make the key {path}: the system gives no random numbers")]
    NoRandomNumbers {
        /// Which file.
        path: PathBuf,
    },
}

impl Key {
    /// The key in a file; none if there is no such file.
    ///
    /// # Errors
    /// A file that cannot be read, that others can read, or that holds no key.
    pub fn load(path: &Path) -> Result<Option<Self>, KeyError> {
        let failed = |source| KeyError::Io { action: "read", path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
            return Err(KeyError::Open { path: path.to_owned() });
        }
        let mut text = String::new();
        let damaged = || KeyError::Damaged { path: path.to_owned() };
        match file.take(LONGEST).read_to_string(&mut text) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(damaged()),
            other => drop(other.map_err(failed)?),
        }
        let bytes = text.trim_end().strip_prefix(MAGIC).and_then(|text| BASE64.decode(text).ok());
        let bytes: [u8; KEY] = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(damaged)?;
        Ok(Some(Self::from_bytes(&bytes)))
    }

    /// Makes a key and its file, which must not be there, and the folder around it.
    ///
    /// # Errors
    /// If that fails.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { action: "make", path: path.to_owned(), source };
        let mut bytes = [0_u8; KEY];
        getrandom::fill(&mut bytes).map_err(|_| KeyError::NoRandomNumbers { path: path.to_owned() })?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        // Beside it first: a key that is cut off is no key, and what it sealed would be lost.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
        file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let written = file.write_all(format!("{MAGIC}{}\n", BASE64.encode(bytes)).as_bytes());
        written.and_then(|()| file.sync_all()).map_err(failed)?;
        // A link, and not a rename: a key that is there is never replaced.
        let linked = fs::hard_link(&new, path);
        fs::remove_file(&new).map_err(failed)?;
        linked.map_err(failed)?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// The key in a file, which is made if it is not there.
    ///
    /// # Errors
    /// As [`load`](Self::load) and [`create`](Self::create).
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path)? {
            Some(key) => Ok(key),
            None => Self::create(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys/secrets.key");
        assert!(Key::load(&path).expect("nothing there").is_none());
        let made = Key::load_or_create(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let read = Key::load_or_create(&path).expect("read");
        assert_eq!(read.id(), made.id());
        let sealed = made.seal("what", b"value").expect("seals");
        assert_eq!(read.open("what", &sealed).expect("opens"), b"value");
        assert!(Key::create(&path).is_err(), "a key is never replaced");
        assert_eq!(fs::read_dir(path.parent().expect("one")).expect("lists").count(), 1, "nothing else is left");
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_damaged_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secrets.key");
        Key::create(&path).expect("made");
        let whole = fs::read_to_string(&path).expect("reads");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        assert!(matches!(Key::load(&path), Err(KeyError::Open { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        for text in ["", "something else\n", &whole[..whole.len() - 5], "drowse-key-v1 ????"] {
            fs::write(&path, text).expect("writes");
            assert!(matches!(Key::load(&path), Err(KeyError::Damaged { .. })), "{text:?}");
        }
        fs::write(&path, [0xff, 0xfe]).expect("writes");
        assert!(matches!(Key::load(&path), Err(KeyError::Damaged { .. })));
    }
}
