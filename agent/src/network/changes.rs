//! Several changes to links, addresses and routes in one go: one call hands all of them to the kernel,
//! which carries them out in order and answers each. A start pays for two or three calls in place of twenty.
//!
//! It blocks, and a socket belongs to the network namespace of the thread that opens it.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_route::address::AddressScope;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::RouteType;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::error::NetworkError;
use super::netlink::{self, Link, NewEnd, host_route, is_missing, read_link};

/// How long a link that is on may take to run.
const RUNNING_LIMIT: Duration = Duration::from_secs(5);

/// A change, and its name for when the kernel refuses it.
pub(super) struct Change {
    action: String,
    flags: u16,
    message: RouteNetlinkMessage,
}

impl Change {
    fn new(action: String, flags: u16, message: RouteNetlinkMessage) -> Self {
        Self { action, flags: flags | NLM_F_REQUEST | NLM_F_ACK, message }
    }

    /// Makes a veth pair whose second end is born in `netns`, which is read when the change is made.
    pub fn veth(outer: &NewEnd<'_>, inner: &NewEnd<'_>, netns: BorrowedFd<'_>, mtu: u32) -> Self {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(inner.name)
            .address(inner.mac.to_vec())
            .mtu(mtu)
            .setns_by_fd(netns.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new(outer.name, inner.name)
            .address(outer.mac.to_vec())
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let action = format!("make link {}", outer.name);
        Self::new(action, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message))
    }

    /// Tells whose the link of that name is.
    pub fn alias(name: &str, alias: &str) -> Self {
        let message = LinkUnspec::new_with_name(name).alias(alias).build();
        Self::new(format!("name the owner of link {name}"), 0, RouteNetlinkMessage::SetLink(message))
    }

    /// Gives a link another name, and says whose it is from now on.
    pub fn rename(link: &Link, name: &str, alias: &str) -> Self {
        let message = LinkUnspec::new_with_index(link.index).name(name).alias(alias).build();
        Self::new(format!("call link {} {name}", link.name), 0, RouteNetlinkMessage::SetLink(message))
    }

    /// Switches a link off.
    pub fn down(link: &Link) -> Self {
        let message = LinkUnspec::new_with_index(link.index).down().build();
        Self::new(format!("switch link {} off", link.name), 0, RouteNetlinkMessage::SetLink(message))
    }

    /// Gives a link another hardware address.
    pub fn hardware_address(link: &Link, mac: [u8; 6]) -> Self {
        let message = LinkUnspec::new_with_index(link.index).address(mac.to_vec()).build();
        let action = format!("give link {} a hardware address", link.name);
        Self::new(action, 0, RouteNetlinkMessage::SetLink(message))
    }

    /// Switches the link of that name on.
    pub fn up(name: &str) -> Self {
        let message = LinkUnspec::new_with_name(name).up().build();
        Self::new(format!("switch link {name} on"), 0, RouteNetlinkMessage::SetLink(message))
    }

    /// Gives a link an address that is only itself.
    pub fn address(link: &Link, address: Ipv4Addr, scope: AddressScope) -> Self {
        let mut message = AddressMessageBuilder::<Ipv4Addr>::new().index(link.index).address(address, 32).build();
        message.header.scope = scope;
        let action = format!("give link {} the address {address}", link.name);
        Self::new(action, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewAddress(message))
    }

    /// Takes an address from a link.
    pub fn no_address(link: &Link, address: Ipv4Addr) -> Self {
        let message = AddressMessageBuilder::<Ipv4Addr>::new().index(link.index).address(address, 32).build();
        let action = format!("take the address {address} from {}", link.name);
        Self::new(action, 0, RouteNetlinkMessage::DelAddress(message))
    }

    /// Removes a link.
    pub fn no_link(link: &Link) -> Self {
        let message = LinkUnspec::new_with_index(link.index).build();
        Self::new(format!("remove link {}", link.name), 0, RouteNetlinkMessage::DelLink(message))
    }

    /// A neighbour entry that is never asked for and never forgotten.
    pub fn neighbour(link: &Link, address: Ipv4Addr, mac: [u8; 6]) -> Self {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = link.index;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unspec;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        let action = format!("make {address} a neighbour on {}", link.name);
        Self::new(action, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewNeighbour(message))
    }

    /// Routes one address to a link, sending from `source`.
    pub fn host_route(link: &Link, address: Ipv4Addr, source: Option<Ipv4Addr>) -> Self {
        let mut route = host_route(link, address);
        if let Some(source) = source {
            route = route.pref_source(source);
        }
        let action = format!("route {address} to {}", link.name);
        Self::new(action, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewRoute(route.build()))
    }

