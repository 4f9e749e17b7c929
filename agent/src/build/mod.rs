//! Builds: from an uploaded folder to an image, in a sandbox.
//!
//! A build's id is its deployment's. It is begun once and never tried again after it failed; one
//! that an agent's restart broke off did not fail, and a repeated PUT begins it anew.

mod detect;
mod key;
mod pipeline;
mod record;
mod step;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drowse_api::agent::{BuildRequest, BuildStatus, KnownBuild};
use drowse_api::{ControllerId, DeploymentId, ErrorCode, Problem};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::addresses::Addresses;
use crate::host::Node;
use crate::host::home::{self, Home, remove_folder};

/// All builds of the node.
pub struct Builds {
    node: Node,
    addresses: Arc<Addresses>,
    // Held for a look or an insertion, never across an await.
    known: Mutex<BTreeMap<DeploymentId, Build>>,
}

/// One build: its latest status, and the end of its task.
#[derive(Debug, Clone)]
struct Build {
    controller: Option<ControllerId>,
    status: watch::Sender<BuildStatus>,
    cancel: CancellationToken,
    /// Cancelled when the task is over and nothing of its sandbox is left.
    over: CancellationToken,
}

impl Build {
    fn new(status: BuildStatus, controller: Option<ControllerId>) -> Self {
        let (cancel, over) = (CancellationToken::new(), CancellationToken::new());
        Self { controller, status: watch::Sender::new(status), cancel, over }
    }
}

impl Builds {
    /// Takes up what an earlier agent left: builds that ended are known again, the others were broken
    /// off and are cleaned up.
    pub async fn open(node: Node, addresses: Arc<Addresses>) -> Self {
        let mut known = BTreeMap::new();
        for (id, status, controller) in record::find(&home::builds(&node.config)) {
            // One that has ended was cleaned up before its end was written down.
            let build = if is_final(&status) {
                Build::new(status, controller)
            } else {
                clean(&node, &Home::build(&node.config, &id)).await;
                Build::new(broken_off(), controller)
            };
            build.over.cancel();
            known.insert(id, build);
        }
        Self { node, addresses, known: Mutex::new(known) }
    }

    /// Begins a build, unless it was begun already.
    ///
    /// # Errors
    /// If no address is free or the record cannot be written.
    pub async fn put(self: &Arc<Self>, request: BuildRequest) -> Result<BuildStatus, Problem> {
        let id = request.deployment.clone();
        let known = self.lock().get(&id).cloned();
        if let Some(known) = known {
            let status = known.status.borrow().clone();
            if !was_broken_off(&status) {
                return Ok(status);
            }
        }
        let address = self.addresses.take().map_err(|error| Problem::new(ErrorCode::Exhausted, error.to_string()))?;
        let home = Home::build(&self.node.config, &id);
        let status = BuildStatus::Preparing;
        let build = Build::new(status.clone(), request.controller.clone());
        if let Err(problem) = record::keep(&home.folder, &id, &status, build.controller.as_ref()).await {
            self.addresses.free(address);
            return Err(problem);
        }
        self.lock().insert(id.clone(), build.clone());
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let ended = pipeline::run(&this.node, &request, &home, address, &build.status, &build.cancel).await;
            clean(&this.node, &home).await;
            this.addresses.free(address);
            let status = match ended {
                Ok(done) => done,
                Err(problem) => BuildStatus::Failed { problem },
            };
            // The record first: who reads the status may act on it.
            if let Err(problem) = record::keep(&home.folder, &id, &status, build.controller.as_ref()).await {
                tracing::error!("cannot keep the end of build {id}: {problem}");
            }
            build.status.send_replace(status);
            build.over.cancel();
        });
        Ok(status)
    }

    /// Where it stands.
    ///
    /// # Errors
    /// `not-found`.
    pub fn status(&self, id: &DeploymentId) -> Result<BuildStatus, Problem> {
        let known = self.lock();
        let build = known.get(id);
        build
            .map(|build| build.status.borrow().clone())
            .ok_or_else(|| Problem::new(ErrorCode::NotFound, format!("this node has no build {id}")))
    }

    /// All of them.
    #[must_use]
    pub fn list(&self) -> Vec<KnownBuild> {
        let known = |(id, build): (&DeploymentId, &Build)| KnownBuild {
            deployment: id.clone(),
            controller: build.controller.clone(),
        };
        self.lock().iter().map(known).collect()
    }

    /// Whether nothing more will be in its log.
    #[must_use]
    pub fn is_over(&self, id: &DeploymentId) -> bool {
        self.lock().get(id).is_none_or(|build| build.over.is_cancelled())
    }

    /// Where its log is.
    #[must_use]
    pub fn log_folder(&self, id: &DeploymentId) -> PathBuf {
        Home::build(&self.node.config, id).folder
    }

    /// Cancels it if it runs, and forgets it with its log. The image it ended in stays.
    ///
    /// # Errors
    /// If its files cannot be removed.
    pub async fn delete(&self, id: &DeploymentId) -> Result<(), Problem> {
        let Some(build) = self.lock().get(id).cloned() else { return Ok(()) };
        build.cancel.cancel();
        build.over.cancelled().await;
        let folder = self.log_folder(id);
        let removed = tokio::task::spawn_blocking(move || remove_folder(&folder)).await;
        self.lock().remove(id);
        match removed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Problem::new(ErrorCode::Internal, format!("cannot remove build {id}: {error}"))),
            Err(error) => Err(Problem::new(ErrorCode::Internal, error.to_string())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DeploymentId, Build>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_final(status: &BuildStatus) -> bool {
    matches!(status, BuildStatus::Done { .. } | BuildStatus::Failed { .. })
}

fn broken_off() -> BuildStatus {
    let problem = Problem::new(ErrorCode::Unavailable, "the agent was restarted during the build");
    BuildStatus::Failed { problem: problem.hint("the same build can be asked for again") }
}

fn was_broken_off(status: &BuildStatus) -> bool {
    matches!(status, BuildStatus::Failed { problem } if problem.code == ErrorCode::Unavailable)
}

/// Removes everything of a build but its record and its log.
async fn clean(node: &Node, home: &Home) {
    if let Err(error) = node.sandboxes.clear(home).await {
        tracing::warn!("cannot take down the sandbox of a build: {}", error.in_full());
    }
    let folder = home.folder.clone();
    let removed = tokio::task::spawn_blocking(move || {
        for name in ["upper", "work", "files", "manifests"] {
            remove_folder(&folder.join(name))?;
        }
        for name in ["upper-of", "exits"] {
            match std::fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    });
    if let Ok(Err(error)) = removed.await {
        tracing::warn!("cannot remove the files of a build in {}: {error}", home.folder.display());
    }
}
