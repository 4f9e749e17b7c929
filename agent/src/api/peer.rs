//! Who is at the other end of a connection, as the kernel saw it when it connected, and what it may use.

use std::io;
use std::path::Path;

use tokio::net::UnixStream;

/// Who may use what.
#[derive(Debug, Clone, Copy)]
pub struct Peers {
    /// May use every call, as root may.
    pub control: u32,
    /// May use the router's calls.
    pub router: u32,
}

/// What a peer may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Control,
    Router,
    Nothing,
}

impl Peers {
    /// The class of whoever connected.
    pub(super) fn class_of(self, stream: &UnixStream) -> Class {
        let Ok(peer) = stream.peer_cred() else { return Class::Nothing };
        match self.class(peer.uid()) {
            Class::Nothing => Class::Nothing,
            // A user of another namespace is somebody else, also where its number is one of ours.
            class => {
                if peer.pid().is_none_or(is_in_our_namespace) {
                    class
                } else {
                    Class::Nothing
                }
            }
        }
    }

    fn class(self, uid: u32) -> Class {
        match uid {
            0 => Class::Control,
            uid if uid == self.control => Class::Control,
            uid if uid == self.router => Class::Router,
            _ => Class::Nothing,
        }
    }
}

/// Whether a process has our user namespace. One that is gone has none.
fn is_in_our_namespace(pid: i32) -> bool {
    let of = |process: &str| std::fs::read_link(Path::new("/proc").join(process).join("ns/user"));
    match (of("self"), of(&pid.to_string())) {
        (Ok(ours), Ok(theirs)) => ours == theirs,
        // An agent that may not look relies on the number alone, as the kernel translated it.
        (_, Err(error)) => error.kind() == io::ErrorKind::PermissionDenied,
        (Err(_), Ok(_)) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_class_and_strangers_have_none() {
        let peers = Peers { control: 990, router: 991 };
        let classes = [0, 990, 991, 1000].map(|uid| peers.class(uid));
        assert_eq!(classes, [Class::Control, Class::Control, Class::Router, Class::Nothing]);
    }

    #[test]
    fn a_process_of_our_namespace_is_told_from_one_that_is_gone() {
        assert!(is_in_our_namespace(std::process::id().cast_signed()));
        assert!(!is_in_our_namespace(i32::MAX));
    }
}
