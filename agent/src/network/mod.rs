//! The network of instances: one routed veth each, their addresses, and the nftables table that
//! keeps tenants from each other and from the host.
//!
//! The kernel holds all the state: links are found again by their alias, addresses by their routes.
//! It knows instances only as the [`Owner`] of a link. IPv6 is switched off on both ends of every
//! link for now; inside, `::1` stays.

mod changes;
mod elements;
mod error;
mod inside;
mod link;
mod netlink;
mod nft;
mod pool;
mod survey;
mod sysctl;
mod table;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use changes::{Change, Changes};
use drowse_api::{DeploymentId, InstanceId};
pub use error::NetworkError;
use netlink::Netlink;
pub use pool::{AddressPool, PoolExhausted};

use crate::config::{AddressRange, Config};

/// The next hop of every instance: an address of the host's end of each link, and of nothing else.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The name of the link inside.
pub const INNER_NAME: &str = "eth0";

/// What the kernel and the rules need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Addresses of instances.
    pub range: AddressRange,
    /// The nftables table, of family inet.
    pub table: String,
    /// What the host ends of links begin with, at most 4 characters; a hyphen follows.
    pub link_prefix: String,
    /// May open connections to instances.
    pub router_uid: u32,
    /// May open connections to instances, beside root.
    pub control_uid: u32,
    /// Ports of this host that apps may reach.
    pub router_ports: Vec<u16>,
    /// How many connections an instance may have open towards others.
    pub connections: u32,
    /// How many it may open in a second, beyond a burst of as many as it may have.
    pub connection_rate: u32,
    /// Name servers that apps may ask, also if they are this host or link-local. Only IPv4 ones count.
    pub resolvers: Vec<IpAddr>,
}

impl NetworkConfig {
    /// What the agent's configuration says, with these name servers.
    #[must_use]
    pub fn new(config: &Config, resolvers: Vec<IpAddr>) -> Self {
        Self {
            range: config.address_range,
            table: config.table.clone(),
            link_prefix: config.link_prefix.clone(),
            router_uid: config.router_uid,
            control_uid: config.control_uid,
            router_ports: config.router_ports.clone(),
            connections: config.connections,
            connection_rate: config.connection_rate,
            resolvers,
        }
    }
}

/// Whose a link is: what its alias says, and what its name is made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(String);

