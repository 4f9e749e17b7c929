//! A number that no other world on this machine has, and everything that is named after it.
//!
//! The number is held by a lock on a file, which the kernel lets go when the test's process ends,
//! however it ends. So a lock that can be had means that what carries its number is nobody's.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::sweep;

/// Where all worlds live: on a disk, because an overlay's upper layer cannot be on everything.
const BASE: &str = "/var/tmp/drowse-tests";
const SLOTS: u32 = 99;

/// Everything that is named after one world's number. The number is free again when this is dropped.
#[derive(Debug)]
pub struct Slot {
    number: u32,
    _lock: File,
}

impl Slot {
    /// Takes the first free number, and removes what its last owner may have left.
    ///
    /// # Panics
    /// When all of them are taken.
    #[must_use]
    pub fn take() -> Self {
        let slot = (1..=SLOTS).find_map(Self::try_take).expect("a free number for a world");
        sweep::remove_all(&slot.names());
        slot
    }

    fn try_take(number: u32) -> Option<Self> {
        let locks = Path::new(BASE).join("locks");
        fs::create_dir_all(&locks).expect("a folder for locks");
        let lock = File::create(locks.join(number.to_string())).expect("a lock file");
        lock.try_lock().is_ok().then_some(Self { number, _lock: lock })
    }

    /// Removes what ended worlds left behind, of those numbers that nobody holds.
    pub fn sweep_free_ones() {
        for slot in (1..=SLOTS).filter_map(Self::try_take) {
            sweep::remove_all(&slot.names());
        }
    }

    /// The names.
    #[must_use]
    pub fn names(&self) -> Names {
        Names::of(self.number)
    }
}

/// The names of one world.
#[derive(Debug, Clone)]
pub struct Names {
    /// Everything on disk, and the agent's, controller's and router's data in folders under it.
    pub base: PathBuf,
    /// Sockets.
    pub run: PathBuf,
    /// The folder in every cgroup hierarchy.
    pub cgroup_root: String,
    /// The nftables table.
    pub table: String,
    /// What links begin with.
    pub link_prefix: String,
    /// The addresses of instances.
    pub address_range: String,
    /// First host id of the first user.
    pub first_host_id: u32,
    /// The controller's uid, and the group of all sockets.
    pub control_id: u32,
    /// The router's uid.
    pub router_id: u32,
    /// Where visitors connect.
    pub visitors: SocketAddr,
    /// Where the controller's API listens.
    pub api: SocketAddr,
}

impl Names {
    fn of(number: u32) -> Self {
        let port = u16::try_from(22_000 + number * 4).expect("numbers are small");
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            base: Path::new(BASE).join(number.to_string()),
            run: format!("/run/drowse-test-{number}").into(),
            cgroup_root: format!("drowse-test-{number}"),
            table: format!("drowse_test_{number}"),
            link_prefix: format!("t{number:02}x"),
            address_range: format!("10.85.{number}.0/24"),
            first_host_id: 1_966_145_536 + number * 4 * 65_536,
            control_id: 62_000 + number * 2,
            router_id: 62_001 + number * 2,
            visitors: loopback(port),
            api: loopback(port + 1),
        }
    }

    /// The agent's configuration file.
    #[must_use]
    pub fn agent_config(&self) -> PathBuf {
        self.base.join("agent.toml")
    }

    /// The controller's and the router's configuration file.
    #[must_use]
    pub fn controller_config(&self) -> PathBuf {
        self.base.join("controller.toml")
    }

    /// The agent's socket.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.run.join("agent/agent.sock")
    }

    /// The controller's socket.
    #[must_use]
    pub fn controller_socket(&self) -> PathBuf {
        self.run.join("controller/controller.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_worlds_share_no_name() {
        let (a, b) = (Names::of(1), Names::of(2));
        assert_ne!(a.base, b.base);
        assert_ne!(a.run, b.run);
        assert_ne!(a.address_range, b.address_range);
        assert!(a.first_host_id + 4 * 65_536 <= b.first_host_id);
        assert!(a.router_id < b.control_id);
        assert!(a.api.port() < b.visitors.port());
        for (name, other) in [(&a.link_prefix, &Names::of(11).link_prefix), (&a.cgroup_root, &b.cgroup_root)] {
            assert!(!other.starts_with(name.as_str()), "{other} begins with {name}");
        }
    }
}
