//! The start of the agent, in the order that makes it safe: alone on its folders, the host fit, what
//! an earlier agent left adopted, what nobody owns removed, and only then the door opened.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use drowse_api::MemoryBytes;
use drowse_api::agent::NodeInfo;
use drowse_api::instance::Workload;
use drowse_api::sleep::Demand;
use drowse_launcher::Launcher;
use drowse_rootfs::ImageStore;
use drowse_seal::{Key, KeyError};
use jiff::Timestamp;
use rustix::fs::FlockOperation;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use crate::addresses::Addresses;
use crate::api::{self, Agent, Peers};
use crate::build::Builds;
use crate::cgroup::{self, CgroupError};
use crate::cleanup;
use crate::command::Commands;
use crate::config::Config;
use crate::disk::Disks;
use crate::durable::DurableError;
use crate::events::{EventLog, EventsError};
use crate::host::error::SandboxError;
use crate::host::hibernate::Snapshots;
use crate::host::ready::{self, Pool};
use crate::host::sandbox::Sandboxes;
use crate::host::{self, Node, files, home};
use crate::identity::{IdentityError, UserIds};
use crate::inside::Doors;
use crate::instance::followers::Followers;
use crate::instance::host::Record;
use crate::instance::{Instances, record};
use crate::network::{AddressPool, Network, NetworkConfig, NetworkError};
use crate::snapshot::{self, Criu, SnapshotError};
use crate::sweep;

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another agent has the folder.
    #[error(
        "another agent runs with run_dir {run_dir} (its pid is {pid}); stop it first, or give this one folders of its own"
    )]
    AlreadyRunning {
        /// The folder.
        run_dir: PathBuf,
        /// What the other wrote into the lock.
        pid: String,
    },
    /// Not root.
    #[error("the agent makes namespaces and control groups: start it as root")]
    NotRoot,
    /// A file or folder.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The control groups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The image store.
    #[error(transparent)]
    Store(#[from] drowse_rootfs::StoreError),
    /// The users' id ranges.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The events.
    #[error(transparent)]
    Events(#[from] EventsError),
    /// The records.
    #[error(transparent)]
    Record(#[from] DurableError),
    /// The file server.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The key to the secrets in records.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The launcher.
    #[error(transparent)]
    Launcher(#[from] drowse_launcher::LauncherError),
    /// The socket.
    #[error(transparent)]
    Listen(#[from] api::ListenError),
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::Io { action, path, source }
}

/// How long the lock of an agent that is gone is waited for: a program that it was just starting has its
/// descriptors until it executes.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// That this is the only agent on its `run_dir`, for as long as it lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock is the open file")] File);

/// What must be there before there are threads.
pub struct Started {
    lock: Lock,
    launcher: Launcher,
}

/// Takes the lock on `run_dir`.
///
/// # Errors
/// [`StartError::AlreadyRunning`], or the folder cannot be used.
pub fn lock(config: &Config) -> Result<Lock, StartError> {
    if !rustix::process::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    let of_sandboxes = ["instances", "runs", "builds"].map(|name| (config.run_dir.join(name), 0o700));
    let folders = [(config.data_dir.clone(), 0o700), (config.run_dir.clone(), 0o755)];
    for (folder, mode) in folders.into_iter().chain(of_sandboxes) {
        std::fs::DirBuilder::new().recursive(true).mode(mode).create(&folder).map_err(io("make", &folder))?;
    }
    // Also where somebody else made it: files of tenants in it have the modes that they chose.
    std::fs::set_permissions(&config.data_dir, std::fs::Permissions::from_mode(0o700))
        .map_err(io("close", &config.data_dir))?;
    let path = config.run_dir.join("lock");
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(io("open", &path))?;
    let began = std::time::Instant::now();
    while rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let pid = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
        let is_alive = !pid.is_empty() && Path::new("/proc").join(&pid).exists();
        if is_alive || began.elapsed() > LAST_BREATH {
            return Err(StartError::AlreadyRunning { run_dir: config.run_dir.clone(), pid });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io("write", &path))?;
    Ok(Lock(file))
}

/// The steps that come before any thread: the launcher is a child of a process that is still alone.
///
/// # Errors
/// If the agent is not root, not alone, or a program is missing.
pub fn before_threads(config: &Config) -> Result<Started, StartError> {
    let lock = lock(config)?;
    let launcher = Launcher::spawn(&config.bin_dir.join("drowse-launcher"), &config.bin_dir.join("drowse-init"))?;
    Ok(Started { lock, launcher })
}

/// What the network of this host's agent is set up with.
#[must_use]
pub fn network(config: &Config) -> Network {
    Network::new(NetworkConfig::new(config, files::resolvers(&files::resolv_conf(config))))
}

/// The boot that is going on.
///
/// # Errors
/// If /proc cannot be read.
pub fn boot_id() -> Result<String, StartError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(std::fs::read_to_string(path).map_err(io("read", path))?.trim().to_owned())
}

/// The key that seals secrets in records. It is in memory as all of `run_dir` is, and so no disk holds
/// what would open them; after a reboot the controller gives them anew.
fn boot_key(config: &Config) -> Result<Key, StartError> {
    let path = config.run_dir.join("secrets.key");
    match Key::load_or_create(&path) {
        Err(KeyError::Damaged { .. }) => {
            tracing::error!("{} is damaged: made anew", path.display());
            std::fs::remove_file(&path).map_err(io("remove", &path))?;
            Ok(Key::create(&path)?)
        }
        other => Ok(other?),
    }
}

/// Runs the agent until SIGTERM or SIGINT. Instances go on afterwards.
///
/// # Errors
/// If it cannot start.
pub async fn run(config: Config, started: Started) -> Result<(), StartError> {
    let Started { lock, launcher } = started;
    let began = std::time::Instant::now();
    let (config, boot_id) = (Arc::new(config), boot_id()?);
    let events = Arc::new(EventLog::open(&config.data_dir.join("events"))?);
    let cgroups: Arc<dyn cgroup::Cgroups> = Arc::from(cgroup::detect(&config.cgroup_root)?);
    let network = network(&config);
    network.ensure().await?;
    let store = ImageStore::open(&config.data_dir.join("images"))?;
    let users = Arc::new(UserIds::open(&config.data_dir.join("users.json"), config.first_host_id)?);
    host::prepare_sites(&config)?;
    let server_image = {
        let (config, store) = (Arc::clone(&config), store.clone());
        host::sandbox::blocking(move || host::sites_image(&config, &store)).await
    };
    let server = match server_image {
        Ok(image) => Some(host::sites_spec(image, drowse_api::Epoch(1))),
        Err(error) => {
            tracing::error!("static sites cannot be served: {}", error.in_full());
            None
        }
    };
    let launcher = Arc::new(launcher);
    let pool = Arc::new(Pool::new(config.ready_sandboxes));
    let disks = {
        let (mode, folder) = (config.disk.limit, config.data_dir.join("disks"));
        host::sandbox::blocking(move || Ok(Disks::open(mode, folder)?)).await?
    };
    let sandboxes = Sandboxes {
        launcher: Arc::clone(&launcher),
        cgroups: Arc::clone(&cgroups),
        network: network.clone(),
        disks: disks.clone(),
        boot_id: boot_id.clone(),
        pool: Arc::clone(&pool),
        host_clocks: Arc::default(),
    };
    let snapshots = snapshots(&config);
    if let Err(why) = &snapshots {
        tracing::warn!("nothing can be put to disk: {why}");
    }
    let key = Arc::new(boot_key(&config)?);
    let (doors, mut held) = Doors::new();
    let node = Node {
        config: Arc::clone(&config),
        store,
        users,
        sandboxes,
        events: Arc::clone(&events),
        key: Arc::clone(&key),
        snapshots,
        doors,
        paging: Arc::new(tokio::sync::Semaphore::new(1)),
    };
    let addresses = Arc::new(Addresses::new(AddressPool::new(config.address_range)));

    let mut found = record::find(&home::instances(&config), Some(&key))?;
    found.records.extend(record::find(&config.data_dir.join("system"), Some(&key))?.records);
    sweep::quarantine(&config, &events, std::mem::take(&mut found.damaged));
    let records: Vec<_> = found
        .records
        .into_iter()
        .map(|record| if record.boot_id == boot_id { record } else { record::rebooted(record, &boot_id) })
        .map(|record| if host::is_published(&config, record.address) { record } else { record::unpublished(record) })
        .collect();
    let records = awake(&node, records).await;
    sweep::ownerless(&node, &records, found.ownerless).await;
    // After the sweep, which takes spare links for an earlier agent's.
    let _filling = AbortOnDropHandle::new(tokio::spawn(ready::fill(pool, launcher, network, disks)));
    let sites = records.iter().any(|record| record.life.spec.workload == Workload::Site);
    let count = records.len();

    let builds = Arc::new(Builds::open(node.clone(), Arc::clone(&addresses)).await);
    let server_image = server.as_ref().map(|server| server.image.clone());
    let _cleanup = AbortOnDropHandle::new(tokio::spawn(cleanup::run(node.clone(), Arc::clone(&builds), server_image)));
    let commands = Commands::new(node.clone(), Arc::clone(&addresses));
    let followers = Followers::new(Duration::from_secs(config.router_patience_seconds));
    let (host, log) = (Arc::new(node.clone()), Arc::clone(&events));
    let instances = Arc::new(Instances::new(host, log, addresses, boot_id.clone(), followers, server));
    open_doors(&node, &records).await;
    instances.adopt(records);
    instances.bring_up_server(sites).await;

    let info = node_info(&config, &*cgroups, boot_id);
    // Who takes a lease while it falls asleep is needed.
    let _held = {
        let instances = Arc::clone(&instances);
        AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(id) = held.recv().await {
                let _ = instances.demand(&id, Demand { cause: "a lease of its own".to_owned() }).await;
            }
        }))
    };
    let agent = Arc::new(Agent { info, node, instances, builds, commands: commands.clone() });
    let _shelf = {
        let (agent, room) = (Arc::clone(&agent), config.snapshots);
        AbortOnDropHandle::new(tokio::spawn(async move { agent.instances.keep_within(room).await }))
    };
    let listener = api::bind(&config.socket(), config.control_gid)?;
    // The group may reach the socket only if it may enter its folder.
    std::fs::set_permissions(&config.run_dir, std::fs::Permissions::from_mode(0o755))
        .map_err(io("open", &config.run_dir))?;
    let took = began.elapsed().as_millis();
    events.about_node(format!("agent {} started, {count} instances adopted in {took} ms", env!("CARGO_PKG_VERSION")));
    let peers = Peers { control: config.control_uid, router: config.router_uid };
    let serving = api::serve(listener, api::router(agent), peers);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let _watchdog = AbortOnDropHandle::new(tokio::spawn(watchdog()));

    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (mut terminate, mut interrupt) = match signals {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(source), _) | (_, Err(source)) => {
            return Err(StartError::Io { action: "watch signals for", path: config.socket(), source });
        }
    };
    tokio::select! {
        () = serving => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    commands.end().await;
    tracing::info!("the agent ends; instances go on");
    drop(lock);
    Ok(())
}