    /// Everything goes through `gateway`, which is on the link though no prefix says so.
    pub fn default_route(link: &Link, gateway: Ipv4Addr) -> Self {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(link.index).gateway(gateway).onlink();
        let action = format!("route everything to {gateway}");
        Self::new(action, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewRoute(route.build()))
    }
}

/// An open socket.
#[derive(Debug)]
pub(super) struct Changes(Socket);

impl Changes {
    /// A socket of this thread's namespace, wherever it is used afterwards.
    pub fn open() -> Result<Self, NetworkError> {
        Ok(Self(Socket::new(NETLINK_ROUTE).map_err(NetworkError::Socket)?))
    }

    /// Makes all of them, in order. After a refusal the later ones are made all the same.
    ///
    /// # Errors
    /// The first refusal.
    pub fn make(&self, changes: &[Change]) -> Result<(), NetworkError> {
        let messages = changes.iter().map(|change| (change.message.clone(), change.flags));
        let mut refused = None;
        self.converse(messages.collect(), |at, payload| {
            if let (NetlinkPayload::Error(error), None) = (payload, &refused)
                && error.code.is_some()
            {
                let action = changes.get(at).map(|change| change.action.clone()).unwrap_or_default();
                refused = Some(netlink::refused(action)(rtnetlink::Error::NetlinkError(error)));
            }
        })?;
        refused.map_or(Ok(()), Err)
    }

    /// As [`make`](Self::make) for one that takes something away: that it is gone is no error.
    pub fn undo(&self, change: Change) -> Result<(), NetworkError> {
        match self.make(&[change]) {
            Err(NetworkError::Netlink { source, .. }) if is_missing(&source) => Ok(()),
            other => other,
        }
    }

    /// The link of that name.
    pub fn link(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        let question = RouteNetlinkMessage::GetLink(LinkUnspec::new_with_name(name).build());
        let mut found: Option<LinkMessage> = None;
        let mut refused = None;
        self.converse(vec![(question, NLM_F_REQUEST | NLM_F_ACK)], |_, payload| match payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => found = Some(message),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                refused = Some(rtnetlink::Error::NetlinkError(error));
            }
            _ => {}
        })?;
        match refused {
            Some(error) if !is_missing(&error) => Err(netlink::refused(format!("find link {name}"))(error)),
            Some(_) => Ok(None),
            None => Ok(found.and_then(read_link)),
        }
    }

    /// Waits until the kernel lets packets out of the link of that name, both ends of which are on. It does
    /// so a moment after the later end was switched on, and drops what is sent before without a word: an
    /// answer to the first visitor, who would ask again only after a second. Newer kernels get it done
    /// before they answer the question for the link.
    ///
    /// # Errors
    /// If that does not come.
    pub fn await_running(&self, name: &str) -> Result<(), NetworkError> {
        let end = Instant::now() + RUNNING_LIMIT;
        while !self.link(name)?.is_some_and(|link| link.is_running) {
            if Instant::now() > end {
                return Err(NetworkError::NotRunning { name: name.to_owned() });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Sends everything at once, and hands on every answer with the number of its question, until each
    /// question was answered to its end.
    fn converse(
        &self,
        messages: Vec<(RouteNetlinkMessage, u16)>,
        mut hear: impl FnMut(usize, NetlinkPayload<RouteNetlinkMessage>),
    ) -> Result<(), NetworkError> {
        let count = messages.len();
        let mut bytes = Vec::new();
        for (at, (message, flags)) in messages.into_iter().enumerate() {
            let mut message = NetlinkMessage::from(message);
            message.header.flags = flags;
            message.header.sequence_number = u32::try_from(at + 1).unwrap_or(u32::MAX);
            message.finalize();
            // Each begins at a multiple of four.
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        self.0.send(&bytes, 0).map_err(NetworkError::Socket)?;
        let mut ended = 0;
        while ended < count {
            let (received, _) = self.0.recv_from_full().map_err(NetworkError::Socket)?;
            let mut rest = received.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| NetworkError::Socket(std::io::Error::other(error.to_string())))?;
                let length = (answer.header.length as usize).next_multiple_of(4).clamp(4, rest.len());
                rest = &rest[length..];
                let at = (answer.header.sequence_number as usize).wrapping_sub(1);
                ended += usize::from(matches!(answer.payload, NetlinkPayload::Error(_)));
                hear(at, answer.payload);
            }
        }
        Ok(())
    }
}