impl Owner {
    /// Checks a text: 1 to 40 of a-z, 0-9 and hyphen.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=40).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        fits.then(|| Self(text.to_owned()))
    }

    /// An instance. Its id has no two hyphens in a row, which tells it from the others.
    #[must_use]
    pub fn instance(id: &InstanceId) -> Self {
        Self(id.to_string())
    }

    /// A build.
    #[must_use]
    pub fn build(id: &DeploymentId) -> Self {
        Self(format!("build--{id}"))
    }

    /// A command in a sandbox of its own.
    #[must_use]
    pub fn run(id: &InstanceId) -> Self {
        Self(format!("run--{id}"))
    }

    /// A helper of the node, such as the server of static sites. `name` is a word of a-z.
    #[must_use]
    pub fn system(name: &'static str) -> Self {
        Self(format!("system--{name}"))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A link of ours on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceLink {
    /// Whose it is, by its alias.
    pub owner: Owner,
    /// The host end's name.
    pub name: String,
    /// The addresses routed to it, in order.
    pub addresses: Vec<Ipv4Addr>,
}

/// The network of one agent. Calls for different owners may run at once; calls for one owner come
/// one after the other.
#[derive(Debug, Clone)]
pub struct Network {
    config: Arc<NetworkConfig>,
    /// Of the link towards the outside, as `ensure` last saw it.
    mtu: Arc<AtomicU32>,
    /// Counts spare links.
    spares: Arc<AtomicU32>,
    /// Held while a link is made or changed. The kernel has one lock for that, whose waiters spin where they
    /// write a link's settings.
    changing: Arc<Mutex<()>>,
    // A std lock, held for a look.
    refused: Arc<Mutex<Refused>>,
}

/// How long the list of links that were refused connections is good for: one for all who ask.
const REFUSED_FRESH: Duration = Duration::from_secs(3);

/// The links that were refused a connection.
#[derive(Debug, Default)]
struct Refused {
    as_of: Option<Instant>,
    links: Vec<String>,
}

/// A link that is made before anybody owns it.
#[derive(Debug)]
pub struct SpareLink(link::Spare);

/// What the owners of spare links begin with; no instance's id has two hyphens in a row.
const SPARE: &str = "spare--";

/// Opens the network namespace of a process. The caller checks afterwards, by pidfd, that the
/// process still is the one it meant.
///
/// # Errors
/// If there is no such process.
pub fn namespace_of(pid: i32) -> Result<OwnedFd, NetworkError> {
    match std::fs::File::open(format!("/proc/{pid}/ns/net")) {
        Ok(file) => Ok(file.into()),
        Err(source) => Err(NetworkError::Namespace { action: format!("open that of process {pid}"), source }),
    }
}

impl Network {
    /// The network described by `config`; touches nothing.
    #[must_use]
    pub fn new(config: NetworkConfig) -> Self {
        let mtu = Arc::new(AtomicU32::new(link::DEFAULT_MTU));
        Self {
            config: Arc::new(config),
            mtu,
            spares: Arc::default(),
            changing: Arc::default(),
            refused: Arc::default(),
        }
    }

    fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the table, forwarding and the range's own route in place. Idempotent; links that are
    /// there go on working.
    ///
    /// # Errors
    /// If `nft` is missing or refuses, or the range is already routed elsewhere.
    pub async fn ensure(&self) -> Result<(), NetworkError> {
        let netlink = Netlink::open()?;
        let links = netlink.links().await?;
        let routes = netlink.routes().await?;
        let ours: Vec<u32> = links.iter().filter(|link| self.is_name_ours(&link.name)).map(|link| link.index).collect();
        table::check_range(self.config.range, &routes, &links, &ours)?;
        self.mtu.store(link::mtu_towards_outside(&routes, &links), Ordering::Relaxed);
        if sysctl::set_if_other("net/ipv4/ip_forward", "1")? {
            tracing::warn!(
                "switched net.ipv4.ip_forward on, which apps need to reach the outside: this host now forwards \
                 packets between all its interfaces, unless its firewall says otherwise"
            );
        }
        nft::apply(&table::ruleset(&self.config)).await?;
        netlink.block_range(self.config.range).await?;
        self.forget_stale_elements().await
    }

    /// Gives `owner` a link into the namespace `netns`, with `address` as its own. Idempotent; a link
    /// of the same owner into another namespace is replaced. Blocking.
    ///
    /// # Errors
    /// If the kernel refuses a step; a link that was made here is then removed again.
    pub fn attach(&self, netns: BorrowedFd<'_>, owner: &Owner, address: Ipv4Addr) -> Result<(), NetworkError> {
        let _changing = self.one_at_a_time();
        let changes = Changes::open()?;
        let plan = self.plan(owner);
        if let Some(there) = plan.find(&changes)? {
            if plan.set_up(&changes, &there, netns, address)? {
                return Ok(());
            }
            // Its other end is in a namespace of an earlier sandbox, or nowhere.
            changes.undo(Change::no_link(&there))?;
        }
        let made = plan.make(&changes, netns, self.mtu.load(Ordering::Relaxed))?;
        let done = match plan.set_up(&changes, &made, netns, address) {
            Ok(true) => return Ok(()),
            Ok(false) => Err(NetworkError::InnerEnd { owner: owner.clone() }),
            Err(error) => Err(error),
        };
        forget(&changes, &made);
        done
    }

    /// Makes a link into `netns`, in which nothing runs yet, that can be given to an owner later. Its
    /// alias names an owner that nobody has a record of. Blocking.
    ///
    /// # Errors
    /// If the kernel refuses a step; the link is then removed again.
    pub fn make_spare(&self, netns: BorrowedFd<'_>) -> Result<SpareLink, NetworkError> {
        let number = self.spares.fetch_add(1, Ordering::Relaxed);
        let owner = Owner(format!("{SPARE}{}-{number}", std::process::id()));
        let _changing = self.one_at_a_time();
        let (changes, plan) = (Changes::open()?, self.plan(&owner));
        let outer = plan.make(&changes, netns, self.mtu.load(Ordering::Relaxed))?;
        match plan.prepare(&changes, &outer, netns) {
            Ok(Some((inner, inside))) => Ok(SpareLink(link::Spare { outer, inner, inside })),
            other => {
                forget(&changes, &outer);
                Err(other.err().unwrap_or(NetworkError::InnerEnd { owner }))
            }
        }
    }

    /// Gives a spare link to `owner`, with `address` as its own. A link of the same owner into another
    /// namespace is removed. Blocking.
    ///
    /// # Errors
    /// If the kernel refuses a step; the link is then removed.
    pub fn give_spare(&self, spare: SpareLink, owner: &Owner, address: Ipv4Addr) -> Result<(), NetworkError> {
        let _changing = self.one_at_a_time();
        let (changes, plan, SpareLink(spare)) = (Changes::open()?, self.plan(owner), spare);
        let done = plan.find(&changes).and_then(|there| {
            there.map_or(Ok(()), |there| changes.undo(Change::no_link(&there)))?;
            plan.take_over(&changes, &spare, address)
        });
        if done.is_err() {
            forget(&changes, &spare.outer);
        }
        done
    }

    /// Routes one more address to `owner`'s link. Idempotent. Blocking.
    ///
    /// # Errors
    /// If the owner has no link into `netns`.
    pub fn add_address(&self, netns: BorrowedFd<'_>, owner: &Owner, address: Ipv4Addr) -> Result<(), NetworkError> {
        let changes = Changes::open()?;
        let plan = self.plan(owner);
        let there = plan.find(&changes)?.ok_or_else(|| NetworkError::NoLink { owner: owner.clone() })?;
        if plan.set_up(&changes, &there, netns, address)? {
            return Ok(());
        }
        Err(NetworkError::InnerEnd { owner: owner.clone() })
    }

    /// Takes an address from `owner`'s link again. Idempotent.
    ///
    /// # Errors
    /// If the kernel refuses a step.
    pub async fn remove_address(
        &self,
        netns: BorrowedFd<'_>,
        owner: &Owner,
        address: Ipv4Addr,
    ) -> Result<(), NetworkError> {
        let netlink = Netlink::open()?;
        let plan = self.plan(owner);
        if let Some(there) = plan.find(&Changes::open()?)? {
            netlink.unroute(&there, address).await?;
            inside::remove_address(netns, address)?;
        }
        elements::remove(&self.config.table, |element| element.link == plan.name && element.address == address)
    }

    /// Removes `owner`'s link with its routes and its elements of the table. Idempotent. Takes tens
    /// of milliseconds: do it in the background.
    ///
    /// # Errors
    /// If the kernel refuses a step.
    pub async fn detach(&self, owner: &Owner) -> Result<(), NetworkError> {
        let netlink = Netlink::open()?;
        let plan = self.plan(owner);
        if let Some(there) = plan.find(&Changes::open()?)? {
            netlink.delete_link(&there).await?;
        }
        elements::remove(&self.config.table, |element| element.link == plan.name)
    }

    /// Bytes that passed the link of `owner`, in both directions, since it was made. Absent if there is
    /// no such link.
    #[must_use]
    pub fn traffic(&self, owner: &Owner) -> Option<u64> {
        let folder = format!("/sys/class/net/{}/statistics", self.plan(owner).name);
        let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).ok()?.trim().parse::<u64>().ok();
        Some(read("rx_bytes")? + read("tx_bytes")?)
    }

    /// Whether `owner` was refused a connection in the last minute, since it had or opened too many; as of
    /// some seconds ago.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn is_crowded(&self, owner: &Owner) -> Result<bool, NetworkError> {
        let is_due = {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = refused.as_of.is_none_or(|as_of| as_of.elapsed() > REFUSED_FRESH);
            if is_due {
                // Whoever comes meanwhile takes what was known before.
                refused.as_of = Some(Instant::now());
            }
            is_due
        };
        if is_due {
            let links = self.refused_links().await?;
            self.refused.lock().unwrap_or_else(PoisonError::into_inner).links = links;
        }
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(!refused.links.is_empty() && refused.links.contains(&self.plan(owner).name))
    }

    async fn refused_links(&self) -> Result<Vec<String>, NetworkError> {
        // Nobody has many while there are few at all: the list costs a process.
        let tracked = sysctl::read("net/netfilter/nf_conntrack_count").ok().and_then(|count| count.parse::<u32>().ok());
        if tracked.is_some_and(|tracked| tracked < self.config.connections / 2) {
            return Ok(Vec::new());
        }
        nft::members(&self.config.table, table::REFUSED).await
    }

    /// Every link of ours on the host.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub async fn list(&self) -> Result<Vec<InstanceLink>, NetworkError> {
        let netlink = Netlink::open()?;
        let routes = netlink.routes().await?;
        let mut found = Vec::new();
        for link in netlink.links().await? {
            let owner = link.alias.as_deref().and_then(|alias| self.owner_of(alias));
            let Some(owner) = owner.filter(|_| self.is_name_ours(&link.name)) else { continue };
            let mut addresses: Vec<Ipv4Addr> =
                routes.iter().filter(|route| route.is_host(link.index)).map(|route| route.destination).collect();
            addresses.sort_unstable();
            found.push(InstanceLink { owner, name: link.name, addresses });
        }
        Ok(found)
    }

    /// Removes every link of ours, the table and the range's route. Forwarding stays switched on.
    ///
    /// # Errors
    /// If the kernel refuses a step.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        let netlink = Netlink::open()?;
        for link in netlink.links().await?.iter().filter(|link| self.is_name_ours(&link.name)) {
            // Half-made ones have no alias yet; another Drowse's have another.
            if link.alias.as_deref().is_none_or(|alias| self.owner_of(alias).is_some()) {
                netlink.delete_link(link).await?;
            }
        }
        nft::apply(&table::removal(&self.config.table)).await?;
        netlink.unblock_range(self.config.range).await
    }

    /// Removes elements whose link is gone: a namespace that ends takes its link with it. Elements
    /// are listed first, so that one whose link is only being made is never taken for stale.
    async fn forget_stale_elements(&self) -> Result<(), NetworkError> {
        let elements = elements::elements(&self.config.table)?;
        let links = Netlink::open()?.links().await?;
        let is_stale = |link: &str| !links.iter().any(|there| there.name == link);
        let stale: Vec<_> = elements.into_iter().filter(|element| is_stale(&element.link)).collect();
        elements::delete(&self.config.table, &stale)
    }

    fn plan(&self, owner: &Owner) -> link::Plan {
        link::Plan {
            owner: owner.clone(),
            name: link::name(&self.config.link_prefix, owner),
            alias: format!("{}:{owner}", self.config.table),
            table: self.config.table.clone(),
        }
    }

    fn is_name_ours(&self, name: &str) -> bool {
        name.strip_prefix(&*self.config.link_prefix).is_some_and(|rest| rest.starts_with('-'))
    }

    fn owner_of(&self, alias: &str) -> Option<Owner> {
        alias.strip_prefix(&*self.config.table)?.strip_prefix(':').and_then(Owner::parse)
    }
}

/// Removes a link that could not be set up.
fn forget(changes: &Changes, link: &netlink::Link) {
    if let Err(error) = changes.undo(Change::no_link(link)) {
        tracing::warn!(link = link.name, %error, "a link that is of no use could not be removed");
    }
}
