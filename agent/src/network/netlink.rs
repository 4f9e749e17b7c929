//! A netlink socket of the calling thread's network namespace, with the few questions and changes
//! that we need, each naming itself in its error.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, State};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::error::NetworkError;
use crate::config::AddressRange;

/// Of the route that answers for addresses of the range which no instance has: below any other.
const BLOCKED_PRIORITY: u32 = u32::MAX;

/// A link, as far as we look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub alias: Option<String>,
    pub mtu: u32,
    /// The index of the other end, in its own namespace.
    pub peer: Option<u32>,
    /// Whether the kernel lets packets out of it.
    pub is_running: bool,
}

/// An IPv4 route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub destination: Ipv4Addr,
    pub prefix: u8,
    pub out: Option<u32>,
    pub kind: RouteType,
}

impl Route {
    /// Whether it is one of a single address to this link, as instances have.
    pub fn is_host(&self, link: u32) -> bool {
        self.prefix == 32 && self.out == Some(link) && self.kind == RouteType::Unicast
    }
}

/// One end of a veth pair to be made.
pub(super) struct NewEnd<'a> {
    pub name: &'a str,
    pub mac: [u8; 6],
}

/// An open socket. Its connection ends with it.
pub(super) struct Netlink {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

pub(super) fn refused(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let action = action.into();
    move |source| NetworkError::Netlink { action, source }
}

/// Whether the kernel said that a link cannot be changed while it is on.
pub(super) fn is_busy(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if -message.raw_code() == libc::EBUSY)
}

/// Whether the kernel said that what was to be changed or found is not there.
pub(super) fn is_missing(error: &rtnetlink::Error) -> bool {
    let code = match error {
        rtnetlink::Error::NetlinkError(message) => -message.raw_code(),
        _ => 0,
    };
    matches!(code, libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL)
}

fn unless_missing(result: Result<(), rtnetlink::Error>, action: String) -> Result<(), NetworkError> {
    match result {
        Err(error) if !is_missing(&error) => Err(refused(action)(error)),
        _ => Ok(()),
    }
}

impl Netlink {
    pub fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Socket)?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    pub async fn links(&self) -> Result<Vec<Link>, NetworkError> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(refused("list links"))?;
        Ok(messages.into_iter().filter_map(read_link).collect())
    }

    /// IPv4 routes of all tables, the addresses of this host among them.
    pub async fn routes(&self) -> Result<Vec<Route>, NetworkError> {
        let question = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages: Vec<RouteMessage> =
            self.handle.route().get(question).execute().try_collect().await.map_err(refused("list routes"))?;
        Ok(messages.into_iter().filter_map(read_route).collect())
    }

    /// Removes a link; one that is gone is no error.
    pub async fn delete_link(&self, link: &Link) -> Result<(), NetworkError> {
        let done = self.handle.link().del(link.index).execute().await;
        unless_missing(done, format!("remove link {}", link.name))
    }

    /// Takes away the route and the neighbour of an address; what is gone is no error.
    pub async fn unroute(&self, link: &Link, address: Ipv4Addr) -> Result<(), NetworkError> {
        let done = self.handle.route().del(host_route(link, address).build()).execute().await;
        unless_missing(done, format!("take away the route of {address}"))?;
        let mut neighbour = self.handle.neighbours().add(link.index, IpAddr::V4(address));
        let message = neighbour.message_mut().clone();
        let done = self.handle.neighbours().del(message).execute().await;
        unless_missing(done, format!("forget the neighbour {address}"))
    }

    /// Addresses of the range that no instance has answer "no route" at once, instead of leaving by
    /// the host's default route.
    pub async fn block_range(&self, range: AddressRange) -> Result<(), NetworkError> {
        let request = self.handle.route().add(blocked(range)).replace();
        request.execute().await.map_err(refused(format!("keep {range} from being routed to the outside")))
    }

    /// Takes the range's own route away; one that is gone is no error.
    pub async fn unblock_range(&self, range: AddressRange) -> Result<(), NetworkError> {
        let done = self.handle.route().del(blocked(range)).execute().await;
        unless_missing(done, format!("take away the route of {range}"))
    }
}

pub(super) fn host_route(link: &Link, address: Ipv4Addr) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(address, 32)
        .output_interface(link.index)
        .scope(RouteScope::Link)
}

fn blocked(range: AddressRange) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(range.base, range.prefix)
        .kind(RouteType::Unreachable)
        .priority(BLOCKED_PRIORITY)
        .build()
}

pub(super) fn read_link(message: LinkMessage) -> Option<Link> {
    let mut link =
        Link { index: message.header.index, name: String::new(), alias: None, mtu: 0, peer: None, is_running: false };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::OperState(state) => link.is_running = state == State::Up,
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn read_route(message: RouteMessage) -> Option<Route> {
    let mut route = Route {
        destination: Ipv4Addr::UNSPECIFIED,
        prefix: message.header.destination_prefix_length,
        out: None,
        kind: message.header.kind,
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => route.destination = address,
            RouteAttribute::Destination(_) => return None,
            RouteAttribute::Oif(index) => route.out = Some(index),
            _ => {}
        }
    }
    Some(route)
}
