//! One signed request and its answer, tried again while that can help.

use crate::snapshot::settings::S3Settings;
use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use client::backoff::Backoff;
use client::{DialError, Dialer, tls};
use futures::TryStreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::io::{self, SeekFrom};
use std::path::Path;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWrite, AsyncWriteExt};
use tokio_util::io::ReaderStream;
use url::Url;

const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// An answer that is not an object is short, or not meant for us.
const MOST_TEXT: u64 = 4 << 20;
const CHUNK: usize = 256 << 10;

const SILENT: &str = "the service went silent";

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A part of a file that is to be sent.
#[derive(Clone, Copy)]
pub(super) struct Upload<'a> {
    pub(super) path: &'a Path,
    pub(super) from: u64,
    pub(super) size: u64,
}

/// The service said no.
#[derive(Debug, thiserror::Error)]
#[error("the service answered {status}{}", explanation.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
struct Refused {
    status: StatusCode,
    explanation: Option<String>,
}

/// Sends requests to one service.
pub(super) struct Exchange {
    dialer: Dialer,
    timeout: Duration,
}

impl Exchange {
    pub(super) fn new(settings: &S3Settings) -> anyhow::Result<Self> {
        let tls = if settings.bucket.base_url().scheme() == "https" {
            tls::public(settings.authority.as_deref())?
        } else {
            // Never used: what is not https is not encrypted.
            tls::unverified()?
        };
        Ok(Self { dialer: Dialer::new(tls), timeout: settings.timeout })
    }

    /// Sends a request, signed anew for each attempt.
    pub(super) async fn send(
        &self,
        method: Method,
        sign: impl Fn() -> Url,
        upload: Option<Upload<'_>>,
    ) -> anyhow::Result<Response<Incoming>> {
        let mut attempts = Attempts::new();
        loop {
            match self.send_once(method.clone(), sign(), upload).await {
                Ok(answer) => return Ok(answer),
                Err(error) => attempts.another(error).await?,
            }
        }
    }

    async fn send_once(
        &self,
        method: Method,
        url: Url,
        upload: Option<Upload<'_>>,
    ) -> anyhow::Result<Response<Incoming>> {
        let (body, size) = match upload {
            Some(upload) => (file_body(upload).await?, upload.size),
            None => (text_body(Bytes::new()), 0),
        };
        self.once(url, Request::builder().method(method).header(header::CONTENT_LENGTH, size), body).await
    }

    /// Sends a request whose answer is a text.
    pub(super) async fn text(
        &self,
        method: Method,
        sign: impl Fn() -> Url,
        content: Option<String>,
    ) -> anyhow::Result<String> {
        let content = Bytes::from(content.unwrap_or_default());
        let mut attempts = Attempts::new();
        loop {
            match self.text_once(method.clone(), sign(), content.clone()).await {
                Ok(text) => return Ok(text),
                Err(error) => attempts.another(error).await?,
            }
        }
    }

    async fn text_once(&self, method: Method, url: Url, content: Bytes) -> anyhow::Result<String> {
        let request = Request::builder().method(method).header(header::CONTENT_LENGTH, content.len());
        let answer = self.once(url, request, text_body(content)).await?;
        let text = tokio::time::timeout(self.timeout, body(answer, MOST_TEXT)).await.context(SILENT)??;
        String::from_utf8(text.into()).context("the service's answer is no text")
    }

    /// The first `most` bytes of an object.
    pub(super) async fn beginning(&self, sign: impl Fn() -> Url, most: u64) -> anyhow::Result<Bytes> {
        let mut attempts = Attempts::new();
        loop {
            match self.beginning_once(sign(), most).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => attempts.another(error).await?,
            }
        }
    }

    async fn beginning_once(&self, url: Url, most: u64) -> anyhow::Result<Bytes> {
        let request = Request::get("/").header(header::RANGE, format!("bytes=0-{}", most.saturating_sub(1)));
        let mut answer = self.once(url, request, text_body(Bytes::new())).await?.into_body();
        let mut read = BytesMut::new();
        // A service may ignore the range and send all of it.
        while (read.len() as u64) < most
            && let Some(frame) = tokio::time::timeout(self.timeout, answer.frame()).await.context(SILENT)?
        {
            read.extend_from_slice(&frame.context("read the object")?.into_data().unwrap_or_default());
        }
        read.truncate(usize::try_from(most)?);
        Ok(read.freeze())
    }

    /// Writes an object's bytes to a file; an attempt that breaks off begins anew.
    pub(super) async fn fetch(&self, sign: impl Fn() -> Url, file: &mut File) -> anyhow::Result<()> {
        let mut attempts = Attempts::new();
        loop {
            match self.fetch_once(sign(), file).await {
                Ok(()) => return Ok(()),
                Err(error) => attempts.another(error).await?,
            }
        }
    }

    async fn fetch_once(&self, url: Url, file: &mut File) -> anyhow::Result<()> {
        file.set_len(0).await.context("write the download")?;
        file.seek(SeekFrom::Start(0)).await.context("write the download")?;
        let mut answer = self.once(url, Request::get("/"), text_body(Bytes::new())).await?.into_body();
        while let Some(frame) = tokio::time::timeout(self.timeout, answer.frame()).await.context(SILENT)? {
            if let Ok(data) = frame.context("read the object")?.into_data() {
                file.write_all(&data).await.context("write the download")?;
            }
        }
        Ok(())
    }

    async fn once(
        &self,
        url: Url,
        request: http::request::Builder,
        content: Body,
    ) -> anyhow::Result<Response<Incoming>> {
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => bail!("the address of the bucket has no host"),
        };
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let request = request.uri(path).header(header::HOST, &host).body(content)?;
        let server = format!("{}://{host}", url.scheme());
        let answer = async {
            let place = || format!("connect to {server}");
            if url.scheme() == "https" {
                exchange(self.dialer.dial(&server).await.map_err(distrusted).with_context(place)?, request).await
            } else {
                exchange(self.dialer.dial_plain(&server).await.with_context(place)?, request).await
            }
        };
        let answer = tokio::time::timeout(self.timeout, answer).await.context("the service does not answer")??;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let text = tokio::time::timeout(self.timeout, body(answer, MOST_TEXT)).await;
        let text = text.ok().and_then(Result::ok).unwrap_or_default();
        Err(Refused { status, explanation: explanation(&String::from_utf8_lossy(&text)) }.into())
    }
}

