//! Where everything of one sandbox is on the host: its control groups, its link, its files.

use std::path::{Path, PathBuf};

use drowse_api::{DeploymentId, InstanceId, UserId};

use crate::cgroup::{Place, Slice};
use crate::config::Config;
use crate::network::Owner;

/// Where one sandbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Its control groups.
    pub place: Place,
    /// Its link.
    pub owner: Owner,
    /// Its files on disk: upper layer, log, record.
    pub folder: PathBuf,
    /// Its files under `run_dir`, which end with the sandbox: init's socket, exit records, files shown inside.
    pub run: PathBuf,
}

impl Home {
    /// Of an instance.
    #[must_use]
    pub fn instance(config: &Config, user: &UserId, id: &InstanceId) -> Self {
        Self {
            place: Place::instance(user, id),
            owner: Owner::instance(id),
            folder: instances(config).join(id.as_str()),
            run: config.run_dir.join("instances").join(id.as_str()),
        }
    }

    /// Of a build.
    #[must_use]
    pub fn build(config: &Config, id: &DeploymentId) -> Self {
        Self {
            place: Place::build(id),
            owner: Owner::build(id),
            folder: builds(config).join(id.as_str()),
            run: config.run_dir.join("builds").join(id.as_str()),
        }
    }

    /// Of a command in a sandbox of its own. Two hyphens in a row tell it from an instance.
    ///
    /// # Panics
    /// Never: an id with that before it can be a name there.
    #[must_use]
    pub fn run(config: &Config, user: &UserId, id: &InstanceId) -> Self {
        let name = format!("{RUN}{id}");
        Self {
            place: Place::new(Slice::User(user.clone()), &name).expect("an id is allowed"),
            owner: Owner::run(id),
            folder: runs(config).join(id.as_str()),
            run: config.run_dir.join("runs").join(id.as_str()),
        }
    }

    /// The socket of its init.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run.join("init.sock")
    }

    /// The folder that its app sees as its own door to the platform.
    #[must_use]
    pub fn inside(&self) -> PathBuf {
        self.run.join("inside")
    }

    /// What init records of exits.
    #[must_use]
    pub fn exits(&self) -> PathBuf {
        self.run.join("exits")
    }

    /// The image of the disk that holds what is written in it, where there is one.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// What is kept of the sandbox over restarts of the agent.
    #[must_use]
    pub fn sandbox_record(&self) -> PathBuf {
        self.folder.join("sandbox")
    }

    /// The files that are shown inside in place of the image's.
    #[must_use]
    pub fn shown(&self) -> PathBuf {
        self.run.join("files")
    }
}

/// The folder of all instances.
#[must_use]
pub fn instances(config: &Config) -> PathBuf {
    config.data_dir.join("instances")
}

/// What the names of groups of commands with sandboxes of their own begin with.
pub const RUN: &str = "run--";

/// The folder of all commands with sandboxes of their own.
#[must_use]
pub fn runs(config: &Config) -> PathBuf {
    config.data_dir.join("runs")
}

/// The folder of all builds.
#[must_use]
pub fn builds(config: &Config) -> PathBuf {
    config.data_dir.join("builds")
}

/// Removes a folder with all in it; one that is not there is no error.
///
/// # Errors
/// If something in it cannot be removed.
pub fn remove_folder(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a file; one that is not there is no error.
///
/// # Errors
/// If it cannot be removed.
pub fn remove_file(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
