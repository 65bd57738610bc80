//! What a file is that was given as an image archive and is none: told to whoever gave it.

use super::compression;
use std::io::{self, Cursor, Read};

/// Bytes of a tar's first header.
const HEADER: usize = 512;
/// Where a tar's header has its magic and its checksum.
const MAGIC: std::ops::Range<usize> = 257..262;
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// Characters of a text that are shown.
const SHOWN: usize = 40;
/// Kinds of files by their first bytes.
const KINDS: &[(&[u8], &str)] = &[
    (b"\x7fELF", "an ELF executable"),
    (b"PK\x03\x04", "a zip file"),
    (b"070701", "a cpio archive"),
    (b"!<arch>", "an ar archive or Debian package"),
    (b"hsqs", "a squashfs image"),
    (b"%PDF", "a PDF file"),
];

/// The tar in `input`, decompressed; or what it is instead, in words.
pub(super) fn tar_in<'a>(input: impl Read + 'a) -> io::Result<Result<Box<dyn Read + 'a>, String>> {
    let (start, input) = peek(input, 6)?;
    let packed = compression::name(&start);
    if let Some(other @ ("xz" | "bzip2")) = packed {
        return Ok(Err(format!("{other}-compressed data")));
    }
    let (head, plain) = peek(compression::decompress(input)?, HEADER)?;
    if may_be_tar(&head) {
        return Ok(Ok(Box::new(plain)));
    }
    let found = describe(&head);
    Ok(Err(match packed {
        Some(name) => format!("{name}-compressed, and inside {found}"),
        None => found,
    }))
}

fn peek<'a>(mut input: impl Read + 'a, bytes: usize) -> io::Result<(Vec<u8>, impl Read + 'a)> {
    let mut start = Vec::with_capacity(bytes);
    input.by_ref().take(bytes as u64).read_to_end(&mut start)?;
    Ok((start.clone(), Cursor::new(start).chain(input)))
}

/// The magic, or (before POSIX there was none) a right checksum; zeroes are the end of a tar without entries.
fn may_be_tar(head: &[u8]) -> bool {
    if head.get(MAGIC).is_some_and(|magic| magic == b"ustar") {
        return true;
    }
    if head.len() < HEADER {
        return false;
    }
    let sum: u32 =
        head.iter().enumerate().map(|(at, b)| u32::from(if CHECKSUM.contains(&at) { b' ' } else { *b })).sum();
    let field = head[CHECKSUM].split(|b| matches!(b, 0 | b' ')).find(|part| !part.is_empty()).unwrap_or_default();
    let told = std::str::from_utf8(field).ok().and_then(|text| u32::from_str_radix(text, 8).ok());
    told == Some(sum) || head.iter().all(|b| *b == 0)
}

fn describe(head: &[u8]) -> String {
    if head.is_empty() {
        return "empty".into();
    }
    if let Some((_, kind)) = KINDS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return (*kind).into();
    }
    let text = match std::str::from_utf8(head) {
        Ok(text) => Some(text),
        // Cut within a character.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok(),
        Err(_) => None,
    };
    match text.filter(|text| !text.chars().any(|c| c.is_control() && !c.is_whitespace())) {
        Some(text) => {
            let line: String = text.trim_start().lines().next().unwrap_or_default().chars().take(SHOWN).collect();
            format!("text beginning {line:?}")
        }
        None => {
            let bytes: Vec<String> = head.iter().take(8).map(|b| format!("{b:02x}")).collect();
            format!("binary data beginning {}", bytes.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn told(input: &[u8]) -> String {
        tar_in(input).unwrap().map(|_| "a tar".to_owned()).unwrap_or_else(|found| found)
    }

    #[test]
    fn what_is_no_tar_is_called_by_its_name() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"404 page not found\n").unwrap();
        let gzip = gzip.finish().unwrap();
        let cases: [(&[u8], &str); 8] = [
            (b"", "empty"),
            (b"404 page not found\n", "text beginning \"404 page not found\""),
            (&gzip, "gzip-compressed, and inside text beginning \"404 page not found\""),
            (b"{\"errors\":[]}", "text beginning \"{\\\"errors\\\":[]}\""),
            (b"\x7fELF\x02\x01\x01", "an ELF executable"),
            (b"BZh91AY&SY", "bzip2-compressed data"),
            (b"PK\x03\x04....", "a zip file"),
            (&[7; 4096], "binary data beginning 07 07 07 07 07 07 07 07"),
        ];
        for (input, expected) in cases {
            assert_eq!(told(input), expected);
        }
    }

    #[test]
    fn tars_of_all_ages_are_read_from_their_beginning() {
        for mut header in [tar::Header::new_gnu(), tar::Header::new_ustar(), tar::Header::new_old()] {
            header.set_path("file").unwrap();
            header.set_size(0);
            header.set_cksum();
            let mut tar = tar_in(header.as_bytes().as_slice()).unwrap().unwrap();
            let mut bytes = Vec::new();
            tar.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, header.as_bytes());
        }
        assert_eq!(told(&[0; 1024]), "a tar", "one without entries");
        assert_eq!(told(&tar::Header::new_gnu().as_bytes()[..300]), "a tar", "one cut short");
    }
}
