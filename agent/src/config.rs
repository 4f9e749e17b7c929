//! The agent's configuration file, checked once into types that cannot be wrong.
//!
//! It knows nothing of what the values are used for, beyond the limits that the kernel sets on them.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use drowse_api::{MemoryBytes, NodeName};
use drowse_rootfs::bundle::AllowList;
use serde::Deserialize;

/// The longest `run_dir`: `instances/ID/init.sock` under it must fit into a socket address (108 bytes with its end).
const MAX_RUN_DIR: usize = 107 - "/instances/0123456789abcdef/init.sock".len();

/// The most sandboxes that are kept ready: each is a network namespace and a link.
const MOST_READY: usize = 256;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, lacks a value of the right type, or has a key that is not known.
    #[error("the configuration {path} cannot be used: {message}")]
    Form {
        /// Which file.
        path: PathBuf,
        /// What and where, with the line.
        message: String,
    },
    /// A value breaks a rule.
    #[error("the configuration {path}: {key} {rule}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// The rule, as the rest of a sentence.
        rule: String,
    },
}

/// How this host's agent is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The node's name.
    pub node: NodeName,
    /// Images, instances, builds, users, events, sites.
    pub data_dir: PathBuf,
    /// The agent's socket and those of the inits.
    pub run_dir: PathBuf,
    /// The folder in every cgroup hierarchy that everything of this agent is in, as a path below the
    /// mount. Under systemd its parent is a unit with `Delegate=`, and the last folder is made here.
    pub cgroup_root: String,
    /// Addresses of instances.
    pub address_range: AddressRange,
    /// The nftables table (family inet).
    pub table: String,
    /// What the host ends of links begin with.
    pub link_prefix: String,
    /// The first host id of the first user's range.
    pub first_host_id: u32,
    /// The peer, beside root, that may use every call.
    pub control_uid: u32,
    /// The group of the socket.
    pub control_gid: u32,
    /// The peer that may use only the router's calls.
    pub router_uid: u32,
    /// Host ports that apps may reach.
    pub router_ports: Vec<u16>,
    /// How long a router that was lost may still send requests without being heard of, in seconds:
    /// nothing falls asleep meanwhile.
    pub router_patience_seconds: u64,
    /// How many connections an app may have open towards others.
    pub connections: u32,
    /// How many it may open in a second, beyond a burst of `connections`.
    pub connection_rate: u32,
    /// Certificate authorities handed to builds and apps; the host's own if absent.
    pub ca_bundle: Option<PathBuf>,
    /// The resolver file handed to builds and apps; the host's own if absent.
    pub resolv_conf: Option<PathBuf>,
    /// Where the sibling programs are.
    pub bin_dir: PathBuf,
    /// The checkpoint program, where the host's own is not to be used.
    pub criu: Option<PathBuf>,
    /// How many sandboxes are kept ready ahead of what will run in them; 0: none.
    pub ready_sandboxes: usize,
    /// Registries on this host's loopback that users may have images from: `HOST:PORT`.
    pub registries: Vec<String>,
    /// What bundles of third parties may ask for.
    pub bundles: AllowList,
    /// What is kept on disk beside what is needed.
    pub images: Images,
    /// How builds share the host.
    pub builds: Builds,
    /// How the disk of apps and builds is limited.
    pub disk: DiskLimits,
    /// How much of the disk the processes of sleepers may take.
    pub snapshots: Room,
}

/// `[snapshots]`: how much of the disk the processes of sleepers may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Room {
    /// Those of one user.
    pub user: MemoryBytes,
    /// All of this host's.
    pub node: MemoryBytes,
    /// What is left free for others, whoever uses the rest.
    pub keep_free: MemoryBytes,
}

impl Default for Room {
    fn default() -> Self {
        Self { user: MemoryBytes::gib(4), node: MemoryBytes::gib(32), keep_free: MemoryBytes::gib(1) }
    }
}

/// `[builds]`: how builds share the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Builds {
    /// How many builds of one user run at once; the others wait for their turn.
    pub at_once_per_user: usize,
}

impl Default for Builds {
    fn default() -> Self {
        Self { at_once_per_user: 1 }
    }
}

/// `[disk]`: how what apps and builds write is limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskLimits {
    /// `auto`, `image` or `off`.
    pub limit: crate::disk::Mode,
}

