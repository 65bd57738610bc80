//! sha256 in the forms registries use.

use sha2::{Digest, Sha256};
use std::io::{self, Read};

/// `sha256:<hex>`
pub(super) fn of(data: &[u8]) -> String {
    finish(Sha256::new_with_prefix(data))
}

pub(super) fn finish(hasher: Sha256) -> String {
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in hasher.finalize() {
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    text
}

/// The hexadecimal part of a sha256 digest; `None` for anything else, so that it is safe as a file name.
pub(super) fn hex(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then_some(hex)
}

/// The identity of a layer on top of all below it (OCI image-spec, "ChainID").
pub(super) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            Some(below) => of(format!("{below} {diff_id}").as_bytes()),
            None => diff_id.clone(),
        };
        chain.push(next);
    }
    chain
}

/// Passes bytes through and digests them.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    pub count: u64,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new(), count: 0 }
    }

    /// Reads what is left, for the digest's sake.
    pub(super) fn finish(mut self) -> io::Result<(String, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((finish(self.hasher), self.count))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_lower_case_hexadecimal() {
        assert_eq!(of(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn only_whole_sha256_digests_become_file_names() {
        assert!(hex(&of(b"x")).is_some());
        for bad in ["sha256:..", "sha512:aa", "", "sha256:ZZ"] {
            assert_eq!(hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_chain_depends_on_the_order() {
        let (a, b) = (of(b"a"), of(b"b"));
        let ab = chain_ids(&[a.clone(), b.clone()]);
        assert_eq!(ab[0], a);
        assert_ne!(ab[1], chain_ids(&[b, a])[1]);
    }
}
