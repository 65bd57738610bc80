//! A log over a WebSocket (RFC 6455), for browsers: each piece of the log is a message, binary or, where the client
//! asks for `base64.binary.k8s.io`, text. What the client sends is not wanted; its close ends the log.

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{
        CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use objects::status::Status;
use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{body::Body, handler::Call};

/// What RFC 6455, section 4.2.2 appends to the key.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const BASE64: &str = "base64.binary.k8s.io";
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const NORMAL: u16 = 1000;

/// A client's wish for a WebSocket.
pub(super) struct Wish {
    accept: HeaderValue,
    protocol: Option<&'static str>,
    upgrade: OnUpgrade,
}

fn words(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// Takes the wish off the request, which is a plain one then.
pub(super) fn take(call: &mut Call) -> Result<Option<Wish>, Status> {
    let headers = &call.head.headers;
    let asked = words(headers, CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"))
        && words(headers, UPGRADE).any(|word| word.eq_ignore_ascii_case("websocket"));
    if !asked {
        return Ok(None);
    }
    let protocol = protocol(headers)?;
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| words(headers, SEC_WEBSOCKET_VERSION).any(|v| v == "13"));
    let key = key.ok_or_else(|| Status::bad_request("not a WebSocket handshake of version 13"))?;
    let accept = accept(key.as_bytes()).ok_or_else(|| Status::bad_request("invalid WebSocket key"))?;
    let upgrade = call.head.extensions.remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_PROTOCOL] {
        call.head.headers.remove(name);
    }
    Ok(Some(Wish { accept, protocol, upgrade }))
}

/// The client's first choice that is known; none when it names none.
fn protocol(headers: &HeaderMap) -> Result<Option<&'static str>, Status> {
    let mut named = false;
    for word in words(headers, SEC_WEBSOCKET_PROTOCOL) {
        named = true;
        if let Some(known) = ["binary.k8s.io", BASE64].into_iter().find(|known| *known == word) {
            return Ok(Some(known));
        }
    }
    match named {
        true => Err(Status::bad_request("none of the requested WebSocket protocols is supported")),
        false => Ok(None),
    }
}

fn accept(key: &[u8]) -> Option<HeaderValue> {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(MAGIC);
    HeaderValue::from_str(&STANDARD.encode(hash.finish())).ok()
}

impl Wish {
    /// Agrees, and sends the body of `log` as messages. A refused log is answered as it is.
    pub(super) fn answer(self, call: &Call, log: Response<Body>) -> Response<Body> {
        if log.status() != StatusCode::OK {
            return log;
        }
        let Wish { accept, protocol, upgrade } = self;
        let mut agreed = Response::new(Body::Empty);
        *agreed.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = agreed.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        let stop = call.inner.stop.clone();
        call.inner.tasks.spawn(async move {
            let socket = match upgrade.await {
                Ok(socket) => TokioIo::new(socket),
                Err(error) => return tracing::debug!(%error, "upgrade failed"),
            };
            let (mut input, mut output) = io::split(socket);
            tokio::select! {
                sent = send(log.into_body(), &mut output, protocol == Some(BASE64)) => if let Err(error) = sent {
                    tracing::debug!(%error, "log over a websocket ended");
                },
                ended = until_close(&mut input) => if let Err(error) = ended {
                    tracing::trace!(%error, "client of a websocket is gone");
                },
                () = stop.cancelled() => {}
            }
            if let Err(error) = output.shutdown().await {
                tracing::trace!(%error, "websocket is closed already");
            }
        });
        agreed
    }
}

async fn send(log: Body, output: &mut (impl AsyncWrite + Unpin), base64: bool) -> io::Result<()> {
    let mut pieces = http_body_util::BodyDataStream::new(log);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(io::Error::other)?;
        let frame =
            if base64 { frame(TEXT, STANDARD.encode(&piece).as_bytes()) } else { frame(BINARY, piece.as_ref()) };
        output.write_all(&frame).await?;
        output.flush().await?;
    }
    output.write_all(&frame(CLOSE, &NORMAL.to_be_bytes())).await?;
    output.flush().await
}

/// One whole message of a server.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 10);
    out.push(0x80 | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ ..126), _) => out.push(short),
        (_, Ok(middle)) => {
            out.push(126);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

/// Passes over what the client sends until it closes.
async fn until_close(input: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    loop {
        let mut head = [0; 2];
        input.read_exact(&mut head).await?;
        let length = match head[1] & 0x7f {
            126 => u64::from(input.read_u16().await?),
            127 => input.read_u64().await?,
            short => u64::from(short),
        };
        if head[0] & 0x0f == CLOSE {
            return Ok(());
        }
        let masked = u64::from(head[1] >> 7) * 4;
        let skipped = io::copy(&mut (&mut *input).take(length.saturating_add(masked)), &mut io::sink()).await?;
        if skipped < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_has_its_answer() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ==").unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_protocol_that_nobody_speaks_is_refused() {
        let headers =
            |text: &str| HeaderMap::from_iter([(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(text).unwrap())]);
        assert_eq!(protocol(&HeaderMap::new()).unwrap(), None);
        assert_eq!(protocol(&headers("chat, base64.binary.k8s.io")).unwrap(), Some(BASE64));
        assert!(protocol(&headers("chat")).is_err());
    }

    #[tokio::test]
    async fn pieces_are_messages_and_the_end_is_a_close() {
        let pieces = [&b"one"[..], &[7; 300]].map(|piece| Ok(bytes::Bytes::copy_from_slice(piece)));
        let mut out = Vec::new();
        send(Body::stream(futures::stream::iter(pieces)), &mut out, false).await.unwrap();
        assert_eq!(out[..5], [0x82, 3, b'o', b'n', b'e']);
        assert_eq!(out[5..9], [0x82, 126, 1, 44]);
        assert_eq!(out[309..], [0x88, 2, 0x03, 0xe8]);
        let mut out = Vec::new();
        send(Body::from("hi"), &mut out, true).await.unwrap();
        assert_eq!(out[..6], *b"\x81\x04aGk=");
    }

    #[tokio::test]
    async fn a_clients_messages_are_passed_over_until_its_close() {
        let mut input: &[u8] = b"\x82\x83\0\0\0\0abc\x89\x80\0\0\0\0\x88\x80\0\0\0\0rest";
        until_close(&mut input).await.unwrap();
        assert!(input.ends_with(b"rest"));
        assert!(until_close(&mut &b"\x82\x85\0\0\0\0ab"[..]).await.is_err());
    }
}
