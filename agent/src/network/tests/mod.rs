//! What the network must hold, shown with real packets. Every test makes a host, an outside and
//! apps of its own as network namespaces without names, which end with the test.

mod isolation;
mod lives;
mod rules;
mod stage;

use std::net::Ipv4Addr;

use super::{NetworkConfig, table};
use crate::config::AddressRange;

/// What the tests' table is made from.
fn config() -> NetworkConfig {
    NetworkConfig {
        range: AddressRange { base: Ipv4Addr::new(10, 83, 0, 0), prefix: 16 },
        table: "drowse-test".to_owned(),
        link_prefix: "dwt".to_owned(),
        router_uid: 991,
        control_uid: 990,
        router_ports: vec![80, 8080],
        connections: 20,
        connection_rate: 10,
        resolvers: vec![
            "192.0.2.1".parse().expect("this host"),
            "169.254.169.253".parse().expect("a link-local one"),
            "127.0.0.53".parse().expect("one that apps cannot reach"),
            "2001:db8::53".parse().expect("one of IPv6"),
        ],
    }
}

#[test]
fn the_rules_are_the_golden_ones() {
    assert_eq!(table::ruleset(&config()), include_str!("../golden.nft"), "if meant, change src/network/golden.nft");
}

#[test]
fn without_resolvers_and_ports_no_empty_set_is_written() {
    let bare = NetworkConfig { resolvers: Vec::new(), router_ports: Vec::new(), ..config() };
    let text = table::ruleset(&bare);
    assert!(!text.contains("dport") && !text.contains("{  }"), "{text}");
}

mod ranges {
    use netlink_packet_route::route::RouteType;

    use super::super::netlink::{Link, Route};
    use super::super::table::check_range;
    use super::*;

    fn check(route: Route) -> Result<(), String> {
        let eth1 = Link { index: 7, name: "eth1".to_owned(), alias: None, mtu: 1500, peer: None, is_running: true };
        check_range(config().range, &[route], &[eth1], &[9]).map_err(|error| error.to_string())
    }

    fn route(destination: [u8; 4], prefix: u8, out: u32) -> Route {
        Route { destination: destination.into(), prefix, out: Some(out), kind: RouteType::Unicast }
    }

    #[test]
    fn a_range_that_something_else_uses_is_refused() {
        for (destination, prefix) in [([10, 0, 0, 0], 8), ([10, 83, 0, 0], 16), ([10, 83, 7, 0], 24)] {
            let error = check(route(destination, prefix, 7)).expect_err("taken");
            assert!(error.contains("eth1") && error.contains("address_range"), "{error}");
        }
    }

    #[test]
    fn default_routes_other_ranges_and_our_own_links_take_nothing() {
        assert_eq!(check(route([0, 0, 0, 0], 0, 7)), Ok(()));
        assert_eq!(check(route([10, 84, 0, 0], 16, 7)), Ok(()));
        assert_eq!(check(route([10, 83, 0, 5], 32, 9)), Ok(()));
        let blocked = Route { kind: RouteType::Unreachable, out: None, ..route([10, 83, 0, 0], 16, 0) };
        assert_eq!(check(blocked), Ok(()));
    }
}
