//! The two ends of one instance's link: their names, hardware addresses, addresses and routes.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use netlink_packet_route::address::AddressScope;
use sha2::{Digest, Sha256};

use super::changes::{Change, Changes};
use super::elements::{self, Element};
use super::error::NetworkError;
use super::netlink::{self, Link, NewEnd, Route};
use super::{GATEWAY, INNER_NAME, Owner, inside, sysctl};

/// Where nothing says otherwise.
pub(super) const DEFAULT_MTU: u32 = 1500;

/// The kernel's IFNAMSIZ without its end.
const LONGEST_NAME: usize = 15;

/// The host's end of every link: each link has two ends only, so it need not differ.
const OUTER_MAC: [u8; 6] = [0x02, 0x64, 0x77, 0, 0, 1];

/// One owner's link, as it is to be.
pub(super) struct Plan {
    pub owner: Owner,
    pub name: String,
    pub alias: String,
    pub table: String,
}

/// `PREFIX-OWNER` where that fits into a link's name, else `PREFIX-` and a hash of the owner.
pub(super) fn name(prefix: &str, owner: &Owner) -> String {
    let room = LONGEST_NAME - prefix.len() - 1;
    if owner.as_str().len() <= room {
        return format!("{prefix}-{owner}");
    }
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = Sha256::digest(owner.as_str());
    let hash: String = digest.iter().take(room).map(|b| char::from(ALPHABET[usize::from(b & 31)])).collect();
    format!("{prefix}-{hash}")
}

/// Of an owner's inner end: the same after every restart, so that nothing inside has to learn it anew.
fn inner_mac(owner: &Owner) -> [u8; 6] {
    let digest = Sha256::digest(owner.as_str());
    // Locally administered, one station.
    [0x06, digest[0], digest[1], digest[2], digest[3], digest[4]]
}

/// The size of packets that leave this host by its default route.
pub(super) fn mtu_towards_outside(routes: &[Route], links: &[Link]) -> u32 {
    let default = routes.iter().find(|route| route.prefix == 0 && route.out.is_some());
    let out = default.and_then(|route| links.iter().find(|link| Some(link.index) == route.out));
    out.map_or(DEFAULT_MTU, |link| link.mtu.clamp(576, DEFAULT_MTU))
}

impl Plan {
    /// The owner's link, if it is there and whole. A half-made one is removed.
    pub fn find(&self, changes: &Changes) -> Result<Option<Link>, NetworkError> {
        let Some(link) = changes.link(&self.name)? else { return Ok(None) };
        match &link.alias {
            Some(alias) if *alias == self.alias => Ok(Some(link)),
            Some(alias) => Err(NetworkError::NameTaken {
                name: self.name.clone(),
                alias: alias.clone(),
                owner: self.owner.clone(),
            }),
            None => {
                changes.undo(Change::no_link(&link))?;
                Ok(None)
            }
        }
    }

    /// Makes the pair. Its alias comes last, so that a pair without one is known to be half-made.
    pub fn make(&self, changes: &Changes, netns: BorrowedFd<'_>, mtu: u32) -> Result<Link, NetworkError> {
        let outer = NewEnd { name: &self.name, mac: OUTER_MAC };
        let inner = NewEnd { name: INNER_NAME, mac: inner_mac(&self.owner) };
        changes.make(&[Change::veth(&outer, &inner, netns, mtu), Change::alias(&self.name, &self.alias)])?;
        changes.link(&self.name)?.ok_or_else(|| NetworkError::NoLink { owner: self.owner.clone() })
    }

