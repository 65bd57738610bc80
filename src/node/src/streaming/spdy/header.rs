//! Name/value blocks: compressed with one zlib stream per direction, primed with a dictionary both sides know. Pure.

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::SpdyError;

/// A block takes this much at most, compressed or not.
pub(crate) const MAX_BLOCK: usize = 64 << 10;
const MAX_HEADERS: u32 = 256;

/// The Adler-32 checksum that names the dictionary in the zlib header.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

/// Draft 3, section 2.6.10.1: words with their length before them, then bare text.
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
    publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS {
        push_text(&mut out, word);
    }
    out.extend_from_slice(TEXT.as_bytes());
    out
});

/// Names (lower case) and values, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    // Nothing here comes near four gigabytes.
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub(crate) struct Encoder(Compress);

impl Encoder {
    pub(crate) fn new() -> Result<Encoder, SpdyError> {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Compression)?;
        Ok(Encoder(deflate))
    }

    pub(crate) fn encode(&mut self, headers: &Headers) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::new();
        plain.extend_from_slice(&u32::try_from(headers.0.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (name, value) in &headers.0 {
            push_text(&mut plain, &name.to_ascii_lowercase());
            push_text(&mut plain, value);
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let start = self.0.total_in();
        loop {
            let taken = usize::try_from(self.0.total_in() - start).unwrap_or(plain.len());
            self.0.compress_vec(&plain[taken..], &mut out, FlushCompress::Sync).map_err(|_| SpdyError::Compression)?;
            if out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

pub(crate) struct Decoder(Decompress);

impl Decoder {
    pub(crate) fn new() -> Decoder {
        Decoder(Decompress::new(true))
    }

    /// Every block must come here, in order, wanted or not: they share one compression state.
    pub(crate) fn decode(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut out = Vec::with_capacity(block.len() * 4 + 256);
        let start = self.0.total_in();
        loop {
            let taken = usize::try_from(self.0.total_in() - start).unwrap_or(block.len());
            match self.0.decompress_vec(&block[taken..], &mut out, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::BufError) if out.len() < out.capacity() => return Ok(out),
                Ok(Status::Ok | Status::BufError) if out.len() > MAX_BLOCK => return Err(SpdyError::TooBig),
                Ok(Status::Ok | Status::BufError) => out.reserve(out.len()),
                Ok(Status::StreamEnd) => return Err(SpdyError::Compression),
                Err(error) if error.needs_dictionary() == Some(DICTIONARY_ID) => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Compression)?;
                }
                Err(_) => return Err(SpdyError::Compression),
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, SpdyError> {
    let count = take_number(&mut block)?;
    if count > MAX_HEADERS {
        return Err(SpdyError::TooBig);
    }
    let mut headers = Headers::default();
    for _ in 0..count {
        let name = take_text(&mut block)?;
        let value = take_text(&mut block)?;
        headers.0.push((name, value));
    }
    Ok(headers)
}

fn take_number(block: &mut &[u8]) -> Result<u32, SpdyError> {
    let (number, rest) = block.split_first_chunk().ok_or(SpdyError::Malformed("a header block that ends early"))?;
    *block = rest;
    Ok(u32::from_be_bytes(*number))
}

fn take_text(block: &mut &[u8]) -> Result<String, SpdyError> {
    let length = take_number(block)? as usize;
    let text = block.split_at_checked(length).ok_or(SpdyError::Malformed("a header block that ends early"))?;
    *block = text.1;
    Ok(String::from_utf8_lossy(text.0).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    fn adler32(data: &[u8]) -> u32 {
        let (a, b) = data.iter().fold((1u32, 0u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (b + a) % 65_521)
        });
        b << 16 | a
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_draft() {
        assert_eq!(DICTIONARY.len(), 1423);
        assert_eq!(adler32(&DICTIONARY), DICTIONARY_ID);
    }

    #[test]
    fn blocks_share_one_compression_state() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
        let blocks = [
            headers(&[("streamtype", "error"), ("port", "80"), ("requestid", "0")]),
            headers(&[("streamtype", "data"), ("port", "80"), ("requestid", "0")]),
            headers(&[]),
            headers(&[("long", &"x".repeat(20_000))]),
        ];
        for block in &blocks {
            let wire = encoder.encode(block).unwrap();
            assert_eq!(decoder.decode(&wire).unwrap(), *block);
        }
        let first = Encoder::new().unwrap().encode(&blocks[0]).unwrap();
        assert_eq!(first[2..6], DICTIONARY_ID.to_be_bytes());
    }

    #[test]
    fn broken_and_swollen_blocks_are_refused() {
        assert!(matches!(Decoder::new().decode(b"rubbish"), Err(SpdyError::Compression)));
        let swollen = Encoder::new().unwrap().encode(&headers(&[("bomb", &"0".repeat(4 << 20))])).unwrap();
        assert!(swollen.len() < MAX_BLOCK);
        assert!(matches!(Decoder::new().decode(&swollen), Err(SpdyError::TooBig)));
        for block in [&[0, 0, 0, 1][..], &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'x'], &[0, 0]] {
            assert!(matches!(parse(block), Err(SpdyError::Malformed(_))));
        }
        assert!(matches!(parse(&[0xff; 4]), Err(SpdyError::TooBig)));
    }
}