/// `[images]`: what is kept on disk beside what deployments and instances need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// How many layers of dependencies are kept for the next builds, by their last use.
    pub keep_dependencies: usize,
    /// For how long an upload is kept that no build has asked for, in seconds.
    pub keep_uploads_seconds: u64,
    /// How long after a start or a removal the disk is looked through, in seconds.
    pub pause_seconds: u64,
}

impl Default for Images {
    fn default() -> Self {
        Self { keep_dependencies: 50, keep_uploads_seconds: 6 * 3600, pause_seconds: 60 }
    }
}

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// The first address, with all host bits zero.
    pub base: Ipv4Addr,
    /// How many leading bits are fixed: 8 to 28.
    pub prefix: u8,
}

/// The file as written; every key has the installed system's default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    node: String,
    data_dir: PathBuf,
    run_dir: PathBuf,
    cgroup_root: String,
    address_range: String,
    table: String,
    link_prefix: String,
    first_host_id: u32,
    control_uid: u32,
    control_gid: u32,
    router_uid: u32,
    router_ports: Vec<u16>,
    router_patience_seconds: u64,
    connections: u32,
    connection_rate: u32,
    ca_bundle: Option<PathBuf>,
    resolv_conf: Option<PathBuf>,
    bin_dir: Option<PathBuf>,
    criu: Option<PathBuf>,
    ready_sandboxes: usize,
    registries: Vec<String>,
    bundles: Bundles,
    images: Images,
    builds: Builds,
    disk: DiskLimits,
    snapshots: Room,
}

/// `[bundles]`: nothing is allowed by default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Bundles {
    allow_binds: Vec<PathBuf>,
    allow_writable_binds: Vec<PathBuf>,
    allow_sysctls: Vec<String>,
    allow_capabilities: Vec<String>,
    allow_oom_score_adj: Option<i32>,
}

/// Capabilities that act on nothing but the container's own namespaces and processes. All others
/// reach the host, since apps have no user namespace.
const HARMLESS_CAPABILITIES: [&str; 4] = ["CAP_IPC_LOCK", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW"];

impl Bundles {
    /// The allow-list, or the key that breaks a rule, and the rule.
    fn checked(self) -> Result<AllowList, (&'static str, String)> {
        for (key, paths) in
            [("bundles.allow_binds", &self.allow_binds), ("bundles.allow_writable_binds", &self.allow_writable_binds)]
        {
            if let Some(path) = paths.iter().find(|path| !is_plain(path)) {
                return Err((key, format!("has {}; write absolute paths without ..", path.display())));
            }
        }
        let of_namespace = |name: &&String| {
            let beginnings = ["net.", "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm"];
            !beginnings.iter().any(|beginning| name.starts_with(beginning))
        };
        if let Some(name) = self.allow_sysctls.iter().find(of_namespace) {
            let rule = format!(
                "has {name}; only net.*, fs.mqueue.*, kernel.msg*, kernel.sem and kernel.shm* belong to a container"
            );
            return Err(("bundles.allow_sysctls", rule));
        }
        if let Some(name) = self.allow_capabilities.iter().find(|name| !HARMLESS_CAPABILITIES.contains(&name.as_str()))
        {
            let rule = format!("has {name}; only {} do not reach the host", HARMLESS_CAPABILITIES.join(", "));
            return Err(("bundles.allow_capabilities", rule));
        }
        if self.allow_oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
            return Err(("bundles.allow_oom_score_adj", "must be from -1000 to 1000".to_owned()));
        }
        Ok(AllowList {
            binds: self.allow_binds,
            writable_binds: self.allow_writable_binds,
            sysctls: self.allow_sysctls,
            capabilities: self.allow_capabilities,
            oom_score_adj: self.allow_oom_score_adj,
        })
    }
}

/// What the kernel shows for a user that is not mapped into a namespace (user_namespaces(7)).
const OVERFLOW_UID: u32 = 65_534;

