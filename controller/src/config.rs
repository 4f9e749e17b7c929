//! The configuration file. Unknown keys are refused, and what cannot work is said at start.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use drowse_api::agent::BuildLimits;
use drowse_api::instance::{BootCheck, Limits};
use drowse_api::{HostName, MemoryBytes, NodeName};
use drowse_proxy::RouterConfig;
use serde::Deserialize;

use crate::sleep::SleepDefaults;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what is expected.
    #[error("configuration {path} is not usable")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: toml::de::Error,
    },
    /// The API without TLS, open to the network.
    #[error(
        "api_listen {address} is reachable from other machines, and the API has no TLS: listen on 127.0.0.1, and use \
         `ssh -L 9480:127.0.0.1:9480 HOST` from elsewhere"
    )]
    OpenApi {
        /// The address.
        address: SocketAddr,
    },
    /// No agent, or two with one name.
    #[error("[[agents]] must name at least one node, each once: {found}")]
    Agents {
        /// What is there.
        found: String,
    },
    /// A time of no length.
    #[error("[sleep]: the times must be 1 s at least; leave a key out for an app that never sleeps so")]
    Sleep,
    /// A disk on which nothing would fit.
    #[error("limits.{key} is {found}; the smallest disk has {}", Limits::SMALLEST_DISK)]
    Disk {
        /// Which of them.
        key: &'static str,
        /// What is there.
        found: MemoryBytes,
    },
    /// The router was asked to run and is not configured.
    #[error("configuration {path} has no [router] table, which `drowse-controller route` needs")]
    NoRouter {
        /// The file.
        path: PathBuf,
    },
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The domain that apps live under.
    #[serde(default = "default_domain")]
    pub domain: HostName,
    /// Folder of the database.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// Folder of `controller.sock`.
    #[serde(default = "default_run_dir")]
    pub run_dir: PathBuf,
    /// File of the key to the apps' secrets, made at the first start; by default `keys/secrets.key`
    /// beside the folder of the database.
    #[serde(default)]
    pub secrets_key: Option<PathBuf>,
    /// The API for holders of a token.
    #[serde(default = "default_api_listen")]
    pub api_listen: SocketAddr,
    /// Peers of the socket in this group need no token; without it only root and this program's user.
    #[serde(default)]
    pub admin_gid: Option<u32>,
    /// The peer of the socket that may follow the routes.
    #[serde(default = "default_router_uid")]
    pub router_uid: u32,
    /// Name of the user that the first start makes.
    #[serde(default = "default_owner")]
    pub owner: String,
    /// The nodes.
    pub agents: Vec<AgentConfig>,
    /// The router, a process of its own.
    #[serde(default)]
    pub router: Option<RouterConfig>,
    /// What has a number.
    #[serde(default)]
    pub limits: Settings,
    /// How apps sleep where their users set nothing.
    #[serde(default)]
    pub sleep: SleepDefaults,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Its name, as its agent says too.
    pub node: NodeName,
    /// The agent's socket.
    pub socket: PathBuf,
}

/// What has a number, with defaults for an installed system.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The largest upload.
    pub upload: MemoryBytes,
    /// How long requests in flight have when traffic has moved, in seconds.
    pub drain_seconds: u32,
    /// How long an instance has between SIGTERM and SIGKILL, in seconds.
    pub grace_seconds: u32,
    /// How many events are kept.
    pub events: u64,
    /// How many deployments of an app are kept, with the live one and the pending one.
    pub deployments: usize,
    /// To how many earlier releases of an app it can be rolled back; their deployments are kept.
    pub releases: usize,
    /// What one instance may use.
    #[serde(deserialize_with = "limits::instance")]
    pub instance: Limits,
    /// What one build may use.
    #[serde(deserialize_with = "limits::build")]
    pub build: BuildLimits,
    /// How an instance is found ready.
    #[serde(deserialize_with = "limits::boot")]
    pub boot: BootCheck,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            upload: MemoryBytes::mib(512),
            drain_seconds: 30,
            grace_seconds: 30,
            events: 10_000,
            deployments: 10,
            releases: 5,
            instance: Limits::default(),
            build: BuildLimits::default(),
            boot: default_boot(),
        }
    }
}

