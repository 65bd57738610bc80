//! The names of protocols and which of them is taken. Pure.

use base64::Engine as _;
use http::{HeaderMap, HeaderName, header};
use sha1::{Digest, Sha1};

/// The header that names SPDY's stream protocols.
pub(crate) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
pub(crate) const PORT_FORWARD: &str = "portforward.k8s.io";
/// SPDY/3.1 in the binary messages of a WebSocket.
pub(crate) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Remote commands over SPDY, as the kubelet offers them.
pub(crate) const SPDY_COMMAND: &[&str] =
    &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// Remote commands over WebSocket. Without a protocol asked for, it is the first version.
pub(crate) const WEBSOCKET_COMMAND: &[&str] =
    &["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// Port-forwards over WebSocket.
pub(crate) const WEBSOCKET_PORT_FORWARD: &[&str] = &[TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

/// What a client wants to change to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    Spdy,
    /// The value of `Sec-WebSocket-Accept`.
    WebSocket {
        accept: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpgradeError {
    #[error("unable to upgrade: missing upgrade headers in request")]
    Missing,
    #[error("unable to upgrade: unsupported WebSocket version")]
    Version,
    #[error("unable to upgrade: no protocol that both sides know")]
    Protocol,
}

fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).filter(|w| !w.is_empty())
}

impl Upgrade {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Upgrade, UpgradeError> {
        if !words(headers, header::CONNECTION).any(|w| w.eq_ignore_ascii_case("upgrade")) {
            return Err(UpgradeError::Missing);
        }
        let wanted = |name: &str| words(headers, header::UPGRADE).any(|w| w.eq_ignore_ascii_case(name));
        if wanted("SPDY/3.1") {
            return Ok(Upgrade::Spdy);
        }
        if !wanted("websocket") {
            return Err(UpgradeError::Missing);
        }
        let one = |name| words(headers, name).next();
        if one(header::SEC_WEBSOCKET_VERSION) != Some("13") {
            return Err(UpgradeError::Version);
        }
        let key = one(header::SEC_WEBSOCKET_KEY).ok_or(UpgradeError::Missing)?;
        Ok(Upgrade::WebSocket { accept: accept_key(key) })
    }
}

/// RFC 6455, section 4.2.2.
fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(hash.finalize())
}

/// The client's first choice among `offered`; `Ok(None)` when it names no protocol at all.
pub(crate) fn choose(
    headers: &HeaderMap,
    name: HeaderName,
    offered: &'static [&'static str],
) -> Result<Option<&'static str>, UpgradeError> {
    let mut named = false;
    for word in words(headers, name) {
        named = true;
        if let Some(known) = offered.iter().find(|o| **o == word) {
            return Ok(Some(known));
        }
    }
    if named { Err(UpgradeError::Protocol) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    #[test]
    fn the_key_of_the_rfc_is_accepted_with_its_answer() {
        let request = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]);
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned();
        assert_eq!(Upgrade::of(&request), Ok(Upgrade::WebSocket { accept }));
    }

    #[test]
    fn spdy_is_recognised_and_nothing_else_is() {
        let spdy = headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]);
        assert_eq!(Upgrade::of(&spdy), Ok(Upgrade::Spdy));
        assert_eq!(Upgrade::of(&headers(&[("connection", "Upgrade"), ("upgrade", "h2c")])), Err(UpgradeError::Missing));
        assert_eq!(Upgrade::of(&headers(&[("upgrade", "SPDY/3.1")])), Err(UpgradeError::Missing));
        let old = headers(&[("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "8")]);
        assert_eq!(Upgrade::of(&old), Err(UpgradeError::Version));
    }

    #[test]
    fn the_clients_order_decides_among_what_is_known() {
        let asked = headers(&[("sec-websocket-protocol", "v9.channel.k8s.io, v4.channel.k8s.io,v5.channel.k8s.io")]);
        let choose = |headers: &HeaderMap| choose(headers, header::SEC_WEBSOCKET_PROTOCOL, WEBSOCKET_COMMAND);
        assert_eq!(choose(&asked), Ok(Some("v4.channel.k8s.io")));
        assert_eq!(choose(&headers(&[])), Ok(None));
        assert_eq!(choose(&headers(&[("sec-websocket-protocol", "chat")])), Err(UpgradeError::Protocol));
    }
}
