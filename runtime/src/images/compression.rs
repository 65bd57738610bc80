//! Streams that may be compressed, told by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Frames zstd decoders skip, as some layers begin with: 0x184D2A5?, little-endian.
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const BZIP2: &[u8] = b"BZh";

/// How a stream that begins so is compressed, in words.
pub(super) fn name(start: &[u8]) -> Option<&'static str> {
    match start {
        _ if start.starts_with(GZIP) => Some("gzip"),
        _ if start.starts_with(ZSTD) || is_skippable(start) => Some("zstd"),
        _ if start.starts_with(XZ) => Some("xz"),
        _ if start.starts_with(BZIP2) => Some("bzip2"),
        _ => None,
    }
}

fn is_skippable(start: &[u8]) -> bool {
    start.len() > 4 && start[0] & 0xf0 == 0x50 && start[1..4] == *ZSTD_SKIPPABLE
}

/// The plain bytes of a stream that is plain, gzip or zstd.
pub(super) fn decompress<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut stream = BufReader::with_capacity(128 << 10, stream);
    let start = stream.fill_buf()?;
    if start.starts_with(GZIP) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(stream)));
    }
    if start.starts_with(ZSTD) || is_skippable(start) {
        return Ok(Box::new(zstd::Decoder::with_buffer(stream)?));
    }
    if start.starts_with(XZ) || start.starts_with(BZIP2) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "compression other than gzip or zstd"));
    }
    Ok(Box::new(stream))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn plain(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        decompress(bytes).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn all_forms_come_out_the_same() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"text").unwrap();
        assert_eq!(plain(&gzip.finish().unwrap()), b"text");
        assert_eq!(plain(&zstd::encode_all(&b"text"[..], 1).unwrap()), b"text");
        assert_eq!(plain(b"text"), b"text");
        assert_eq!(plain(b""), b"");
    }

    #[test]
    fn other_compressions_are_named_as_such() {
        let error = decompress(&b"BZh91AY"[..]).map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert_eq!((name(b"BZh91AY"), name(b"hello")), (Some("bzip2"), None));
    }
}
