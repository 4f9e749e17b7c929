//! What of a `config.json` becomes part of a sandbox. What cannot be honoured is refused: leaving
//! it out without a word would run something else than was asked for.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, Mount, Spec};

use crate::failure::{Failure, Step};
use crate::rules::Rule;

/// Masked if the configuration names no masked paths: runc's, what leaks power and heat of the host,
/// from which secrets were read, what tells of other tenants' users, and the kernel's addresses.
const MASKED: [&str; 14] = [
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
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Read-only if the configuration names no read-only paths.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Mounts of the specification's default list that every sandbox has, made our way.
const OURS: [&str; 7] = ["/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm"];

/// Kernel parameters that belong to the ipc namespace; those of the network begin with `net.`.
const IPC_PARAMETERS: [&str; 9] = [
    "kernel.auto_msgmni",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// A checked configuration.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) host_name: Option<String>,
    pub(super) domain_name: Option<String>,
    pub(super) root_is_read_only: bool,
    pub(super) tmpfs: Vec<Tmpfs>,
    /// `size=` and the like for /dev/shm.
    pub(super) shm: Vec<String>,
    pub(super) masked: Vec<PathBuf>,
    pub(super) read_only: Vec<PathBuf>,
    /// Path below /proc/sys, and value.
    pub(super) parameters: Vec<(PathBuf, String)>,
}

/// A file system in memory.
#[derive(Debug)]
pub(super) struct Tmpfs {
    pub(super) target: PathBuf,
    /// For the file system: `size=65536k`.
    pub(super) settings: Vec<String>,
    pub(super) is_read_only: bool,
    pub(super) may_execute: bool,
}

/// Checks what a sandbox is to be.
pub(super) fn plan(spec: &Spec) -> Result<Plan, Failure> {
    let has_hooks = |hooks| serde_json::to_value(hooks).is_ok_and(|hooks| has_entries(&hooks));
    if Rule::NoHooks.in_force() && spec.hooks().as_ref().is_some_and(has_hooks) {
        return Err(refused("hooks", "the launcher runs none"));
    }
    let linux = spec.linux().as_ref();
    if let Some(linux) = linux {
        refuse_foreign(linux)?;
    }
    let mut plan = Plan {
        host_name: spec.hostname().clone(),
        domain_name: spec.domainname().clone(),
        root_is_read_only: spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
        tmpfs: Vec::new(),
        shm: vec!["size=64m".to_owned()],
        masked: paths(linux.and_then(|linux| linux.masked_paths().as_ref()), &MASKED),
        read_only: paths(linux.and_then(|linux| linux.readonly_paths().as_ref()), &READ_ONLY),
        parameters: Vec::new(),
    };
    for (name, value) in linux.and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten() {
        plan.parameters.push((parameter(name)?, value.clone()));
    }
    for mount in spec.mounts().iter().flatten() {
        take_mount(&mut plan, mount)?;
    }
    // The kernel's own bound is half of the host's memory.
    let most = memory(spec).map_or_else(|| "size=64m".to_owned(), |bytes| format!("size={bytes}"));
    for tmpfs in &mut plan.tmpfs {
        if !tmpfs.settings.iter().any(|setting| setting.starts_with("size=")) {
            tmpfs.settings.push(most.clone());
        }
    }
    Ok(plan)
}

/// The memory that the configuration's processes may have.
fn memory(spec: &Spec) -> Option<i64> {
    let resources = spec.linux().as_ref()?.resources().as_ref()?;
    resources.memory().as_ref()?.limit().filter(|limit| *limit > 0)
}

fn refuse_foreign(linux: &Linux) -> Result<(), Failure> {
    let has_devices = linux.devices().as_ref().is_some_and(|devices| !devices.is_empty());
    if Rule::NoForeignDevices.in_force() && has_devices {
        return Err(refused("linux.devices", "a sandbox has the standard devices only"));
    }
    let mappings = [linux.uid_mappings(), linux.gid_mappings()];
    let has_mappings = mappings.iter().any(|mappings| mappings.as_ref().is_some_and(|mappings| !mappings.is_empty()));
    if Rule::NoIdMappings.in_force() && has_mappings {
        return Err(refused("linux.uidMappings", "whose ids a sandbox gets is decided by who asks for it"));
    }
    let joins = linux.namespaces().iter().flatten().any(|namespace| namespace.path().is_some());
    if Rule::NoForeignNamespaces.in_force() && joins {
        return Err(refused("linux.namespaces", "a sandbox has namespaces of its own only"));
    }
    Ok(())
}

fn has_entries(hooks: &serde_json::Value) -> bool {
    hooks
        .as_object()
        .is_some_and(|kinds| kinds.values().any(|kind| kind.as_array().is_some_and(|kind| !kind.is_empty())))
}

fn take_mount(plan: &mut Plan, mount: &Mount) -> Result<(), Failure> {
    let target = mount.destination();
    let field = || format!("mounts: {}", target.display());
    let options = mount.options().clone().unwrap_or_default();
    if target == Path::new("/dev/shm") {
        let sizes = options.into_iter().filter(|option| option.starts_with("size="));
        plan.shm.splice(.., sizes.chain(plan.shm.clone()).take(1).collect::<Vec<_>>());
        return Ok(());
    }
    if OURS.iter().any(|ours| Path::new(ours) == target) {
        return Ok(());
    }
    if mount.typ().as_deref() != Some("tmpfs") {
        if !Rule::NoHostMounts.in_force() {
            return Ok(());
        }
        return Err(refused(field(), "only tmpfs is mounted by the configuration; folders are bound by the request"));
    }
    let is_below_ours = !is_plain(target) || OURS.iter().any(|ours| target.starts_with(ours));
    if Rule::PlainMountPaths.in_force() && is_below_ours {
        return Err(refused(field(), "the path is not absolute and plain, or below one of ours"));
    }
    let mut tmpfs = Tmpfs { target: target.clone(), settings: Vec::new(), is_read_only: false, may_execute: true };
    for option in options {
        match option.as_str() {
            "ro" => tmpfs.is_read_only = true,
            "noexec" => tmpfs.may_execute = false,
            "rw" | "exec" | "nosuid" | "nodev" | "relatime" | "noatime" | "strictatime" | "rprivate" | "private" => {}
            setting if is_setting(setting) => tmpfs.settings.push(option),
            _ => return Err(refused(field(), format!("the option {option} is not known"))),
        }
    }
    plan.tmpfs.push(tmpfs);
    Ok(())
}

fn is_setting(option: &str) -> bool {
    option.split_once('=').is_some_and(|(key, _)| matches!(key, "size" | "mode" | "uid" | "gid" | "nr_inodes"))
}

/// Absolute, and without `..`.
pub(super) fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path.components().skip(1).all(|part| matches!(part, Component::Normal(_)))
        && path.components().count() > 1
}

