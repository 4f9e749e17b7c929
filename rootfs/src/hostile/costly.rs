//! Archives that cost far more than they weigh.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::EntryType;

use super::Archive;

/// More than the size from which on the ratio counts.
const LARGE: usize = 80 << 20;

/// A file of zeros.
pub(super) fn zeros() -> Vec<u8> {
    Archive::new().raw(EntryType::Regular, b"zeros", b"", 0o644, LARGE as u64, &vec![0; LARGE]).end()
}

/// An honest archive with zeros after its end, which no listing shows.
pub(super) fn zeros_after_the_end() -> Vec<u8> {
    let mut archive = Archive::new().file("index.html", "hello").end();
    archive.resize(archive.len() + LARGE, 0);
    archive
}

/// Headers for all entries and never an entry: nothing is ever written, and it never ends.
pub(super) fn headers(count: usize) -> Vec<u8> {
    let one = Archive::new().special(EntryType::XGlobalHeader, "pax").unfinished();
    one.repeat(count)
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing into memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Many gzip members, one after the other: readers that stop at the first see another archive.
pub(super) fn gzip_in_parts(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(8 << 20).flat_map(gzip).collect()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap_or_default()
}

pub(super) fn zstd_in_parts(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(8 << 20).flat_map(zstd).collect()
}

/// A frame that asks its reader for 2 GiB of memory (RFC 8878, window descriptor).
pub(super) fn zstd_with_a_huge_window() -> Vec<u8> {
    let (exponent, block) = (31 - 10, [1, 0, 0]);
    [&[0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3][..], &block].concat()
}
