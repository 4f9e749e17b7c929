//! From an instance's record and its image to the plan of its sandbox.

use std::collections::BTreeMap;
use std::path::PathBuf;

use drowse_api::MemoryBytes;
use drowse_api::agent::RunRequest;
use drowse_api::image::{APP_FOLDER, LABEL_PORT, LABEL_TYPE};
use drowse_api::instance::{InstanceSpec, Limits, Workload};
use drowse_api::secrets::Secrets;
use drowse_launcher::{Bind, SeccompProfile};
use drowse_rootfs::bundle::{self, BundleError, SpecInput, runtime_spec};
use drowse_rootfs::{IdRange, Image};
use oci_spec::runtime::Spec;
use rustix::process::Signal;

use super::error::SandboxError;
use super::home::Home;
use super::image::{command, command_beside, read_in, resolve_user, stop_signal, wanted_user};
use super::node::Node;
use super::sandbox::Plan;
use super::{files, sites};
use crate::inside;
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
    /// What it may ask of the kernel. A builder of images is root inside, whomever its image names.
    pub profile: SeccompProfile,
}

/// The plan of an instance's own sandbox. Blocking: it may unpack layers.
///
/// # Errors
/// If the image is missing or broken, or says nothing that can be run.
pub fn of_instance(node: &Node, record: &Record) -> Result<Plan, SandboxError> {
    let spec = &record.life.spec;
    debug_assert_eq!(spec.workload, Workload::Web);
    let image = node.store.image(&spec.image)?;
    let mut env = environment(&image, &spec.env, &spec.secrets);
    env.insert("PORT".to_owned(), record.port.to_string());
    let wanted = Wanted {
        home: node.home(spec),
        ids: node.users.range(&spec.user)?,
        limits: spec.limits,
        address: record.address,
        host_name: spec.app.to_string(),
        env,
        command: None,
        binds: binds(node, record)?,
        profile: SeccompProfile::Default,
    };
    let layers = node.store.unpack(&image)?;
    of(node, wanted, &image, layers)
}

/// What of the host an instance sees. Blocking.
fn binds(node: &Node, record: &Record) -> Result<Vec<Bind>, SandboxError> {
    let spec = &record.life.spec;
    if sites::is_server(&spec.id) {
        return Ok(sites::binds(&node.config, &spec.id));
    }
    let source = node.home(spec).inside();
    std::fs::create_dir_all(&source).map_err(|error| SandboxError::io("make", &source, error))?;
    Ok(vec![Bind { source, target: inside::PATH.into(), read_only: true, idmap: None, is_disk: false }])
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
        env: environment(&image, &request.env, &request.secrets),
        command: Some(command_beside(words, &layers, is_bundle(&image)?).map_err(SandboxError::Image)?),
        binds: Vec::new(),
        profile: SeccompProfile::Default,
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

/// What an app of this image finds in its environment, beside what the image itself says.
#[must_use]
pub fn environment(image: &Image, env: &BTreeMap<String, String>, secrets: &Secrets) -> BTreeMap<String, String> {
    let mut env = env.clone();
    env.extend(secrets.reveal().map(|(name, value)| (name.to_owned(), value.to_owned())));
    env.insert("PORT".to_owned(), PORT.to_string());
    let default = match label(image, LABEL_TYPE) {
        Some("npm") => Some(("NODE_ENV", "production")),
        // Its master would take workers that were paused for longer than this for hung ones, and kill them.
        Some("python") => Some(("GUNICORN_CMD_ARGS", "--timeout 0")),
        _ => None,
    };
    if let Some((name, value)) = default.filter(|(name, _)| !names(image, name)) {
        env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
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

/// Where its app is to listen: as its image says, if it is one of others that says so. Blocking.
#[must_use]
pub fn port(node: &Node, spec: &InstanceSpec) -> u16 {
    let image = node.store.image(&spec.image).ok();
    image.and_then(|image| label(&image, LABEL_PORT)?.parse().ok()).unwrap_or(PORT)
}

/// What asks its app to end: SIGTERM, unless its image says otherwise. Blocking.
#[must_use]
pub fn stop_signal_of(node: &Node, spec: &InstanceSpec) -> Signal {
    let image = node.store.image(&spec.image).ok();
    let named = image.and_then(|image| image.config.config().as_ref()?.stop_signal().clone());
    stop_signal(named.as_deref()).unwrap_or(Signal::TERM)
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
    let is_builder = wanted.profile == SeccompProfile::Builder;
    let user = if is_builder { "0:0".to_owned() } else { wanted_user(&image.config) };
    let user = resolve_user(&user, &passwd, &group).map_err(SandboxError::Image)?;
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
    let (mut spec, more) = match &bundle {
        Some(bundle) => {
            let merged = bundle::merged(&input, bundle, &node.config.bundles)?;
            (merged.spec, merged.binds)
        }
        None => (runtime_spec(&input)?, Vec::new()),
    };
    if is_builder {
        bundle::let_mount(&mut spec)?;
    }
    wanted.binds.extend(more.into_iter().map(|bind| Bind {
        source: bind.source,
        target: bind.target,
        read_only: bind.read_only,
        // Files of the host keep their owners: an app gets at them as whoever it is there.
        idmap: None,
        is_disk: false,
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
        profile: wanted.profile,
    })
}
