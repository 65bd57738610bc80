//! Join tokens: `K10<hex sha256 of the CA certificate>::<user>:<secret>`.
//!
//! The hash lets a joining machine verify the server before it sends the secret; the secret lets the server verify
//! the machine. The shape is the one k3s users have in their scripts.

use rand::Rng;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "K10";
const SECRET_BYTES: usize = 16;

/// A parsed join token. `Display` shows the secret, `Debug` does not.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    ca_hash: String,
    user: String,
    secret: String,
}

/// Why a text is no join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is empty; use the content of /var/lib/rk/server/node-token of the server")]
    Empty,
    #[error("the token does not start with K10: it must look like K10<64 hex digits>::<user>:<secret>")]
    Prefix,
    #[error("the token's CA hash must be 64 hex digits")]
    Hash,
    #[error("the token has no <user>:<secret> after its CA hash")]
    Credentials,
}

impl JoinToken {
    /// A token for the cluster of this CA certificate (DER).
    pub fn new(ca_der: &[u8], user: &str, secret: &str) -> Self {
        Self { ca_hash: ca_hash(ca_der), user: user.to_owned(), secret: secret.to_owned() }
    }

    /// 128 random bits, in hex.
    pub fn random_secret() -> String {
        hex(&rand::rng().random::<[u8; SECRET_BYTES]>())
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Of the CA certificate whose cluster it is for, in lower-case hex.
    pub fn ca_hash(&self) -> &str {
        &self.ca_hash
    }

    /// Whether this token was made for the cluster of this CA certificate (DER).
    pub fn is_for(&self, ca_der: &[u8]) -> bool {
        self.ca_hash == ca_hash(ca_der)
    }

    /// Whether `secret` is this token's, in time that does not depend on where they differ.
    pub fn has_secret(&self, secret: &str) -> bool {
        Sha256::digest(&self.secret) == Sha256::digest(secret)
    }

    /// Whether `user` and `secret` are this token's, in time that does not depend on where they differ.
    pub fn accepts(&self, user: &str, secret: &str) -> bool {
        let digest = |user: &str, secret: &str| Sha256::digest(format!("{user}:{secret}"));
        digest(&self.user, &self.secret) == digest(user, secret)
    }
}

/// The hex SHA-256 of a CA certificate (DER), as it stands in tokens.
pub fn ca_hash(ca_der: &[u8]) -> String {
    hex(&Sha256::digest(ca_der))
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let (hash, credentials) = rest.split_once("::").ok_or(TokenError::Credentials)?;
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(TokenError::Hash);
        }
        let (user, secret) = credentials.split_once(':').ok_or(TokenError::Credentials)?;
        if user.is_empty() || secret.is_empty() {
            return Err(TokenError::Credentials);
        }
        Ok(Self { ca_hash: hash.to_ascii_lowercase(), user: user.to_owned(), secret: secret.to_owned() })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}::{}:{}", self.ca_hash, self.user, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "JoinToken({PREFIX}{}::{}:…)", self.ca_hash, self.user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_names_its_cluster() {
        let token = JoinToken::new(b"ca one", "node", &JoinToken::random_secret());
        let read: JoinToken = format!(" {token}\n").parse().unwrap();
        assert_eq!(read, token);
        assert!(read.is_for(b"ca one"));
        assert!(!read.is_for(b"ca two"));
        assert!(read.accepts("node", token.secret()));
        assert!(!read.accepts("node", "guess"));
        assert!(!format!("{read:?}").contains(token.secret()), "the secret stays out of logs");
    }

    #[test]
    fn malformed_tokens_say_what_is_wrong() {
        let hash = "0".repeat(64);
        for (text, error) in [
            (String::new(), TokenError::Empty),
            ("abc".into(), TokenError::Prefix),
            ("K10xyz::node:s".into(), TokenError::Hash),
            (format!("K10{hash}"), TokenError::Credentials),
            (format!("K10{hash}::node"), TokenError::Credentials),
            (format!("K10{hash}::node:"), TokenError::Credentials),
        ] {
            assert_eq!(text.parse::<JoinToken>(), Err(error), "{text}");
        }
    }
}
