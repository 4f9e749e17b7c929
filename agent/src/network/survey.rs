//! What else on this host decides over apps' packets: for `doctor`.

use drowse_api::agent::{Check, Verdict};
use serde_json::Value;

use super::netlink::Netlink;
use super::{Network, NetworkError, nft, sysctl, table};
use crate::config::AddressRange;

impl Network {
    /// Examines nftables, forwarding, other firewalls and the address range; changes nothing.
    pub async fn survey(&self) -> Vec<Check> {
        vec![
            self.survey_nft().await,
            survey_forwarding(),
            self.survey_firewalls().await,
            self.survey_range().await,
            self.survey_tracking(),
        ]
    }

    async fn survey_nft(&self) -> Check {
        let found = |verdict, found: String, advice: Option<&str>| check("nftables", verdict, found, advice);
        match nft::try_out(&table::ruleset(&self.config)).await {
            Ok(()) => found(Verdict::Ok, "nft and the kernel take our rules".to_owned(), None),
            Err(error @ NetworkError::NftMissing(_)) => {
                found(Verdict::Failure, error.to_string(), Some("apt install nftables"))
            }
            Err(error) => found(
                Verdict::Failure,
                error.to_string(),
                Some(
                    "run the agent as root, on a kernel with nf_tables, its inet family, NAT and sets (nf_tables, nft_chain_nat, nft_ct, nft_masq, nft_reject_inet)",
                ),
            ),
        }
    }

    async fn survey_firewalls(&self) -> Check {
        const NAME: &str = "other firewalls";
        let mut others = match nft::everything().await {
            Ok(rules) => firewalls(&rules, &self.config.table, &self.config.link_prefix, self.config.range),
            // That nft does not run is told by the check before.
            Err(error) => {
                let advice = "see the check of nftables; then look at the rules yourself: nft list ruleset";
                return check(NAME, Verdict::Warning, format!("not examined: {error}"), Some(advice));
            }
        };
        others.extend(legacy_iptables(&self.config.link_prefix));
        if others.is_empty() {
            return check(NAME, Verdict::Ok, "none that drops what is forwarded".to_owned(), None);
        }
        let found = others.iter().map(|other| other.found.as_str()).collect::<Vec<_>>().join("; ");
        let advice = others.iter().map(|other| other.advice.as_str()).collect::<Vec<_>>().join("; and ");
        let found = format!("{found}: apps may not reach the outside");
        check(NAME, Verdict::Warning, found, Some(&advice))
    }

    /// One table of connections for the whole host: a few apps at their limit must fit.
    fn survey_tracking(&self) -> Check {
        const NAME: &str = "connection tracking";
        let number = |name| sysctl::read(&format!("net/netfilter/{name}")).ok()?.trim().parse::<u64>().ok();
        let (Some(count), Some(most)) = (number("nf_conntrack_count"), number("nf_conntrack_max")) else {
            // The kernel's module is loaded with the first rule that needs it.
            return check(NAME, Verdict::Ok, "not in use yet".to_owned(), None);
        };
        let found = format!("{count} of {most} connections; each app may have {}", self.config.connections);
        // A few apps at their limit, and room for the rest.
        if most < 16 * u64::from(self.config.connections) || count > most / 10 * 9 {
            let advice = "raise net.netfilter.nf_conntrack_max, or lower connections in the agent's configuration";
            return check(NAME, Verdict::Warning, found, Some(advice));
        }
        check(NAME, Verdict::Ok, found, None)
    }

    async fn survey_range(&self) -> Check {
        let range = self.config.range;
        let examine = async {
            let netlink = Netlink::open()?;
            let (links, routes) = (netlink.links().await?, netlink.routes().await?);
            let is_ours = |name: &str| self.is_name_ours(name);
            let ours: Vec<u32> = links.iter().filter(|link| is_ours(&link.name)).map(|link| link.index).collect();
            table::check_range(range, &routes, &links, &ours)
        };
        match examine.await {
            Ok(()) => check("address range", Verdict::Ok, format!("{range} is used by nothing else"), None),
            Err(error) => {
                let advice = "set address_range in the agent's configuration to private addresses that are free";
                check("address range", Verdict::Failure, error.to_string(), Some(advice))
            }
        }
    }
}

fn survey_forwarding() -> Check {
    match sysctl::read("net/ipv4/ip_forward") {
        Ok(value) if value == "1" => check("forwarding", Verdict::Ok, "net.ipv4.ip_forward is on".to_owned(), None),
        Ok(_) => check(
            "forwarding",
            Verdict::Warning,
            "net.ipv4.ip_forward is off".to_owned(),
            Some("the agent switches it on when it starts; if something switches it off again, apps lose the outside"),
        ),
        Err(error) => check("forwarding", Verdict::Failure, error.to_string(), Some("mount /proc writable")),
    }
}

fn check(name: &str, verdict: Verdict, found: String, advice: Option<&str>) -> Check {
    Check { name: name.to_owned(), verdict, found, advice: advice.map(str::to_owned) }
}

/// A firewall that would swallow forwarded packets, and how to make it let ours through.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Firewall {
    found: String,
    advice: String,
}

