//! What an archive may cost. A stream that passes a cap fails at the byte that passes it.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use drowse_api::MemoryBytes;

/// Caps on one archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed stream.
    pub bytes: u64,
    /// Entries of any kind.
    pub entries: u64,
    /// Uncompressed bytes for each compressed byte, looked at from [`RATIO_FROM`] on.
    pub ratio: u64,
    /// Bytes of one pax record or long name.
    pub extension: u64,
}

/// Below this many uncompressed bytes the ratio does not matter: small archives of empty files
/// compress extremely well.
pub const RATIO_FROM: u64 = 64 << 20;

impl Limits {
    /// For a layer of an image: 16 GiB, a million entries.
    pub const LAYER: Self = Self { bytes: 16 << 30, entries: 1_000_000, ratio: 200, extension: 1 << 20 };
    /// For a folder that a user uploads: 2 GiB, 200,000 entries.
    pub const UPLOAD: Self = Self { bytes: 2 << 30, entries: 200_000, ratio: 200, extension: 64 << 10 };
}

/// Which cap was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// Too many bytes.
    #[error("it unpacks to more than {0}")]
    Bytes(MemoryBytes),
    /// Too many entries.
    #[error("it has more than {0} entries")]
    Entries(u64),
    /// It looks like a bomb.
    #[error("it unpacks to more than {0} times its size")]
    Ratio(u64),
    /// A long name or pax record that is too large.
    #[error("one of its extended headers is larger than {0}")]
    Extension(MemoryBytes),
}

/// Counts what passes through it.
pub(super) struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R> Counted<R> {
    pub(super) fn new(inner: R) -> (Self, Rc<Cell<u64>>) {
        let count = Rc::new(Cell::new(0));
        (Self { inner, count: Rc::clone(&count) }, count)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// Fails once more came out than `limits` allow for what went in.
pub(super) struct Guarded<R> {
    inner: R,
    compressed: Rc<Cell<u64>>,
    out: u64,
    limits: Limits,
}

impl<R> Guarded<R> {
    pub(super) fn new(inner: R, compressed: Rc<Cell<u64>>, limits: Limits) -> Self {
        Self { inner, compressed, out: 0, limits }
    }
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.out += read as u64;
        if self.out > self.limits.bytes {
            return Err(io::Error::other(Exceeded::Bytes(MemoryBytes(self.limits.bytes))));
        }
        if self.out > RATIO_FROM && self.out / self.limits.ratio > self.compressed.get() {
            return Err(io::Error::other(Exceeded::Ratio(self.limits.ratio)));
        }
        Ok(read)
    }
}
