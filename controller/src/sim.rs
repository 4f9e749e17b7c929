//! A simulated agent: the agent's calls on a Unix socket, with an outcome that tests choose, and no
//! kernel behind it. It keeps what a real one keeps, and counts what must never happen.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::{get, post, put};
use drowse_api::agent::{BuildRequest, BuildStatus};
use drowse_api::deployment::AppType;
use drowse_api::event::{AgentEvent, EventKind};
use drowse_api::instance::{Failure, InstanceSpec, InstanceState, InstanceStatus, OnBootFailure, Workload};
use drowse_api::secrets::Secrets;
use drowse_api::{AppName, ControllerId, DeploymentId, Digest, ErrorCode, EventLogId, InstanceId, NodeName, Problem};
use jiff::Timestamp;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

mod calls;

/// How a build ends.
#[derive(Debug, Clone)]
pub enum BuildScript {
    /// In an image.
    Succeed,
    /// With this.
    Fail(Problem),
    /// Not at all, until it is told otherwise.
    Hang,
}

/// How a start ends.
#[derive(Debug, Clone)]
pub enum BootScript {
    /// Ready at once.
    Ready,
    /// For good, with this, where a failure is for good: at a deploy.
    Fail(Failure),
    /// Not at all, until it is told otherwise.
    Hang,
}

/// An instance of the simulation.
#[derive(Debug, Clone)]
pub struct SimInstance {
    /// What it was made from.
    pub spec: InstanceSpec,
    /// What is reported of it.
    pub status: InstanceStatus,
    /// How often it was started.
    pub starts: u32,
}

struct SimBuild {
    app: AppName,
    registries: Secrets,
    controller: Option<ControllerId>,
    status: BuildStatus,
    script: BuildScript,
    workload: Workload,
}

struct World {
    node: NodeName,
    instances: BTreeMap<InstanceId, SimInstance>,
    builds: BTreeMap<DeploymentId, SimBuild>,
    events: Vec<AgentEvent>,
    log: EventLogId,
    calls: Vec<String>,
    most_running: BTreeMap<AppName, usize>,
    builds_started: usize,
    starts: usize,
    build_script: BuildScript,
    boot_script: BootScript,
    is_hanging: bool,
    /// What instances use by themselves.
    works: bool,
    is_needed: bool,
}

/// The handle that calls and tests share.
#[derive(Clone)]
struct Shared {
    // Held for map operations only.
    world: Arc<Mutex<World>>,
    changed: watch::Sender<u64>,
}

