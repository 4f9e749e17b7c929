//! Links come, stay, move and go.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::super::{InstanceLink, Network, NetworkConfig, NetworkError, elements};
use super::config;
use super::stage::{FAR, Namespace, arrived, nothing_arrived, on_stage, owner, shell};
use crate::config::AddressRange;

const A: [u8; 4] = [10, 83, 0, 5];
const B: [u8; 4] = [10, 83, 9, 6];

fn link(name: &str, addresses: &[[u8; 4]]) -> InstanceLink {
    let addresses = addresses.iter().copied().map(Ipv4Addr::from).collect();
    InstanceLink { owner: owner(name), name: format!("dwt-{name}"), addresses }
}

async fn until_gone(network: &Network) {
    let end = Instant::now() + Duration::from_secs(20);
    while !network.list().await.expect("list").is_empty() {
        assert!(Instant::now() < end, "links stay");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn attaching_again_changes_nothing_and_heals_what_is_missing() {
    on_stage(config(), |stage| async move {
        let app = stage.app("a", A).await;
        let listener = app.listen(A.into(), 8080);
        let before = shell("ip -o link show dwt-a");
        stage.network.attach(app.fd(), &owner("a"), A.into()).expect("again");
        assert_eq!(shell("ip -o link show dwt-a"), before);
        stage.network.ensure().await.expect("ensure with links there");
        stage.host.connect(A.into(), 8080).expect("still reached");
        arrived(&listener);

        shell("ip route del 10.83.0.5; nft flush set inet drowse-test links");
        app.shell("ip route del default");
        stage.network.attach(app.fd(), &owner("a"), A.into()).expect("healed");
        stage.host.connect(A.into(), 8080).expect("reached again");
        let far = stage.outside.listen(FAR, 80);
        app.connect(FAR, 80).expect("the outside again");
        arrived(&far);
        assert_eq!(stage.network.list().await.expect("list"), [link("a", &[A])]);
    });
}

#[test]
fn a_new_sandbox_of_the_same_owner_takes_the_link_over() {
    on_stage(config(), |stage| async move {
        let old = stage.app("a", A).await;
        let new = stage.app("a", A).await;
        let listener = new.listen(A.into(), 8080);
        stage.host.connect(A.into(), 8080).expect("the new one");
        arrived(&listener);
        assert!(!old.shell("ip -o link").contains("eth0"), "the old one has none");
        assert_eq!(stage.network.list().await.expect("list").len(), 1);
    });
}

#[test]
fn detaching_leaves_nothing() {
    on_stage(config(), |stage| async move {
        let before = shell("ip -o link; ip route; ip neigh; ip addr");
        let app = stage.app("a", A).await;
        let long = owner("build--abcdefghij");
        let build = Namespace::new();
        stage.network.attach(build.fd(), &long, B.into()).expect("attach");
        assert_eq!(stage.network.list().await.expect("list").len(), 2);
        for name in [owner("a"), long] {
            stage.network.detach(&name).await.expect("detach");
            stage.network.detach(&name).await.expect("detach again");
        }
        assert_eq!(stage.network.list().await.expect("list"), []);
        assert_eq!(shell("ip -o link; ip route; ip neigh; ip addr"), before);
        assert_eq!(elements::elements("drowse-test").expect("elements"), []);
        assert!(!app.shell("ip -o link").contains("eth0"));
    });
}

#[test]
fn a_sandbox_that_ends_takes_its_link_along_and_ensure_forgets_it() {
    on_stage(config(), |stage| async move {
        let kept = stage.app("b", B).await;
        drop(stage.app("a", A).await);
        let end = Instant::now() + Duration::from_secs(20);
        while stage.network.list().await.expect("list").len() > 1 {
            assert!(Instant::now() < end, "the kernel removes the link with the namespace");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(elements::elements("drowse-test").expect("elements").len(), 2);
        stage.network.ensure().await.expect("ensure");
        let left = elements::elements("drowse-test").expect("elements");
        assert_eq!(left.iter().map(|element| element.link.as_str()).collect::<Vec<_>>(), ["dwt-b"]);
        drop(kept);
        until_gone(&stage.network).await;
    });
}

#[test]
fn an_element_that_somebody_else_deleted_meanwhile_is_no_error() {
    on_stage(config(), |stage| async move {
        let app = stage.app("a", A).await;
        let elements = elements::elements("drowse-test").expect("elements");
        assert_eq!(elements.len(), 1);
        for _ in 0..2 {
            elements::delete("drowse-test", &elements).expect("deleted, or gone already");
            assert_eq!(elements::elements("drowse-test").expect("elements"), []);
        }
        drop(app);
        until_gone(&stage.network).await;
    });
}

#[test]
fn one_link_carries_many_addresses() {
    on_stage(config(), |stage| async move {
        let sites = stage.app("sites", A).await;
        let listener = sites.listen(Ipv4Addr::UNSPECIFIED, 8080);
        stage.network.add_address(sites.fd(), &owner("sites"), B.into()).expect("add");
        stage.network.add_address(sites.fd(), &owner("sites"), B.into()).expect("add again");
        for address in [A, B] {
            let visitor = stage.host.connect(address.into(), 8080).expect("reached");
            assert_eq!(visitor.peer_addr().expect("peer").ip(), IpAddr::from(address));
            let (accepted, _) = listener.accept().expect("arrived");
            assert_eq!(accepted.local_addr().expect("local").ip(), IpAddr::from(address), "told apart");
        }
        assert_eq!(stage.network.list().await.expect("list"), [link("sites", &[A, B])]);
        stage.network.remove_address(sites.fd(), &owner("sites"), B.into()).await.expect("remove");
        stage.network.remove_address(sites.fd(), &owner("sites"), B.into()).await.expect("remove again");
        stage.host.is_refused(B.into(), 8080);
        nothing_arrived(&listener);
        stage.host.connect(A.into(), 8080).expect("the first stays");
        assert_eq!(stage.network.list().await.expect("list"), [link("sites", &[A])]);
        assert!(!sites.shell("ip addr").contains("10.83.9.6"));
        let missing = stage.network.add_address(sites.fd(), &owner("nobody"), B.into());
        assert!(matches!(missing, Err(NetworkError::NoLink { .. })));
    });
}

#[test]
fn two_networks_live_beside_each_other() {
    on_stage(config(), |stage| async move {
        let other = Network::new(NetworkConfig {
            range: AddressRange { base: Ipv4Addr::new(10, 84, 0, 0), prefix: 16 },
            table: "drowse-test2".to_owned(),
            link_prefix: "dw".to_owned(),
            ..config()
        });
        other.ensure().await.expect("the second");
        let a = stage.app("a", A).await;
        let theirs = Namespace::new();
        other.attach(theirs.fd(), &owner("a"), [10, 84, 0, 5].into()).expect("attach");
        let (one, two) = (a.listen(A.into(), 8080), theirs.listen([10, 84, 0, 5].into(), 8080));
        for (address, listener) in [(A, &one), ([10, 84, 0, 5], &two)] {
            stage.host.connect_as(991, address.into(), 8080).expect("reached");
            arrived(listener);
        }
        let far = stage.outside.listen(FAR, 80);
        for app in [&a, &theirs] {
            app.connect(FAR, 80).expect("the outside");
            arrived(&far);
        }
        a.is_refused([10, 84, 0, 5].into(), 8080);
        theirs.is_refused(A.into(), 8080);
        nothing_arrived(&one);
        nothing_arrived(&two);
        assert_eq!(stage.network.list().await.expect("list").len(), 1);
        other.teardown().await.expect("teardown");
        assert_eq!(other.list().await.expect("list"), []);
        stage.host.connect(A.into(), 8080).expect("the first is as before");
    });
}

#[test]
fn teardown_leaves_the_host_as_it_was() {
    on_stage(config(), |stage| async move {
        let _app = stage.app("a", A).await;
        shell("ip link add dwt-half type veth peer name half; ip link add dwtx type veth peer name dwtx2");
        for _ in 0..2 {
            stage.network.teardown().await.expect("teardown, also again");
        }
        assert_eq!(shell("nft list tables").trim(), "");
        let left = shell("ip -o link; ip route");
        assert!(!left.contains("dwt-") && !left.contains("10.83."), "{left}");
        assert!(left.contains("dwtx"), "another's link with a similar name stays");
        stage.network.ensure().await.expect("and it can begin again");
    });
}

#[test]
fn a_range_in_use_is_refused_before_anything_is_changed() {
    on_stage(config(), |stage| async move {
        stage.network.teardown().await.expect("teardown");
        shell("ip link add lan type veth peer name lan2; ip addr add 10.83.4.1/24 dev lan; ip link set lan up");
        let error = stage.network.ensure().await.expect_err("taken").to_string();
        assert!(error.contains("10.83.4") && error.contains("lan") && error.contains("address_range"), "{error}");
        assert_eq!(shell("nft list tables").trim(), "");
    });
}

#[test]
fn a_name_that_another_has_is_never_taken() {
    on_stage(config(), |stage| async move {
        shell("ip link add dwt-a type veth peer name theirs; ip link set dwt-a alias drowse-other:a");
        let app = Namespace::new();
        let error = stage.network.attach(app.fd(), &owner("a"), A.into()).expect_err("taken");
        assert!(matches!(error, NetworkError::NameTaken { .. }), "{error}");
        stage.network.teardown().await.expect("teardown");
        assert!(shell("ip -o link").contains("dwt-a"));
    });
}

#[test]
fn attaching_without_a_table_leaves_no_link() {
    on_stage(config(), |stage| async move {
        stage.network.teardown().await.expect("teardown");
        let app = Namespace::new();
        let error = stage.network.attach(app.fd(), &owner("a"), A.into()).expect_err("no table");
        assert!(matches!(error, NetworkError::Nft { .. }), "{error}");
        assert!(!shell("ip -o link").contains("dwt-a"));
        assert!(!app.shell("ip -o link").contains("eth0"));
    });
}

#[test]
fn many_links_come_and_go_at_once() {
    on_stage(config(), |stage| async move {
        let apps: Vec<(Namespace, String, [u8; 4])> =
            (1..=30).map(|n| (Namespace::new(), format!("app{n}"), [10, 83, 2, n])).collect();
        std::thread::scope(|scope| {
            for (app, name, address) in &apps {
                let network = stage.network.clone();
                scope.spawn(move || network.attach(app.fd(), &owner(name), (*address).into()).expect("attach"));
            }
        });
        for (app, _, address) in &apps {
            let listener = app.listen((*address).into(), 8080);
            stage.host.connect((*address).into(), 8080).expect("reached");
            arrived(&listener);
        }
        let detach = apps.iter().map(|(_, name, _)| {
            let network = stage.network.clone();
            async move { network.detach(&owner(name)).await }
        });
        for done in futures_util::future::join_all(detach).await {
            done.expect("detach");
        }
        assert_eq!(stage.network.list().await.expect("list"), []);
        assert_eq!(elements::elements("drowse-test").expect("elements"), []);
    });
}

#[test]
fn a_spare_link_passes_nothing_until_it_is_given_and_then_is_like_any_other() {
    on_stage(config(), |stage| async move {
        // With an address that nobody gave it.
        let early = Namespace::new();
        stage.network.make_spare(early.fd()).expect("spare");
        early.shell(&format!("ip addr add {} dev eth0", Ipv4Addr::from(A)));
        early.is_refused(FAR, 80);

        let app = Namespace::new();
        let spare = stage.network.make_spare(app.fd()).expect("spare");
        let old = stage.app("a", B).await;
        stage.network.give_spare(spare, &owner("a"), A.into()).expect("given");
        assert!(!old.shell("ip -o link").contains("eth0"), "the owner's earlier link is gone");
        let links = stage.network.list().await.expect("list");
        assert_eq!((links.len(), links.contains(&link("a", &[A]))), (2, true), "{links:?}");
        let listener = app.listen(A.into(), 8080);
        stage.host.connect(A.into(), 8080).expect("reached");
        arrived(&listener);
        let far = stage.outside.listen(FAR, 80);
        app.connect(FAR, 80).expect("the outside");
        arrived(&far);
        // The same as a link that was made for its owner: what is done again changes nothing.
        let (outside, inside) = ("ip -o link show dwt-a; ip neigh; ip route", "ip -o addr; ip neigh; ip route");
        let before = (shell(outside), app.shell(inside));
        stage.network.attach(app.fd(), &owner("a"), A.into()).expect("again");
        assert_eq!((shell(outside), app.shell(inside)), before);
        stage.network.detach(&owner("a")).await.expect("detach");
        assert_eq!(elements::elements("drowse-test").expect("elements"), []);
    });
}

#[test]
fn spare_links_that_nobody_gets_leave_nothing() {
    on_stage(config(), |stage| async move {
        let (one, two) = (Namespace::new(), Namespace::new());
        stage.network.make_spare(one.fd()).expect("spare");
        stage.network.make_spare(two.fd()).expect("another");
        let links = stage.network.list().await.expect("list");
        assert_eq!(links.len(), 2, "the next agent sees both");
        // As its sweep does.
        for link in links {
            stage.network.detach(&link.owner).await.expect("detach");
        }
        assert!(!shell("ip -o link").contains("dwt-"));
    });
}

#[test]
fn what_a_link_costs_is_told() {
    on_stage(config(), |stage| async move {
        let apps: Vec<Namespace> = (0..20).map(|_| Namespace::new()).collect();
        let mut times = [Duration::ZERO; 2];
        for (app, last) in apps.iter().zip(1_u8..) {
            let start = Instant::now();
            stage.network.attach(app.fd(), &owner("a"), [10, 83, 1, last].into()).expect("attach");
            times[0] += start.elapsed();
            let start = Instant::now();
            stage.network.detach(&owner("a")).await.expect("detach");
            times[1] += start.elapsed();
        }
        eprintln!("attach {:?}, detach {:?}", times[0] / 20, times[1] / 20);
    });
}

/// How often this namespace has sent something again over TCP.
fn sent_again(there: &Namespace) -> u32 {
    let text = there.shell("awk '/^Tcp:/ && $13 ~ /^[0-9]/ { print $13 }' /proc/net/snmp");
    text.trim().parse().expect("RetransSegs")
}

#[test]
fn the_first_visitor_of_a_new_link_loses_nothing() {
    on_stage(config(), |stage| async move {
        for number in 1..=10 {
            let (app, address) = (Namespace::new(), Ipv4Addr::new(10, 83, 3, number));
            let listener = app.listen(Ipv4Addr::UNSPECIFIED, 8080);
            let name = owner(&format!("first{number}"));
            if number % 2 == 0 {
                stage.network.attach(app.fd(), &name, address).expect("attach");
            } else {
                let spare = stage.network.make_spare(app.fd()).expect("spare");
                stage.network.give_spare(spare, &name, address).expect("given");
            }
            // In the moment in which the link is said to be there: what is lost comes again after a second.
            stage.host.connect(address, 8080).expect("reached");
            arrived(&listener);
            assert_eq!([sent_again(&stage.host), sent_again(&app)], [0, 0], "link {number}");
        }
    });
}
