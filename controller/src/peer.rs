//! Who is at the other end of a connection. The only module with a raw system call.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use tokio::net::UnixStream;

/// The other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, as the kernel saw it when it connected.
    Unix {
        /// Its user.
        uid: u32,
        /// Its group and all its other groups.
        groups: Vec<u32>,
    },
    /// An address.
    Tcp(SocketAddr),
    /// The kernel did not say: may nothing.
    Unknown,
}

impl Peer {
    /// Who is at the other end of a Unix socket.
    #[must_use]
    pub fn of(stream: &UnixStream) -> Self {
        let Ok(credentials) = stream.peer_cred() else { return Self::Unknown };
        let mut groups = groups(stream);
        groups.push(credentials.gid());
        Self::Unix { uid: credentials.uid(), groups }
    }
}

/// The supplementary groups of a peer (unix(7), `SO_PEERGROUPS`), none if the kernel does not say.
#[allow(unsafe_code)]
fn groups(socket: &impl AsFd) -> Vec<u32> {
    use std::os::fd::AsRawFd;
    const MOST: usize = 1024;
    let mut groups = vec![0_u32; MOST];
    let mut length = libc::socklen_t::try_from(MOST * size_of::<u32>()).unwrap_or(0);
    // SAFETY: the descriptor is open while it is borrowed, `groups` has room for `length` bytes of
    // gid_t (a u32), and the kernel writes no more than `length` and sets it to what it wrote.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    groups.truncate(if result == 0 { length as usize / size_of::<u32>() } else { 0 });
    groups
}
