//! From an instance's record and its image to the plan of its sandbox.

use std::collections::BTreeMap;
use std::path::PathBuf;

use drowse_api::MemoryBytes;
use drowse_api::agent::RunRequest;
use drowse_api::image::{APP_FOLDER, LABEL_TYPE};
use drowse_api::instance::{InstanceSpec, Limits, Workload};
use drowse_launcher::Bind;
use drowse_rootfs::bundle::{self, BundleError, SpecInput, runtime_spec};
use drowse_rootfs::{IdRange, Image};
use oci_spec::runtime::Spec;

use super::error::SandboxError;
use super::home::Home;
use super::image::{command, command_beside, read_in, resolve_user, wanted_user};
use super::node::Node;
use super::sandbox::Plan;
use super::{files, sites};
use crate::instance::host::{PORT, Record};

/// What runs in a sandbox, before its image is looked at.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where it is.
    pub home: Home,
    /// The host ids of everything in it.
    pub ids: IdRange,
    /// What all of it may use.
    pub limits: Limits,
    /// Its address.
    pub address: std::net::Ipv4Addr,
    /// Its name inside.
    pub host_name: String,
    /// Set over the image's environment.
    pub env: BTreeMap<String, String>,
    /// Instead of the image's command.
    pub command: Option<Vec<String>>,
    /// Folders of the host shown inside.
    pub binds: Vec<Bind>,
}

/// The plan of an instance's own sandbox. Blocking: it may unpack layers.
///
/// # Errors
/// If the image is missing or broken, or says nothing that can be run.
pub fn of_instance(node: &Node, record: &Record) -> Result<Plan, SandboxError> {
    let spec = &record.life.spec;
    debug_assert_eq!(spec.workload, Workload::Web);
    let image = node.store.image(&spec.image)?;
    let wanted = Wanted {
        home: node.home(spec),
        ids: node.users.range(&spec.user)?,
        limits: spec.limits,
        address: record.address,
        host_name: spec.app.to_string(),
        env: environment(&spec.env, &image),
        command: None,
        binds: sites::binds(&node.config, &spec.id),
    };
    let layers = node.store.unpack(&image)?;
    of(node, wanted, &image, layers)
}

/// The plan of a sandbox for one command over an app's image. Blocking: it may unpack layers.
///
/// # Errors
/// As [`of_instance`].
pub fn of_run(
    node: &Node,
    home: Home,
    request: &RunRequest,
    words: &[String],
    address: std::net::Ipv4Addr,
) -> Result<Plan, SandboxError> {
    let image = node.store.image(&request.image)?;
    let layers = node.store.unpack(&image)?;
    let wanted = Wanted {
        home,
        ids: node.users.range(&request.user)?,
        limits: request.limits,
        address,
        host_name: request.app.to_string(),
        env: environment(&request.env, &image),
        command: Some(command_beside(words, &layers, is_bundle(&image)?).map_err(SandboxError::Image)?),
        binds: Vec::new(),
    };
    of(node, wanted, &image, layers)
}

/// Whether the image is an OCI bundle, which is run as it is.
///
/// # Errors
/// If what it says of itself is broken.
pub fn is_bundle(image: &Image) -> Result<bool, SandboxError> {
    Ok(bundle::spec_of_image(image)?.is_some())
}

/// What an app finds in its environment beside what the image sets.
fn environment(own: &BTreeMap<String, String>, image: &Image) -> BTreeMap<String, String> {
    let mut env = own.clone();
    env.insert("PORT".to_owned(), PORT.to_string());
    if label(image, LABEL_TYPE) == Some("npm") && !names(image, "NODE_ENV") {
        env.entry("NODE_ENV".to_owned()).or_insert_with(|| "production".to_owned());
    }
    env
}

/// What an instance may use: as it was decided, and where its image is a bundle that limits itself
/// further, that. Blocking.
///
/// # Errors
/// If the image is missing or broken.
pub fn limits(node: &Node, spec: &InstanceSpec) -> Result<Limits, SandboxError> {
    let bundle = bundle::spec_of_image(&node.store.image(&spec.image)?)?;
    Ok(bundle.map_or(spec.limits, |bundle| lowered(spec.limits, &bundle)))
}

