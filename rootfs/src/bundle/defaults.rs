//! What every container of ours gets (namespaces of its own, no capability, no new
//! privileges, masked and read-only paths), and how a third party's wishes are joined to it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxMemoryBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResourcesBuilder, Mount, MountBuilder,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    UserBuilder,
};

use super::check::is_ours;
use super::{AllowList, BundleError, SpecInput};

/// The specification's version that we write.
const VERSION: &str = "1.2.0";
/// Most open files: enough for a busy server, and below the hard limit of common hosts.
const OPEN_FILES: u64 = 16_384;

/// The description of one of our containers. Its user and group are host ids.
///
/// # Errors
/// When an id is outside of the range.
pub fn runtime_spec(input: &SpecInput) -> Result<Spec, BundleError> {
    let linux = LinuxBuilder::default()
        .namespaces(namespaces()?)
        .masked_paths(masked_paths())
        .readonly_paths(read_only_paths())
        .resources(resources(input)?)
        .rootfs_propagation("private");
    let linux = match &input.cgroups_path {
        Some(path) => linux.cgroups_path(path.clone()),
        None => linux,
    };
    Ok(SpecBuilder::default()
        .version(VERSION)
        .hostname(input.hostname.clone())
        .root(RootBuilder::default().path("rootfs").readonly(false).build()?)
        .process(process(input)?)
        .mounts(mounts()?)
        .linux(linux.build()?)
        .annotations(input.annotations.clone().into_iter().collect::<HashMap<_, _>>())
        .build()?)
}

/// One of our containers, with what a third party's description asks for and may have: its resource
/// limits of the process, umask, more temporary file systems and allowed binds, more masked and
/// read-only paths, and hooks, devices, kernel parameters, joined namespaces, capabilities and
/// OOM score from the allow-list. The description must have passed [`check`](super::check()).
///
/// # Errors
/// As [`runtime_spec`].
pub fn merged(input: &SpecInput, bundle: &Spec, allow: &AllowList) -> Result<Spec, BundleError> {
    let mut spec = runtime_spec(input)?;
    if let (Some(ours), Some(theirs)) = (spec.process_mut(), bundle.process()) {
        merge_process(ours, theirs, allow)?;
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.extend(bundle.mounts().iter().flatten().filter(|mount| !is_ours(mount.destination())).cloned());
    spec.set_mounts(Some(mounts));
    spec.set_hooks(bundle.hooks().clone());
    if let Some(root) = bundle.root() {
        let root = RootBuilder::default().path("rootfs").readonly(root.readonly().unwrap_or(false)).build()?;
        spec.set_root(Some(root));
    }
    if let (Some(mut ours), Some(theirs)) = (spec.linux().clone(), bundle.linux()) {
        ours.set_sysctl(theirs.sysctl().clone());
        ours.set_devices(theirs.devices().clone());
        ours.set_masked_paths(Some(union(ours.masked_paths(), theirs.masked_paths())));
        ours.set_readonly_paths(Some(union(ours.readonly_paths(), theirs.readonly_paths())));
        let joined = |namespace: &LinuxNamespace| {
            let same = |other: &&LinuxNamespace| other.typ() == namespace.typ() && other.path().is_some();
            theirs.namespaces().iter().flatten().find(same).unwrap_or(namespace).clone()
        };
        ours.set_namespaces(Some(ours.namespaces().iter().flatten().map(joined).collect()));
        spec.set_linux(Some(ours));
    }
    Ok(spec)
}

/// Paths that nobody inside can look into: runc's list, two that leak the host's power and heat
/// (CVE-2020-8694, GHSA-jq35-85cj-fj4p), one that tells the users of other tenants, and the kernel's
/// addresses.
#[must_use]
pub fn masked_paths() -> Vec<String> {
    let fixed = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kallsyms",
        "/proc/kcore",
        "/proc/key-users",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ];
    let mut paths: Vec<String> = fixed.iter().map(|path| (*path).to_owned()).collect();
    let mut heat: Vec<String> = fs::read_dir("/sys/devices/system/cpu")
        .into_iter()
        .flatten()
        .flatten()
        .map(|cpu| cpu.path().join("thermal_throttle"))
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect();
    heat.sort();
    paths.append(&mut heat);
    paths
}

/// Paths that nobody inside can write to.
#[must_use]
pub fn read_only_paths() -> Vec<String> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(str::to_owned).into()
}

fn union(ours: &Option<Vec<String>>, theirs: &Option<Vec<String>>) -> Vec<String> {
    let mut seen = HashSet::new();
    ours.iter().chain(theirs).flatten().filter(|path| seen.insert(*path)).cloned().collect()
}