/// How often something has been tried.
struct Attempts {
    backoff: Backoff,
    left: u32,
}

impl Attempts {
    fn new() -> Self {
        Self { backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), left: ATTEMPTS - 1 }
    }

    /// Waits for the next attempt, or gives the error back if there is to be none.
    async fn another(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        if self.left == 0 || !may_pass(&error) {
            return Err(error);
        }
        self.left -= 1;
        tracing::debug!(error = format!("{error:#}"), left = self.left, "a request to the bucket failed");
        tokio::time::sleep(self.backoff.next_delay()).await;
        Ok(())
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Body>,
) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("HTTP handshake")?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the bucket ended");
        }
    });
    sender.send_request(request).await.context("send the request")
}

/// A whole answer of a bounded size.
async fn body(answer: Response<Incoming>, most: u64) -> anyhow::Result<Bytes> {
    let read = Limited::new(answer.into_body(), usize::try_from(most)?).collect().await;
    Ok(read.map_err(|error| anyhow::anyhow!(error)).context("read the service's answer")?.to_bytes())
}

async fn file_body(upload: Upload<'_>) -> anyhow::Result<Body> {
    let place = || format!("read {}", upload.path.display());
    let mut file = File::open(upload.path).await.with_context(place)?;
    file.seek(SeekFrom::Start(upload.from)).await.with_context(place)?;
    let chunks = ReaderStream::with_capacity(file.take(upload.size), CHUNK).map_ok(Frame::data);
    Ok(StreamBody::new(chunks).boxed_unsync())
}

fn text_body(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The service's certificate does not hold.
#[derive(Debug, thiserror::Error)]
#[error(
    "the service's certificate is not to be trusted; --s3-endpoint-ca names the authority of a service of one's own"
)]
struct Distrusted(#[source] DialError);

fn distrusted(error: DialError) -> anyhow::Error {
    let invalid = |error: &std::io::Error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
    };
    match error {
        DialError::Io(inner) if invalid(&inner) => Distrusted(DialError::Io(inner)).into(),
        other => other.into(),
    }
}

/// Whether another attempt may come to something else.
fn may_pass(error: &anyhow::Error) -> bool {
    if error.is::<Distrusted>() {
        return false;
    }
    error.downcast_ref::<Refused>().is_none_or(|refused| {
        let busy = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        refused.status.is_server_error() || busy.contains(&refused.status)
    })
}

/// What an error document says.
pub(super) fn explanation(document: &str) -> Option<String> {
    let inside = |text: &str, name: &str| -> Option<String> {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (value, _) = rest.split_once(&format!("</{name}>"))?;
        Some(value.trim().chars().filter(|letter| !letter.is_control()).take(300).collect())
    };
    let (_, error) = document.split_once("<Error")?;
    let parts: Vec<_> = ["Code", "Message"].iter().filter_map(|name| inside(error, name)).collect();
    Some(if parts.is_empty() { "an error without a reason".to_owned() } else { parts.join(": ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_documents_are_put_in_a_line() {
        let document = "<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>No\nbucket</Message></Error>";
        assert_eq!(explanation(document).unwrap(), "NoSuchBucket: Nobucket");
        assert_eq!(explanation("<Error/>").unwrap(), "an error without a reason");
        assert_eq!(explanation("<html>proxy</html>"), None);
    }

    #[test]
    fn refusals_are_final_and_trouble_is_not() {
        let refused = |status| anyhow::Error::new(Refused { status, explanation: None });
        assert!(!may_pass(&refused(StatusCode::FORBIDDEN)) && !may_pass(&refused(StatusCode::NOT_FOUND)));
        assert!(may_pass(&refused(StatusCode::SERVICE_UNAVAILABLE)));
        assert!(may_pass(&refused(StatusCode::TOO_MANY_REQUESTS)));
        assert!(may_pass(&anyhow::anyhow!("connection reset")));
    }
}