fn paths(named: Option<&Vec<String>>, otherwise: &[&str]) -> Vec<PathBuf> {
    match named {
        Some(named) => named.iter().map(PathBuf::from).collect(),
        None => otherwise.iter().map(PathBuf::from).collect(),
    }
}

/// The path of a parameter below /proc/sys, if it belongs to a namespace of the sandbox.
fn parameter(name: &str) -> Result<PathBuf, Failure> {
    let parts: Vec<&str> = name.split(['.', '/']).collect();
    let dotted = parts.join(".");
    let belongs =
        dotted.starts_with("net.") || dotted.starts_with("fs.mqueue.") || IPC_PARAMETERS.contains(&dotted.as_str());
    if Rule::OwnParameters.in_force() && (!belongs || parts.contains(&"")) {
        return Err(refused(format!("linux.sysctl: {name}"), "it belongs to no namespace of the sandbox"));
    }
    // In names of links a dot of the dotted form is written as a slash, and back.
    let separator = if name.find('/') < name.find('.') && name.contains('/') { '/' } else { '.' };
    Ok(name.split(separator).collect())
}

fn refused(field: impl AsRef<Path>, why: impl Into<String>) -> Failure {
    Failure::refused(Step::Spec, field, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn planned(spec: serde_json::Value) -> Result<Plan, String> {
        let mut whole = json!({"ociVersion": "1.2.0"});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        plan(&serde_json::from_value(whole).unwrap()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_default_of_the_specification_is_accepted() {
        let plan = plan(&Spec::default()).unwrap();
        assert!(plan.tmpfs.is_empty());
        assert!(plan.masked.contains(&PathBuf::from("/proc/kcore")));
    }

    #[test]
    fn what_a_sandbox_cannot_honour_is_refused_by_its_field() {
        let refused = [
            (json!({"hooks": {"prestart": [{"path": "/bin/true"}]}}), "hooks"),
            (
                json!({"linux": {"devices": [{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]}}),
                "linux.devices",
            ),
            (json!({"linux": {"namespaces": [{"type": "network", "path": "/proc/1/ns/net"}]}}), "linux.namespaces"),
            (json!({"linux": {"sysctl": {"kernel.core_pattern": "|/bin/sh"}}}), "linux.sysctl: kernel.core_pattern"),
            (json!({"linux": {"sysctl": {"net..x": "1"}}}), "linux.sysctl: net..x"),
            (json!({"mounts": [{"destination": "/etc", "type": "bind", "source": "/etc"}]}), "mounts: /etc"),
            (json!({"mounts": [{"destination": "/a/../../b", "type": "tmpfs"}]}), "mounts: /a/../../b"),
            (json!({"mounts": [{"destination": "/proc/self", "type": "tmpfs"}]}), "mounts: /proc/self"),
            (json!({"mounts": [{"destination": "/x", "type": "tmpfs", "options": ["huge=always"]}]}), "mounts: /x"),
        ];
        for (spec, field) in refused {
            let error = planned(spec).unwrap_err();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn a_tmpfs_without_a_size_gets_that_of_the_memory() {
        let mounts = json!([{"destination": "/tmp", "type": "tmpfs", "options": ["mode=700"]}]);
        let limited = planned(json!({"mounts": mounts, "linux": {"resources": {"memory": {"limit": 5000}}}})).unwrap();
        assert_eq!(limited.tmpfs[0].settings, ["mode=700", "size=5000"]);
        let plain = planned(json!({"mounts": mounts, "linux": {"resources": {"memory": {"limit": -1}}}})).unwrap();
        assert_eq!(plain.tmpfs[0].settings, ["mode=700", "size=64m"]);
    }

    #[test]
    fn tmpfs_and_parameters_of_namespaces_are_taken() {
        let plan = planned(json!({
            "mounts": [
                {"destination": "/tmp", "type": "tmpfs", "options": ["nosuid", "size=1m", "ro", "noexec"]},
                {"destination": "/dev/shm", "type": "tmpfs", "options": ["nosuid", "size=7m"]},
            ],
            "linux": {"sysctl": {"net.core.somaxconn": "4096"}},
        }))
        .unwrap();
        assert_eq!(plan.shm, ["size=7m"]);
        assert_eq!(plan.tmpfs[0].settings, ["size=1m"]);
        assert!(plan.tmpfs[0].is_read_only && !plan.tmpfs[0].may_execute);
        assert_eq!(plan.parameters, [(PathBuf::from("net/core/somaxconn"), "4096".to_owned())]);
    }
}