/// The tables below `[limits]`: each key may be left out, and unknown ones are refused. On the wire
/// the same types need all of them.
mod limits {
    use drowse_api::MemoryBytes;
    use drowse_api::agent::BuildLimits;
    use drowse_api::instance::{BootCheck, Limits};
    use serde::{Deserialize, Deserializer};

    macro_rules! table {
        ($function:ident, $keys:ident, $type:ident { $($key:ident: $of:ty),* }) => {
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct $keys {
                $($key: Option<$of>,)*
            }

            pub(super) fn $function<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let (keys, default) = ($keys::deserialize(deserializer)?, $type::default());
                Ok($type { $($key: keys.$key.unwrap_or(default.$key),)* })
            }
        };
    }

    table!(
        instance,
        InstanceKeys,
        Limits { memory: MemoryBytes, pids: u32, cpu_weight: u32, disk: MemoryBytes, files: u32 }
    );
    table!(
        build,
        BuildKeys,
        BuildLimits {
            memory: MemoryBytes,
            pids: u32,
            cpu_weight: u32,
            timeout_seconds: u32,
            disk: MemoryBytes,
            files: u32
        }
    );
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct BootKeys {
        timeout_seconds: Option<u32>,
        settle_milliseconds: Option<u32>,
    }

    /// Path and host are each app's own.
    pub(super) fn boot<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BootCheck, D::Error> {
        let (keys, default) = (BootKeys::deserialize(deserializer)?, super::default_boot());
        Ok(BootCheck {
            timeout_seconds: keys.timeout_seconds.unwrap_or(default.timeout_seconds),
            settle_milliseconds: keys.settle_milliseconds.unwrap_or(default.settle_milliseconds),
            ..default
        })
    }
}