/// Finds them in `nft -j list ruleset`: tables with a forward hook that drops by policy, and
/// firewalld's, which refuses by its last rule. One that has a rule for our links was taught already.
fn firewalls(rules: &Value, own: &str, prefix: &str, range: AddressRange) -> Vec<Firewall> {
    let objects = rules["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let chains: Vec<&Value> = objects.iter().map(|object| &object["chain"]).filter(|chain| chain.is_object()).collect();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for chain in chains.iter().filter(|chain| text(chain, "hook") == "forward") {
        let (family, table) = (text(chain, "family"), text(chain, "table"));
        let is_same = |other: &Value| text(other, "family") == family && text(other, "table") == table;
        let drops = text(chain, "policy") == "drop" || table == "firewalld";
        let mentions = |object: &Value| {
            let rule = &object["rule"];
            is_same(rule) && {
                let rule = rule.to_string();
                rule.contains(&format!("\"{prefix}-")) || rule.contains(&range.base.to_string())
            }
        };
        if !drops || family == "ip6" || table == own || objects.iter().any(mentions) {
            continue;
        }
        let has = |start: &str| chains.iter().any(|other| is_same(other) && text(other, "name").starts_with(start));
        found.push(if table == "firewalld" {
            Firewall {
                found: "firewalld refuses what it does not know".to_owned(),
                advice: format!(
                    "firewall-cmd --permanent --zone=trusted --add-source={range} && firewall-cmd --reload"
                ),
            }
        } else if has("DOCKER") {
            Firewall { found: "Docker drops what is forwarded for others".to_owned(), advice: iptables_advice("DOCKER-USER", prefix) }
        } else if has("ufw") {
            Firewall {
                found: "ufw drops what is forwarded".to_owned(),
                advice: format!("ufw route allow from {range}"),
            }
        } else {
            let name = text(chain, "name");
            Firewall {
                found: format!("nftables table {family} {table}, chain {name}, drops what is forwarded"),
                advice: format!(
                    "nft insert rule {family} {table} {name} iifname '\"{prefix}-*\"' accept && \
                     nft insert rule {family} {table} {name} oifname '\"{prefix}-*\"' ct state established,related accept"
                ),
            }
        });
    }
    found.dedup();
    found
}

fn iptables_advice(chain: &str, prefix: &str) -> String {
    format!(
        "iptables -I {chain} -i {prefix}-+ -j ACCEPT && \
         iptables -I {chain} -o {prefix}-+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    )
}

/// The older iptables keeps its rules where nft does not see them.
fn legacy_iptables(prefix: &str) -> Option<Firewall> {
    let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").ok()?;
    if !tables.lines().any(|table| table == "filter") {
        return None;
    }
    let output = std::process::Command::new("iptables-legacy").args(["-S", "FORWARD"]).output().ok()?;
    let rules = String::from_utf8_lossy(&output.stdout);
    let drops = rules.lines().any(|line| line == "-P FORWARD DROP") && !rules.contains(&format!("{prefix}-+"));
    drops.then(|| Firewall {
        found: "iptables (legacy) drops what is forwarded".to_owned(),
        advice: iptables_advice("FORWARD", prefix).replace("iptables ", "iptables-legacy "),
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::json;

    use super::*;

    const RANGE: AddressRange = AddressRange { base: Ipv4Addr::new(10, 83, 0, 0), prefix: 16 };

    fn found(objects: Value) -> Vec<Firewall> {
        firewalls(&json!({ "nftables": objects }), "drowse", "dw", RANGE)
    }

    fn base(family: &str, table: &str, name: &str, policy: &str) -> Value {
        json!({ "chain": { "family": family, "table": table, "name": name, "hook": "forward", "policy": policy } })
    }

    #[test]
    fn dockers_ufws_and_firewallds_are_known_by_name() {
        let docker = json!([
            base("ip", "filter", "FORWARD", "drop"),
            { "chain": { "family": "ip", "table": "filter", "name": "DOCKER-USER" } },
        ]);
        assert!(found(docker)[0].advice.contains("DOCKER-USER -i dw-+"));
        let ufw = json!([
            base("ip", "filter", "FORWARD", "drop"),
            { "chain": { "family": "ip", "table": "filter", "name": "ufw-before-forward" } },
        ]);
        assert_eq!(found(ufw)[0].advice, "ufw route allow from 10.83.0.0/16");
        let firewalld = json!([base("inet", "firewalld", "filter_FORWARD", "accept")]);
        assert!(found(firewalld)[0].advice.contains("--add-source=10.83.0.0/16"));
        let own_script = json!([base("inet", "site", "fwd", "drop")]);
        assert!(found(own_script)[0].advice.starts_with("nft insert rule inet site fwd iifname"));
    }

    #[test]
    fn what_drops_nothing_of_ours_is_passed_over() {
        assert_eq!(found(json!([base("inet", "drowse", "forward", "drop")])), []);
        assert_eq!(found(json!([base("ip", "filter", "FORWARD", "accept")])), []);
        assert_eq!(found(json!([base("ip6", "filter", "FORWARD", "drop")])), []);
        let taught = json!([
            base("ip", "filter", "FORWARD", "drop"),
            { "rule": { "family": "ip", "table": "filter", "chain": "FORWARD", "expr": [
                { "match": { "op": "==", "left": { "meta": { "key": "iifname" } }, "right": "dw-*" } },
                { "accept": null },
            ] } },
        ]);
        assert_eq!(found(taught), []);
    }
}
