//! What is kept of builds over restarts of the agent: how each stands.

use std::path::{Path, PathBuf};

use drowse_api::agent::BuildStatus;
use drowse_api::{ControllerId, DeploymentId, Digest, ErrorCode, Problem};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::host::error::chain;
use crate::problem::{disk_full, is_disk_full};

const MAGIC: &str = "drowse-build";
const VERSION: u32 = 1;

/// How a build stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: DeploymentId,
    pub status: BuildStatus,
    #[serde(default)]
    pub controller: Option<ControllerId>,
    /// The upload that it is made of.
    #[serde(default)]
    pub source: Option<Digest>,
    /// Whether its release command was begun, which is done once.
    #[serde(default)]
    pub is_releasing: bool,
}

fn path(folder: &Path) -> PathBuf {
    folder.join("record")
}

/// Writes how a build stands.
pub(super) async fn keep(folder: &Path, record: &Record) -> Result<(), Problem> {
    let (folder, record) = (folder.to_owned(), record.clone());
    let written = tokio::task::spawn_blocking(move || {
        let made = std::fs::create_dir_all(&folder);
        made.map_err(|source| durable::DurableError::Io { action: "make", path: folder.clone(), source })?;
        durable::save(&path(&folder), MAGIC, VERSION, &record)
    });
    match written.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if is_disk_full(&error) => Err(disk_full(&error)),
        Ok(Err(error)) => Err(Problem::new(ErrorCode::Internal, chain(&error))),
        Err(error) => Err(Problem::new(ErrorCode::Internal, error.to_string())),
    }
}

/// Every build below `folder`, with its record unless that is damaged. One without any was not begun.
pub(super) fn find(folder: &Path) -> Vec<(DeploymentId, Option<Record>)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let builds = entries.filter_map(|entry| {
        let id = DeploymentId::parse(entry.file_name().to_str()?).ok()?;
        let record = match durable::load::<Record>(&path(&entry.path()), MAGIC, VERSION) {
            Ok(Some(record)) => Some(record).filter(|record| record.id == id),
            Ok(None) => Some(Record {
                id: id.clone(),
                status: BuildStatus::Preparing,
                controller: None,
                source: None,
                is_releasing: false,
            }),
            Err(error) => {
                tracing::error!("{error}");
                None
            }
        };
        Some((id, record))
    });
    builds.collect()
}
