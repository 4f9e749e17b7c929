//! The exit records: a file of fixed slots that init overwrites in turn.
//!
//! Every orphan of a sandbox is reaped by init, so an app could write any number of records. Two
//! rings bound the file and keep the records that matter: processes the agent has asked to watch
//! have slots of their own, which no stray child can push out.

/// Bytes of one record.
pub const RECORD_SIZE: usize = 32;
/// Slots for watched processes, at the start of the file.
pub const WATCHED_SLOTS: u64 = 64;
/// Slots for everything else that was reaped, after those.
pub const OTHER_SLOTS: u64 = 1024;
/// The largest that the file gets.
pub const FILE_LIMIT: u64 = (WATCHED_SLOTS + OTHER_SLOTS) * RECORD_SIZE as u64;

const MAGIC: [u8; 4] = *b"DXT1";

/// That a direct child of init, or an orphan that became one, has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitRecord {
    /// The process, as its own pid namespace counts it.
    pub pid_inside: i32,
    /// The status as `wait(2)` gives it.
    pub status: i32,
    /// When it was reaped, in nanoseconds since 1970.
    pub at: u64,
    /// Counts the records of one init, from 1.
    pub sequence: u64,
}

impl ExitRecord {
    /// The record as one slot of the file.
    #[must_use]
    pub fn to_bytes(self) -> [u8; RECORD_SIZE] {
        let mut bytes = [0; RECORD_SIZE];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.pid_inside.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.status.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.at.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.sequence.to_le_bytes());
        let sum = checksum(&bytes[..28]);
        bytes[28..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads one slot; nothing if it is empty, torn or not a record.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD_SIZE] = bytes.try_into().ok()?;
        let (body, sum) = bytes.split_at(28);
        if body[..4] != MAGIC || sum != checksum(body).to_le_bytes() {
            return None;
        }
        Some(Self {
            pid_inside: i32::from_le_bytes(body[4..8].try_into().ok()?),
            status: i32::from_le_bytes(body[8..12].try_into().ok()?),
            at: u64::from_le_bytes(body[12..20].try_into().ok()?),
            sequence: u64::from_le_bytes(body[20..28].try_into().ok()?),
        })
    }
}

/// FNV-1a: enough to tell a torn slot from a whole one.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: ExitRecord = ExitRecord { pid_inside: 7, status: 0x0100, at: 1_700_000_000_000_000_000, sequence: 3 };

    #[test]
    fn a_record_reads_back_as_written() {
        assert_eq!(ExitRecord::from_bytes(&RECORD.to_bytes()), Some(RECORD));
    }

    #[test]
    fn a_record_with_any_damaged_byte_is_no_record() {
        for at in 0..RECORD_SIZE {
            let mut bytes = RECORD.to_bytes();
            bytes[at] ^= 0x40;
            assert_eq!(ExitRecord::from_bytes(&bytes), None, "byte {at}");
        }
        assert_eq!(ExitRecord::from_bytes(&[0; RECORD_SIZE]), None);
        assert_eq!(ExitRecord::from_bytes(&[]), None);
    }
}