/// What snapshots are made with, or why there are none.
fn snapshots(config: &Config) -> Result<Snapshots, String> {
    let criu = criu(config).ok_or("there is no criu: install it, or name one by the key `criu`")?;
    let object = config.bin_dir.join("libdrowse_nsenter.so");
    if !object.exists() {
        return Err(format!("{} is missing: it comes with the agent's programs", object.display()));
    }
    let full = |error: SnapshotError| host::error::chain(&error);
    let key = snapshot::Key::open(&config.data_dir.join("snapshot.key")).map_err(full)?;
    let engine = Criu::new(&criu, &object).map_err(full)?;
    Ok(Snapshots { engine: Arc::new(engine), key: Arc::new(key), room: config.snapshots })
}

/// The doors of those whose processes are there: what they hold is held on.
async fn open_doors(node: &Node, records: &[Record]) {
    let here: Vec<_> =
        records.iter().filter(|record| node.home(&record.life.spec).inside().is_dir()).cloned().collect();
    let node = node.clone();
    let opened = host::sandbox::blocking(move || {
        for record in here {
            if let Err(error) = node.open_door(&record, false) {
                tracing::warn!(instance = %record.life.spec.id, "it cannot hold a lease: {}", error.in_full());
            }
        }
        Ok(())
    });
    let _ = opened.await;
}

