//! The one message: what to enter, and what to take along.
//!
//! Descriptors come with it in this order: the pidfd of a process in the sandbox, CRIU's socket, those to keep, those of
//! `cgroup.procs` in every hierarchy. The answer is the pid on the host, with a pidfd.

/// The number of CRIU's socket inside: `criu swrk 3`.
pub const RPC: i32 = 3;
/// The number of the first descriptor that is kept; the others follow it.
pub const FIRST_KEPT: i32 = 40;
/// The most descriptors of a message.
pub const MAX_DESCRIPTORS: usize = 24;
/// Bytes of the message.
pub const SIZE: usize = 20;

const MAGIC: [u8; 4] = *b"DNSE";
/// Agent and object are of one release: there is nothing to negotiate.
const VERSION: u8 = 1;
const OWN_ROOT: u8 = 1;
const ABORTABLE: u8 = 2;
const NO_ID: u32 = u32::MAX;

/// What the message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// How many descriptors are kept.
    pub kept: u8,
    /// How many are of control groups, which are entered before anything else.
    pub groups: u8,
    /// Whether to make a control group namespace whose root is those groups, as every app has one of its
    /// own; else the process's is entered.
    pub is_own_root: bool,
    /// Whether SIGUSR1 makes the next write to a file fail, so that a dump gives up.
    pub is_abortable: bool,
    /// The real user and group; the effective ones stay root's. Where `CAP_SYS_RESOURCE` is missing, the
    /// limits of a process can be read only by a user who is the same.
    pub real_ids: Option<(u32, u32)>,
}

impl Entry {
    /// How many descriptors come with it.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        2 + usize::from(self.kept) + usize::from(self.groups)
    }

    fn flags(self) -> u8 {
        (if self.is_own_root { OWN_ROOT } else { 0 }) | if self.is_abortable { ABORTABLE } else { 0 }
    }

    /// As it is sent.
    #[must_use]
    pub fn to_bytes(self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let (uid, gid) = self.real_ids.unwrap_or((NO_ID, NO_ID));
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&[VERSION, self.kept, self.groups, self.flags()]);
        bytes[8..12].copy_from_slice(&uid.to_le_bytes());
        bytes[12..16].copy_from_slice(&gid.to_le_bytes());
        bytes
    }

    /// Reads it; nothing if it is none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; SIZE]) -> Option<Self> {
        if bytes[..4] != MAGIC || bytes[4] != VERSION {
            return None;
        }
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let (uid, gid) = (word(8)?, word(12)?);
        let real_ids = (uid != NO_ID && gid != NO_ID).then_some((uid, gid));
        let (is_own_root, is_abortable) = (bytes[7] & OWN_ROOT != 0, bytes[7] & ABORTABLE != 0);
        let entry = Self { kept: bytes[5], groups: bytes[6], is_own_root, is_abortable, real_ids };
        (entry.descriptors() <= MAX_DESCRIPTORS).then_some(entry)
    }
}