/// A simulated agent. It answers until it is dropped or taken away.
pub struct SimAgent {
    shared: Shared,
    socket: PathBuf,
    server: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl SimAgent {
    /// Starts one on this socket.
    ///
    /// # Panics
    /// If the socket cannot be bound.
    #[must_use]
    pub fn start(node: NodeName, socket: &Path) -> Self {
        let world = World {
            node,
            instances: BTreeMap::new(),
            builds: BTreeMap::new(),
            events: Vec::new(),
            log: EventLogId::generate(),
            calls: Vec::new(),
            most_running: BTreeMap::new(),
            builds_started: 0,
            starts: 0,
            build_script: BuildScript::Succeed,
            boot_script: BootScript::Ready,
            is_hanging: false,
            works: false,
            is_needed: false,
        };
        let shared = Shared { world: Arc::new(Mutex::new(world)), changed: watch::Sender::new(0) };
        let agent = Self { shared, socket: socket.to_owned(), server: Mutex::new(None) };
        agent.come_back();
        agent
    }

    /// Answers again after it was taken away.
    ///
    /// # Panics
    /// If the socket cannot be bound.
    pub fn come_back(&self) {
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).expect("the simulated agent's socket");
        let router = routes(self.shared.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the simulated agent ended");
            }
        });
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(AbortOnDropHandle::new(server));
        self.shared.change(|world| world.is_hanging = false);
    }

    /// As after a kill: no answer, streams broken; what it runs goes on.
    pub fn go_away(&self) {
        self.shared.change(|world| world.is_hanging = true);
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = std::fs::remove_file(&self.socket);
    }

    /// As after a reboot: everything it ran is stopped.
    pub fn reboot(&self) {
        self.shared.change(|world| {
            for instance in world.instances.values_mut() {
                instance.status.state = InstanceState::Stopped { reason: "the host was rebooted".to_owned() };
            }
        });
    }

    /// As after a restart of the agent: builds under way are broken off.
    pub fn break_builds_off(&self) {
        self.shared.change(|world| {
            for build in world.builds.values_mut().filter(|build| !is_over(&build.status)) {
                let problem = Problem::new(ErrorCode::Unavailable, "the agent was restarted during the build");
                build.status = BuildStatus::Failed { problem };
            }
        });
    }

    /// As after a loss of its files: its events begin anew.
    pub fn lose_events(&self) {
        self.shared.change(|world| {
            world.events.clear();
            world.log = EventLogId::generate();
        });
    }

    /// Whether instances use a processor by themselves.
    pub fn script_work(&self, works: bool) {
        self.shared.change(|world| world.works = works);
    }

    /// Whether a visitor calls off every sleep.
    pub fn script_visitors(&self, is_needed: bool) {
        self.shared.change(|world| world.is_needed = is_needed);
    }

    /// What coming builds do.
    pub fn script_builds(&self, script: BuildScript) {
        self.shared.change(|world| world.build_script = script);
    }

    /// What coming starts do.
    pub fn script_boots(&self, script: BootScript) {
        self.shared.change(|world| world.boot_script = script);
    }

    /// Sets what an instance is doing, and tells of it.
    pub fn set_state(&self, id: &InstanceId, state: InstanceState) {
        self.shared.change(|world| {
            if let Some(instance) = world.instances.get_mut(id) {
                instance.status.state = state;
            }
            world.count();
        });
    }

    /// Adds an event.
    pub fn tell(&self, kind: EventKind, message: &str) {
        self.shared.change(|world| world.tell(kind, None, message));
    }

    /// Its instances.
    #[must_use]
    pub fn instances(&self) -> Vec<SimInstance> {
        self.shared.world().instances.values().cloned().collect()
    }

    /// Its builds.
    #[must_use]
    pub fn builds(&self) -> Vec<DeploymentId> {
        self.shared.world().builds.keys().cloned().collect()
    }

    /// The changing calls it got, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.shared.world().calls.clone()
    }

    /// The most instances of an app that ran at one moment.
    #[must_use]
    pub fn most_running(&self, app: &AppName) -> usize {
        self.shared.world().most_running.get(app).copied().unwrap_or(0)
    }

    /// The logins for registries that a build was given.
    pub fn logins(&self, build: &DeploymentId) -> Secrets {
        self.shared.world().builds.get(build).map(|build| build.registries.clone()).unwrap_or_default()
    }

    /// How many builds and how many instances it started.
    #[must_use]
    pub fn starts(&self) -> (usize, usize) {
        let world = self.shared.world();
        (world.builds_started, world.starts)
    }
}

impl Drop for SimAgent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let result = change(&mut self.world());
        self.changed.send_modify(|count| *count += 1);
        result
    }
}

impl World {
    /// Notes how many instances of each app run now.
    fn count(&mut self) {
        let mut running: BTreeMap<AppName, usize> = BTreeMap::new();
        for instance in self.instances.values().filter(|instance| !instance.status.state.is_over()) {
            *running.entry(instance.spec.app.clone()).or_default() += 1;
        }
        for (app, count) in running {
            let most = self.most_running.entry(app).or_default();
            *most = count.max(*most);
        }
    }

    fn tell(&mut self, kind: EventKind, spec: Option<&InstanceSpec>, message: &str) {
        self.events.push(AgentEvent {
            sequence: self.events.len() as u64 + 1,
            log: Some(self.log.clone()),
            at: Timestamp::now(),
            kind,
            app: spec.map(|spec| spec.app.clone()),
            deployment: spec.map(|spec| spec.deployment.clone()),
            instance: spec.map(|spec| spec.id.clone()),
            message: message.to_owned(),
        });
    }

