//! The text of the nftables table, and the rules that decide it: pure, and held against a golden copy.

use std::fmt::Write;
use std::net::IpAddr;

use drowse_launcher::rules::Rule;
use netlink_packet_route::route::RouteType;

use super::NetworkConfig;
use super::error::NetworkError;
use super::netlink::{Link, Route};
use crate::config::AddressRange;
use crate::rules;

/// The set of links and the addresses they may send from.
pub(super) const LINKS: &str = "links";

/// The sets of links that have or open many connections, with what the kernel counts of each.
pub(super) const COUNTED: [&str; 2] = ["open_connections", "new_connections"];
/// Links that were refused one in the last minute.
pub(super) const REFUSED: &str = "refused_connections";

/// The whole table. Applied again it replaces every rule in one step and keeps the set.
pub(super) fn ruleset(config: &NetworkConfig) -> String {
    let NetworkConfig { range, table, link_prefix, router_uid, control_uid, .. } = config;
    let link = format!("\"{link_prefix}-*\"");
    let ports = list(config.router_ports.iter());
    let servers = list(config.resolvers.iter().filter_map(|server| match server {
        IpAddr::V4(server) if !server.is_loopback() => Some(server),
        _ => None,
    }));
    let dns = servers.map_or_else(String::new, |servers| {
        format!("\n\t\tip daddr {servers} meta l4proto {{ tcp, udp }} th dport 53 accept")
    });
    let router = ports.map_or_else(String::new, |ports| format!("\n\t\ttcp dport {ports} accept"));
    let mut uids = vec![0, *control_uid, *router_uid];
    uids.sort_unstable();
    uids.dedup();
    let uids = list(uids.iter()).unwrap_or_default();
    let refuse = "reject with icmpx admin-prohibited";
    let ipv4_only = line(Rule::NetIpv4Only, &format!("iifname {link} meta nfproto != ipv4 drop"));
    let own_source = line(Rule::NetOwnSource, &format!("iifname {link} iifname . ip saddr != @{LINKS} drop"));
    let [open, new] = COUNTED;
    let over = |rule: Rule, set: &str, limit: &str| {
        line(rule, &format!("ct state new add @{set} {{ iifname {limit} }} add @{REFUSED} {{ iifname }} {refuse}"))
    };
    let connections = over(Rule::NetConnections, open, &format!("ct count over {}", config.connections));
    let rate = format!("limit rate over {}/second burst {} packets", config.connection_rate, config.connections);
    let counted = connections + &over(Rule::NetConnectionRate, new, &rate);
    let host_services = line(Rule::NetHostServices, refuse);
    let tenant_links = line(Rule::NetTenants, &format!("oifname {link} {refuse}"));
    let tenant_range = line(Rule::NetTenants, &format!("ip daddr {range} {refuse}"));
    let link_local = line(Rule::NetLinkLocal, &format!("ip daddr 169.254.0.0/16 {refuse}"));
    let published = line(Rule::NetPublished, &format!("ct status dnat {refuse}"));
    let from_outside = line(Rule::NetFromOutside, "drop");
    let host_users = line(Rule::NetHostUsers, refuse);
    format!(
        r#"add table inet {table}
flush table inet {table}
table inet {table} {{
	# Which link may send from which address.
	set {LINKS} {{
		type ifname . ipv4_addr
	}}

	# How many connections links have open, how many they opened of late, and which were refused one.
	set {open} {{
		type ifname
		size 65535
		flags dynamic
	}}

	set {new} {{
		type ifname
		size 65535
		flags dynamic
	}}

	set {REFUSED} {{
		type ifname
		size 65535
		flags dynamic,timeout
		timeout 1m
	}}

	# Nothing but its own address may come from a link. Before connection tracking, which it would fill.
	chain sources {{
		type filter hook prerouting priority raw; policy accept;{ipv4_only}{own_source}
	}}

	chain input {{
		type filter hook input priority filter; policy accept;
		iifname {link} jump app_to_host
	}}

	# Of this host, apps reach the router and the name servers, and nothing else.
	chain app_to_host {{
		ct state established,related accept{counted}{dns}{router}{host_services}
	}}

	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname {link} jump app_to_outside
		oifname {link} jump outside_to_app
	}}

	# Apps reach the outside, but no other app, no link-local service and nothing that this host
	# publishes by changing a packet's destination.
	chain app_to_outside {{
		ct state established,related accept{counted}{tenant_links}{tenant_range}{dns}{link_local}{published}
		accept
	}}

	chain outside_to_app {{
		ct state established,related accept{from_outside}
	}}

	chain output {{
		type filter hook output priority filter; policy accept;
		oifname {link} jump host_to_app
	}}

	# Of this host, only root, the control plane and the router open connections to apps. Refusals of
	# the rules above are sent by no user.
	chain host_to_app {{
		ct state established,related accept
		icmp type {{ destination-unreachable, time-exceeded }} accept
		meta skuid {uids} accept{host_users}
	}}

	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr {range} oifname != {link} masquerade
	}}
}}
"#
    )
}

/// A line of a chain, if its rule is in force.
fn line(rule: Rule, text: &str) -> String {
    if rules::in_force(rule) { format!("\n\t\t{text}") } else { String::new() }
}

/// Takes the table away, whether it is there or not.
pub(super) fn removal(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// Refuses a range that overlaps a route or an address of this host which is not ours. Default
/// routes overlap everything and take nothing away.
pub(super) fn check_range(
    range: AddressRange,
    routes: &[Route],
    links: &[Link],
    ours: &[u32],
) -> Result<(), NetworkError> {
    let is_foreign = |route: &&Route| {
        let is_ours = route.out.is_some_and(|out| ours.contains(&out))
            || (route.kind == RouteType::Unreachable
                && (route.destination, route.prefix) == (range.base, range.prefix));
        route.prefix > 0 && !is_ours && overlaps(range, route)
    };
    let Some(route) = routes.iter().find(is_foreign) else { return Ok(()) };
    let mut other = format!("{}/{}", route.destination, route.prefix);
    if let Some(link) = links.iter().find(|link| Some(link.index) == route.out) {
        // Writing to a String cannot fail.
        let _ = write!(other, " on {}", link.name);
    }
    Err(NetworkError::RangeTaken { range, other })
}

fn overlaps(range: AddressRange, route: &Route) -> bool {
    let bits = range.prefix.min(route.prefix);
    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
    range.base.to_bits() & mask == route.destination.to_bits() & mask
}

fn list(items: impl Iterator<Item: ToString>) -> Option<String> {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    (!items.is_empty()).then(|| format!("{{ {} }}", items.join(", ")))
}
