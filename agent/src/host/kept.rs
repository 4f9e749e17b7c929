//! What is kept of a sandbox over restarts of the agent, and what is found by it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use drowse_api::Digest;
use drowse_api::instance::ProcessIdentity;
use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use super::home::Home;
use super::process;
use super::sandbox::Sandboxes;
use crate::durable;
use crate::network::namespace_of;

const MAGIC: &str = "drowse-sandbox";
const VERSION: u32 = 1;

/// What is kept of a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) init: ProcessIdentity,
    pub(super) boot_id: String,
    pub(super) image: Digest,
    /// Counts the apps that were started in it.
    pub(super) incarnation: u32,
    /// The kernel's count of memory kills before the present app.
    pub(super) kills_before: u64,
    /// The inodes of the pipes that the present app was given as its output and errors.
    #[serde(default)]
    pub(super) streams: [u64; 2],
}

impl Sandboxes {
    /// Whether the sandbox's init lives.
    #[must_use]
    pub fn stands(&self, home: &Home) -> bool {
        self.kept(home).is_some_and(|kept| process::is_alive(kept.init))
    }

    /// The root of a standing sandbox, as a path that leads there for as long as it stands.
    #[must_use]
    pub fn root_of(&self, home: &Home) -> Option<PathBuf> {
        let kept = self.kept(home).filter(|kept| process::is_alive(kept.init))?;
        Some(PathBuf::from(format!("/proc/{}/root", kept.init.pid)))
    }

    /// The namespace of a standing sandbox's network.
    ///
    /// # Errors
    /// If it does not stand.
    pub fn network_of(&self, home: &Home) -> Result<OwnedFd, SandboxError> {
        let kept = self.kept(home).ok_or(SandboxError::InitGone)?;
        let netns = namespace_of(kept.init.pid)?;
        if process::is_alive(kept.init) { Ok(netns) } else { Err(SandboxError::InitGone) }
    }

    /// What is known of the sandbox, if it is of this boot. A damaged record is none: the sandbox is
    /// then found by its groups, and made anew.
    pub(super) fn kept(&self, home: &Home) -> Option<Kept> {
        match durable::load::<Kept>(&home.sandbox_record(), MAGIC, VERSION) {
            Ok(kept) => kept.filter(|kept| kept.boot_id == self.boot_id),
            Err(error) => {
                tracing::error!("{error}");
                None
            }
        }
    }

    /// The init of a standing sandbox.
    #[must_use]
    pub fn init_of(&self, home: &Home) -> Option<ProcessIdentity> {
        self.kept(home).map(|kept| kept.init).filter(|init| process::is_alive(*init))
    }

    /// The image that a standing sandbox was made from.
    #[must_use]
    pub fn image_of(&self, home: &Home) -> Option<Digest> {
        self.kept(home).map(|kept| kept.image)
    }

    pub(super) fn keep(&self, home: &Home, kept: &Kept) -> Result<(), SandboxError> {
        // Processes end with the host: nothing of it is worth a wait for the disk.
        Ok(durable::save_until_reboot(&home.sandbox_record(), MAGIC, VERSION, kept)?)
    }
}
