//! One HTTP/1.1 exchange on a stream to a node or a proxied target, with the protocol switch where the far side agrees
//! to one, and with links that lead back through the proxy.

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION,
        UPGRADE,
    },
};
use http_body_util::{BodyExt, BodyStream};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use objects::status::Status;

use super::html::{Prefix, Rewriter};
use crate::{
    body::{Body, BoxError, RequestBody},
    dial::NodeStream,
    handler::Call,
};

/// Headers that are about one hop only.
const HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "http2-settings"];

/// What to ask of the far side.
pub(super) struct Forward {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) host: String,
    /// Where the links of the answer are to lead: `Location` and those in HTML.
    pub(super) rewrite: Option<Prefix>,
}

impl Forward {
    /// Sends the call's request on `stream` and answers with what comes back.
    pub(super) async fn run(self, call: &mut Call, stream: Box<dyn NodeStream>) -> Result<Response<Body>, Status> {
        let unreachable = |error: hyper::Error| {
            let why: &dyn std::fmt::Display = match error.is_incomplete_message() || error.is_canceled() {
                true => &"the connection was lost before it answered",
                false => &error,
            };
            Status::unavailable(format!("error trying to reach {}: {why}", self.host))
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
        call.inner.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "stream to a node ended");
            }
        });
        let upgrade = call.head.extensions.remove::<OnUpgrade>();
        let wants_upgrade = call.headers().contains_key(UPGRADE);
        let mut request: Request<RequestBody> = Request::new(call.take_body().unwrap_or_else(empty));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = forwarded(call.headers(), &self.host, wants_upgrade);
        if let Some(prefix) = &self.rewrite {
            // HTML must come as it is, to be rewritten.
            request.headers_mut().remove(ACCEPT_ENCODING);
            if let Ok(uri) = HeaderValue::from_str(&format!("{}{}", prefix.path, self.uri.path())) {
                request.headers_mut().insert(HeaderName::from_static("x-forwarded-uri"), uri);
            }
        }
        let response = sender.send_request(request).await.map_err(unreachable)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return join(call, response, upgrade);
        }
        Ok(self.answer(response))
    }

    fn answer(&self, response: Response<Incoming>) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        for name in HOP {
            head.headers.remove(name);
        }
        let Some(prefix) = &self.rewrite else { return Response::from_parts(head, Body::stream(data(body))) };
        let location = head.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        if let Some(location) = location.and_then(|location| prefix.rewrite(location))
            && let Ok(value) = HeaderValue::from_str(&location)
        {
            head.headers.insert(LOCATION, value);
        }
        if self.method == Method::HEAD || !is_plain_html(&head.headers) {
            return Response::from_parts(head, Body::stream(data(body)));
        }
        head.headers.remove(CONTENT_LENGTH);
        Response::from_parts(head, Body::stream(rewritten(data(body), prefix.clone())))
    }
}

fn is_plain_html(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("text/html") && headers.get(CONTENT_ENCODING).is_none_or(|coding| coding == "identity")
}

type Piece = Result<Bytes, BoxError>;

fn data(body: Incoming) -> impl Stream<Item = Piece> + Send + 'static {
    BodyStream::new(body).filter_map(|frame| async move {
        match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(Box::new(error) as BoxError)),
        }
    })
}

fn rewritten(pieces: impl Stream<Item = Piece> + Send + 'static, prefix: Prefix) -> impl Stream<Item = Piece> + Send {
    stream::unfold((pieces.boxed(), Some(Rewriter::new(prefix))), async |(mut pieces, rewriter)| {
        let mut rewriter = rewriter?;
        let (piece, rewriter) = match pieces.next().await {
            Some(Ok(piece)) => (Ok(rewriter.feed(&piece).into()), Some(rewriter)),
            Some(Err(error)) => (Err(error), None),
            None => (Ok(rewriter.finish().into()), None),
        };
        Some((piece, (pieces, rewriter)))
    })
}

fn empty() -> RequestBody {
    http_body_util::Empty::new().map_err(|never: std::convert::Infallible| match never {}).boxed_unsync()
}

/// The request's headers without credentials and without those of the first hop.
fn forwarded(headers: &HeaderMap, host: &str, upgrade: bool) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let text = name.as_str();
        let dropped = HOP.contains(&text) || name == AUTHORIZATION || name == HOST || text.starts_with("impersonate-");
        if !dropped && (upgrade || name != UPGRADE) {
            out.append(HeaderName::clone(name), value.clone());
        }
    }
    if upgrade {
        out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    if let Ok(host) = HeaderValue::from_str(host) {
        out.insert(HOST, host);
    }
    out
}

/// Passes the switch on to the client and joins the two streams.
fn join(call: &Call, response: Response<Incoming>, client: Option<OnUpgrade>) -> Result<Response<Body>, Status> {
    let Some(client) = client else {
        return Err(Status::bad_request("this connection cannot be upgraded"));
    };
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = response.headers().clone();
    let node = hyper::upgrade::on(response);
    let stop = call.inner.stop.clone();
    call.inner.tasks.spawn(async move {
        let (client, node) = match tokio::try_join!(client, node) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "upgrade failed"),
        };
        let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
        tokio::select! {
            joined = tokio::io::copy_bidirectional(&mut client, &mut node) => if let Err(error) = joined {
                tracing::debug!(%error, "joined streams ended");
            },
            () = stop.cancelled() => {}
        }
    });
    Ok(answer)
}
