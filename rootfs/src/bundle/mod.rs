//! OCI runtime bundles: the `config.json` that describes what we run, and those of third parties.
//!
//! Ours are made by [`runtime_spec`] and always confine in full. A third party's is [`read`],
//! [`check`]ed against what the operator allows, and [`merged`] into one of ours: it can ask for more
//! than the defaults only where it is allowed to, and never for less confinement. What is neither
//! honoured nor dangerous (its cgroup, seccomp filter, AppArmor and SELinux labels, capabilities that
//! are not allowed) is left out, and [`notes`] say so.

mod check;
mod defaults;
mod image;
mod merge;
mod notes;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, Spec};

use crate::json;
use crate::overlay::IdRange;

pub use check::{Refusal, Refusals, check};
pub use defaults::{ROOT_INSIDE, let_mount, masked_paths, read_only_paths, runtime_spec};
pub use image::spec_of_image;
pub use merge::{Bind, Merged, OwnLimits, merged, own_limits};
pub use notes::notes;

/// The largest `config.json` that is read.
const LARGEST_CONFIG: u64 = 1 << 20;

/// What an operator lets third-party bundles ask for. Everything is refused by default.
///
/// Hooks, devices and namespaces of the host are not here: nothing can allow them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    /// Files and folders of the host that may be shown, read-only: these alone and nothing below
    /// them, where an app that may write could put a link to elsewhere.
    pub binds: Vec<PathBuf>,
    /// As `binds`, and they may be written to.
    pub writable_binds: Vec<PathBuf>,
    /// Kernel parameters of the container's own namespaces that may be set, by name.
    pub sysctls: Vec<String>,
    /// Capabilities that may be kept, as `CAP_NET_BIND_SERVICE`; others are dropped.
    pub capabilities: Vec<String>,
    /// The lowest `oomScoreAdj` that may be asked for.
    pub oom_score_adj: Option<i32>,
}

impl AllowList {
    /// Whether a process of this user may keep a capability. Those of the list are over the host's
    /// network and memory: root inside a user namespace would have them over nothing.
    fn keeps(&self, uid: u32, capability: &Capability) -> bool {
        if uid == 0 { ROOT_INSIDE.contains(capability) } else { self.has(capability) }
    }

    fn has(&self, capability: &Capability) -> bool {
        let name = serde_json::to_value(capability).ok();
        name.as_ref().and_then(|name| name.as_str()).is_some_and(|name| self.capabilities.iter().any(|one| one == name))
    }
}

/// What our own instances differ in.
#[derive(Debug, Clone)]
pub struct SpecInput {
    /// Host name inside.
    pub hostname: String,
    /// What is run.
    pub args: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Its working folder inside.
    pub cwd: PathBuf,
    /// The user, as an id of the image.
    pub uid: u32,
    /// The group, as an id of the image.
    pub gid: u32,
    /// Further groups, as ids of the image.
    pub additional_gids: Vec<u32>,
    /// The host ids that the image's ids become: `process.user` holds host ids.
    pub ids: IdRange,
    /// Most memory in bytes.
    pub memory: Option<u64>,
    /// Most processes and threads.
    pub pids: Option<u32>,
    /// The cgroup, from the root of each hierarchy.
    pub cgroups_path: Option<PathBuf>,
    /// Annotations, for whoever looks at the bundle.
    pub annotations: BTreeMap<String, String>,
}

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The configuration is too large.
    #[error("{path} is larger than 1 MiB")]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// The configuration is no configuration, or names one key twice.
    #[error("{path} is not a valid runtime configuration")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where it goes wrong.
        #[source]
        source: serde_json::Error,
    },
    /// It asks for what the operator did not allow.
    #[error(transparent)]
    Refused(#[from] Refusals),
    /// It lacks something, or has it in a form that we do not take.
    #[error("{field}: {problem}")]
    Unfit {
        /// The field, as `root.path`.
        field: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An id that the range does not reach.
    #[error("id {id} is outside of the {count} ids that an image may use")]
    Id {
        /// The image's id.
        id: u32,
        /// Size of the range.
        count: u32,
    },
    /// The specification's types refused a value of ours.
    #[error("cannot describe the container")]
    Build(#[from] oci_spec::OciSpecError),
}

/// Reads `config.json` of the bundle in `folder`. A key that stands twice is refused: two readers
/// would see two configurations.
///
/// # Errors
/// When it is missing, too large or malformed.
pub fn read(folder: &Path) -> Result<Spec, BundleError> {
    let path = folder.join("config.json");
    let io_error = |action| {
        let path = path.clone();
        move |source: io::Error| BundleError::Io { action, path, source }
    };
    // As O_NONBLOCK|O_NOFOLLOW: a bundle may come from a stranger's archive.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file =
        rustix::fs::openat(rustix::fs::CWD, &path, flags | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
            .map_err(|error| io_error("open")(error.into()))?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(fs::File::from(file), LARGEST_CONFIG + 1), &mut bytes)
        .map_err(io_error("read"))?;
    if bytes.len() as u64 > LARGEST_CONFIG {
        return Err(BundleError::TooLarge { path });
    }
    json::parse(&bytes).map_err(|source| BundleError::Malformed { path, source })
}

/// Writes `config.json` of the bundle in `folder`: temporary, synced, renamed.
///
/// # Errors
/// When the file system refuses.
pub fn write(folder: &Path, spec: &Spec) -> Result<(), BundleError> {
    let path = folder.join("config.json");
    let io_error = |source: io::Error| BundleError::Io { action: "write", path: folder.join("config.json"), source };
    let bytes =
        serde_json::to_vec_pretty(spec).map_err(|source| BundleError::Malformed { path: path.clone(), source })?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io_error)?;
    file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(io_error)?;
    file.persist(&path).map_err(|error| io_error(error.error))?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error)
}

#[cfg(test)]
mod tests;