fn merge_process(ours: &mut Process, theirs: &Process, allow: &AllowList) -> Result<(), BundleError> {
    if let Some(umask) = theirs.user().umask() {
        ours.user_mut().set_umask(Some(umask));
    }
    let mut limits: Vec<PosixRlimit> = theirs.rlimits().clone().unwrap_or_default();
    for limit in ours.rlimits().iter().flatten() {
        if !limits.iter().any(|other| other.typ() == limit.typ()) {
            limits.push(*limit);
        }
    }
    ours.set_rlimits(Some(limits));
    ours.set_oom_score_adj(theirs.oom_score_adj().filter(|score| *score != 0));
    let allowed = |set: &Option<HashSet<Capability>>| -> HashSet<Capability> {
        let is_allowed = |capability: &&Capability| {
            let name = serde_json::to_value(capability).ok();
            name.as_ref()
                .and_then(|name| name.as_str())
                .is_some_and(|name| allow.capabilities.iter().any(|one| one == name))
        };
        set.iter().flatten().filter(is_allowed).copied().collect()
    };
    if let Some(theirs) = theirs.capabilities() {
        let capabilities = LinuxCapabilitiesBuilder::default()
            .bounding(allowed(theirs.bounding()))
            .effective(allowed(theirs.effective()))
            .inheritable(allowed(theirs.inheritable()))
            .permitted(allowed(theirs.permitted()))
            .ambient(allowed(theirs.ambient()))
            .build()?;
        ours.set_capabilities(Some(capabilities));
    }
    Ok(())
}

fn namespaces() -> Result<Vec<LinuxNamespace>, BundleError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, Uts};
    [Pid, Network, Ipc, Uts, Mount, Cgroup, Time]
        .into_iter()
        .map(|kind| Ok(LinuxNamespaceBuilder::default().typ(kind).build()?))
        .collect()
}

fn process(input: &SpecInput) -> Result<Process, BundleError> {
    let host = |id| input.ids.to_host(id).ok_or(BundleError::Id { id, count: input.ids.count });
    let groups = input.additional_gids.iter().map(|gid| host(*gid)).collect::<Result<Vec<_>, _>>()?;
    let user =
        UserBuilder::default().uid(host(input.uid)?).gid(host(input.gid)?).umask(0o022_u32).additional_gids(groups);
    Ok(ProcessBuilder::default()
        .terminal(false)
        .user(user.build()?)
        .args(input.args.clone())
        .env(input.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>())
        .cwd(input.cwd.clone())
        .capabilities(no_capabilities()?)
        .rlimits(vec![rlimit(PosixRlimitType::RlimitNofile, OPEN_FILES)?, rlimit(PosixRlimitType::RlimitCore, 0)?])
        .no_new_privileges(true)
        .build()?)
}

fn no_capabilities() -> Result<LinuxCapabilities, BundleError> {
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(HashSet::new())
        .effective(HashSet::new())
        .inheritable(HashSet::new())
        .permitted(HashSet::new())
        .ambient(HashSet::new())
        .build()?)
}

fn rlimit(kind: PosixRlimitType, most: u64) -> Result<PosixRlimit, BundleError> {
    Ok(PosixRlimitBuilder::default().typ(kind).soft(most).hard(most).build()?)
}

fn resources(input: &SpecInput) -> Result<oci_spec::runtime::LinuxResources, BundleError> {
    let mut resources = LinuxResourcesBuilder::default();
    if let Some(memory) = input.memory {
        let most = i64::try_from(memory).unwrap_or(i64::MAX);
        // "swap" counts memory and swap together: the same number means none.
        resources = resources.memory(LinuxMemoryBuilder::default().limit(most).swap(most).build()?);
    }
    if let Some(pids) = input.pids {
        resources = resources.pids(LinuxPidsBuilder::default().limit(i64::from(pids)).build()?);
    }
    Ok(resources.build()?)
}

fn mounts() -> Result<Vec<Mount>, BundleError> {
    let mount = |destination: &str, kind: &str, options: &[&str]| -> Result<Mount, BundleError> {
        Ok(MountBuilder::default()
            .destination(Path::new(destination))
            .typ(kind)
            .source(Path::new(kind))
            .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
            .build()?)
    };
    // proc and sysfs come first, before anything of the image could be in the way.
    Ok(vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"])?,
        mount("/dev", "tmpfs", &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"])?,
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"])?,
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])?,
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
    ])
}