impl Default for File {
    fn default() -> Self {
        Self {
            node: "node-1".to_owned(),
            data_dir: "/var/lib/drowse/agent".into(),
            run_dir: "/run/drowse".into(),
            cgroup_root: "drowse".to_owned(),
            address_range: "10.83.0.0/16".to_owned(),
            table: "drowse".to_owned(),
            link_prefix: "dw".to_owned(),
            first_host_id: 6_553_600,
            control_uid: 990,
            control_gid: 990,
            router_uid: 991,
            router_ports: vec![80, 443],
            router_patience_seconds: 5,
            connections: 2048,
            connection_rate: 200,
            ca_bundle: None,
            resolv_conf: None,
            bin_dir: None,
            criu: None,
            ready_sandboxes: 4,
            registries: Vec::new(),
            bundles: Bundles::default(),
            images: Images::default(),
            builds: Builds::default(),
            disk: DiskLimits::default(),
            snapshots: Room::default(),
        }
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Names the file, the key and the rule that it breaks.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks `text`, which was read from `path`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text)
            .map_err(|e| ConfigError::Form { path: path.to_owned(), message: e.to_string().trim_end().to_owned() })?;
        let value = |key, rule: String| ConfigError::Value { path: path.to_owned(), key, rule };
        let node = NodeName::parse(file.node).map_err(|e| value("node", format!("is wrong: {e}")))?;
        for (key, folder) in [("data_dir", &file.data_dir), ("run_dir", &file.run_dir)] {
            if !is_plain(folder) {
                return Err(value(key, "must be an absolute path without ..".to_owned()));
            }
        }
        let length = file.run_dir.as_os_str().len();
        if length > MAX_RUN_DIR {
            return Err(value(
                "run_dir",
                format!("has {length} bytes; sockets under it need it to have at most {MAX_RUN_DIR}"),
            ));
        }
        if !is_cgroup_root(&file.cgroup_root) {
            let rule = "must begin with \"drowse\", and its folders hold only a-z, 0-9, -, _ and . after the first";
            return Err(value("cgroup_root", rule.to_owned()));
        }
        if !is_word(&file.table, 31) {
            return Err(value("table", "must be a word of at most 31 of a-z, 0-9, - and _".to_owned()));
        }
        if !is_word(&file.link_prefix, 4) {
            return Err(value("link_prefix", "must be a word of at most 4 of a-z, 0-9, - and _".to_owned()));
        }
        for (key, number) in [("connections", file.connections), ("connection_rate", file.connection_rate)] {
            if !(1..=1_000_000).contains(&number) {
                return Err(value(key, "must be from 1 to 1000000".to_owned()));
            }
        }
        if file.first_host_id < 65_536 {
            return Err(value("first_host_id", "must be at least 65536: ids below belong to the host".to_owned()));
        }
        for (key, uid) in [("control_uid", file.control_uid), ("router_uid", file.router_uid)] {
            if uid == OVERFLOW_UID || uid == u32::MAX {
                let rule = format!("must not be {uid}, the user that strangers of other namespaces appear as");
                return Err(value(key, rule));
            }
        }
        if file.control_uid == file.router_uid {
            return Err(value(
                "router_uid",
                "must differ from control_uid, or the router could do everything".to_owned(),
            ));
        }
        if file.ready_sandboxes > MOST_READY {
            return Err(value("ready_sandboxes", format!("must be from 0 (none) to {MOST_READY}")));
        }
        if file.builds.at_once_per_user == 0 {
            return Err(value("builds.at_once_per_user", "must be at least 1, or nothing is ever built".to_owned()));
        }
        let is_own = |name: &&String| drowse_api::reference::is_registry(name) && crate::registry::is_own(name);
        if let Some(wrong) = file.registries.iter().find(|name| !is_own(name)) {
            let rule =
                format!("has {wrong:?}; write localhost:PORT or 127.0.0.1:PORT, as references to images have it");
            return Err(value("registries", rule));
        }
        let bin_dir = file.bin_dir.or_else(own_folder).ok_or_else(|| {
            value("bin_dir", "is not set, and the folder of the running program cannot be found".to_owned())
        })?;
        Ok(Self {
            node,
            data_dir: file.data_dir,
            run_dir: file.run_dir,
            cgroup_root: file.cgroup_root,
            address_range: AddressRange::parse(&file.address_range).map_err(|rule| value("address_range", rule))?,
            table: file.table,
            link_prefix: file.link_prefix,
            first_host_id: file.first_host_id,
            control_uid: file.control_uid,
            control_gid: file.control_gid,
            router_uid: file.router_uid,
            router_ports: file.router_ports,
            router_patience_seconds: file.router_patience_seconds,
            connections: file.connections,
            connection_rate: file.connection_rate,
            ca_bundle: file.ca_bundle,
            resolv_conf: file.resolv_conf,
            bin_dir,
            criu: file.criu,
            ready_sandboxes: file.ready_sandboxes,
            registries: file.registries,
            images: file.images,
            builds: file.builds,
            disk: file.disk,
            snapshots: file.snapshots,
            bundles: file.bundles.checked().map_err(|(key, rule)| value(key, rule))?,
        })
    }

    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }
}

