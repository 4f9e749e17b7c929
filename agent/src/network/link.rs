//! The two ends of one instance's link: their names, hardware addresses, addresses and routes.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use netlink_packet_route::address::AddressScope;
use sha2::{Digest, Sha256};

use super::error::NetworkError;
use super::netlink::{Link, Netlink, NewEnd, Route};
use super::nft::{self, Element};
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
    pub async fn find(&self, netlink: &Netlink) -> Result<Option<Link>, NetworkError> {
        let Some(link) = netlink.link(&self.name).await? else { return Ok(None) };
        match &link.alias {
            Some(alias) if *alias == self.alias => Ok(Some(link)),
            Some(alias) => Err(NetworkError::NameTaken {
                name: self.name.clone(),
                alias: alias.clone(),
                owner: self.owner.clone(),
            }),
            None => {
                netlink.delete_link(&link).await?;
                Ok(None)
            }
        }
    }

    /// Makes the pair. Its alias comes last, so that a pair without one is known to be half-made.
    pub async fn make(&self, netlink: &Netlink, netns: BorrowedFd<'_>, mtu: u32) -> Result<Link, NetworkError> {
        let outer = NewEnd { name: &self.name, mac: OUTER_MAC };
        let inner = NewEnd { name: INNER_NAME, mac: inner_mac(&self.owner) };
        netlink.add_veth(outer, inner, netns, mtu).await?;
        let made = netlink.link(&self.name).await?.ok_or_else(|| NetworkError::NoLink { owner: self.owner.clone() })?;
        netlink.set_alias(&made, &self.alias).await?;
        Ok(made)
    }

    /// Everything about `address` on both ends; each step may have been done before. False if the
    /// other end is not in `netns`, with nothing changed inside.
    pub async fn set_up(
        &self,
        netlink: &Netlink,
        link: &Link,
        netns: BorrowedFd<'_>,
        address: Ipv4Addr,
    ) -> Result<bool, NetworkError> {
        let Some(peer) = link.peer else { return Ok(false) };
        if !inside::set_up(netns, inside::Ends { inner: peer, outer: link.index }, address, OUTER_MAC).await? {
            return Ok(false);
        }
        // Only what its own source address says it is may enter, so the table is told first.
        nft::add(&self.table, &Element { link: self.name.clone(), address }).await?;
        sysctl::set_for_link("ipv6", &self.name, "disable_ipv6", "1")?;
        sysctl::set_for_link("ipv4", &self.name, "rp_filter", "1")?;
        sysctl::set_for_link("ipv4", &self.name, "forwarding", "1")?;
        netlink.add_address(link, GATEWAY, AddressScope::Link).await?;
        netlink.set_up(link).await?;
        netlink.add_neighbour(link, address, inner_mac(&self.owner)).await?;
        netlink.route_host(link, address, Some(GATEWAY)).await?;
        Ok(true)
    }
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
