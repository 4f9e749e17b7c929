//! What listens inside a network namespace, and the sentence a user is told when that is not the port
//! the platform connects to.
//!
//! Reads `/proc/PID/net/tcp` and `tcp6`, whose form proc(5) gives: addresses are hexadecimal words of
//! 32 bits in the host's byte order, and state 0A is listening.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const LISTENING: &str = "0A";

/// The TCP sockets that listen in the network namespace of process `pid`, in order, each once.
///
/// # Errors
/// If the process is gone.
pub fn listening(pid: i32) -> io::Result<Vec<SocketAddr>> {
    let mut found = parse(&std::fs::read_to_string(format!("/proc/{pid}/net/tcp"))?);
    match std::fs::read_to_string(format!("/proc/{pid}/net/tcp6")) {
        Ok(table) => found.append(&mut parse(&table)),
        // A kernel without IPv6 has no such file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(found.into_iter().collect())
}

/// Says what `found` means for an app that should accept connections on `port`:
/// `listens on 127.0.0.1:8000; must be 0.0.0.0:$PORT (8080)`.
#[must_use]
pub fn explain(found: &[SocketAddr], port: u16) -> String {
    if found.is_empty() {
        return format!("listens on nothing; must be 0.0.0.0:$PORT ({port})");
    }
    let list = found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut in_place =
        found.iter().filter(|address| address.port() == port && !address.ip().to_canonical().is_loopback());
    match in_place.next() {
        // A socket of both families would have taken the connection.
        Some(one) if one.is_ipv6() && in_place.all(SocketAddr::is_ipv6) => {
            return format!("listens on {list}, for IPv6 only; must be 0.0.0.0:$PORT ({port})");
        }
        Some(_) => return format!("listens on {list}, and did not accept a connection on port {port}"),
        None => {}
    }
    format!("listens on {list}; must be 0.0.0.0:$PORT ({port})")
}

fn parse(table: &str) -> BTreeSet<SocketAddr> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            let (local, _remote, state) = (words.next()?, words.next()?, words.next()?);
            if state == LISTENING { parse_address(local) } else { None }
        })
        .collect()
}

fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_tables_are_read() {
        let four = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0\n\
            \x20  1: 0100007F:1F40 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0\n\
            \x20  2: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3 1 0\n";
        assert_eq!(parse(four), BTreeSet::from_iter(addresses(&["127.0.0.1:8000"])));
        let six = "  sl  local_address                         remote_address\n\
            \x20  0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1\n\
            \x20  1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1\n";
        assert_eq!(parse(six), BTreeSet::from_iter(addresses(&["[::]:8080", "[::1]:80"])));
    }

    #[test]
    fn torn_lines_are_passed_over() {
        assert!(parse("head\n 0: 0100007F\n 1: zz:zz zz 0A\n\n 2: 01:1F40 0:0 0A\n").is_empty());
    }

    #[test]
    fn a_socket_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let pid = i32::try_from(std::process::id()).expect("pid");
        assert!(listening(pid).expect("read").contains(&address));
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(listening(i32::MAX).is_err());
    }

    #[test]
    fn the_user_is_told_what_to_change() {
        assert_eq!(
            explain(&addresses(&["127.0.0.1:8000"]), 8080),
            "listens on 127.0.0.1:8000; must be 0.0.0.0:$PORT (8080)"
        );
        assert_eq!(explain(&[], 8080), "listens on nothing; must be 0.0.0.0:$PORT (8080)");
        let loopback = explain(&addresses(&["127.0.0.1:8080", "[::1]:8080"]), 8080);
        assert_eq!(loopback, "listens on 127.0.0.1:8080, [::1]:8080; must be 0.0.0.0:$PORT (8080)");
        let six = explain(&addresses(&["[::]:8080"]), 8080);
        assert_eq!(six, "listens on [::]:8080, for IPv6 only; must be 0.0.0.0:$PORT (8080)");
        let deaf = explain(&addresses(&["0.0.0.0:8080", "[::]:8080"]), 8080);
        assert_eq!(deaf, "listens on 0.0.0.0:8080, [::]:8080, and did not accept a connection on port 8080");
    }
}
