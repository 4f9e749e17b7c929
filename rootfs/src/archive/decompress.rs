//! Plain, gzip or zstd: told apart by the first bytes, never by a name or a media type.

use std::io::{self, BufReader, Read};

use super::limits::{Counted, Guarded, Limits};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The largest window a zstd frame may ask us to keep: 128 MiB, the format's recommended maximum.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The uncompressed stream of `reader`, which fails when it passes `limits`.
///
/// # Errors
/// When the first bytes cannot be read or a decoder cannot be made.
pub fn decompressed<'a>(mut reader: impl Read + 'a, limits: Limits) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(ZSTD.len());
    reader.by_ref().take(ZSTD.len() as u64).read_to_end(&mut magic)?;
    let is_gzip = magic.starts_with(&GZIP);
    let is_zstd = magic.starts_with(&ZSTD);
    let (counted, count) = Counted::new(io::Cursor::new(magic).chain(reader));
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