/// The checkpoint program: as configured, else the host's own.
fn criu(config: &Config) -> Option<PathBuf> {
    let in_path = || {
        let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
        folders.iter().map(|folder| Path::new(folder).join("criu")).find(|program| program.exists())
    };
    config.criu.clone().or_else(in_path)
}

/// The records, with those of paused instances as the kernel has them.
async fn awake(node: &Node, records: Vec<Record>) -> Vec<Record> {
    let mut looked = Vec::with_capacity(records.len());
    for record in records {
        let (spec, is_paused) = (&record.life.spec, record.life.is_paused());
        let goes_on = match record.life.is_dumped() {
            Some(running) => node.was_woken(spec, running).await,
            None => is_paused && !node.stands_still(spec).await,
        };
        looked.push(if goes_on { record::awake(record, Timestamp::now()) } else { record });
    }
    looked
}

/// Tells systemd that the runtime turns, for as long as it does: a daemon that stands still is as bad
/// as a dead one, and systemd starts it anew.
async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval((limit / 3).max(Duration::from_millis(100)));
    loop {
        tick.tick().await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

fn node_info(config: &Config, cgroups: &dyn cgroup::Cgroups, boot_id: String) -> NodeInfo {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    NodeInfo {
        name: config.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        cgroups: cgroups.layout().as_str().to_owned(),
        memory: MemoryBytes::kib(total.unwrap_or_default()),
        processors: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
    }
}