/// A version that was never ready has to stay for a moment; the wire's own default is none.
fn default_boot() -> BootCheck {
    BootCheck { settle_milliseconds: 300, ..BootCheck::default() }
}
fn default_domain() -> HostName {
    HostName::parse("drowse.localhost").expect("a host name")
}
fn default_data_dir() -> PathBuf {
    PathBuf::from("/var/lib/drowse/controller")
}
fn default_run_dir() -> PathBuf {
    PathBuf::from("/run/drowse-controller")
}
fn default_api_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9480))
}
fn default_router_uid() -> u32 {
    991
}
fn default_owner() -> String {
    "owner".to_owned()
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Says what cannot be used, and where.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self =
            toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !self.api_listen.ip().is_loopback() {
            return Err(ConfigError::OpenApi { address: self.api_listen });
        }
        let disks = [("instance.disk", self.limits.instance.disk), ("build.disk", self.limits.build.disk)];
        if let Some((key, found)) = disks.into_iter().find(|(_, disk)| *disk < Limits::SMALLEST_DISK) {
            return Err(ConfigError::Disk { key, found });
        }
        let mut names: Vec<_> = self.agents.iter().map(|agent| agent.node.as_str()).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        if count == 0 || names.len() < count {
            return Err(ConfigError::Agents { found: format!("{count} given, {} names", names.len()) });
        }
        let sleep = self.sleep;
        let times = [
            sleep.paused_after_seconds,
            sleep.paged_after_seconds,
            sleep.snapshot_after_seconds,
            sleep.cold_after_seconds,
            Some(sleep.look_seconds),
        ];
        if times.contains(&Some(0)) {
            return Err(ConfigError::Sleep);
        }
        Ok(())
    }

    /// The port visitors use.
    #[must_use]
    pub fn public_port(&self) -> u16 {
        let listened = |router: &RouterConfig| router.listen.first().map(SocketAddr::port);
        self.router.as_ref().and_then(|router| router.public_port.or_else(|| listened(router))).unwrap_or(80)
    }

    /// The address of what is at `label.DOMAIN`, with scheme and port.
    #[must_use]
    pub fn url(&self, label: &str) -> String {
        match self.public_port() {
            80 => format!("http://{label}.{}", self.domain),
            port => format!("http://{label}.{}:{port}", self.domain),
        }
    }

    /// The file of the key to the apps' secrets.
    #[must_use]
    pub fn secrets_key(&self) -> PathBuf {
        let beside = || self.data_dir.parent().unwrap_or(Path::new("/")).join("keys/secrets.key");
        self.secrets_key.clone().unwrap_or_else(beside)
    }

    /// The API's Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("controller.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("controller.toml");
        std::fs::write(&path, text).expect("writes");
        Config::read(&path)
    }

    const AGENT: &str = "[[agents]]\nnode = \"node-1\"\nsocket = \"/run/drowse/agent.sock\"\n";

    #[test]
    fn defaults_are_those_of_an_installed_system() {
        let config = read(AGENT).expect("reads");
        assert_eq!(config.url("shop"), "http://shop.drowse.localhost");
        assert_eq!(config.limits.upload, MemoryBytes::mib(512));
        assert_eq!(config.secrets_key(), Path::new("/var/lib/drowse/keys/secrets.key"));
    }

    #[test]
    fn the_public_port_is_in_the_addresses() {
        let router = "[router]\nlisten = [\"127.0.0.1:8080\"]\ndata_dir = \"/d\"\nnode = \"node-1\"\n\
                      agent_socket = \"/a\"\ncontroller_socket = \"/c\"\napi_address = \"127.0.0.1:9480\"\n";
        let config = read(&format!("{AGENT}{router}")).expect("reads");
        assert_eq!(config.url("shop"), "http://shop.drowse.localhost:8080");
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = read(&format!("databse = 1\n{AGENT}")).expect_err("unknown key");
        let source = std::error::Error::source(&error).expect("a source").to_string();
        assert!(source.contains("databse"), "{source}");
    }

    #[test]
    fn each_limit_may_be_left_out_and_amounts_are_numbers_or_text() {
        let limits = "[limits]\nupload = \"1GiB\"\ninstance.memory = \"256MiB\"\nbuild.memory = 1073741824\n\
                      instance.disk = \"256MiB\"\ninstance.files = 5000\n";
        let limits = read(&format!("{AGENT}{limits}")).expect("reads").limits;
        assert_eq!(limits.upload, MemoryBytes::gib(1));
        assert_eq!(
            limits.instance,
            Limits { memory: MemoryBytes::mib(256), disk: MemoryBytes::mib(256), files: 5000, ..Limits::default() }
        );
        assert_eq!(limits.build, BuildLimits { memory: MemoryBytes::gib(1), ..BuildLimits::default() });
        assert_eq!(limits.boot, default_boot());
        for wrong in ["instance.cpus = 2", "boot.timeout = 3", "upload = \"much\""] {
            assert!(read(&format!("{AGENT}[limits]\n{wrong}\n")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_sleeps_unless_a_time_is_set_and_no_time_is_none() {
        assert_eq!(read(AGENT).expect("reads").sleep, SleepDefaults::default());
        let sleep =
            read(&format!("{AGENT}[sleep]\npaused_after_seconds = 15\nwake = \"auto\"\n")).expect("reads").sleep;
        assert_eq!((sleep.paused_after_seconds, sleep.cold_after_seconds), (Some(15), None));
        assert!(matches!(read(&format!("{AGENT}[sleep]\ncold_after_seconds = 0\n")), Err(ConfigError::Sleep)));
        assert!(matches!(read(&format!("{AGENT}[sleep]\npaged_after_seconds = 0\n")), Err(ConfigError::Sleep)));
    }

    #[test]
    fn a_disk_on_which_nothing_fits_is_refused_by_its_key() {
        for key in ["instance.disk", "build.disk"] {
            let error = read(&format!("{AGENT}[limits]\n{key} = \"1MiB\"\n")).expect_err("too small").to_string();
            assert!(error.contains(key) && error.contains("16 MiB"), "{error}");
        }
    }

    #[test]
    fn an_api_open_to_the_network_is_refused_with_the_way_out() {
        let error = read(&format!("api_listen = \"0.0.0.0:9480\"\n{AGENT}")).expect_err("open");
        assert!(error.to_string().contains("ssh -L"), "{error}");
    }

    #[test]
    fn two_nodes_of_one_name_are_refused() {
        assert!(matches!(read(&format!("{AGENT}{AGENT}")), Err(ConfigError::Agents { .. })));
    }
}
