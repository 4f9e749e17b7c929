//! A WebSocket's way through the router. Its frames are counted and not read: only so that a close can
//! be put between two of them, when the instance leaves or is gone without a word (RFC 6455).

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A close frame from a server with code 1001, "going away": clients connect again.
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];
const CLOSE: u8 = 8;
const BUFFER: usize = 8 << 10;

/// How long both sides have to end a WebSocket that we closed.
const GOODBYE: Duration = Duration::from_secs(5);

/// How a stream of frames ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With the stream that they came from.
    Whole,
    /// We closed it.
    Left,
}

/// Passes an instance's frames to its visitor until they end, or until `leaving` is ready and the frame
/// under way is whole. A visitor who was not told a close by the instance is told by us.
pub(crate) async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    leaving: impl Future<Output = ()>,
) -> io::Result<Ended> {
    let (mut frames, mut buffer) = (Frames::default(), vec![0; BUFFER]);
    let mut leaving = std::pin::pin!(leaving);
    let mut is_leaving = false;
    loop {
        if is_leaving && frames.is_between() {
            frames.close(&mut to).await?;
            // The visitor answers, the instance hears it and ends its side: what it still says is lost.
            let ends = async { while from.read(&mut buffer).await.is_ok_and(|length| length > 0) {} };
            let _ = tokio::time::timeout(GOODBYE, ends).await;
            to.shutdown().await?;
            return Ok(Ended::Left);
        }
        let read = tokio::select! {
            biased;
            () = &mut leaving, if !is_leaving => {
                is_leaving = true;
                continue;
            }
            read = from.read(&mut buffer) => read,
        };
        let length = match read {
            Ok(0) | Err(_) => {
                if frames.is_between() {
                    frames.close(&mut to).await?;
                }
                to.shutdown().await?;
                return Ok(Ended::Whole);
            }
            Ok(length) => length,
        };
        let taken = frames.take(&buffer[..length], is_leaving);
        to.write_all(&buffer[..taken]).await?;
    }
}

/// Where in a stream of frames one is.
#[derive(Debug, Default)]
struct Frames {
    /// The head of the frame under way, as far as it is known.
    head: Vec<u8>,
    /// What is missing of its payload, once its head is whole.
    left: u64,
    /// A close was among them.
    is_closed: bool,
}

impl Frames {
    fn is_between(&self) -> bool {
        self.head.is_empty() && self.left == 0
    }

    /// Follows `bytes`, at most to the end of the frame under way if `only_this`; how many that are.
    fn take(&mut self, bytes: &[u8], only_this: bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.left > 0 {
                let step = self.left.min((bytes.len() - at) as u64);
                self.left -= step;
                at += usize::try_from(step).unwrap_or(bytes.len());
            } else {
                self.head.push(bytes[at]);
                at += 1;
                if let Some(length) = payload_length(&self.head) {
                    self.is_closed |= self.head[0] & 15 == CLOSE;
                    self.left = length;
                    self.head.clear();
                }
            }
            if only_this && self.is_between() {
                break;
            }
        }
        at
    }

    async fn close(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if self.is_closed {
            return Ok(());
        }
        to.write_all(&GOING_AWAY).await?;
        to.flush().await
    }
}

/// The length of a frame's payload (section 5.2), once its head is whole.
fn payload_length(head: &[u8]) -> Option<u64> {
    let (is_masked, short) = (head.get(1)? & 0x80 != 0, head[1] & 0x7f);
    let extended = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if head.len() < 2 + extended + if is_masked { 4 } else { 0 } {
        return None;
    }
    let long = head[2..2 + extended].iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
    Some(if extended == 0 { short.into() } else { long })
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// An unmasked text frame.
    fn frame(length: usize) -> Vec<u8> {
        let mut frame = match length {
            0..126 => vec![0x81, u8::try_from(length).expect("short")],
            126..65_536 => [&[0x81, 126][..], &u16::try_from(length).expect("fits").to_be_bytes()].concat(),
            _ => [&[0x81, 127][..], &(length as u64).to_be_bytes()].concat(),
        };
        frame.resize(frame.len() + length, b'x');
        frame
    }

    #[test]
    fn frames_of_every_size_are_followed_however_they_are_cut() {
        let all: Vec<u8> = [0, 1, 125, 126, 65_535, 65_536].into_iter().flat_map(frame).collect();
        for step in [1, 7, 8192] {
            let mut frames = Frames::default();
            for chunk in all.chunks(step) {
                assert_eq!(frames.take(chunk, false), chunk.len());
            }
            assert!(frames.is_between() && !frames.is_closed);
            frames.take(&[0x88, 0], false);
            assert!(frames.is_between() && frames.is_closed);
        }
        let mut masked = Frames::default();
        masked.take(&[0x81, 0x82, 1, 2, 3], false);
        assert!(!masked.is_between());
        assert_eq!(masked.take(&[4, 5, 6, 0x81, 1], true), 3, "to the end of this frame and not further");
        assert!(masked.is_between());
    }

    #[tokio::test]
    async fn who_is_not_told_a_close_by_the_instance_is_told_that_it_goes_away() {
        let close_of_its_own: &[u8] = &[0x88, 2, 0x03, 0xe8];
        let cases: [(Vec<u8>, Vec<u8>); 3] = [
            (frame(3), [frame(3), GOING_AWAY.to_vec()].concat()),
            ([frame(3), close_of_its_own.to_vec()].concat(), [frame(3), close_of_its_own.to_vec()].concat()),
            // In the middle of a frame there is no place for one.
            (frame(300)[..20].to_vec(), frame(300)[..20].to_vec()),
        ];
        for (sent, expected) in cases {
            let mut got = Vec::new();
            let ended = pass(&sent[..], &mut got, pending()).await.expect("passed");
            assert_eq!((ended, got), (Ended::Whole, expected));
        }
    }

    #[tokio::test]
    async fn an_instance_that_leaves_finishes_the_frame_under_way() {
        let (mut instance, from) = tokio::io::duplex(1024);
        let (mut visitor, to) = tokio::io::duplex(1024);
        let (leave, leaving) = tokio::sync::oneshot::channel::<()>();
        let passing = tokio::spawn(pass(from, to, async move { drop(leaving.await) }));
        let frame = frame(10);
        instance.write_all(&frame[..5]).await.expect("written");
        let mut got = [0; 5];
        visitor.read_exact(&mut got).await.expect("read");
        leave.send(()).expect("it listens");
        // The rest of it, and one that comes too late.
        instance.write_all(&[&frame[5..], &frame[..]].concat()).await.expect("written");
        drop(instance);
        let mut rest = Vec::new();
        visitor.read_to_end(&mut rest).await.expect("read");
        assert_eq!(rest, [&frame[5..], &GOING_AWAY].concat());
        assert_eq!(passing.await.expect("joined").expect("passed"), Ended::Left);
    }
}
