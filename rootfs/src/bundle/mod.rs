//! OCI runtime bundles.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::overlay::IdRange;

/// What an operator lets third-party bundles ask for. Everything is refused by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AllowList {
    /// Programs that may be hooks, by absolute path.
    pub hooks: Vec<PathBuf>,
    /// Device nodes, by absolute path.
    pub devices: Vec<PathBuf>,
    /// Host folders that may be bound, with all below them.
    pub host_binds: Vec<PathBuf>,
    /// Namespaces that may be joined, by absolute path.
    pub namespace_paths: Vec<PathBuf>,
    /// Kernel parameters that may be set, by name.
    pub sysctls: Vec<String>,
    /// Capabilities that may be kept, as `CAP_NET_BIND_SERVICE`.
    pub capabilities: Vec<String>,
    /// The lowest `oomScoreAdj` that may be asked for.
    pub oom_score_adj: Option<i32>,
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

/// x
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// x
    #[error("unimplemented")]
    Unimplemented,
}

/// A field that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is not allowed: {found}; {advice}")]
pub struct Refusal {
    /// The field, as `linux.devices[0].path`.
    pub field: String,
    /// What it holds.
    pub found: String,
    /// What to do.
    pub advice: String,
}

/// Spec.
#[allow(missing_docs, clippy::missing_errors_doc, unused_variables)]
pub fn runtime_spec(input: &SpecInput) -> Result<Spec, BundleError> {
    Err(BundleError::Unimplemented)
}
#[allow(missing_docs, clippy::missing_errors_doc, unused_variables)]
pub fn check(spec: &Spec, allow: &AllowList) -> Result<(), Vec<Refusal>> {
    Ok(())
}
#[allow(missing_docs, clippy::missing_errors_doc, unused_variables)]
pub fn read(bundle: &Path) -> Result<Spec, BundleError> {
    Err(BundleError::Unimplemented)
}
#[allow(missing_docs, clippy::missing_errors_doc, unused_variables)]
pub fn write(bundle: &Path, spec: &Spec) -> Result<(), BundleError> {
    Err(BundleError::Unimplemented)
}
