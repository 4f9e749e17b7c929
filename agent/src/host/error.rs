//! Why a sandbox could not be made, used or taken down.

use std::path::{Path, PathBuf};
use std::time::Duration;

use drowse_launcher::LauncherError;
use drowse_launcher::init::InitError;
use drowse_rootfs::StoreError;
use drowse_rootfs::bundle::BundleError;

use crate::cgroup::{CgroupError, Place};
use crate::disk::DiskError;
use crate::durable::DurableError;
use crate::identity::IdentityError;
use crate::network::NetworkError;
use crate::snapshot::SnapshotError;

/// What can go wrong with a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A file or folder of it.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Its pipes.
    #[error("cannot make the pipes of the log")]
    Pipe(#[source] std::io::Error),
    /// Its control groups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Its network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The launcher.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// Its init.
    #[error(transparent)]
    Init(#[from] InitError),
    /// Its record.
    #[error(transparent)]
    Record(#[from] DurableError),
    /// Its image.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its configuration.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A snapshot of its app.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Its host ids.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What the image says about how it is run.
    #[error("{0}")]
    Image(String),
    /// Its init is gone.
    #[error("the sandbox's init is gone")]
    InitGone,
    /// Static sites have nothing that serves them.
    #[error("the node's file server does not run; the agent's log and events say why")]
    NoFileServer,
    /// The configuration names no process.
    #[error("the configuration names no process")]
    NoProcess,
    /// Its processes do not die.
    #[error("processes of {place} were killed and are still there after {waited:?}")]
    StillThere {
        /// Whose.
        place: Place,
        /// For how long.
        waited: Duration,
    },
    /// The kernel does not page it out.
    #[error("the kernel does not page it out: {0}")]
    NotPaged(String),
    /// A fault of ours.
    #[error("the agent broke off by a fault of its own")]
    Broken,
}

impl SandboxError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// The message with all its causes.
    #[must_use]
    pub fn in_full(&self) -> String {
        chain(self)
    }
}

/// An error with all its causes, each once.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}
