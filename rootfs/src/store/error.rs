//! Why the store could not do what it was asked.

use std::io;
use std::path::{Path, PathBuf};

use drowse_api::{Digest, MemoryBytes};

use crate::archive::ArchiveError;
use crate::bundle::BundleError;
use crate::capture::CaptureError;
use crate::unpack::UnpackError;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// What was sent is not what it was announced as.
    #[error("the blob hashes to {found}, not to {expected}")]
    WrongDigest {
        /// What was announced.
        expected: Digest,
        /// What it hashes to.
        found: Digest,
    },
    /// What was sent is larger than allowed.
    #[error("the blob is larger than {limit}")]
    TooLarge {
        /// The most that is allowed.
        limit: MemoryBytes,
    },
    /// What is asked for is not here.
    #[error("blob {digest} is not in the store {store}")]
    Missing {
        /// Which.
        digest: Digest,
        /// Where it was looked for.
        store: PathBuf,
    },
    /// The sender broke off.
    #[error("cannot read the blob that is stored")]
    Source(#[source] io::Error),
    /// A file of the layout that cannot be read as what it is.
    #[error("{path} is not a valid {what}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// Where it goes wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A layout or image that contradicts itself or asks for what we do not do.
    #[error("{what} cannot be used: {reason}")]
    Unfit {
        /// Which layout, image or layer.
        what: String,
        /// Why.
        reason: String,
    },
    /// A layer's archive cannot be unpacked.
    #[error("cannot unpack layer {layer}")]
    Unpack {
        /// Which blob.
        layer: Digest,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// An archive that was sent cannot be unpacked.
    #[error("cannot unpack the archive")]
    Archive(#[source] UnpackError),
    /// A folder cannot become a layer.
    #[error("cannot make a layer of {path}")]
    Capture {
        /// Which folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: CaptureError,
    },
    /// A bundle cannot be imported.
    #[error("cannot import the bundle {path}")]
    Bundle {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: BundleError,
    },
}

impl From<ArchiveError> for StoreError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error.into())
    }
}

impl StoreError {
    pub(crate) fn unfit(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unfit { what: what.into(), reason: reason.into() }
    }
}

/// Says with what a call failed.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|error| StoreError::Io { action, path: path.to_owned(), source: error.into() })
    }
}
