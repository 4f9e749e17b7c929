//! A pool of what a sandbox can have ahead, before it is known what will run in it: the namespaces of the
//! network, of ipc and of the host's name, with parameters set, loopback on and a link plugged in.
//!
//! Members are descriptors and a link: no process waits in one, so none can leave it or be left over. With
//! the agent their namespaces end, and the links with these; the next agent finds spare links as links that
//! no record owns.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drowse_launcher::{Launcher, Ready};
use fail::fail_point;
use tokio::sync::Notify;

use super::error::SandboxError;
use super::sandbox::blocking;
use crate::network::{Network, SpareLink};

/// After a member could not be made.
const PAUSE: Duration = Duration::from_secs(5);

/// What is made ahead of one sandbox. Whoever has it is the only one.
#[derive(Debug)]
pub struct Member {
    /// The namespaces.
    pub spaces: Ready,
    /// The link into them.
    pub link: SpareLink,
}

/// The members.
#[derive(Debug, Default)]
pub struct Pool {
    size: usize,
    // A std lock, held over one look or change.
    members: Mutex<Vec<Member>>,
    taken: Notify,
}

impl Pool {
    /// An empty pool, which [`fill`] fills up to `size`.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self { size, ..Self::default() }
    }

    /// A member, if there is one.
    pub fn take(&self) -> Option<Member> {
        let member = self.lock().pop();
        self.taken.notify_one();
        member
    }

    fn lacks(&self) -> bool {
        self.lock().len() < self.size
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps `pool` full, in the background, for as long as it is polled.
pub async fn fill(pool: Arc<Pool>, launcher: Arc<Launcher>, network: Network) {
    loop {
        while pool.lacks() {
            let (launcher, network) = (Arc::clone(&launcher), network.clone());
            match blocking(move || make(&launcher, &network)).await {
                Ok(member) => pool.lock().push(member),
                Err(error) => {
                    tracing::warn!("no sandbox can be made ready ahead: {}", error.in_full());
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        pool.taken.notified().await;
    }
}

fn make(launcher: &Launcher, network: &Network) -> Result<Member, SandboxError> {
    fail_point!("ready-make");
    let spaces = launcher.prepare()?;
    fail_point!("ready-made");
    let link = network.make_spare(spaces.network())?;
    fail_point!("ready-linked");
    Ok(Member { spaces, link })
}
