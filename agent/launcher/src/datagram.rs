//! Datagrams with descriptors, over sockets that keep order and tell when the other end is gone.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The most descriptors that the kernel passes in one message (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;

/// A connected pair of datagram sockets that keep order and tell when the other end is gone.
///
/// # Errors
/// The process is out of descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one datagram.
///
/// # Errors
/// The other end is gone, or does not take it in time.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one datagram into `buffer`: its length and descriptors; nothing if the peer is gone.
///
/// # Errors
/// It was cut short, or the socket cannot be read.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    if message.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
        return Err(io::Error::other("a message was cut short: out of descriptors?"));
    }
    Ok((message.bytes > 0).then_some((message.bytes, descriptors)))
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::*;
    use crate::wire::sealed;

    #[test]
    fn descriptors_arrive_with_their_datagram() {
        let (ours, theirs) = pair().unwrap();
        let file = sealed("test", &mut b"hello".as_slice(), false).unwrap();
        send(&ours, b"abc", &[file.as_fd()]).unwrap();
        drop(ours);
        let mut buffer = [0; 16];
        let (length, descriptors) = receive(&theirs, &mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..length], b"abc");
        let mut file = std::fs::File::from(descriptors.into_iter().next().unwrap());
        file.rewind().unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "hello");
        assert!(receive(&theirs, &mut buffer).unwrap().is_none(), "the peer is gone");
    }
}
