//! The messages between an agent and init, over a SOCK_SEQPACKET socket.
//!
//! A request is [`Request::SIZE`] bytes, with descriptors where its kind says so; the answer comes
//! on the same connection. Newer peers may send more bytes than an older one knows: the rest is
//! ignored. A kind that init does not know is answered with [`UNSUPPORTED`] and nothing else
//! happens.

/// Takes over draining a pair of pipes. Argument: the incarnation of the app. Descriptors: the
/// reading ends of stdout and stderr.
pub const ATTACH: u16 = 1;
/// Asks for the state only.
pub const STATE: u16 = 2;
/// Keeps the exit of a process in the slots for watched ones. Argument: its pid inside.
pub const WATCH: u16 = 3;
/// Ends init, and with it the sandbox and all that runs in it.
pub const SHUTDOWN: u16 = 4;

/// `status` of an answer to a kind that this init does not know.
pub const UNSUPPORTED: i32 = -1;

/// The version of what this crate speaks. It says which kinds exist, nothing more.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"DINI";

/// What an agent asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// One of the kinds above.
    pub kind: u16,
    /// What the kind says.
    pub argument: u64,
}

impl Request {
    /// Bytes of a request.
    pub const SIZE: usize = 16;

    /// The request as it is sent.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.argument.to_le_bytes());
        bytes
    }

    /// Reads a request; nothing if it is none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::SIZE)?;
        if bytes[..4] != MAGIC {
            return None;
        }
        Some(Self {
            kind: u16::from_le_bytes(bytes[6..8].try_into().ok()?),
            argument: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
        })
    }
}

/// What init answers: how the request went, and its state after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The version that this init speaks.
    pub version: u16,
    /// 0, an errno, or [`UNSUPPORTED`].
    pub status: i32,
    /// The incarnation of the last attached pipes; 0 before the first.
    pub incarnation: u32,
    /// Pipes that are still open.
    pub open_pipes: u32,
    /// Which of the two log files is written now: 0 or 1.
    pub current_log: u32,
    /// Records of exits written so far.
    pub exits: u64,
    /// Bytes of log that could not be written, as with a full disk.
    pub dropped: u64,
}

impl Answer {
    /// Bytes of an answer of this version.
    pub const SIZE: usize = 40;

    /// The answer as it is sent.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.status.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.open_pipes.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.current_log.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.exits.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.dropped.to_le_bytes());
        bytes
    }

    /// Reads an answer; nothing if it is none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::SIZE)?;
        if bytes[..4] != MAGIC {
            return None;
        }
        let word = |at: usize| Some(u32::from_le_bytes(bytes[at..at + 4].try_into().ok()?));
        let long = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
        Some(Self {
            version: u16::from_le_bytes(bytes[4..6].try_into().ok()?),
            status: word(8)?.cast_signed(),
            incarnation: word(12)?,
            open_pipes: word(16)?,
            current_log: word(20)?,
            exits: long(24)?,
            dropped: long(32)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back_as_written_also_when_a_newer_peer_sends_more() {
        let request = Request { kind: WATCH, argument: 42 };
        let mut bytes = request.to_bytes().to_vec();
        bytes.extend([1, 2, 3]);
        assert_eq!(Request::from_bytes(&bytes), Some(request));
        let answer = Answer {
            version: VERSION,
            status: -1,
            incarnation: 2,
            open_pipes: 3,
            current_log: 1,
            exits: u64::MAX,
            dropped: 5,
        };
        let mut bytes = answer.to_bytes().to_vec();
        bytes.extend([1, 2, 3]);
        assert_eq!(Answer::from_bytes(&bytes), Some(answer));
    }

    #[test]
    fn what_is_short_or_foreign_is_no_message() {
        assert_eq!(Request::from_bytes(b"DINI"), None);
        assert_eq!(Request::from_bytes(&[0; 64]), None);
        assert_eq!(Answer::from_bytes(&[0; 64]), None);
    }
}
