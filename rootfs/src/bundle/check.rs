//! What a third-party bundle may ask for: what confines it no less than our own containers, and
//! what the operator's allow-list names.

use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path};

use oci_spec::runtime::{Hook, Hooks, Linux, LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Mount, Process, Spec};

use super::AllowList;

/// A field that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The field, as `linux.devices[0]`.
    pub field: String,
    /// What it holds.
    pub found: String,
    /// What to do.
    pub advice: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) is not allowed: {}", self.field, self.found, self.advice)
    }
}

/// All that is refused in one bundle, so that it is mended in one go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Refusals(pub Vec<Refusal>);

/// Mount targets that are ours: what a bundle says of them is replaced by our own mounts.
const OURS: [&str; 8] =
    ["/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console"];
/// Device nodes that every container has, and their numbers (Documentation/admin-guide/devices.txt).
const COMMON_DEVICES: [(&str, i64, i64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Whether we mount something of our own there.
pub(super) fn is_ours(destination: &Path) -> bool {
    OURS.iter().any(|ours| Path::new(ours) == destination)
}

/// Checks everything a bundle asks for.
///
/// # Errors
/// All fields that are refused, each with what to do.
pub fn check(spec: &Spec, allow: &AllowList) -> Result<(), Refusals> {
    let mut checker = Checker { allow, refusals: Vec::new() };
    checker.spec(spec);
    if checker.refusals.is_empty() { Ok(()) } else { Err(Refusals(checker.refusals)) }
}

struct Checker<'a> {
    allow: &'a AllowList,
    refusals: Vec<Refusal>,
}

impl Checker<'_> {
    fn refuse(&mut self, field: impl Into<String>, found: impl fmt::Display, advice: &'static str) {
        self.refusals.push(Refusal { field: field.into(), found: found.to_string(), advice });
    }

    fn spec(&mut self, spec: &Spec) {
        for (field, is_set) in [
            ("windows", spec.windows().is_some()),
            ("solaris", spec.solaris().is_some()),
            ("vm", spec.vm().is_some()),
            ("zos", spec.zos().is_some()),
        ] {
            if is_set {
                self.refuse(field, "set", "only Linux containers can be run; remove it");
            }
        }
        if let Some(hooks) = spec.hooks() {
            self.hooks(hooks);
        }
        for (index, mount) in spec.mounts().iter().flatten().enumerate() {
            self.mount(&format!("mounts[{index}]"), mount);
        }
        if let Some(process) = spec.process() {
            self.process(process);
        }
        match spec.linux() {
            Some(linux) => self.linux(linux),
            None => self.refuse("linux", "missing", "without it a bundle shares the host's namespaces; add it"),
        }
    }

    #[allow(deprecated, reason = "prestart hooks are still in bundles and must be refused, too")]
    fn hooks(&mut self, hooks: &Hooks) {
        let kinds: [(&str, &Option<Vec<Hook>>); 6] = [
            ("prestart", hooks.prestart()),
            ("createRuntime", hooks.create_runtime()),
            ("createContainer", hooks.create_container()),
            ("startContainer", hooks.start_container()),
            ("poststart", hooks.poststart()),
            ("poststop", hooks.poststop()),
        ];
        for (kind, hooks) in kinds {
            for (index, hook) in hooks.iter().flatten().enumerate() {
                if !self.allow.hooks.contains(hook.path()) {
                    self.refuse(
                        format!("hooks.{kind}[{index}]"),
                        hook.path().display(),
                        "hooks run on the host as root; remove it, or have the operator add the program to \"hooks\" of the allow-list",
                    );
                }
            }
        }
    }

    fn mount(&mut self, field: &str, mount: &Mount) {
        let destination = mount.destination();
        if !is_plain(destination) {
            self.refuse(format!("{field}.destination"), destination.display(), "write an absolute path without \"..\"");
            return;
        }
        if is_ours(destination) {
            return;
        }
        if ["/proc", "/sys", "/dev"].iter().any(|ours| destination.starts_with(ours)) {
            self.refuse(
                format!("{field}.destination"),
                destination.display(),
                "/proc, /sys and /dev are Drowse's own; remove the mount",
            );
        }
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            self.refuse(format!("{field}.uidMappings"), "set", "ids are mapped by Drowse; remove it");
        }
        let options = mount.options().clone().unwrap_or_default();
        for option in &options {
            if matches!(&**option, "shared" | "rshared" | "slave" | "rslave" | "dev" | "suid") {
                self.refuse(
                    format!("{field}.options"),
                    option,
                    "mounts are private, without devices and setuid; remove the option",
                );
            }
        }
        let is_bind = options.iter().any(|option| option == "bind" || option == "rbind");
        match mount.typ().as_deref() {
            _ if is_bind => self.bind(field, mount),
            Some("bind") => self.bind(field, mount),
            Some("tmpfs") => {}
            other => self.refuse(
                format!("{field}.type"),
                other.unwrap_or("missing"),
                "only tmpfs, and binds of the allow-list, can be mounted; remove the mount",
            ),
        }
    }

    fn bind(&mut self, field: &str, mount: &Mount) {
        let source = mount.source().clone().unwrap_or_default();
        let is_allowed = is_plain(&source) && self.allow.host_binds.iter().any(|folder| source.starts_with(folder));
        if !is_allowed {
            self.refuse(
                format!("{field}.source"),
                source.display(),
                "it is a path of the host; copy it into the bundle's root, or have the operator add it to \"host_binds\" of the allow-list",
            );
        }
    }

    fn process(&mut self, process: &Process) {
        if let Some(score) = process.oom_score_adj()
            && score != 0
            && self.allow.oom_score_adj.is_none_or(|lowest| score < lowest)
        {
            self.refuse(
                "process.oomScoreAdj",
                score,
                "Drowse decides who is killed when memory is short; remove it, or have the operator set \"oom_score_adj\" of the allow-list",
            );
        }
    }

    fn linux(&mut self, linux: &Linux) {
        for (index, device) in linux.devices().iter().flatten().enumerate() {
            if !is_common(device) && !self.is_allowed_device(device) {
                self.refuse(
                    format!("linux.devices[{index}]"),
                    format!("{} {}:{}", device.path().display(), device.major(), device.minor()),
                    "it is a device of the host; remove it, or have the operator add it to \"devices\" of the allow-list",
                );
            }
        }
        for (name, _) in linux.sysctl().iter().flatten() {
            if !self.allow.sysctls.contains(name) {
                self.refuse(
                    format!("linux.sysctl.{name}"),
                    "set",
                    "kernel parameters are set by Drowse; remove it, or have the operator add it to \"sysctls\" of the allow-list",
                );
            }
        }
        self.namespaces(linux);
        let is_shared = |propagation: &String| propagation != "private" && propagation != "rprivate";
        if let Some(propagation) = linux.rootfs_propagation().as_ref().filter(|it| is_shared(it)) {
            self.refuse("linux.rootfsPropagation", propagation, "mounts must not reach the host; write \"private\"");
        }
        for (field, is_set) in [
            ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty())),
            ("linux.intelRdt", linux.intel_rdt().is_some()),
            ("linux.personality", linux.personality().is_some()),
            ("linux.memoryPolicy", linux.memory_policy().is_some()),
            ("linux.timeOffsets", linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty())),
        ] {
            if is_set {
                self.refuse(field, "set", "it is not supported; remove it");
            }
        }
    }

    fn namespaces(&mut self, linux: &Linux) {
        use LinuxNamespaceType::{Ipc, Mount, Network, Pid, User, Uts};
        let namespaces: Vec<_> = linux.namespaces().iter().flatten().collect();
        for (index, namespace) in namespaces.iter().enumerate() {
            if namespace.typ() == User {
                self.refuse(
                    format!("linux.namespaces[{index}]"),
                    "user",
                    "ids are mapped by Drowse without a user namespace; remove it, and uidMappings and gidMappings",
                );
            }
            if let Some(path) = namespace.path()
                && !self.allow.namespace_paths.contains(path)
            {
                self.refuse(
                    format!("linux.namespaces[{index}].path"),
                    path.display(),
                    "it joins a namespace of the host; remove the path, or have the operator add it to \"namespace_paths\" of the allow-list",
                );
            }
        }
        // One that is not listed is the host's own (runtime specification, config-linux, "Namespaces").
        for (kind, name) in [(Pid, "pid"), (Network, "network"), (Ipc, "ipc"), (Uts, "uts"), (Mount, "mount")] {
            if !namespaces.iter().any(|namespace| namespace.typ() == kind) {
                self.refuse(
                    "linux.namespaces",
                    format!("no {name}"),
                    "it would share the host's; add the type to the list",
                );
            }
        }
    }

    /// The same device under the same path as on the host: a bundle could give any number a harmless
    /// name.
    fn is_allowed_device(&self, device: &LinuxDevice) -> bool {
        if !self.allow.devices.contains(device.path()) || !is_plain(device.path()) {
            return false;
        }
        let Ok(host) = std::fs::symlink_metadata(device.path()) else { return false };
        let is_same_type = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => host.file_type().is_char_device(),
            LinuxDeviceType::B => host.file_type().is_block_device(),
            LinuxDeviceType::P | LinuxDeviceType::A => false,
        };
        let (major, minor) = (rustix::fs::major(host.rdev()), rustix::fs::minor(host.rdev()));
        is_same_type && device.major() == i64::from(major) && device.minor() == i64::from(minor)
    }
}

fn is_common(device: &LinuxDevice) -> bool {
    matches!(device.typ(), LinuxDeviceType::C | LinuxDeviceType::U)
        && COMMON_DEVICES.iter().any(|(path, major, minor)| {
            Path::new(path) == device.path() && device.major() == *major && device.minor() == *minor
        })
}

/// Absolute, and without a component that changes its meaning.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}
