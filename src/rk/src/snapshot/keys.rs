//! What a cluster is beside its store: the CA, the key of service accounts' tokens, join tokens. They travel in a snapshot,
//! encrypted by a key that is derived from the server's join token, so that the file alone certifies nobody.
//!
//! AES-256-GCM with a key of PBKDF2-HMAC-SHA256 and a random salt; the CA's hash is authenticated along with it.

use crate::config;
use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pki::{JoinToken, files, token};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::pbkdf2;
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

const CA: &str = "tls/ca.crt";
/// Below `server` in the data folder. Those that are not there are left out.
const FILES: [&str; 5] = ["tls/ca.key", "tls/service-account.key", "token", "node-token", CA];
/// Against guessing at a token that a person has chosen.
const ITERATIONS: u32 = 600_000;
/// A file that asks for more wants to waste time.
const MOST_ITERATIONS: u32 = 20_000_000;
const SALT_BYTES: usize = 16;

/// The encrypted files, as they stand in a snapshot's head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sealed {
    iterations: u32,
    salt: String,
    nonce: String,
    content: String,
}

type Content = BTreeMap<String, String>;

fn server(data_dir: &Path) -> PathBuf {
    data_dir.join("server")
}

/// The join token whose secret protects the keys. The only place that knows where it is.
fn join_token(data_dir: &Path) -> anyhow::Result<JoinToken> {
    // Those of a server that ran a version before there were tokens for servers have the other one only.
    for path in [config::server_token_path(data_dir), config::node_token_path(data_dir)] {
        if let Some(text) = files::read_if_present(&path)? {
            return text.parse().with_context(|| format!("read {}", path.display()));
        }
    }
    bail!("there is no join token in {}", server(data_dir).display())
}

/// The hash of this box's CA certificate, if it has one.
pub(super) fn ca_hash(data_dir: &Path) -> anyhow::Result<Option<String>> {
    let path = server(data_dir).join(CA);
    let Some(pem) = files::read_if_present(&path)? else { return Ok(None) };
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).with_context(|| format!("read {}", path.display()))?;
    Ok(Some(token::ca_hash(&der)))
}

/// Reads and encrypts what a server has. Takes a while on purpose: blocking.
pub(super) fn seal(data_dir: &Path, ca_hash: &str) -> anyhow::Result<Sealed> {
    let token = join_token(data_dir)?;
    let mut content = Content::new();
    for name in FILES {
        if let Some(text) = files::read_if_present(&server(data_dir).join(name))? {
            content.insert(name.to_owned(), text);
        }
    }
    encrypt(&content, token.secret(), ca_hash, ITERATIONS)
}

/// Decrypts with the token that somebody gave: the whole of it, or its secret.
pub(super) fn unseal(sealed: &Sealed, given: &str, ca_hash: &str) -> anyhow::Result<Keys> {
    let given = given.trim();
    let secret = if given.starts_with("K10") {
        let token: JoinToken = given.parse().context("--token")?;
        ensure!(
            token.ca_hash() == ca_hash,
            "the token is another cluster's: it is for CA {}, and the snapshot is of CA {}",
            short(token.ca_hash()),
            short(ca_hash)
        );
        token.secret().to_owned()
    } else {
        given.to_owned()
    };
    Ok(Keys { content: decrypt(sealed, &secret, ca_hash)? })
}

/// The beginning of a hash, enough to tell clusters apart.
pub(super) fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// Decrypted files.
pub(super) struct Keys {
    content: Content,
}

impl Keys {
    /// Writes those that are missing, the CA's certificate last: its presence says that the rest is there.
    pub(super) fn write_missing(&self, data_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let mut written = Vec::new();
        for name in FILES {
            let path = server(data_dir).join(name);
            if let Some(text) = self.content.get(name).filter(|_| !path.exists()) {
                files::write_private(&path, text.as_bytes())?;
                written.push(path);
            }
        }
        Ok(written)
    }
}

/// Whether one of the files without which a cluster is another one is not there.
pub(super) fn incomplete(data_dir: &Path) -> bool {
    ["tls/ca.key", "tls/service-account.key", CA].iter().any(|name| !server(data_dir).join(name).exists())
}

fn key(secret: &str, salt: &[u8], iterations: u32) -> anyhow::Result<LessSafeKey> {
    let iterations = NonZeroU32::new(iterations).context("no iterations")?;
    let mut key = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, secret.as_bytes(), &mut key);
    let key = UnboundKey::new(&AES_256_GCM, &key).ok().context("the cipher refuses its key")?;
    Ok(LessSafeKey::new(key))
}

