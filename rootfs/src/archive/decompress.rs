//! Plain, gzip or zstd: told apart by the first bytes, never by a name or a media type.

use std::io::{BufReader, Cursor, Read};

use super::ArchiveError;
use super::limits::{Counted, Guarded, Limits};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The largest window a zstd frame may ask us to keep: 128 MiB, the format's recommended maximum.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How other packers' files begin; `?` is any byte.
const OTHERS: [(&[u8], &str); 7] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh?1AY&SY", "bzip2"),
    (b"PK\x03\x04", "zip"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x5d\0\0?\0", "lzma"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
];
const LONGEST_MAGIC: u64 = 10;

/// The uncompressed stream of `reader`, which fails when it passes `limits`.
///
/// # Errors
/// When it is packed in a way that we do not read, the first bytes cannot be read or a decoder cannot
/// be made.
pub fn decompressed<'a>(mut reader: impl Read + 'a, limits: Limits) -> Result<Box<dyn Read + 'a>, ArchiveError> {
    let mut magic = Vec::new();
    reader.by_ref().take(LONGEST_MAGIC).read_to_end(&mut magic)?;
    let begins = |with: &[u8]| {
        magic.len() >= with.len() && with.iter().zip(&magic).all(|(wanted, found)| *wanted == b'?' || wanted == found)
    };
    if let Some((_, name)) = OTHERS.iter().find(|(with, _)| begins(with)) {
        return Err(ArchiveError::Packed(name));
    }
    let is_gzip = magic.starts_with(&GZIP);
    let is_zstd = magic.starts_with(&ZSTD);
    let (counted, count) = Counted::new(Cursor::new(magic).chain(reader));
    let source = BufReader::with_capacity(256 << 10, counted);
    Ok(if is_gzip {
        Box::new(Guarded::new(flate2::bufread::MultiGzDecoder::new(source), count, limits))
    } else if is_zstd {
        let mut decoder = zstd::Decoder::with_buffer(source)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        Box::new(Guarded::new(decoder, count, limits))
    } else {
        Box::new(Guarded::new(source, count, limits))
    })
}
