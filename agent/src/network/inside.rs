//! The inner end of a link, set up from within its namespace.
//!
//! A netlink socket belongs to the namespace of the thread that opens it, so each task here runs on a
//! plain thread of its own, which enters the namespace, does its work and ends. It blocks.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use netlink_packet_route::address::AddressScope;
use nix::sched::{CloneFlags, setns};

use super::changes::{Change, Changes};
use super::error::NetworkError;
use super::netlink::Link;
use super::{GATEWAY, INNER_NAME, sysctl};

/// The indexes of a link's ends, each in its own namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub inner: u32,
    pub outer: u32,
}

/// Switches the loopback and the link on, and routes everything to the gateway: all but the address.
/// Returns the link and a socket of its namespace; none if the inner end is not in it.
pub(super) fn prepare(
    netns: BorrowedFd<'_>,
    ends: Ends,
    gateway_mac: [u8; 6],
) -> Result<Option<(Link, Changes)>, NetworkError> {
    within(netns, || {
        let changes = Changes::open()?;
        let is_ours = |link: &Link| link.index == ends.inner && link.peer == Some(ends.outer);
        let Some(link) = changes.link(INNER_NAME)?.filter(is_ours) else { return Ok(None) };
        sysctl::set_for_link("ipv6", "default", "disable_ipv6", "1")?;
        sysctl::set_for_link("ipv6", INNER_NAME, "disable_ipv6", "1")?;
        changes.make(&[
            Change::up("lo"),
            Change::up(INNER_NAME),
            Change::neighbour(&link, GATEWAY, gateway_mac),
            Change::host_route(&link, GATEWAY, None),
            Change::default_route(&link, GATEWAY),
        ])?;
        Ok(Some((link, changes)))
    })
}

/// Gives the inner end its address.
pub(super) fn give_address(changes: &Changes, link: &Link, address: Ipv4Addr) -> Result<(), NetworkError> {
    changes.make(&[Change::address(link, address, AddressScope::Universe)])
}

/// Gives the inner end its address, and the hardware address of its owner: which takes its neighbours.
pub(super) fn change_owner(
    changes: &Changes,
    link: &Link,
    address: Ipv4Addr,
    mac: [u8; 6],
    gateway_mac: [u8; 6],
) -> Result<(), NetworkError> {
    changes.make(&[
        Change::hardware_address(link, mac),
        Change::neighbour(link, GATEWAY, gateway_mac),
        Change::address(link, address, AddressScope::Universe),
    ])
}

/// Takes an address from the inner end.
pub(super) fn remove_address(netns: BorrowedFd<'_>, address: Ipv4Addr) -> Result<(), NetworkError> {
    within(netns, || {
        let changes = Changes::open()?;
        match changes.link(INNER_NAME)? {
            Some(link) => changes.undo(Change::no_address(&link, address)),
            None => Ok(()),
        }
    })
}

/// Runs `work` on a thread of its own inside `netns`.
pub(super) fn within<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    let failed = |action: &str| {
        let action = action.to_owned();
        move |source| NetworkError::Namespace { action, source }
    };
    std::thread::scope(|scope| {
        let run = || {
            setns(netns, CloneFlags::CLONE_NEWNET).map_err(|error| failed("enter it")(error.into()))?;
            work()
        };
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, run);
        let ended = thread.map_err(failed("start a thread for it"))?.join();
        ended.unwrap_or_else(|_| Err(failed("finish work in it")(std::io::ErrorKind::Other.into())))
    })
}
