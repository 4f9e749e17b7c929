//! The few kernel settings that are read and written, below `/proc/sys` of the thread's namespace.

use std::io;
use std::path::PathBuf;

use super::error::NetworkError;

/// What a setting is.
pub(super) fn read(key: &str) -> Result<String, NetworkError> {
    let failed = |source| NetworkError::Setting { action: "read".to_owned(), key: key.to_owned(), source };
    let text = std::fs::read_to_string(PathBuf::from("/proc/sys").join(key)).map_err(failed)?;
    Ok(text.trim().to_owned())
}

/// Writes `value` unless it is there already; true if it was written.
pub(super) fn set_if_other(key: &str, value: &str) -> Result<bool, NetworkError> {
    if read(key)? == value {
        return Ok(false);
    }
    let failed = |source| NetworkError::Setting { action: format!("write {value:?} to"), key: key.to_owned(), source };
    std::fs::write(PathBuf::from("/proc/sys").join(key), value).map_err(failed)?;
    Ok(true)
}

/// Sets one of a link's settings. A kernel without the family has no such file, and needs none.
pub(super) fn set_for_link(family: &str, link: &str, name: &str, value: &str) -> Result<(), NetworkError> {
    match set_if_other(&format!("net/{family}/conf/{link}/{name}"), value) {
        Err(NetworkError::Setting { source, .. }) if family == "ipv6" && source.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        done => done.map(drop),
    }
}
