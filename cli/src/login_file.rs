//! The saved login: an address and a token, in a file that only its owner can read.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use drowse_api::{ErrorCode, Problem};
use serde::{Deserialize, Serialize};

use crate::failure::bad_request;

/// What `drowse login` saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The controller's address.
    pub url: String,
    /// What goes after `Authorization: Bearer`.
    pub token: String,
}

/// `$XDG_CONFIG_HOME/drowse/login.json`, or below `~/.config`.
pub fn path() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")))?;
    Some(config.join("drowse").join("login.json"))
}

/// Reads the saved login; `None` if there is none.
///
/// # Errors
/// When others can read the file, or it is not what was saved.
pub fn load(path: &Path) -> Result<Option<Login>, Problem> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| bad_request(format!("cannot read {}: {error}", path.display())))?,
    };
    let mode = fs::metadata(path).map(|found| found.permissions().mode()).unwrap_or_default();
    if mode & 0o077 != 0 {
        return Err(Problem::new(
            ErrorCode::Forbidden,
            format!("{} holds a token and can be read by others", path.display()),
        )
        .hint(format!("chmod 600 {}", path.display())));
    }
    serde_json::from_str(&text).map(Some).map_err(|error| {
        bad_request(format!("{} is not a saved login: {error}", path.display()))
            .hint("drowse logout, then drowse login")
    })
}

/// Saves the login in place of an earlier one.
///
/// # Errors
/// When it cannot be written.
pub fn save(path: &Path, login: &Login) -> Result<(), Problem> {
    let written = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Made with mode 0600, and renamed into place when it is whole.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, login)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    written().map_err(|error| Problem::new(ErrorCode::Internal, format!("cannot save {}: {error}", path.display())))
}

/// Forgets the login. Answers whether there was one.
///
/// # Errors
/// When it cannot be removed.
pub fn forget(path: &Path) -> Result<bool, Problem> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Problem::new(ErrorCode::Internal, format!("cannot remove {}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_login_reads_back_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("drowse/login.json");
        let login = Login { url: "http://localhost:9480".into(), token: "secret".into() };
        assert_eq!(load(&path).expect("none yet"), None);
        save(&path, &login).expect("saved");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(load(&path).expect("read"), Some(login));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("opened up");
        assert_eq!(load(&path).expect_err("refused").code, ErrorCode::Forbidden);
        assert!(forget(&path).expect("removed") && !forget(&path).expect("nothing left"));
    }
}