impl AddressRange {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range of addresses; write for example 10.83.0.0/16");
        let (base, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let base: Ipv4Addr = base.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if !(8..=28).contains(&prefix) {
            return Err(format!("{text:?} must fix 8 to 28 bits"));
        }
        if base.to_bits() & (u32::MAX >> prefix) != 0 {
            return Err(format!(
                "{text:?} has host bits set; the range begins at {}",
                Ipv4Addr::from_bits(base.to_bits() & !(u32::MAX >> prefix))
            ));
        }
        Ok(Self { base, prefix })
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir)
}

fn is_word(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        && text.as_bytes()[0].is_ascii_lowercase()
}

/// `drowse`, or a path as systemd names its units: `drowse.slice/drowse-apps.service/apps`.
fn is_cgroup_root(text: &str) -> bool {
    let is_folder = |folder: &str| folder.split('.').all(|part| is_word(part, 40));
    text.starts_with("drowse") && text.len() <= 120 && text.split('/').all(is_folder)
}

fn own_folder() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("agent.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn an_empty_file_is_the_installed_system() {
        let config = parse("").expect("defaults are right");
        assert_eq!(config.socket(), Path::new("/run/drowse/agent.sock"));
        assert_eq!(config.address_range.to_string(), "10.83.0.0/16");
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = parse("nodde = \"x\"").expect_err("a typing error");
        assert!(error.contains("nodde") && error.contains("agent.toml"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_refused_with_the_rule() {
        for (text, key) in [
            ("node = \"Node_1\"", "node"),
            ("run_dir = \"run\"", "run_dir"),
            ("cgroup_root = \"system\"", "cgroup_root"),
            ("cgroup_root = \"drowse/../system.slice\"", "cgroup_root"),
            ("cgroup_root = \"drowse/\"", "cgroup_root"),
            ("address_range = \"10.83.0.1/16\"", "address_range"),
            ("address_range = \"ten\"", "address_range"),
            ("link_prefix = \"toolong\"", "link_prefix"),
            ("table = \"a b\"", "table"),
            ("first_host_id = 0", "first_host_id"),
            ("registries = [\"https://localhost\"]", "registries"),
            ("registries = [\"a.example:5000\"]", "registries"),
            ("router_uid = 990", "router_uid"),
            ("ready_sandboxes = 1000", "ready_sandboxes"),
            ("ready_sandboxes = -1", "ready_sandboxes"),
            ("router_uid = 65534", "router_uid"),
            ("control_uid = 65534", "control_uid"),
            ("connections = 0", "connections"),
            ("connection_rate = 0", "connection_rate"),
            ("[snapshots]\nuser = \"much\"", "user"),
            ("[disk]\nlimit = \"quota\"", "limit"),
            ("[bundles]\nallow_binds = [\"srv\"]", "bundles.allow_binds"),
            ("[bundles]\nallow_writable_binds = [\"/srv/../etc\"]", "bundles.allow_writable_binds"),
            ("[bundles]\nallow_sysctls = [\"kernel.core_pattern\"]", "bundles.allow_sysctls"),
            ("[bundles]\nallow_capabilities = [\"CAP_SYS_ADMIN\"]", "bundles.allow_capabilities"),
            ("[bundles]\nallow_hooks = [\"/bin/sh\"]", "allow_hooks"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(key), "{text}: {error}");
        }
        parse("cgroup_root = \"drowse.slice/drowse-apps.service/apps\"").expect("a delegated unit's folder");
        let long = format!("run_dir = \"/{}\"", "x".repeat(90));
        assert!(parse(&long).expect_err("too long").contains("run_dir"));
    }
}