fn encrypt(content: &Content, secret: &str, ca_hash: &str, iterations: u32) -> anyhow::Result<Sealed> {
    let random = SystemRandom::new();
    let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_LEN]);
    random.fill(&mut salt).and_then(|()| random.fill(&mut nonce)).ok().context("the system has no random numbers")?;
    let mut bytes = serde_json::to_vec(content)?;
    let sealed = key(secret, &salt, iterations)?.seal_in_place_append_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(ca_hash.as_bytes()),
        &mut bytes,
    );
    sealed.ok().context("the keys cannot be encrypted")?;
    let [salt, nonce] = [&salt[..], &nonce].map(|bytes| STANDARD.encode(bytes));
    Ok(Sealed { iterations, salt, nonce, content: STANDARD.encode(bytes) })
}

fn decrypt(sealed: &Sealed, secret: &str, ca_hash: &str) -> anyhow::Result<Content> {
    let malformed = "the snapshot's encrypted keys are malformed";
    ensure!(sealed.iterations <= MOST_ITERATIONS, "{malformed}: {} iterations", sealed.iterations);
    let [salt, nonce, mut bytes] =
        match [&sealed.salt, &sealed.nonce, &sealed.content].map(|text| STANDARD.decode(text)) {
            [Ok(salt), Ok(nonce), Ok(bytes)] => [salt, nonce, bytes],
            _ => bail!(malformed),
        };
    let nonce = Nonce::try_assume_unique_for_key(&nonce).ok().context(malformed)?;
    let key = key(secret, &salt, sealed.iterations)?;
    let opened = key.open_in_place(nonce, Aad::from(ca_hash.as_bytes()), &mut bytes);
    let opened = opened.ok().context(
        "the token does not open the snapshot's keys: give the join token that the cluster had when it was taken \
         (server/token or server/node-token in the data folder then)",
    )?;
    serde_json::from_slice(opened).context(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        [("tls/ca.key", "the key"), (CA, "the certificate")].map(|(a, b)| (a.to_owned(), b.to_owned())).into()
    }

    #[test]
    fn keys_come_back_with_the_token_and_its_cluster_only() {
        let sealed = encrypt(&content(), "secret", "hash", 10).unwrap();
        assert!(!serde_json::to_string(&sealed).unwrap().contains("the key"));
        assert_eq!(decrypt(&sealed, "secret", "hash").unwrap(), content());
        let wrong = decrypt(&sealed, "Secret", "hash").unwrap_err().to_string();
        assert!(wrong.contains("does not open"), "{wrong}");
        assert!(decrypt(&sealed, "secret", "another").is_err());
        let again = encrypt(&content(), "secret", "hash", 10).unwrap();
        assert_ne!((&sealed.salt, &sealed.content), (&again.salt, &again.content));
    }

    #[test]
    fn hostile_heads_are_refused_without_work() {
        let sealed = encrypt(&content(), "secret", "hash", 10).unwrap();
        let changed = |change: &dyn Fn(&mut Sealed)| {
            let mut bad = sealed.clone();
            change(&mut bad);
            decrypt(&bad, "secret", "hash").unwrap_err().to_string()
        };
        assert!(changed(&|bad| bad.iterations = u32::MAX).contains("iterations"));
        assert!(changed(&|bad| bad.iterations = 0).contains("iterations"));
        assert!(changed(&|bad| bad.nonce = "AAAA".into()).contains("malformed"));
        assert!(changed(&|bad| bad.content = "!".into()).contains("malformed"));
        assert!(changed(&|bad| bad.content = "AAAA".into()).contains("does not open"));
    }

    #[test]
    fn a_box_without_keys_gets_those_that_it_lacks() {
        let folder = std::env::temp_dir().join(format!("rk-snapshot-keys-{}", std::process::id()));
        let keys = Keys { content: content() };
        assert!(incomplete(&folder));
        files::write_private(&folder.join("server/tls/ca.key"), b"own").unwrap();
        let written = keys.write_missing(&folder).unwrap();
        assert_eq!(written, [folder.join("server/tls/ca.crt")]);
        assert_eq!(files::read(&folder.join("server/tls/ca.key")).unwrap(), "own");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn another_clusters_token_is_told_by_its_ca() {
        let sealed = encrypt(&content(), "secret", &"a".repeat(64), 10).unwrap();
        let token = JoinToken::new(b"another", "node", "secret").to_string();
        let error = unseal(&sealed, &token, &"a".repeat(64)).err().unwrap().to_string();
        assert!(error.contains("another cluster's") && error.contains("aaaaaaaaaaaa"), "{error}");
    }
}
