//! The few kernel settings that are read and written, below `/proc/sys` of the thread's namespace.

use std::io;
use std::path::PathBuf;

use super::error::NetworkError;

/// Writes `value` unless it is there already; true if it was written.
pub(super) fn set_if_other(key: &str, value: &str) -> Result<bool, NetworkError> {
    let path = PathBuf::from("/proc/sys").join(key);
    let failed = |action: &str| {
        let (action, key) = (action.to_owned(), key.to_owned());
        move |source| NetworkError::Setting { action, key, source }
    };
    if std::fs::read_to_string(&path).map_err(failed("read"))?.trim() == value {
        return Ok(false);
    }
    std::fs::write(&path, value).map_err(failed(&format!("write {value:?} to")))?;
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