    /// Everything about both ends but an address; each step may have been done before. The inner end,
    /// and a socket beside it; none if it is not in `netns`, with nothing changed there.
    pub fn prepare(
        &self,
        changes: &Changes,
        link: &Link,
        netns: BorrowedFd<'_>,
    ) -> Result<Option<(Link, Changes)>, NetworkError> {
        let Some(peer) = link.peer else { return Ok(None) };
        let ends = inside::Ends { inner: peer, outer: link.index };
        let Some(inner) = inside::prepare(netns, ends, OUTER_MAC)? else { return Ok(None) };
        sysctl::set_for_link("ipv6", &self.name, "disable_ipv6", "1")?;
        sysctl::set_for_link("ipv4", &self.name, "rp_filter", "1")?;
        sysctl::set_for_link("ipv4", &self.name, "forwarding", "1")?;
        changes.make(&[Change::address(link, GATEWAY, AddressScope::Link), Change::up(&self.name)])?;
        inner.1.await_running(INNER_NAME)?;
        Ok(Some(inner))
    }

    /// Everything about `address` on both ends; each step may have been done before. False if the
    /// other end is not in `netns`, with nothing changed inside.
    pub fn set_up(
        &self,
        changes: &Changes,
        link: &Link,
        netns: BorrowedFd<'_>,
        address: Ipv4Addr,
    ) -> Result<bool, NetworkError> {
        let Some((inner, inside)) = self.prepare(changes, link, netns)? else { return Ok(false) };
        // Only what its own source address says it is may enter, so the table is told first.
        elements::add(&self.table, &Element { link: self.name.clone(), address })?;
        inside::give_address(&inside, &inner, address)?;
        changes.make(&self.routes(link, address))?;
        Ok(true)
    }

    /// Gives a spare link to the owner, with `address` as its own.
    pub fn take_over(&self, changes: &Changes, spare: &Spare, address: Ipv4Addr) -> Result<(), NetworkError> {
        elements::add(&self.table, &Element { link: self.name.clone(), address })?;
        // What comes before the inside is there would be lost, and sent again only after a second.
        inside::change_owner(&spare.inside, &spare.inner, address, inner_mac(&self.owner), OUTER_MAC)?;
        self.rename(changes, spare)?;
        changes.make(&self.routes(&spare.outer, address))
    }

    fn rename(&self, changes: &Changes, spare: &Spare) -> Result<(), NetworkError> {
        let rename = || Change::rename(&spare.outer, &self.name, &self.alias);
        match changes.make(&[rename()]) {
            // Kernels before 6.2 rename only what is off.
            Err(NetworkError::Netlink { source, .. }) if netlink::is_busy(&source) => {
                changes.make(&[Change::down(&spare.outer), rename(), Change::up(&self.name)])?;
                spare.inside.await_running(INNER_NAME)
            }
            other => other,
        }
    }

    /// The way to `address` from the host.
    fn routes(&self, link: &Link, address: Ipv4Addr) -> [Change; 2] {
        [Change::neighbour(link, address, inner_mac(&self.owner)), Change::host_route(link, address, Some(GATEWAY))]
    }
}

/// A link that nobody owns yet, into a namespace in which nothing runs. It is whole but for an address, and
/// without one the table lets nothing of it through.
#[derive(Debug)]
pub(super) struct Spare {
    pub outer: Link,
    pub inner: Link,
    /// A socket of the inner end's namespace.
    pub inside: Changes,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(text: &str) -> Owner {
        Owner::parse(text).expect("an owner")
    }

    #[test]
    fn names_fit_and_differ() {
        assert_eq!(name("dw", &owner("abcdefghij")), "dw-abcdefghij");
        assert_eq!(name("long", &owner("abcdefghij")), "long-abcdefghij");
        let (one, other) = (name("dw", &owner("build--abcdefghij")), name("dw", &owner("build--abcdefghik")));
        assert_ne!(one, other);
        assert_eq!(one.len(), LONGEST_NAME);
        assert_eq!(one, name("dw", &owner("build--abcdefghij")), "the same every time");
    }

    #[test]
    fn a_hardware_address_is_of_one_station_and_ours() {
        let mac = inner_mac(&owner("abcdefghij"));
        assert_eq!(mac[0] & 1, 0, "not a group");
        assert_eq!(mac[0] & 2, 2, "locally administered");
        assert_ne!(mac, inner_mac(&owner("abcdefghik")));
    }
}
