//! The router as a running thing: its threads, its listeners, its end.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwap;
use drowse_api::client::Client;
use tokio::runtime::Builder;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::RouterConfig;
use crate::control::Control;
use crate::instance::Instance;
use crate::page::WakePage;
use crate::picture::Picture;
use crate::saved::Saved;
use crate::shared::Shared;
use crate::waker::Waker;
use crate::woken::Woken;
use crate::worker::Worker;

/// Why the router could not start.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for visitors")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A listener that was handed over cannot be used.
    #[error("cannot use a listener that was handed over")]
    HandedOver {
        /// Why.
        source: std::io::Error,
    },
    /// The folder for the last known table cannot be used.
    #[error("cannot use the router's folder {}", path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The operator's own Wake Up page cannot be used.
    #[error("cannot use the Wake Up page {}: {what}", path.display())]
    WakePage {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// A thread or its event loop cannot be made.
    #[error("cannot start an event loop of the router")]
    EventLoop {
        /// Why.
        source: std::io::Error,
    },
}

/// A running router. Dropping it ends it at once; [`stop`](Router::stop) lets requests finish.
#[derive(Debug)]
pub struct Router {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Router {
    /// Opens the listeners (or takes `open` ones in their place), reads the last known table and
    /// starts the event loops, each on a thread of its own.
    ///
    /// # Errors
    /// When an address is taken, the folder cannot be used, or threads cannot be made.
    pub fn start(config: RouterConfig, open: Vec<TcpListener>) -> Result<Router, RouterError> {
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|source| RouterError::DataDir { path: config.data_dir.clone(), source })?;
        let listeners = listeners(&config, open)?;
        let mut addresses = Vec::new();
        for listener in &listeners {
            addresses.push(listener.local_addr().map_err(|source| RouterError::HandedOver { source })?);
        }
        let workers =
            config.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
        let mut limits = config.limits.clone();
        limits.connections = limits.connections.min(room_for_connections());
        let emptied = Arc::new(Notify::new());
        let page = WakePage::read(config.wake_page.as_deref())?;
        let (orders, ordered) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            limits,
            picture: ArcSwap::from_pointee(Picture::default()),
            changed: watch::channel(()).0,
            api: Instance::new(None, config.api_address, workers, Arc::clone(&emptied)),
            orders,
            woken: Woken::default(),
            page,
            turn: AtomicUsize::new(0),
            open: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            parked: AtomicUsize::new(0),
            ended: Notify::new(),
            draining: CancellationToken::new(),
            ending: CancellationToken::new(),
        });
        let mut control = Control {
            shared: Arc::clone(&shared),
            controller: Client::unix(&config.controller_socket),
            agent: Client::unix(&config.agent_socket),
            saved_table: Saved::new(&config.data_dir, "routes.json", "drowse-router-routes"),
            saved_endpoints: Saved::new(&config.data_dir, "endpoints.json", "drowse-router-endpoints"),
            node: config.node,
            table: None,
            endpoints: Default::default(),
            pictures: 0,
            kept: 0,
            began: (Instant::now(), jiff::Timestamp::now()),
            retired: Vec::new(),
            letting_go: Default::default(),
            emptied,
        };
        let waker = Waker { shared: Arc::clone(&shared), agent: control.agent.clone() };
        // Before the first visitor is accepted.
        control.restore();
        let mut router = Router { addresses, shared, threads: Vec::new() };
        router.spawn("router-control", move || async move {
            // Ends with the control half: both are of this thread's event loop.
            tokio::spawn(waker.run(ordered));
            control.run().await;
        })?;
        let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        for (index, inbox) in receivers.into_iter().enumerate() {
            let worker = Worker { index, shared: Arc::clone(&router.shared), inboxes: inboxes.clone() };
            let own = listeners.iter().map(TcpListener::try_clone).collect::<Result<Vec<_>, _>>();
            let own = own.map_err(|source| RouterError::HandedOver { source })?;
            router.spawn(&format!("router-{index}"), move || worker.run(own, inbox))?;
        }
        Ok(router)
    }

    /// The addresses visitors can connect to.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops accepting, lets requests in flight finish within the limit, and ends. Blocks.
    pub fn stop(mut self) {
        self.shared.draining.cancel();
        let deadline = Instant::now() + self.shared.limits.drain();
        while self.shared.connections() > 0 && Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        self.end();
    }

    fn end(&mut self) {
        self.shared.draining.cancel();
        self.shared.ending.cancel();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the router had panicked");
            }
        }
    }

    fn spawn<F>(&mut self, name: &str, work: impl FnOnce() -> F + Send + 'static) -> Result<(), RouterError>
    where
        F: Future<Output = ()>,
    {
        let failed = |source| RouterError::EventLoop { source };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let thread = std::thread::Builder::new().name(name.to_owned());
        let running = thread.spawn(move || runtime.block_on(work())).map_err(failed)?;
        self.threads.push(running);
        Ok(())
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.end();
    }
}

fn listeners(config: &RouterConfig, open: Vec<TcpListener>) -> Result<Vec<TcpListener>, RouterError> {
    let listeners = if open.is_empty() {
        let listen = |address: &SocketAddr| {
            listen_on(*address).map_err(|source| RouterError::Listen { address: *address, source })
        };
        config.listen.iter().map(listen).collect::<Result<Vec<_>, _>>()?
    } else {
        open
    };
    for listener in &listeners {
        listener.set_nonblocking(true).map_err(|source| RouterError::HandedOver { source })?;
    }
    Ok(listeners)
}

/// How many visitors there are descriptors for, once this process may have as many as it is allowed:
/// each visitor may need a second one for its instance.
fn room_for_connections() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    /// Listeners, event loops, streams, files.
    const OWN: u64 = 128;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files cannot be raised");
        }
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(allowed.saturating_sub(OWN) / 2).unwrap_or(usize::MAX).max(1)
}

/// A listener with a queue longer than the standard library's 128.
fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // Asking a listening socket to listen again only changes the length of its queue.
    rustix::net::listen(&listener, 4096)?;
    Ok(listener)
}

/// Runs a router until `shutdown` is ready, then lets requests in flight finish. `open` listeners
/// take the place of the configured addresses, for a router that is handed them by its parent.
///
/// # Errors
/// As [`Router::start`].
pub async fn run(
    config: RouterConfig,
    open: Vec<TcpListener>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RouterError> {
    let router = Router::start(config, open)?;
    shutdown.await;
    // A panic in there has been logged by its own thread.
    let _ = tokio::task::spawn_blocking(move || router.stop()).await;
    Ok(())
}