    /// Starts an instance as the script says.
    fn boot(&mut self, spec: InstanceSpec) -> InstanceStatus {
        let now = Timestamp::now();
        let state = match &self.boot_script {
            BootScript::Fail(failure) if spec.on_boot_failure == OnBootFailure::Fail => {
                InstanceState::Failed { failure: failure.clone() }
            }
            // What was ready once is tried again and again: here, the first try does it.
            BootScript::Ready | BootScript::Fail(_) => InstanceState::Ready { since: now },
            BootScript::Hang => InstanceState::Booting { attempt: 0, since: now },
        };
        let status = InstanceStatus {
            id: spec.id.clone(),
            epoch: spec.epoch,
            controller: spec.controller.clone(),
            app: spec.app.clone(),
            deployment: spec.deployment.clone(),
            user: spec.user.clone(),
            address: Some(([10, 83, 0, 1], 8080).into()),
            state,
            process: None,
            restarts: 0,
            no_snapshot: None,
            no_paging: None,
            in_swap: None,
            on_disk: None,
        };
        let starts = self.instances.get(&spec.id).map_or(1, |known| known.starts + 1);
        self.starts += 1;
        self.tell(EventKind::Instance, Some(&spec), "started");
        self.instances.insert(spec.id.clone(), SimInstance { spec, status: status.clone(), starts });
        self.count();
        status
    }

    /// How a build stands when it is asked about: one step further each time.
    fn ask(&mut self, id: &DeploymentId) -> Option<BuildStatus> {
        let hash = {
            use sha2::Digest as _;
            Digest::from_sha256(sha2::Sha256::digest(id.as_str().as_bytes()).into())
        };
        let build = self.builds.get_mut(id)?;
        let status = build.status.clone();
        build.status = match (&build.status, &build.script) {
            (BuildStatus::Queued { .. } | BuildStatus::Preparing, _) => BuildStatus::Booted,
            (BuildStatus::Booted, _) => BuildStatus::Building { step: "npm ci".to_owned() },
            (BuildStatus::Building { .. }, BuildScript::Succeed) => {
                BuildStatus::Done { image: hash, dependencies_reused: false, workload: build.workload }
            }
            (BuildStatus::Building { .. }, BuildScript::Fail(problem)) => {
                BuildStatus::Failed { problem: problem.clone() }
            }
            (status, _) => status.clone(),
        };
        Some(status)
    }

    fn build(&mut self, request: BuildRequest) {
        let script = self.build_script.clone();
        let builds_started = &mut self.builds_started;
        // As the agent does: one that was broken off is begun anew.
        self.builds.retain(|id, build| *id != request.deployment || !was_broken_off(&build.status));
        self.builds.entry(request.deployment).or_insert_with(|| {
            *builds_started += 1;
            let is_static = request.input.app_type == AppType::Static;
            let workload = if is_static { Workload::Site } else { Workload::Web };
            let (app, controller, status) = (request.app, request.controller, BuildStatus::Preparing);
            SimBuild { app, registries: request.registries, controller, status, script, workload }
        });
    }
}

fn is_over(status: &BuildStatus) -> bool {
    matches!(status, BuildStatus::Done { .. } | BuildStatus::Failed { .. })
}

fn was_broken_off(status: &BuildStatus) -> bool {
    matches!(status, BuildStatus::Failed { problem } if problem.code == ErrorCode::Unavailable)
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/v1/node", get(calls::node))
        .route("/v1/doctor", get(calls::doctor))
        .route("/v1/instances", get(calls::instances))
        .route("/v1/instances/watch", get(calls::watch))
        .route("/v1/instances/{id}", put(calls::put_instance).delete(calls::delete_instance))
        .route("/v1/instances/{id}/stop", post(calls::stop_instance))
        .route("/v1/instances/{id}/sleep", post(calls::sleep_instance))
        .route("/v1/instances/{id}/demand", post(calls::demand_instance))
        .route("/v1/activity", get(calls::activity))
        .route("/v1/instances/{id}/logs", get(calls::instance_logs))
        .route("/v1/events", get(calls::events))
        .route("/v1/blobs", post(calls::store_blob))
        .route("/v1/builds", get(calls::builds))
        .route("/v1/builds/{id}", put(calls::put_build).get(calls::ask_build).delete(calls::delete_build))
        .route("/v1/builds/{id}/logs", get(calls::build_logs))
        .layer(from_fn_with_state(shared.clone(), hang))
        .with_state(shared)
}

/// Connections that were open when the agent went away get no answer either.
async fn hang(State(shared): State<Shared>, request: axum::extract::Request, next: Next) -> axum::response::Response {
    if shared.world().is_hanging {
        std::future::pending::<()>().await;
    }
    next.run(request).await
}
