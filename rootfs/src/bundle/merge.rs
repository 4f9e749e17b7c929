//! A third party's wishes joined to one of our containers.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use oci_spec::runtime::{
    Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, Mount, PosixRlimit, PosixRlimitBuilder, Process,
    RootBuilder, Spec,
};

use super::check::{is_bind, is_ours, most_of};
use super::defaults::runtime_spec;
use super::{AllowList, BundleError, SpecInput};
use crate::overlay::IdRange;

/// One of our containers as a bundle wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// Its description. It mounts nothing of the host.
    pub spec: Spec,
    /// What of the host it shows.
    pub binds: Vec<Bind>,
}

/// A file or folder of the host that a bundle shows and the operator allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// Inside.
    pub target: PathBuf,
    /// Whether nothing inside can change it.
    pub read_only: bool,
}

/// What a bundle limits itself to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnLimits {
    /// Most memory in bytes.
    pub memory: Option<u64>,
    /// Most processes and threads.
    pub pids: Option<u32>,
}

/// What a bundle limits itself to, beside what it is limited to. Zero and less mean no limit.
#[must_use]
pub fn own_limits(bundle: &Spec) -> OwnLimits {
    let resources = bundle.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let memory = resources.and_then(|all| all.memory().as_ref()).and_then(|memory| memory.limit());
    let pids = resources.and_then(|all| all.pids().as_ref()).map(|pids| pids.limit());
    OwnLimits {
        memory: memory.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0),
        pids: pids.filter(|limit| *limit > 0).map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
    }
}

/// One of our containers, with what a third party's description asks for and may have: further
/// groups, umask and resource limits of the process, temporary file systems, allowed binds, more
/// masked and read-only paths, domain name, annotations, and kernel parameters, capabilities and OOM
/// score from the allow-list. The description must have passed [`check`](super::check()); what is
/// run, and as whom, is in `input`.
///
/// # Errors
/// As [`runtime_spec`].
pub fn merged(input: &SpecInput, bundle: &Spec, allow: &AllowList) -> Result<Merged, BundleError> {
    let mut spec = runtime_spec(input)?;
    if let (Some(ours), Some(theirs)) = (spec.process_mut(), bundle.process()) {
        merge_process(ours, theirs, input.ids, allow)?;
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let mut binds = Vec::new();
    for mount in bundle.mounts().iter().flatten().filter(|mount| !is_ours(mount.destination())) {
        if is_bind(mount) {
            binds.push(Bind {
                source: mount.source().clone().unwrap_or_default(),
                target: mount.destination().clone(),
                read_only: mount.options().iter().flatten().any(|option| option == "ro"),
            });
        } else {
            mounts.push(temporary(mount, input.ids)?);
        }
    }
    spec.set_mounts(Some(mounts));
    spec.set_domainname(bundle.domainname().clone());
    let mut annotations: HashMap<_, _> = bundle.annotations().clone().unwrap_or_default();
    annotations.extend(spec.annotations().clone().unwrap_or_default());
    spec.set_annotations(Some(annotations));
    if let Some(root) = bundle.root() {
        let root = RootBuilder::default().path("rootfs").readonly(root.readonly().unwrap_or(false)).build()?;
        spec.set_root(Some(root));
    }
    if let (Some(mut ours), Some(theirs)) = (spec.linux().clone(), bundle.linux()) {
        ours.set_sysctl(theirs.sysctl().clone());
        ours.set_masked_paths(Some(union(ours.masked_paths(), theirs.masked_paths())));
        ours.set_readonly_paths(Some(union(ours.readonly_paths(), theirs.readonly_paths())));
        spec.set_linux(Some(ours));
    }
    Ok(Merged { spec, binds })
}

fn union(ours: &Option<Vec<String>>, theirs: &Option<Vec<String>>) -> Vec<String> {
    let mut seen = HashSet::new();
    ours.iter().chain(theirs).flatten().filter(|path| seen.insert(*path)).cloned().collect()
}

/// A temporary file system that belongs to the host ids of its owners, the image's root if it names
/// none: without a user namespace the kernel takes them as they are written.
fn temporary(mount: &Mount, ids: IdRange) -> Result<Mount, BundleError> {
    let mut owners = [("uid", 0_u32), ("gid", 0)];
    let mut options = Vec::new();
    for option in mount.options().iter().flatten() {
        match option.split_once('=').and_then(|(key, id)| Some((key, id.parse().ok()?))) {
            Some(("uid", id)) => owners[0].1 = id,
            Some(("gid", id)) => owners[1].1 = id,
            _ => options.push(option.clone()),
        }
    }
    for (name, id) in owners {
        let host = ids.to_host(id).ok_or(BundleError::Id { id, count: ids.count })?;
        options.push(format!("{name}={host}"));
    }
    let mut mount = mount.clone();
    mount.set_options(Some(options));
    Ok(mount)
}

fn merge_process(ours: &mut Process, theirs: &Process, ids: IdRange, allow: &AllowList) -> Result<(), BundleError> {
    let user = ours.user_mut();
    if let Some(umask) = theirs.user().umask() {
        user.set_umask(Some(umask));
    }
    let further = theirs.user().additional_gids().iter().flatten();
    let further: Vec<u32> = further
        .map(|id| ids.to_host(*id).ok_or(BundleError::Id { id: *id, count: ids.count }))
        .collect::<Result<_, _>>()?;
    user.set_additional_gids(Some(further));
    let mut limits: Vec<PosixRlimit> =
        theirs.rlimits().iter().flatten().map(lowered).collect::<Result<_, BundleError>>()?;
    for limit in ours.rlimits().iter().flatten() {
        if !limits.iter().any(|other| other.typ() == limit.typ()) {
            limits.push(*limit);
        }
    }
    ours.set_rlimits(Some(limits));
    ours.set_oom_score_adj(theirs.oom_score_adj().filter(|score| *score != 0));
    let theirs_of = theirs.user();
    if let Some(theirs) = theirs.capabilities() {
        ours.set_capabilities(Some(allowed_capabilities(theirs_of.uid(), theirs, allow)?));
    }
    Ok(())
}

fn lowered(limit: &PosixRlimit) -> Result<PosixRlimit, BundleError> {
    let most = most_of(limit.typ());
    let (soft, hard) = (limit.soft().min(most), limit.hard().min(most));
    Ok(PosixRlimitBuilder::default().typ(limit.typ()).soft(soft).hard(hard).build()?)
}

fn allowed_capabilities(
    uid: u32,
    theirs: &LinuxCapabilities,
    allow: &AllowList,
) -> Result<LinuxCapabilities, BundleError> {
    let allowed = |set: &Option<HashSet<Capability>>| -> HashSet<Capability> {
        set.iter().flatten().filter(|capability| allow.keeps(uid, capability)).copied().collect()
    };
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(allowed(theirs.bounding()))
        .effective(allowed(theirs.effective()))
        .inheritable(allowed(theirs.inheritable()))
        .permitted(allowed(theirs.permitted()))
        .ambient(allowed(theirs.ambient()))
        .build()?)
}
