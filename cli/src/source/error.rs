//! Why a folder cannot be deployed, and what to do about each.

use std::io;
use std::path::PathBuf;

use drowse_api::{ErrorCode, MemoryBytes, Problem};

use super::PinnedError;

/// Why a folder cannot be deployed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not there, or no folder.
    #[error("{} is not a folder", path.display())]
    NotAFolder {
        /// What was named.
        path: PathBuf,
    },
    /// Something in it cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A socket, a pipe or a device.
    #[error("{} is a {what}, which cannot be deployed", path.display())]
    Special {
        /// Which.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A link that would lead elsewhere, or nowhere, inside the app.
    #[error("the link {} leads outside the folder, to {}", path.display(), target.display())]
    LinkOutside {
        /// Which.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// Too much of it.
    #[error("{} holds {size}; {limit} can be deployed", root.display())]
    TooLarge {
        /// The folder.
        root: PathBuf,
        /// Its files together.
        size: MemoryBytes,
        /// What is allowed.
        limit: MemoryBytes,
        /// The largest first.
        biggest: Vec<(PathBuf, MemoryBytes)>,
    },
    /// Too many files.
    #[error("{} holds {count} files and folders; {limit} can be deployed", root.display())]
    TooMany {
        /// The folder.
        root: PathBuf,
        /// How many.
        count: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Nothing in it says how to run it.
    #[error("nothing to run in {}: looked for {looked_for}", root.display())]
    NothingToRun {
        /// The folder.
        root: PathBuf,
        /// The names that would have told.
        looked_for: &'static str,
        /// What would help.
        hint: String,
    },
    /// The bundle's folder is not one.
    #[error("{} is not an OCI bundle: {why}", path.display())]
    NotABundle {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file grew or shrank under our hands.
    #[error("{} changed while it was being packed", path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// The archive could not be written: whoever reads it has gone.
    #[error("cannot pack")]
    Pack {
        /// Why.
        source: io::Error,
    },
}

impl From<PinnedError> for Problem {
    fn from(error: PinnedError) -> Self {
        let problem = Self::new(ErrorCode::BadRequest, error.to_string());
        match error {
            PinnedError::Unknown { hint, .. } => problem.hint(hint),
            _ => problem,
        }
    }
}

impl From<SourceError> for Problem {
    fn from(error: SourceError) -> Self {
        let detail = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let (code, hint) = match &error {
            SourceError::NotAFolder { .. } => {
                (ErrorCode::BadRequest, "name the folder to deploy: drowse deploy DIR".to_owned())
            }
            SourceError::Unreadable { .. } => {
                (ErrorCode::BadRequest, "make it readable, or name it in .drowseignore".to_owned())
            }
            SourceError::Special { .. } => (ErrorCode::BadRequest, "remove it, or name it in .drowseignore".to_owned()),
            SourceError::LinkOutside { .. } => {
                (ErrorCode::BadRequest, "put the file itself there, or name the link in .drowseignore".to_owned())
            }
            SourceError::TooLarge { biggest, .. } => {
                let names: Vec<_> = biggest.iter().map(|(path, size)| format!("{} ({size})", path.display())).collect();
                (
                    ErrorCode::TooLarge,
                    format!("name what is not needed in .drowseignore; the largest are {}", names.join(", ")),
                )
            }
            SourceError::TooMany { .. } => (ErrorCode::TooLarge, "name what is not needed in .drowseignore".to_owned()),
            SourceError::NothingToRun { hint, .. } => (ErrorCode::NothingToRun, hint.clone()),
            SourceError::NotABundle { .. } => {
                (ErrorCode::BadRequest, "a bundle is a folder with config.json and rootfs".to_owned())
            }
            SourceError::Changed { .. } => (ErrorCode::Conflict, "deploy again when nothing writes there".to_owned()),
            SourceError::Pack { .. } => return Self::new(ErrorCode::Internal, detail),
        };
        Self::new(code, detail).hint(hint)
    }
}
