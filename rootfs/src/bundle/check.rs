//! What a third-party bundle may ask for: what confines it no less than our own containers, and
//! what the operator's allow-list names.

use std::fmt;
use std::path::{Component, Path};

use oci_spec::runtime::{
    Hook, Hooks, Linux, LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Mount, PosixRlimit, PosixRlimitType, Process,
    Spec,
};

use super::merge::own_limits;
use super::{AllowList, defaults};

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
/// Mount options that mean nothing more than what every mount of ours is, or that are honoured.
const OPTIONS: [&str; 14] = [
    "bind",
    "rbind",
    "ro",
    "rw",
    "exec",
    "noexec",
    "nosuid",
    "nodev",
    "relatime",
    "noatime",
    "strictatime",
    "private",
    "rprivate",
    "defaults",
];
/// Settings of tmpfs (Documentation/filesystems/tmpfs.rst) that are honoured.
const SETTINGS: [&str; 5] = ["size", "mode", "uid", "gid", "nr_inodes"];
/// Ids that an image may use (one user's range).
pub(super) const IDS: u32 = 65_536;
/// What our init needs beside the app, with room for the smallest programs.
const LEAST_MEMORY: u64 = 8 << 20;

/// Whether we mount something of our own there.
pub(super) fn is_ours(destination: &Path) -> bool {
    OURS.iter().any(|ours| Path::new(ours) == destination)
}

/// Whether it shows something of the host.
pub(super) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind")
}

