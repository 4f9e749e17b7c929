//! The controller put together: records, nodes, reconciler, and the API behind its two doors.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use drowse_api::event::EventKind;
use drowse_api::{ControllerId, UserId};
use drowse_store::{Store, StoreError};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::api::{Api, TUNNELS, router};
use crate::config::Config;
use crate::desired::{Desired, Fact, Step};
use crate::doors;
use crate::ledger::Ledger;
use crate::model::{Lineage, User};
use crate::nodes::Node;
use crate::reconcile::{Nodes, Reconciler};
use crate::rehearsal;
use crate::routers::Routers;
use crate::routes::Publisher;
use crate::vault::{Vault, VaultError, without_logins, without_secrets};

/// How often history that nobody needs is dropped.
const COMPACTION: Duration = Duration::from_secs(60);

/// How long answers under way have when the controller is told to end.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Why the controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A folder cannot be made.
    #[error("cannot make folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data folder is open to others, and is not ours to close.
    #[error("others can read {path}, and its mode cannot be changed: it must be this user's own, with mode 0700")]
    Open {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {path}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another one runs.
    #[error("another controller uses {path}: stop it first, or set another data_dir")]
    Running {
        /// The folder.
        path: PathBuf,
    },
    /// The state cannot be used.
    #[error("the state cannot be used")]
    Store(#[from] StoreError),
    /// What is sealed cannot be opened.
    #[error("the secrets of the apps cannot be used")]
    Vault(#[from] VaultError),
    /// A listener cannot be opened.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
}

/// The exclusive use of a data folder, until it is dropped or the process ends.
#[derive(Debug)]
pub struct DataLock(#[allow(dead_code, reason = "held for the lock on it")] fs::File);

/// Makes the data folder and locks it.
///
/// # Errors
/// If it cannot be made, or another controller holds it.
pub fn lock(data_dir: &Path) -> Result<DataLock, ServeError> {
    make_folder(data_dir, 0o700)?;
    close_folder(data_dir)?;
    let path = data_dir.join("lock");
    let failure = |source| ServeError::Lock { path: path.clone(), source };
    let file = fs::File::options().create(true).truncate(false).write(true).open(&path).map_err(failure)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DataLock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ServeError::Running { path: data_dir.to_owned() }),
        Err(error) => Err(failure(error.into())),
    }
}

fn make_folder(path: &Path, mode: u32) -> Result<(), ServeError> {
    let failure = |source| ServeError::Folder { path: path.to_owned(), source };
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(failure)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failure)
}

/// Takes everyone else's rights from a folder that was there already: what is in it opens every app.
fn close_folder(path: &Path) -> Result<(), ServeError> {
    let failure = |source| ServeError::Open { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(failure)?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "others could read the data folder: closed");
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failure)
}

