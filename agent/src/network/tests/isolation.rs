//! Who reaches whom.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use super::super::GATEWAY;
use super::config;
use super::stage::{FAR, HOST, LINK_LOCAL_DNS, METADATA, arrived, nothing_arrived, on_stage};

const A: [u8; 4] = [10, 83, 0, 5];
const B: [u8; 4] = [10, 83, 9, 6];

#[test]
fn the_host_reaches_an_app_only_as_root_router_and_control() {
    on_stage(config(), |stage| async move {
        let app = stage.app("a", A).await;
        let listener = app.listen(Ipv4Addr::UNSPECIFIED, 8080);
        for uid in [0, 990, 991] {
            stage.host.connect_as(uid, A.into(), 8080).unwrap_or_else(|e| panic!("as {uid}: {e}"));
            assert_eq!(arrived(&listener), IpAddr::V4(GATEWAY), "the source is the link's");
        }
        for uid in [1, 1000, 6_553_600] {
            let start = Instant::now();
            stage.host.is_refused_as(uid, A.into(), 8080);
            assert!(start.elapsed() < Duration::from_millis(500), "refused, not left waiting");
        }
        nothing_arrived(&listener);
        // An address of the range that nobody has does not leave by the default route.
        let error = stage.host.is_refused([10, 83, 0, 200].into(), 8080);
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
    });
}

#[test]
fn a_tenant_reaches_no_other_tenant() {
    on_stage(config(), |stage| async move {
        let (a, b) = (stage.app("a", A).await, stage.app("b", B).await);
        let listener = b.listen(Ipv4Addr::UNSPECIFIED, 8080);
        a.connect(A.into(), 8080).expect_err("itself, with nothing there, is refused by itself");
        let start = Instant::now();
        a.is_refused(B.into(), 8080);
        assert!(start.elapsed() < Duration::from_millis(500), "refused, not left waiting");
        a.is_refused([10, 83, 77, 77].into(), 8080);
        nothing_arrived(&listener);
    });
}

#[test]
fn of_the_host_an_app_reaches_the_router_and_name_servers_only() {
    on_stage(config(), |stage| async move {
        let app = stage.app("a", A).await;
        let service = stage.host.listen(Ipv4Addr::UNSPECIFIED, 5432);
        let router = stage.host.listen(Ipv4Addr::UNSPECIFIED, 8080);
        let dns = stage.host.listen(Ipv4Addr::UNSPECIFIED, 53);
        for address in [HOST, GATEWAY] {
            app.is_refused(address, 5432);
            app.connect(address, 8080).expect("the router's port");
            assert_eq!(arrived(&router), IpAddr::from(A));
        }
        nothing_arrived(&service);
        app.connect(HOST, 53).expect("the name server");
        arrived(&dns);
        app.is_refused(GATEWAY, 53);
        nothing_arrived(&dns);
    });
}

#[test]
fn link_local_services_are_out_of_reach_but_for_name_servers() {
    on_stage(config(), |stage| async move {
        let app = stage.app("a", A).await;
        let metadata = stage.outside.listen(METADATA, 80);
        let dns = stage.outside.listen(LINK_LOCAL_DNS, 53);
        let beside = stage.outside.listen(LINK_LOCAL_DNS, 80);
        stage.host.connect(METADATA, 80).expect("the host itself reaches it");
        arrived(&metadata);
        app.is_refused(METADATA, 80);
        nothing_arrived(&metadata);
        app.is_refused(LINK_LOCAL_DNS, 80);
        nothing_arrived(&beside);
        app.connect(LINK_LOCAL_DNS, 53).expect("a configured name server");
        arrived(&dns);
    });
}

#[test]
fn what_the_host_publishes_by_translation_is_out_of_reach() {
    on_stage(config(), |stage| async move {
        let app = stage.app("a", A).await;
        let published = stage.outside.listen(FAR, 6000);
        stage.host.shell(&format!(
            "echo 'table ip foreign {{ chain pre {{ type nat hook prerouting priority dstnat; \
             ip daddr {HOST} tcp dport 6001 dnat to {FAR}:6000; }}; }}' | nft -f -"
        ));
        app.is_refused(HOST, 6001);
        nothing_arrived(&published);
        app.connect(FAR, 6000).expect("by its own address it is as any other");
    });
}

#[test]
fn an_app_reaches_the_outside_under_the_hosts_address() {
    on_stage(config(), |stage| async move {
        let app = stage.app("a", A).await;
        let far = stage.outside.listen(FAR, 80);
        app.connect(FAR, 80).expect("the outside");
        assert_eq!(arrived(&far), IpAddr::V4(HOST));
        let mtu = app.shell("cat /sys/class/net/eth0/mtu");
        assert_eq!(mtu.trim(), "1400", "as large as what leaves the host");
    });
}

#[test]
fn the_outside_opens_no_connection_to_an_app() {
    on_stage(config(), |stage| async move {
        let app = stage.app("a", A).await;
        let listener = app.listen(Ipv4Addr::UNSPECIFIED, 8080);
        stage.outside.shell("ip route add 10.83.0.0/16 via 192.0.2.1");
        stage.outside.is_refused(A.into(), 8080);
        nothing_arrived(&listener);
    });
}

#[test]
fn an_app_sends_from_no_address_but_its_own() {
    on_stage(config(), |stage| async move {
        let app = stage.app("a", A).await;
        let _other = stage.app("b", B).await;
        let dns = stage.host.receive_udp(HOST, 53);
        let wait = |limit| dns.set_read_timeout(Some(limit)).expect("a limit");
        let send_from = |source: Ipv4Addr| {
            app.run(|| {
                let socket = UdpSocket::bind((source, 0)).expect("bind");
                socket.send_to(b"question", (HOST, 53)).expect("send");
            });
        };
        let mut buffer = [0; 64];
        wait(Duration::from_secs(20));
        send_from(A.into());
        assert_eq!(dns.recv_from(&mut buffer).expect("its own address").1.ip(), IpAddr::from(A));
        wait(Duration::from_millis(700));
        // The other tenant's, one nobody has, and one from far away. The kernel's own check of the
        // reverse path is switched off, so that the table is what is tried.
        stage.host.shell("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done");
        for source in [B.into(), Ipv4Addr::new(10, 83, 0, 99), FAR] {
            app.shell(&format!("ip addr add {source}/32 dev lo"));
            send_from(source);
            let heard = dns.recv_from(&mut buffer).map(|(_, from)| from);
            assert!(heard.is_err(), "{source} came through as {heard:?}");
        }
        wait(Duration::from_secs(20));
        send_from(A.into());
        dns.recv_from(&mut buffer).expect("its own address still");
    });
}

#[test]
fn nothing_of_ipv6_passes_a_link() {
    on_stage(config(), |stage| async move {
        let app = stage.app("a", A).await;
        assert_eq!(app.shell("ip -6 addr show dev eth0").trim(), "");
        assert_eq!(stage.host.shell("ip -6 addr show dev dwt-a").trim(), "");
        assert!(app.shell("ip -6 addr show dev lo").contains("::1/128"), "the loopback keeps its own");
    });
}