/// The most that a process limit may be. Core files and queues are kernel memory or disk that no
/// control group counts.
pub(super) fn most_of(kind: PosixRlimitType) -> u64 {
    match kind {
        PosixRlimitType::RlimitNofile => defaults::OPEN_FILES,
        PosixRlimitType::RlimitCore | PosixRlimitType::RlimitNice | PosixRlimitType::RlimitRtprio => 0,
        PosixRlimitType::RlimitMemlock => 8 << 20,
        PosixRlimitType::RlimitMsgqueue => 819_200,
        PosixRlimitType::RlimitSigpending => 16_384,
        _ => u64::MAX,
    }
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

    fn refuse_set(&mut self, fields: &[(&str, bool)], advice: &'static str) {
        for (field, _) in fields.iter().filter(|(_, is_set)| *is_set) {
            self.refuse(*field, "set", advice);
        }
    }

    fn spec(&mut self, spec: &Spec) {
        let others = [
            ("windows", spec.windows().is_some()),
            ("solaris", spec.solaris().is_some()),
            ("vm", spec.vm().is_some()),
            ("zos", spec.zos().is_some()),
        ];
        self.refuse_set(&others, "only Linux containers can be run; remove it");
        for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
            if let Some(name) = name.as_ref().filter(|name| !is_host_name(name)) {
                self.refuse(field, format!("{name:?}"), "write at most 63 letters, digits, hyphens and dots");
            }
        }
        if let Some(hooks) = spec.hooks() {
            self.hooks(hooks);
        }
        for (index, mount) in spec.mounts().iter().flatten().enumerate() {
            self.mount(&format!("mounts[{index}]"), mount);
        }
        match spec.process() {
            Some(process) => self.process(process),
            None => self.refuse("process", "missing", "a bundle must say what to run; add it"),
        }
        match spec.linux() {
            Some(linux) => self.linux(linux),
            None => self.refuse("linux", "missing", "without it a bundle shares the host's namespaces; add it"),
        }
        if let Some(memory) = own_limits(spec).memory.filter(|memory| *memory < LEAST_MEMORY) {
            self.refuse(
                "linux.resources.memory.limit",
                memory,
                "nothing starts in that; write at least 8388608 (8 MiB)",
            );
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
                self.refuse(
                    format!("hooks.{kind}[{index}]"),
                    hook.path().display(),
                    "hooks run on the host as root; remove it",
                );
            }
        }
    }

    fn mount(&mut self, field: &str, mount: &Mount) {
        let destination = mount.destination();
        if !is_plain(destination) || destination == Path::new("/") {
            self.refuse(
                format!("{field}.destination"),
                destination.display(),
                "write an absolute path below / without \"..\"",
            );
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
        for option in mount.options().iter().flatten() {
            let is_setting =
                !is_bind(mount) && option.split_once('=').is_some_and(|(key, value)| is_setting(key, value));
            if !is_setting && !OPTIONS.contains(&option.as_str()) {
                self.refuse(
                    format!("{field}.options"),
                    option,
                    "mounts are private, without devices and setuid, and tmpfs takes size, mode, uid, gid and nr_inodes; remove the option",
                );
            }
        }
        match mount.typ().as_deref() {
            _ if is_bind(mount) => self.bind(field, mount),
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
        let is_in = |list: &[std::path::PathBuf]| is_plain(&source) && list.contains(&source);
        let is_read_only = mount.options().iter().flatten().any(|option| option == "ro");
        if is_in(&self.allow.writable_binds) || (is_read_only && is_in(&self.allow.binds)) {
            return;
        }
        let advice = if is_in(&self.allow.binds) {
            "it may be shown read-only; add the option \"ro\""
        } else {
            "it is a path of the host; copy it into the bundle's root, or have the operator add it to allow_binds"
        };
        self.refuse(format!("{field}.source"), source.display(), advice);
    }

    fn process(&mut self, process: &Process) {
        if process.args().as_ref().is_none_or(|args| args.first().is_none_or(String::is_empty)) {
            self.refuse("process.args", "empty", "a bundle must say what to run; write the program and its arguments");
        }
        if !is_plain(process.cwd()) {
            self.refuse("process.cwd", process.cwd().display(), "write an absolute path without \"..\"");
        }
        for (index, pair) in process.env().iter().flatten().enumerate() {
            if pair.find('=').is_none_or(|at| at == 0) {
                self.refuse(format!("process.env[{index}]"), pair, "write NAME=value");
            }
        }
        let user = process.user();
        let further = user.additional_gids().iter().flatten();
        let ids = [("process.user.uid", user.uid()), ("process.user.gid", user.gid())]
            .into_iter()
            .chain(further.map(|gid| ("process.user.additionalGids", *gid)));
        for (field, id) in ids.filter(|(_, id)| *id >= IDS) {
            self.refuse(field, id, "an image has the ids up to 65535; write one of them");
        }
        self.rlimits(process.rlimits().as_deref().unwrap_or_default());
        if let Some(score) = process.oom_score_adj()
            && score != 0
            && self.allow.oom_score_adj.is_none_or(|lowest| score < lowest)
        {
            self.refuse(
                "process.oomScoreAdj",
                score,
                "Drowse decides who is killed when memory is short; remove it, or have the operator set allow_oom_score_adj",
            );
        }
    }

    fn rlimits(&mut self, limits: &[PosixRlimit]) {
        for (index, limit) in limits.iter().enumerate() {
            let field = format!("process.rlimits[{index}]");
            if limits[..index].iter().any(|other| other.typ() == limit.typ()) {
                self.refuse(field, limit.typ(), "it stands twice; remove one");
            } else if limit.soft() > limit.hard() {
                self.refuse(field, limit.typ(), "its soft limit is above its hard one; write a lower one");
            } else if matches!(limit.typ(), PosixRlimitType::RlimitNice | PosixRlimitType::RlimitRtprio)
                && limit.hard() > 0
            {
                self.refuse(field, limit.typ(), "apps share the processors by weight; remove it");
            }
        }
    }

    fn linux(&mut self, linux: &Linux) {
        for (index, device) in linux.devices().iter().flatten().enumerate().filter(|(_, device)| !is_common(device)) {
            self.refuse(
                format!("linux.devices[{index}]"),
                format!("{} {}:{}", device.path().display(), device.major(), device.minor()),
                "it is a device of the host; remove it",
            );
        }
        for (name, _) in linux.sysctl().iter().flatten() {
            if !self.allow.sysctls.contains(name) {
                self.refuse(
                    format!("linux.sysctl.{name}"),
                    "set",
                    "kernel parameters are set by Drowse; remove it, or have the operator add it to allow_sysctls",
                );
            }
        }
        self.namespaces(linux);
        let is_shared = |propagation: &String| propagation != "private" && propagation != "rprivate";
        if let Some(propagation) = linux.rootfs_propagation().as_ref().filter(|it| is_shared(it)) {
            self.refuse("linux.rootfsPropagation", propagation, "mounts must not reach the host; write \"private\"");
        }
        let unsupported = [
            ("linux.uidMappings", linux.uid_mappings().as_ref().is_some_and(|all| !all.is_empty())),
            ("linux.gidMappings", linux.gid_mappings().as_ref().is_some_and(|all| !all.is_empty())),
            ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty())),
            ("linux.intelRdt", linux.intel_rdt().is_some()),
            ("linux.personality", linux.personality().is_some()),
            ("linux.memoryPolicy", linux.memory_policy().is_some()),
            ("linux.timeOffsets", linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty())),
        ];
        self.refuse_set(&unsupported, "it is not supported; remove it");
    }

    fn namespaces(&mut self, linux: &Linux) {
        use LinuxNamespaceType::{Ipc, Mount, Network, Pid, User, Uts};
        let namespaces: Vec<_> = linux.namespaces().iter().flatten().collect();
        for (index, namespace) in namespaces.iter().enumerate() {
            if namespace.typ() == User {
                self.refuse(
                    format!("linux.namespaces[{index}]"),
                    "user",
                    "Drowse makes one itself where user 0 is asked for; remove it, and uidMappings and gidMappings",
                );
            }
            if let Some(path) = namespace.path() {
                self.refuse(
                    format!("linux.namespaces[{index}].path"),
                    path.display(),
                    "it joins a namespace of the host; remove the path",
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
}

/// The files inside that carry it are lines: it must be a word.
fn is_host_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        && !name.starts_with(['-', '.'])
}

fn is_setting(key: &str, value: &str) -> bool {
    let is_id = || value.parse::<u32>().is_ok_and(|id| id < IDS);
    SETTINGS.contains(&key) && !value.is_empty() && (!matches!(key, "uid" | "gid") || is_id())
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
