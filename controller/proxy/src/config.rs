//! The `[router]` table of the controller's configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use drowse_api::NodeName;
use serde::Deserialize;

/// How the router is set up. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterConfig {
    /// Where visitors connect. Unused for a listener that was handed over already open.
    pub listen: Vec<SocketAddr>,
    /// The port visitors use, where it differs from the one listened on.
    #[serde(default)]
    pub public_port: Option<u16>,
    /// Folder of the last known table and endpoints; made if it is missing.
    pub data_dir: PathBuf,
    /// The node this router runs on: the endpoints it can dial, and its name for the controller.
    pub node: NodeName,
    /// The agent's Unix socket.
    pub agent_socket: PathBuf,
    /// The controller's Unix socket.
    pub controller_socket: PathBuf,
    /// Where `api.DOMAIN` is forwarded, for visitors from this machine only.
    pub api_address: SocketAddr,
    /// Event loops; one per processor if absent.
    #[serde(default)]
    pub workers: Option<usize>,
    /// A page of the operator's own in place of the Wake Up page.
    #[serde(default)]
    pub wake_page: Option<PathBuf>,
    /// What a visitor and an app may use of the router.
    #[serde(default)]
    pub limits: Limits,
}

/// Limits that keep one visitor or one app from using up the router.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Size of a request's head, in bytes; at least 8192.
    pub header_bytes: usize,
    /// How long a visitor may take to send a head, or to leave a connection unused between requests.
    pub header_seconds: u64,
    /// How long connecting to an instance may take.
    pub connect_milliseconds: u64,
    /// How long an instance may take to the first byte of its answer, counted from the last byte of the request.
    pub first_byte_seconds: u64,
    /// How long a body may stand still, in either direction.
    pub idle_seconds: u64,
    /// How long a request waits for an instance that is being started or replaced.
    pub hold_milliseconds: u64,
    /// How long a WebSocket goes on whose instance was replaced, before its visitor is told to connect
    /// again; less than the controller's `drain_seconds`, at the end of which instances are stopped.
    pub websocket_seconds: u64,
    /// How long requests in flight have when the router is told to end.
    pub drain_seconds: u64,
    /// How many requests may wait for one instance; more are refused.
    pub queued: usize,
    /// How long a request waits for an app that is being woken.
    pub wake_seconds: u64,
    /// How long a browser waits for an app with `wake = "auto"` before it gets the Wake Up page.
    pub auto_milliseconds: u64,
    /// How many requests may wait for one app to wake; more are refused.
    pub waking: usize,
    /// How many apps are started out of a deep sleep at once; more wait.
    pub wakes: usize,
    /// How many different apps one visitor's address may have woken from a deep sleep in a minute.
    pub wakes_per_visitor: usize,
    /// How many requests one instance gets at once; more wait.
    pub in_flight: usize,
    /// How many visitors' connections are open at once, over all workers.
    pub connections: usize,
    /// How many requests one HTTP/2 connection may have open at once.
    pub streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 32 << 10,
            header_seconds: 60,
            connect_milliseconds: 5_000,
            first_byte_seconds: 30,
            idle_seconds: 60,
            hold_milliseconds: 5_000,
            websocket_seconds: 10,
            drain_seconds: 30,
            queued: 50,
            wake_seconds: 30,
            auto_milliseconds: 150,
            waking: 500,
            wakes: 8,
            wakes_per_visitor: 60,
            in_flight: 1_000,
            connections: 8_000,
            streams: 128,
        }
    }
}

impl Limits {
    pub(crate) fn header(&self) -> Duration {
        Duration::from_secs(self.header_seconds)
    }

    pub(crate) fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_milliseconds)
    }

    pub(crate) fn first_byte(&self) -> Duration {
        Duration::from_secs(self.first_byte_seconds)
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds)
    }

    pub(crate) fn hold(&self) -> Duration {
        Duration::from_millis(self.hold_milliseconds)
    }

    pub(crate) fn websocket(&self) -> Duration {
        Duration::from_secs(self.websocket_seconds)
    }

    pub(crate) fn wake(&self) -> Duration {
        Duration::from_secs(self.wake_seconds)
    }

    pub(crate) fn auto(&self) -> Duration {
        Duration::from_millis(self.auto_milliseconds)
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}
