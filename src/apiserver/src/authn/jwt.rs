//! Signing and verifying service-account tokens (RFC 7519, compact form) with ES256 or RS256, and the public half as
//! JWKS (RFC 7517). Pure: the time is a parameter.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    rsa,
    signature::{self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use thiserror::Error;

/// Why a token or a key is of no use.
#[derive(Debug, Error)]
pub enum JwtError {
    /// Neither a P-256 nor an RSA PKCS#8 key.
    #[error("the signing key is neither an ECDSA P-256 nor an RSA key in PKCS#8")]
    Key,
    /// ring refused to sign.
    #[error("signing failed")]
    Sign,
    /// Not three base64url parts with a JSON header.
    #[error("malformed token")]
    Malformed,
    /// Signed by another key or algorithm.
    #[error("the token was signed by an unknown key")]
    UnknownKey,
    /// Signature does not match.
    #[error("invalid signature")]
    Signature,
    /// Claims are not what was expected.
    #[error("malformed claims")]
    Claims(#[source] serde_json::Error),
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(rsa::KeyPair),
}

/// A signing key with its public half.
pub(crate) struct SigningKey {
    pair: Pair,
    kid: String,
    random: SystemRandom,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    typ: String,
}

impl SigningKey {
    /// Reads a PKCS#8 key of either kind.
    pub(crate) fn from_pkcs8(der: &[u8]) -> Result<SigningKey, JwtError> {
        let random = SystemRandom::new();
        let pair = match EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random) {
            Ok(pair) => Pair::Ec(pair),
            Err(_) => Pair::Rsa(rsa::KeyPair::from_pkcs8(der).map_err(|_| JwtError::Key)?),
        };
        let kid = B64.encode(digest(&SHA256, public_bytes(&pair)));
        Ok(SigningKey { pair, kid, random })
    }

    fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Ec(_) => "ES256",
            Pair::Rsa(_) => "RS256",
        }
    }

    /// A signed token with these claims.
    pub(crate) fn sign(&self, claims: &impl Serialize) -> Result<String, JwtError> {
        let header = Header { alg: self.algorithm().into(), kid: self.kid.clone(), typ: String::new() };
        let encode = |json: Result<Vec<u8>, _>| json.map(|bytes| B64.encode(bytes)).map_err(JwtError::Claims);
        let mut token = encode(serde_json::to_vec(&header))?;
        token.push('.');
        token.push_str(&encode(serde_json::to_vec(claims))?);
        let signature = match &self.pair {
            Pair::Ec(pair) => pair.sign(&self.random, token.as_bytes()).map_err(|_| JwtError::Sign)?.as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &self.random, token.as_bytes(), &mut out)
                    .map_err(|_| JwtError::Sign)?;
                out
            }
        };
        token.push('.');
        token.push_str(&B64.encode(signature));
        Ok(token)
    }

    /// Claims of a token signed by this key. Says nothing about time or audience.
    pub(crate) fn verify<C: DeserializeOwned>(&self, token: &str) -> Result<C, JwtError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(JwtError::Malformed)?;
        let header = B64.decode(header).map_err(|_| JwtError::Malformed)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| JwtError::Malformed)?;
        if header.alg != self.algorithm() || (!header.kid.is_empty() && header.kid != self.kid) {
            return Err(JwtError::UnknownKey);
        }
        let signature = B64.decode(signature).map_err(|_| JwtError::Malformed)?;
        let algorithm: &dyn signature::VerificationAlgorithm = match self.pair {
            Pair::Ec(_) => &signature::ECDSA_P256_SHA256_FIXED,
            Pair::Rsa(_) => &signature::RSA_PKCS1_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(algorithm, public_bytes(&self.pair))
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| JwtError::Signature)?;
        let payload = B64.decode(payload).map_err(|_| JwtError::Malformed)?;
        serde_json::from_slice(&payload).map_err(JwtError::Claims)
    }

    /// The key set document that relying parties fetch.
    pub(crate) fn jwks(&self) -> serde_json::Value {
        let key = match &self.pair {
            Pair::Ec(pair) => {
                // Uncompressed point: 0x04, x, y.
                let point = pair.public_key().as_ref();
                json!({"use": "sig", "kty": "EC", "kid": self.kid, "crv": "P-256", "alg": "ES256",
                       "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..65])})
            }
            Pair::Rsa(pair) => {
                let parts: rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({"use": "sig", "kty": "RSA", "kid": self.kid, "alg": "RS256",
                       "n": B64.encode(parts.n), "e": B64.encode(parts.e)})
            }
        };
        json!({ "keys": [key] })
    }

    /// Algorithms for the discovery document.
    pub(crate) fn algorithms(&self) -> [&'static str; 1] {
        [self.algorithm()]
    }
}

fn public_bytes(pair: &Pair) -> &[u8] {
    match pair {
        Pair::Ec(pair) => pair.public_key().as_ref(),
        Pair::Rsa(pair) => pair.public().as_ref(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn test_key() -> Vec<u8> {
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap().as_ref().to_vec()
    }

    #[test]
    fn a_signed_token_verifies_and_a_changed_one_does_not() {
        let key = SigningKey::from_pkcs8(&test_key()).unwrap();
        let token = key.sign(&json!({"sub": "me"})).unwrap();
        let claims: serde_json::Value = key.verify(&token).unwrap();
        assert_eq!(claims["sub"], "me");
        let payload = B64.encode(r#"{"sub":"you"}"#);
        let mut parts: Vec<&str> = token.split('.').collect();
        parts[1] = &payload;
        assert!(matches!(key.verify::<serde_json::Value>(&parts.join(".")), Err(JwtError::Signature)));
    }

    #[test]
    fn another_key_is_unknown() {
        let (a, b) = (SigningKey::from_pkcs8(&test_key()).unwrap(), SigningKey::from_pkcs8(&test_key()).unwrap());
        let token = a.sign(&json!({})).unwrap();
        assert!(matches!(b.verify::<serde_json::Value>(&token), Err(JwtError::UnknownKey)));
        assert!(matches!(b.verify::<serde_json::Value>("nonsense"), Err(JwtError::Malformed)));
    }

    #[test]
    fn jwks_names_the_point() {
        let key = SigningKey::from_pkcs8(&test_key()).unwrap();
        let jwks = key.jwks();
        assert_eq!(jwks["keys"][0]["kty"], "EC");
        assert_eq!(B64.decode(jwks["keys"][0]["x"].as_str().unwrap()).unwrap().len(), 32);
    }
}
