//! What is kept of builds over restarts of the agent: how each stands.

use std::path::{Path, PathBuf};

use drowse_api::agent::BuildStatus;
use drowse_api::{ControllerId, DeploymentId, ErrorCode, Problem};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::host::error::chain;
use crate::problem::{disk_full, is_disk_full};

const MAGIC: &str = "drowse-build";
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    id: DeploymentId,
    status: BuildStatus,
    #[serde(default)]
    controller: Option<ControllerId>,
}

fn path(folder: &Path) -> PathBuf {
    folder.join("record")
}

/// Writes how a build stands.
pub(super) async fn keep(
    folder: &Path,
    id: &DeploymentId,
    status: &BuildStatus,
    controller: Option<&ControllerId>,
) -> Result<(), Problem> {
    let record = Record { id: id.clone(), status: status.clone(), controller: controller.cloned() };
    let folder = folder.to_owned();
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

/// Every build below `folder`. One whose record cannot be read counts as broken off: it can be built again.
pub(super) fn find(folder: &Path) -> Vec<(DeploymentId, BuildStatus, Option<ControllerId>)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let builds = entries.filter_map(|entry| {
        let id = DeploymentId::parse(entry.file_name().to_str()?).ok()?;
        let (status, controller) = match durable::load::<Record>(&path(&entry.path()), MAGIC, VERSION) {
            Ok(Some(record)) if record.id == id => (record.status, record.controller),
            Ok(_) => (BuildStatus::Preparing, None),
            Err(error) => {
                tracing::error!("{error}");
                (BuildStatus::Preparing, None)
            }
        };
        Some((id, status, controller))
    });
    builds.collect()
}
