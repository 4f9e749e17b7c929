//! The inner end of a link, set up from within its namespace.
//!
//! A netlink socket belongs to the namespace of the thread that opens it, so each task here runs on a
//! plain thread of its own, which enters the namespace, does its work and ends.

use std::future::Future;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_route::address::AddressScope;
use nix::sched::{CloneFlags, setns};

use super::error::NetworkError;
use super::netlink::{Link, Netlink};
use super::{GATEWAY, INNER_NAME, sysctl};

/// The indexes of a link's ends, each in its own namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub inner: u32,
    pub outer: u32,
}

/// Switches the loopback and the link on, gives it `address` and routes everything to the gateway.
/// False if the inner end is not in this namespace.
pub(super) async fn set_up(
    netns: BorrowedFd<'_>,
    ends: Ends,
    address: Ipv4Addr,
    gateway_mac: [u8; 6],
) -> Result<bool, NetworkError> {
    within(netns, move || async move {
        let netlink = Netlink::open()?;
        let is_ours = |link: &Link| link.index == ends.inner && link.peer == Some(ends.outer);
        let Some(link) = netlink.link(INNER_NAME).await?.filter(is_ours) else { return Ok(false) };
        if let Some(loopback) = netlink.link("lo").await? {
            netlink.set_up(&loopback).await?;
        }
        sysctl::set_for_link("ipv6", "default", "disable_ipv6", "1")?;
        sysctl::set_for_link("ipv6", INNER_NAME, "disable_ipv6", "1")?;
        netlink.add_address(&link, address, AddressScope::Universe).await?;
        netlink.set_up(&link).await?;
        netlink.add_neighbour(&link, GATEWAY, gateway_mac).await?;
        netlink.route_host(&link, GATEWAY, None).await?;
        netlink.route_default(&link, GATEWAY).await?;
        Ok(true)
    })
    .await
}

/// Takes an address from the inner end.
pub(super) async fn remove_address(netns: BorrowedFd<'_>, address: Ipv4Addr) -> Result<(), NetworkError> {
    within(netns, move || async move {
        let netlink = Netlink::open()?;
        match netlink.link(INNER_NAME).await? {
            Some(link) => netlink.remove_address(&link, address).await,
            None => Ok(()),
        }
    })
    .await
}

/// Runs `work` on a thread of its own inside `netns`.
pub(super) async fn within<T, F>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T, NetworkError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, NetworkError>>,
{
    let failed = |action: &str| {
        let action = action.to_owned();
        move |source| NetworkError::Namespace { action, source }
    };
    let netns = netns.try_clone_to_owned().map_err(failed("keep it open"))?;
    let (answer, answered) = tokio::sync::oneshot::channel();
    let thread = move || {
        let run = || {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|error| failed("enter it")(error.into()))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            runtime.map_err(failed("wait in it"))?.block_on(work())
        };
        // Whoever asked may be gone.
        let _ = answer.send(run());
    };
    std::thread::Builder::new().name("netns".to_owned()).spawn(thread).map_err(failed("start a thread for it"))?;
    answered.await.unwrap_or_else(|_| {
        Err(NetworkError::Namespace {
            action: "finish work in it".to_owned(),
            source: std::io::ErrorKind::Other.into(),
        })
    })
}