/// The running controller. Everything of it ends when it is dropped.
#[derive(Debug)]
pub struct Controller {
    /// The records.
    pub ledger: Ledger,
    /// The nodes.
    pub nodes: Arc<Nodes>,
    /// Where the TCP listener is; the system has chosen the port where the configuration says 0.
    pub api_address: SocketAddr,
    end: CancellationToken,
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl Controller {
    /// Starts it on this state.
    ///
    /// # Errors
    /// A state that cannot be read, a listener that cannot be opened.
    pub async fn start(config: Config, store: Store) -> Result<Self, ServeError> {
        let ledger = Ledger::open(store, config.limits.events).await?;
        let base = ledger.desired();
        let vault = Arc::new(Vault::open(&config.secrets_key(), &base)?);
        let mut steps = vault.seal_all(&base).unwrap_or_else(|problem| {
            tracing::error!(%problem, "logins for registries stay as an older release kept them");
            Vec::new()
        });
        steps.push(first_step(&base, &config));
        ledger.commit(&base, steps).await?;
        let (config, wake) = (Arc::new(config), Arc::new(Notify::new()));
        let nodes: Nodes = config
            .agents
            .iter()
            .map(|agent| (agent.node.clone(), Node::start(agent, &ledger, Arc::clone(&wake), &config.sleep)))
            .collect();
        let nodes = Arc::new(nodes);
        let publisher = Publisher::new(config.domain.clone(), config.sleep, &ledger.desired());
        let end = CancellationToken::new();
        let known = ledger.desired();
        let expected = known.routers.iter().map(|router| router.name.clone());
        let expected = expected.chain(config.router.as_ref().map(|router| router.node.clone()));
        let api = Api {
            ledger: ledger.clone(),
            nodes: Arc::clone(&nodes),
            routers: Arc::new(Routers::expecting(expected)),
            table: publisher.subscribe(),
            config: Arc::clone(&config),
            vault: Arc::clone(&vault),
            wake: Arc::clone(&wake),
            histories: Arc::default(),
            attempts: Arc::default(),
            tunnels: Arc::new(Semaphore::new(TUNNELS)),
            end: end.clone(),
        };
        let reconciler = Reconciler {
            ledger: ledger.clone(),
            nodes: Arc::clone(&nodes),
            routers: Arc::clone(&api.routers),
            publisher,
            settings: Arc::new(config.limits.clone()),
            vault,
            sleep: config.sleep,
            wake,
        };
        let (tcp, api_address) = open_tcp(&api, &config).await?;
        let mut tasks: Vec<_> = [open_socket(&api, &config)?, tcp].into_iter().map(AbortOnDropHandle::new).collect();
        tasks.push(AbortOnDropHandle::new(tokio::spawn(reconciler.run(end.clone()))));
        tasks.push(AbortOnDropHandle::new(tokio::spawn(compact(ledger.clone()))));
        let watched = (Arc::clone(&api.histories), ledger.clone(), Arc::clone(&nodes), Arc::clone(&api.routers));
        let watching = rehearsal::watch(watched.0, watched.1, watched.2, watched.3, config.sleep);
        tasks.push(AbortOnDropHandle::new(tokio::spawn(watching)));
        Ok(Self { ledger, nodes, api_address, end, tasks })
    }

    /// Ends it: no new calls, streams end, answers under way are given.
    pub async fn stop(mut self) {
        self.end.cancel();
        // The doors close by themselves; the rest is cut.
        let doors = self.tasks.drain(..2).collect::<Vec<_>>();
        let _ = tokio::time::timeout(LAST_ANSWERS, futures_util::future::join_all(doors)).await;
    }
}

/// Removes every secret of every app and every login for a registry, for an operator whose key is lost. How many
/// apps and logins there were.
///
/// # Errors
/// The store's.
pub async fn forget_secrets(store: Store, config: &Config) -> Result<usize, ServeError> {
    let ledger = Ledger::open(store, config.limits.events).await?;
    let base = ledger.desired();
    let steps: Vec<_> = base
        .apps
        .iter()
        .filter_map(|app| {
            let names: Vec<_> = app.secrets.keys().map(String::as_str).collect();
            let message = format!("secrets removed by the operator ({}): they have to be set anew", names.join(", "));
            Some(Step::new(without_secrets(app)?).told(Fact::new(EventKind::App, message).app(&app.name)))
        })
        .chain(without_logins(&base))
        .collect();
    Ok(ledger.commit(&base, steps).await?)
}

fn first_step(desired: &Desired, config: &Config) -> Step {
    let fact = Fact::new(EventKind::Node, format!("controller {} started", env!("CARGO_PKG_VERSION")));
    let mut step = Step::default().told(fact);
    if desired.lineage().is_none() {
        step = step.and(Lineage { id: ControllerId::generate() });
    }
    if desired.users.iter().next().is_some() {
        return step;
    }
    let user = User { id: UserId::generate(), name: config.owner.clone(), created: Timestamp::now() };
    step.told(Fact::new(EventKind::App, format!("user {} was made", user.name))).and(user)
}

async fn compact(ledger: Ledger) {
    let mut tick = tokio::time::interval(COMPACTION);
    loop {
        tick.tick().await;
        if let Err(error) = ledger.compact().await {
            tracing::warn!(%error, "the history was not compacted");
        }
    }
}

fn open_socket(api: &Api, config: &Config) -> Result<tokio::task::JoinHandle<()>, ServeError> {
    make_folder(&config.run_dir, 0o755)?;
    let path = config.socket();
    let failure = |source| ServeError::Listen { address: path.display().to_string(), source };
    // The lock on the data folder is held: a socket that is there is a leftover.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failure(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failure)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).map_err(failure)?;
    let own = rustix::process::getegid().as_raw();
    if let Some(gid) = config.admin_gid.filter(|gid| *gid != own)
        && let Err(error) = std::os::unix::fs::chown(&path, None, Some(gid))
    {
        tracing::warn!(%error, gid, "the socket could not be given to the admin group");
    }
    Ok(tokio::spawn(doors::serve(listener, router(api.clone()), api.end.clone())))
}

async fn open_tcp(api: &Api, config: &Config) -> Result<(tokio::task::JoinHandle<()>, SocketAddr), ServeError> {
    let failure = |source| ServeError::Listen { address: config.api_listen.to_string(), source };
    let listener = TcpListener::bind(config.api_listen).await.map_err(failure)?;
    let address = listener.local_addr().map_err(failure)?;
    Ok((tokio::spawn(doors::serve(listener, router(api.clone()), api.end.clone())), address))
}