fn lowered(limits: Limits, bundle: &Spec) -> Limits {
    let own = bundle::own_limits(bundle);
    Limits {
        memory: limits.memory.min(MemoryBytes(own.memory.unwrap_or(u64::MAX))),
        pids: limits.pids.min(own.pids.unwrap_or(u32::MAX)),
        ..limits
    }
}

fn label<'a>(image: &'a Image, name: &str) -> Option<&'a str> {
    image.config.labels_of_config()?.get(name).map(String::as_str)
}

/// Whether the image's own environment sets `variable`.
fn names(image: &Image, variable: &str) -> bool {
    let env = image.config.config().as_ref().and_then(|config| config.env().as_ref());
    env.into_iter().flatten().any(|pair| pair.split_once('=').is_some_and(|(name, _)| name == variable))
}

/// The plan of a sandbox for `wanted` over `image`, whose unpacked layers are `layers`, the bottom
/// one first. Blocking.
///
/// # Errors
/// As [`of_instance`].
pub fn of(node: &Node, mut wanted: Wanted, image: &Image, layers: Vec<PathBuf>) -> Result<Plan, SandboxError> {
    let bundle = bundle::spec_of_image(image)?;
    if let Some(bundle) = &bundle {
        // What was allowed when it was deployed need not be allowed any more.
        bundle::check(bundle, &node.config.bundles).map_err(BundleError::from)?;
        wanted.limits = lowered(wanted.limits, bundle);
        wanted.host_name = bundle.hostname().clone().unwrap_or(wanted.host_name);
    }
    let own_process = bundle.as_ref().and_then(|bundle| bundle.process().as_ref());
    let config = image.config.config().clone().unwrap_or_default();
    let passwd = read_in(&layers, "/etc/passwd").unwrap_or_default();
    let group = read_in(&layers, "/etc/group").unwrap_or_default();
    let user = resolve_user(&wanted_user(&image.config), &passwd, &group).map_err(SandboxError::Image)?;
    // An image that starts as root means to be it; one that names another user cannot become root.
    let root_inside = user.uid == 0;
    let args = match (wanted.command, own_process) {
        (Some(command), _) => command,
        // As the bundle has it: no shell and no profile before it.
        (None, Some(process)) => process.args().clone().unwrap_or_default(),
        (None, None) => command(&image.config, &layers).map_err(SandboxError::Image)?,
    };
    let of_image = config.env().iter().flatten().filter_map(|pair| pair.split_once('='));
    let mut env: BTreeMap<String, String> = of_image.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    env.entry("PATH".to_owned())
        .or_insert_with(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    env.entry("HOME".to_owned()).or_insert_with(|| user.home.clone().unwrap_or_else(|| "/".to_owned()));
    env.extend(wanted.env);
    let cwd = match config.working_dir() {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ if layers.iter().any(|layer| layer.join(APP_FOLDER.trim_start_matches('/')).is_dir()) => APP_FOLDER.into(),
        _ => "/".into(),
    };
    let input = SpecInput {
        hostname: wanted.host_name.clone(),
        args,
        env,
        cwd,
        uid: user.uid,
        gid: user.gid,
        additional_gids: user.groups.clone(),
        ids: wanted.ids,
        memory: Some(wanted.limits.memory.0),
        pids: Some(wanted.limits.pids),
        cgroups_path: None,
        annotations: BTreeMap::new(),
    };
    let (spec, more) = match &bundle {
        Some(bundle) => {
            let merged = bundle::merged(&input, bundle, &node.config.bundles)?;
            (merged.spec, merged.binds)
        }
        None => (runtime_spec(&input)?, Vec::new()),
    };
    wanted.binds.extend(more.into_iter().map(|bind| Bind {
        source: bind.source,
        target: bind.target,
        read_only: bind.read_only,
        // Files of the host keep their owners: an app gets at them as whoever it is there.
        idmap: None,
    }));
    let shown = files::Shown {
        folder: &wanted.home.shown(),
        layers: &layers,
        ids: wanted.ids,
        host_name: &wanted.host_name,
        address: wanted.address,
        root_inside,
    };
    Ok(Plan {
        files: files::write(&node.config, &shown)?,
        home: wanted.home,
        image: image.digest.clone(),
        layers,
        ids: wanted.ids,
        limits: wanted.limits,
        address: wanted.address,
        spec,
        binds: wanted.binds,
        root_inside,
    })
}
