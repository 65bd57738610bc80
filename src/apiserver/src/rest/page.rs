//! Continue tokens: the place and the revision at which a limited list goes on. The form is upstream's, so that
//! clients that look inside find what they expect.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use objects::status::Status;
use serde::{Deserialize, Serialize};
use storage::Revision;

#[derive(Serialize, Deserialize)]
struct Wire {
    v: String,
    rv: i64,
    start: String,
}

/// Where a list goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Continue {
    /// `None`: whatever is the newest revision then.
    pub(crate) revision: Option<Revision>,
    /// First key wanted, relative to the kind.
    pub(crate) start: String,
}

impl Continue {
    /// The token for a client that has seen everything up to and with `last`.
    pub(crate) fn after(last: &str, revision: Revision) -> String {
        Continue { revision: Some(revision), start: format!("{last}\0") }.encode()
    }

    pub(crate) fn encode(&self) -> String {
        let rv = self.revision.map_or(-1, |revision| i64::try_from(revision).unwrap_or(i64::MAX));
        let wire = Wire { v: "meta.k8s.io/v1".into(), rv, start: self.start.clone() };
        B64.encode(serde_json::to_vec(&wire).unwrap_or_default())
    }

    pub(crate) fn parse(token: &str) -> Result<Continue, Status> {
        let invalid = || Status::bad_request("continue key is not valid");
        let bytes = B64.decode(token.trim_end_matches('=')).map_err(|_| invalid())?;
        let wire: Wire = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        if wire.v != "meta.k8s.io/v1" || wire.rv == 0 || wire.start.is_empty() || wire.start.contains("..") {
            return Err(invalid());
        }
        Ok(Continue { revision: u64::try_from(wire.rv).ok(), start: wire.start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back() {
        let token = Continue::after("ns/pod", 7);
        assert_eq!(Continue::parse(&token).unwrap(), Continue { revision: Some(7), start: "ns/pod\0".into() });
        let newest = Continue { revision: None, start: "ns/pod".into() };
        assert_eq!(Continue::parse(&newest.encode()).unwrap(), newest);
        assert_eq!(Continue::parse("!").unwrap_err().code(), 400);
    }
}
