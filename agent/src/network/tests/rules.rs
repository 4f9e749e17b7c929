//! Each rule of the network is needed: what it stops gets through without it, and only without it.

use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use drowse_launcher::rules::Rule;

use super::super::{NetworkConfig, nft, table};
use super::config;
use super::stage::{FAR, HOST, METADATA, Namespace, Stage, on_stage, owner};
use crate::rules::left_out;

const A: [u8; 4] = [10, 83, 0, 5];
const B: [u8; 4] = [10, 83, 9, 6];
/// How long an answer may take that must come; refusals come at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs an attempt with the rule and without it.
fn stops(rule: Rule, got_through: impl Fn(&Stage, &Namespace, &Namespace) -> bool + Send) {
    stops_in(config(), rule, got_through);
}

fn stops_in(config: NetworkConfig, rule: Rule, got_through: impl Fn(&Stage, &Namespace, &Namespace) -> bool + Send) {
    on_stage(config, |stage| async move {
        let (a, b) = (stage.app("a", A).await, stage.app("b", B).await);
        assert!(!got_through(&stage, &a, &b), "stopped by {rule}");
        left_out::set(Some(rule));
        stage.network.ensure().await.expect("the table without the rule");
        assert!(got_through(&stage, &a, &b), "nothing but {rule} stops it");
        left_out::set(None);
        stage.network.ensure().await.expect("the whole table");
        assert!(!got_through(&stage, &a, &b), "stopped again");
    });
}

/// Whether a listener at `to` hears of a connection from `from` as user `uid`.
fn connects(from: &Namespace, uid: u32, to: &Namespace, at: Ipv4Addr, port: u16) -> bool {
    let _listener = to.listen(Ipv4Addr::UNSPECIFIED, port);
    from.reaches_as(uid, (at, port).into())
}

#[test]
fn no_instance_reaches_another_by_its_rule() {
    stops(Rule::NetTenants, |_, a, b| connects(a, 0, b, B.into(), 8080));
}

#[test]
fn of_the_host_only_router_and_name_servers_are_reached_by_its_rule() {
    stops(Rule::NetHostServices, |stage, a, _| connects(a, 0, &stage.host, HOST, 5432));
}

#[test]
fn link_local_services_are_out_of_reach_by_their_rule() {
    stops(Rule::NetLinkLocal, |stage, a, _| connects(a, 0, &stage.outside, METADATA, 80));
}

#[test]
fn nobody_outside_reaches_an_instance_by_its_rule() {
    stops(Rule::NetFromOutside, |stage, a, _| {
        stage.outside.shell("ip route replace 10.83.0.0/16 via 192.0.2.1");
        connects(&stage.outside, 0, a, A.into(), 8080)
    });
}

#[test]
fn users_of_the_host_reach_no_instance_by_their_rule() {
    stops(Rule::NetHostUsers, |stage, a, _| connects(&stage.host, 1000, a, A.into(), 8080));
}

#[test]
fn what_the_host_publishes_is_out_of_reach_by_its_rule() {
    stops(Rule::NetPublished, |stage, a, _| {
        stage.host.shell(&format!(
            "echo 'add table ip foreign; delete table ip foreign; table ip foreign {{ chain pre {{ \
             type nat hook prerouting priority dstnat; ip daddr {HOST} tcp dport 6001 dnat to {FAR}:6000; }}; }}' | nft -f -"
        ));
        let _published = stage.outside.listen(FAR, 6000);
        a.reaches_as(0, (HOST, 6001).into())
    });
}

#[test]
fn foreign_sources_are_stopped_by_their_rule() {
    stops(Rule::NetOwnSource, |stage, a, _| {
        // The kernel's own check of the reverse path would stop it, too.
        stage.host.shell("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done");
        let heard = stage.host.receive_udp(HOST, 53);
        heard.set_read_timeout(Some(Duration::from_millis(500))).expect("a limit");
        a.shell(&format!("ip addr replace {FAR}/32 dev lo"));
        a.run(|| {
            let socket = UdpSocket::bind((FAR, 0)).expect("bind");
            socket.send_to(b"forged", (HOST, 53)).expect("send");
        });
        heard.recv_from(&mut [0; 16]).is_ok()
    });
}

