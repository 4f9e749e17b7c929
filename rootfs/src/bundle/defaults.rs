//! What every container of ours gets: namespaces of its own, no capability, no new privileges, masked
//! and read-only paths.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxMemoryBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResourcesBuilder, Mount, MountBuilder,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    UserBuilder,
};

use super::{BundleError, SpecInput};

/// The specification's version that we write.
const VERSION: &str = "1.2.0";
/// What root inside a container is root by. They hold over the ids of the container's own user
/// namespace and over nothing else.
pub const ROOT_INSIDE: [Capability; 9] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
];
/// What building an image takes beside that.
const MOUNTING: [Capability; 3] = [Capability::SysAdmin, Capability::SysChroot, Capability::Setfcap];
/// Most open files: enough for a busy server, and below the hard limit of common hosts.
pub(super) const OPEN_FILES: u64 = 16_384;

/// The description of one of our containers. Its user and group are host ids. User 0 of the image is
/// root inside: it has [`ROOT_INSIDE`], and is to be run in a user namespace.
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
        .capabilities(capabilities(if input.uid == 0 { &ROOT_INSIDE } else { &[] })?)
        .rlimits(vec![rlimit(PosixRlimitType::RlimitNofile, OPEN_FILES)?, rlimit(PosixRlimitType::RlimitCore, 0)?])
        .no_new_privileges(true)
        .build()?)
}

/// Lets a container of ours with root inside mount, as the launcher's profile for builders of images allows.
///
/// # Errors
/// Never: the specification's types take these capabilities.
pub fn let_mount(spec: &mut Spec) -> Result<(), BundleError> {
    let all: Vec<Capability> = ROOT_INSIDE.into_iter().chain(MOUNTING).collect();
    let sets = capabilities(&all)?;
    if let Some(process) = spec.process_mut() {
        process.set_capabilities(Some(sets));
    }
    Ok(())
}

/// Those that are asked for are effective; none is inherited by who is not root any more.
fn capabilities(asked: &[Capability]) -> Result<LinuxCapabilities, BundleError> {
    let asked: HashSet<Capability> = asked.iter().copied().collect();
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(asked.clone())
        .effective(asked.clone())
        .inheritable(HashSet::new())
        .permitted(asked)
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
