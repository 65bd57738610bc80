//! The tokens as they stand in the store: sealed, because whoever reads the store, or a snapshot of it, must not thereby be
//! let in as a server. AES-256-GCM with a key of HKDF-SHA256 over the CA's private key, which every server has and the
//! store has not, and a random salt.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};

/// Form of what follows.
const FORM: u8 = 1;
const SALT_LEN: usize = 16;
const PURPOSE: &[u8] = b"rk: join tokens of a cluster";

#[derive(Debug, thiserror::Error)]
pub(super) enum SealError {
    #[error("the system has no random numbers")]
    Random,
    #[error("the cipher refuses its key")]
    Cipher,
    #[error("the tokens in the store are not sealed with this cluster's CA key")]
    Foreign,
}

/// What seals and opens.
pub(super) struct Seal {
    ca_key: Vec<u8>,
}

impl Seal {
    /// `ca_key`: PKCS#8, DER.
    pub(super) fn new(ca_key: &[u8]) -> Self {
        Self { ca_key: ca_key.to_vec() }
    }

    fn key(&self, salt: &[u8]) -> Result<LessSafeKey, SealError> {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&self.ca_key);
        let key = secret.expand(&[PURPOSE], &AES_256_GCM).map_err(|_| SealError::Cipher)?;
        Ok(LessSafeKey::new(UnboundKey::from(key)))
    }

    pub(super) fn close(&self, content: &[u8]) -> Result<Vec<u8>, SealError> {
        let random = SystemRandom::new();
        let (mut salt, mut nonce) = ([0; SALT_LEN], [0; NONCE_LEN]);
        random.fill(&mut salt).and_then(|()| random.fill(&mut nonce)).map_err(|_| SealError::Random)?;
        let mut sealed = content.to_vec();
        let key = self.key(&salt)?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from([FORM]), &mut sealed)
            .map_err(|_| SealError::Cipher)?;
        Ok([&[FORM], &salt[..], &nonce, &sealed].concat())
    }

    pub(super) fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (form, rest) = sealed.split_first().ok_or(SealError::Foreign)?;
        let (salt, rest) = rest.split_at_checked(SALT_LEN).ok_or(SealError::Foreign)?;
        let (nonce, rest) = rest.split_at_checked(NONCE_LEN).ok_or(SealError::Foreign)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Foreign)?;
        let mut content = rest.to_vec();
        let opened = self.key(salt)?.open_in_place(nonce, Aad::from([*form]), &mut content);
        opened.map(|content| content.to_vec()).map_err(|_| SealError::Foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_opens_what_was_sealed() {
        let (seal, other) = (Seal::new(b"a key"), Seal::new(b"another"));
        let sealed = seal.close(b"the tokens").unwrap();
        assert!(!sealed.windows(10).any(|part| part == b"the tokens"));
        assert_eq!(seal.open(&sealed).unwrap(), b"the tokens");
        assert!(matches!(other.open(&sealed), Err(SealError::Foreign)));
        assert_ne!(sealed, seal.close(b"the tokens").unwrap());
    }

    #[test]
    fn what_was_changed_or_cut_is_not_opened() {
        let seal = Seal::new(b"a key");
        let sealed = seal.close(b"the tokens").unwrap();
        for length in 0..sealed.len() {
            assert!(seal.open(&sealed[..length]).is_err(), "{length}");
        }
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert!(seal.open(&changed).is_err(), "{place}");
        }
    }
}