#[test]
fn ipv6_is_stopped_by_its_rule() {
    stops(Rule::NetIpv4Only, |stage, a, _| {
        // Both ends have it switched off, too. Neighbours are told, since asking is stopped as well.
        let address = |link: &str| format!("ip -o link show dev {link} | sed 's/.*link.ether //; s/ .*//'");
        let (outer, inner) = (stage.host.shell(&address("dwt-a")), a.shell(&address("eth0")));
        let switch_on = |link: &str, own: &str, peer: &str, mac: &str| {
            format!(
                "echo 0 > /proc/sys/net/ipv6/conf/{link}/disable_ipv6; ip -6 addr replace {own}/64 dev {link} nodad; \
                 ip -6 neigh replace {peer} lladdr {} dev {link} nud permanent",
                mac.trim()
            )
        };
        stage.host.shell(&switch_on("dwt-a", "fd00::1", "fd00::2", &inner));
        a.shell(&switch_on("eth0", "fd00::2", "fd00::1", &outer));
        let router: std::net::SocketAddr = "[fd00::1]:8080".parse().expect("an address");
        let _listener = stage.host.run(|| std::net::TcpListener::bind(router).expect("listen"));
        a.reaches_as(0, router)
    });
}

/// More connections than a link may have at once are opened, and kept.
#[test]
fn connections_that_are_open_are_bounded_by_their_rule() {
    let unhurried = NetworkConfig { connection_rate: 100_000, ..config() };
    stops_in(unhurried, Rule::NetConnections, |stage, a, _| {
        let _listener = stage.outside.listen(FAR, 80);
        let opened =
            a.run(|| (0..24).map(|_| TcpStream::connect_timeout(&(FAR, 80).into(), PATIENCE)).collect::<Vec<_>>());
        let count = opened.iter().filter(|one| one.is_ok()).count();
        assert!(count >= 20, "{count}");
        count == 24
    });
}

/// More connections than a link may open in a while are opened, and closed at once.
#[test]
fn connections_that_are_opened_in_a_second_are_bounded_by_their_rule() {
    // Closed ones stop counting as open by and by only: never so many that they count as that.
    let roomy = NetworkConfig { connections: 200, ..config() };
    stops_in(roomy, Rule::NetConnectionRate, |stage, a, _| {
        let listener = stage.outside.listen(FAR, 80);
        a.run(|| {
            let began = Instant::now();
            let mut opened = 0_u32;
            while let Ok(one) = TcpStream::connect_timeout(&(FAR, 80).into(), PATIENCE) {
                while listener.accept().is_ok() {}
                rustix::net::sockopt::set_socket_linger(&one, Some(Duration::ZERO)).expect("set");
                drop(one);
                opened += 1;
                // A burst of 200 and 10 a second is what the rule lets pass.
                if f64::from(opened) > 201.0 + 10.0 * began.elapsed().as_secs_f64() {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            false
        })
    });
}

#[test]
fn whoever_was_refused_a_connection_is_known_until_the_link_goes() {
    on_stage(config(), |stage| async move {
        let (a, b) = (stage.app("a", A).await, stage.app("b", B).await);
        let _listener = stage.outside.listen(FAR, 80);
        let opened =
            a.run(|| (0..24).map(|_| TcpStream::connect_timeout(&(FAR, 80).into(), PATIENCE)).collect::<Vec<_>>());
        assert!(opened.iter().any(Result::is_err));
        b.connect(FAR, 80).expect("others go on");
        assert!(stage.network.is_crowded(&owner("a")).await.expect("asked"));
        assert!(!stage.network.is_crowded(&owner("b")).await.expect("asked"));
        stage.network.detach(&owner("a")).await.expect("detached");
        assert_eq!(nft::members("drowse-test", table::REFUSED).await.expect("asked"), Vec::<String>::new());
        let next = stage.app("a", A).await;
        next.connect(FAR, 80).expect("nothing is left of what the one before had");
    });
}
