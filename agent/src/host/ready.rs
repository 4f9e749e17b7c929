//! A pool of what a sandbox can have ahead, before it is known what will run in it: the namespaces of the
//! network, of ipc and of the host's name, with parameters set, loopback on and a link plugged in. Beside
//! it as many spare disks are kept.
//!
//! Members are descriptors and a link: no process waits in one, so none can leave it or be left over. With
//! the agent their namespaces end, and the links with these; the next agent finds spare links as links that
//! no record owns.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drowse_launcher::{Launcher, Ready};
use fail::fail_point;
use tokio::sync::Notify;

use super::error::SandboxError;
use super::sandbox::blocking;
use crate::disk::Disks;
use crate::network::{Network, SpareLink};

/// After a member could not be made.
const PAUSE: Duration = Duration::from_secs(5);
/// For so long nothing has been started when the pool is filled: a start needs the processors itself.
const REST: Duration = Duration::from_millis(20);

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
    /// Starts under way.
    starts: AtomicUsize,
    changed: Notify,
}

/// A start under way; nothing is made ahead until all have ended.
#[derive(Debug)]
pub struct Start<'a>(&'a Pool);

impl Drop for Start<'_> {
    fn drop(&mut self) {
        self.0.starts.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
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
        self.changed.notify_one();
        member
    }

    /// Says that something is being started, for as long as what is returned is held.
    pub fn start(&self) -> Start<'_> {
        self.starts.fetch_add(1, Ordering::Relaxed);
        Start(self)
    }

    /// Waits until nothing has been started for a little while.
    async fn rest(&self) {
        let is_idle = || self.starts.load(Ordering::Relaxed) == 0;
        loop {
            if is_idle() {
                tokio::time::sleep(REST).await;
                if is_idle() {
                    return;
                }
            }
            self.changed.notified().await;
        }
    }

    fn lacks(&self) -> bool {
        self.lock().len() < self.size
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps `pool` and as many spare disks full, in the background, for as long as it is polled.
pub async fn fill(pool: Arc<Pool>, launcher: Arc<Launcher>, network: Network, disks: Disks) {
    loop {
        let lacks_member = pool.lacks();
        if !lacks_member && !disks.lacks_spare(pool.size) {
            pool.changed.notified().await;
            continue;
        }
        pool.rest().await;
        let (launcher, network, disks) = (Arc::clone(&launcher), network.clone(), disks.clone());
        let made = if lacks_member {
            blocking(move || make(&launcher, &network)).await.map(|member| pool.lock().push(member))
        } else {
            blocking(move || Ok(disks.make_spare()?)).await
        };
        if let Err(error) = made {
            tracing::warn!("no sandbox can be made ready ahead: {}", error.in_full());
            tokio::time::sleep(PAUSE).await;
        }
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
