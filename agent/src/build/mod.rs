//! Builds: from an uploaded folder to an image, in a sandbox.
//!
//! A build's id is its deployment's. It is begun once and never tried again after it failed; one
//! that an agent's restart broke off did not fail, and a repeated PUT begins it anew.

mod cache;
mod detect;
mod docker;
mod dockerfile;
mod foreign;
mod image;
mod key;
mod layers;
mod pipeline;
mod queue;
mod record;
mod release;
mod step;
mod tools;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drowse_api::agent::{BuildRequest, BuildStatus, KnownBuild};
use drowse_api::{ControllerId, DeploymentId, Digest, ErrorCode, Problem};
use drowse_rootfs::Roots;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::queue::Queue;
use self::record::Record;
use crate::addresses::Addresses;
use crate::host::Node;
use crate::host::home::{self, Home, remove_file, remove_folder};

/// All builds of the node.
pub struct Builds {
    node: Node,
    addresses: Arc<Addresses>,
    // Held for a look or an insertion, never across an await.
    known: Mutex<BTreeMap<DeploymentId, Build>>,
    queue: Queue,
    /// A build ended or was forgotten: the store may hold what nobody needs.
    changed: Notify,
}

/// One build: its latest status, and the end of its task.
#[derive(Debug, Clone)]
struct Build {
    controller: Option<ControllerId>,
    source: Upload,
    status: watch::Sender<BuildStatus>,
    cancel: CancellationToken,
    /// Cancelled when the task is over and nothing of its sandbox is left.
    over: CancellationToken,
}

/// What a build is made of.
#[derive(Debug, Clone)]
enum Upload {
    /// This blob.
    Blob(Digest),
    /// It never said: it was broken off before its record was written, or by an agent that kept none.
    Unsaid,
    /// Its record is damaged: it may need anything.
    Lost,
}

impl Build {
    fn new(status: BuildStatus, controller: Option<ControllerId>, source: Upload) -> Self {
        let (cancel, over) = (CancellationToken::new(), CancellationToken::new());
        Self { controller, source, status: watch::Sender::new(status), cancel, over }
    }

    fn record(&self, id: &DeploymentId) -> Record {
        let source = match &self.source {
            Upload::Blob(digest) => Some(digest.clone()),
            Upload::Unsaid | Upload::Lost => None,
        };
        let (status, controller) = (self.status.borrow().clone(), self.controller.clone());
        Record { id: id.clone(), status, controller, source, is_releasing: false }
    }
}

/// The record of a build is damaged, so that nobody knows what it needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record of build {0} is damaged")]
pub struct DamagedBuild(DeploymentId);

impl Builds {
    /// Takes up what an earlier agent left: builds that ended are known again, the others were broken
    /// off and are cleaned up.
    pub async fn open(node: Node, addresses: Arc<Addresses>) -> Self {
        let mut known = BTreeMap::new();
        for (id, record) in record::find(&home::builds(&node.config)) {
            let (status, controller, source, is_releasing) = match record {
                Some(Record { status, controller, source, is_releasing, .. }) => {
                    (Some(status), controller, source.map_or(Upload::Unsaid, Upload::Blob), is_releasing)
                }
                None => (None, None, Upload::Lost, false),
            };
            // One that has ended was cleaned up before its end was written down.
            let build = match status.filter(is_final) {
                Some(status) => Build::new(status, controller, source),
                None => {
                    clean(&node, &Home::build(&node.config, &id)).await;
                    let status = if is_releasing { release::cut_off() } else { broken_off() };
                    Build::new(status, controller, source)
                }
            };
            build.over.cancel();
            known.insert(id, build);
        }
        let queue = Queue::new(node.config.builds.at_once_per_user);
        Self { node, addresses, known: Mutex::new(known), queue, changed: Notify::new() }
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
        // Until the build's end is known, nothing of it is swept away; the upload from this look on.
        let hold = self.node.store.hold();
        let _ = self.node.store.has_blob(&request.input.source);
        let address = self.addresses.take().map_err(|error| Problem::new(ErrorCode::Exhausted, error.to_string()))?;
        let place = request.input.app_type.has_build().then(|| self.queue.enter(&request.user, &id));
        let home = Home::build(&self.node.config, &id);
        let status = BuildStatus::Preparing;
        let source = Upload::Blob(request.input.source.clone());
        let build = Build::new(status.clone(), request.controller.clone(), source);
        if let Err(problem) = record::keep(&home.folder, &build.record(&id)).await {
            self.addresses.free(address);
            return Err(problem);
        }
        self.lock().insert(id.clone(), build.clone());
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let ended = {
                let Build { status, cancel, .. } = &build;
                pipeline::run(&this.node, &request, &home, address, status, cancel, place.as_ref()).await
            };
            clean(&this.node, &home).await;
            drop(place);
            this.addresses.free(address);
            let status = match ended {
                Ok(done) => done,
                Err(problem) => BuildStatus::Failed { problem },
            };
            // The record first: who reads the status may act on it.
            let record = Record { status: status.clone(), ..build.record(&id) };
            if let Err(problem) = record::keep(&home.folder, &record).await {
                tracing::error!("cannot keep the end of build {id}: {problem}");
            }
            build.status.send_replace(status);
            build.over.cancel();
            drop(hold);
            this.changed.notify_one();
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

    /// What of the store they need: the images that they ended in, for as long as their deployments
    /// are kept, and the uploads of those that have not ended.
    ///
    /// # Errors
    /// If it cannot be known.
    pub fn roots(&self) -> Result<Roots, DamagedBuild> {
        let mut roots = Roots::default();
        for (id, build) in self.lock().iter() {
            match (&*build.status.borrow(), &build.source) {
                (BuildStatus::Done { image, .. }, _) => drop(roots.images.insert(image.clone())),
                (status, _) if is_final(status) && !was_broken_off(status) => {}
                (_, Upload::Blob(source)) => drop(roots.blobs.insert(source.clone())),
                (_, Upload::Unsaid) => {}
                (_, Upload::Lost) => return Err(DamagedBuild(id.clone())),
            }
        }
        Ok(roots)
    }

    /// Waits until one has ended or was forgotten.
    pub async fn changed(&self) {
        self.changed.notified().await;
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

    /// Cancels it if it runs, and forgets it with its log. The image it ended in stays while instances have it.
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
        self.changed.notify_one();
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

/// Removes what is left of builds but the records of those that ended in an image, which stays as well.
/// Blocking; no agent may run.
///
/// # Errors
/// If a folder cannot be removed.
pub fn forget_unfinished(folder: &Path) -> std::io::Result<()> {
    for (id, record) in record::find(folder) {
        if !record.is_some_and(|record| matches!(record.status, BuildStatus::Done { .. })) {
            remove_folder(&folder.join(id.as_str()))?;
        }
    }
    Ok(())
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
        for name in ["upper", "work", "manifests", "site", "images", "storage"] {
            remove_folder(&folder.join(name))?;
        }
        ["upper-of", "disk", "storage.disk", "storage.half-made"]
            .iter()
            .try_for_each(|name| remove_file(&folder.join(name)))
    });
    if let Ok(Err(error)) = removed.await {
        tracing::warn!("cannot remove the files of a build in {}: {error}", home.folder.display());
    }
}
