//! The registry protocol (OCI distribution-spec): requests with redirects, retries and the proof of who asks.

use super::connect::{Dialer, Security, is_loopback};
use super::{Auth, ImageError, RegistriesConfig};
use crate::link::lock;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST, LOCATION, RANGE, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

const REDIRECTS: usize = 10;
const ATTEMPTS: u32 = 4;
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// Of what a registry says about an error.
const MAX_ERROR: usize = 64 << 10;
const MAX_TOKEN: usize = 1 << 20;

/// One place to ask for images: a registry or a mirror of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `host[:port]`
    pub authority: String,
    /// `None`: to be found out (a registry on this machine, or one called insecure).
    pub security: Option<Security>,
    /// Before `/v2`.
    pub prefix: String,
    insecure: bool,
}

impl Endpoint {
    /// A registry by its domain, as image names have it.
    pub(super) fn of_registry(domain: &str, config: &RegistriesConfig) -> Self {
        let authority = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
        let insecure = config.insecure.iter().any(|host| host == domain);
        let open = insecure || is_loopback(split_port(authority).0);
        let security = (!open).then_some(Security::Verified);
        Self { authority: authority.to_owned(), security, prefix: String::new(), insecure }
    }

    /// A mirror by its URL.
    pub(super) fn of_mirror(url: &str, config: &RegistriesConfig) -> Option<Self> {
        let uri: Uri = url.trim_end_matches('/').parse().ok()?;
        let authority = uri.authority()?.to_string();
        let insecure = config.insecure.contains(&authority);
        let security = match uri.scheme_str()? {
            "http" => Security::Plain,
            "https" if insecure => Security::Unverified,
            "https" => Security::Verified,
            _ => return None,
        };
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Some(Self { authority, security: Some(security), prefix, insecure })
    }
}

fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

#[derive(Debug)]
pub(super) struct Client {
    dialer: Dialer,
    /// What was found out about open endpoints.
    security: Mutex<HashMap<String, Security>>,
}

/// Requests for one repository, with one identity.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub client: &'a Client,
    pub endpoint: Endpoint,
    pub repository: String,
    pub auth: Auth,
    /// The value of the Authorization header that the registry accepts.
    pub proof: Mutex<Option<HeaderValue>>,
}

impl Client {
    pub(super) fn new(config: &RegistriesConfig) -> Self {
        Self { dialer: Dialer::new(config), security: Mutex::default() }
    }

    /// Sends one request on a connection of its own.
    async fn send(
        &self,
        authority: &str,
        security: Security,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ImageError> {
        let (host, port) = split_port(authority);
        let port = port.unwrap_or(if security == Security::Plain { 80 } else { 443 });
        let failed = |reason: String| ImageError::Unreachable { host: authority.to_owned(), reason };
        let stream = self.dialer.dial(host, port, security).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(e.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "registry connection ended");
            }
        });
        let host = HeaderValue::from_str(authority).map_err(|e| failed(e.to_string()))?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("rk"));
        match tokio::time::timeout(ANSWER_PATIENCE, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(|e| failed(e.to_string())),
            Err(_) => Err(failed("no answer in time".into())),
        }
    }

    /// As [`Client::send`], to an endpoint whose scheme may have to be found out: TLS first, then plain.
    async fn send_open(
        &self,
        endpoint: &Endpoint,
        request: &Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Security), ImageError> {
        let known = endpoint.security.or_else(|| lock(&self.security).get(&endpoint.authority).copied());
        if let Some(security) = known {
            return Ok((self.send(&endpoint.authority, security, request.clone()).await?, security));
        }
        let first = if endpoint.insecure { Security::Unverified } else { Security::Verified };
        let mut outcome = Err(ImageError::Unsupported("no way to connect".into()));
        for security in [first, Security::Plain] {
            outcome = self.send(&endpoint.authority, security, request.clone()).await.map(|a| (a, security));
            if outcome.is_ok() {
                lock(&self.security).insert(endpoint.authority.clone(), security);
                break;
            }
        }
        outcome
    }
}

fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
    pairs.iter().filter_map(|(name, value)| Some((name.clone(), HeaderValue::from_str(value).ok()?))).collect()
}

impl Session<'_> {
    /// GETs `/v2/<repository>/<path>`; `from`: only the bytes from there on.
    pub(super) async fn get(
        &self,
        path: &str,
        accept: &[&str],
        from: Option<u64>,
    ) -> Result<Response<Incoming>, ImageError> {
        let mut pairs: Vec<(http::HeaderName, &str)> = accept.iter().map(|a| (ACCEPT, *a)).collect();
        let range = from.map(|from| format!("bytes={from}-"));
        pairs.extend(range.iter().map(|range| (RANGE, range.as_str())));
        let target = format!("{}/v2/{}/{path}", self.endpoint.prefix, self.repository);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let result = self.get_once(&target, &headers(&pairs)).await;
            let wait = match &result {
                Err(ImageError::Unreachable { .. }) => Some(None),
                Err(ImageError::TooManyRequests { retry_after, .. }) => Some(*retry_after),
                Err(ImageError::Status { status, .. }) if *status >= 500 => Some(None),
                _ => None,
            };
            match wait {
                Some(asked) if attempt < ATTEMPTS => {
                    let backoff = Duration::from_millis(250 << attempt);
                    tokio::time::sleep(asked.map_or(backoff, |s| Duration::from_secs(s.min(30)))).await;
                }
                _ => return result,
            }
        }
    }

    async fn get_once(&self, target: &str, headers: &HeaderMap) -> Result<Response<Incoming>, ImageError> {
        let (answer, security) = self.ask(target, headers).await?;
        let answer = if answer.status() == StatusCode::UNAUTHORIZED {
            let challenge = answer.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
            let challenges: Vec<Challenge> = challenge.filter_map(Challenge::parse).collect();
            self.prove(&challenges, security).await?;
            self.ask(target, headers).await?.0
        } else {
            answer
        };
        let answer = self.follow(answer, target, headers, security).await?;
        self.check(answer, target).await
    }

    async fn ask(&self, target: &str, headers: &HeaderMap) -> Result<(Response<Incoming>, Security), ImageError> {
        let mut request = request(Method::GET, target, headers)?;
        if let Some(proof) = lock(&self.proof).clone() {
            request.headers_mut().insert(AUTHORIZATION, proof);
        }
        self.client.send_open(&self.endpoint, &request).await
    }

    /// Blobs often lie elsewhere; what proves us to the registry is not shown to others.
    async fn follow(
        &self,
        mut answer: Response<Incoming>,
        target: &str,
        headers: &HeaderMap,
        mut security: Security,
    ) -> Result<Response<Incoming>, ImageError> {
        let mut authority = self.endpoint.authority.clone();
        let mut place = target.to_owned();
        for _ in 0..REDIRECTS {
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let location = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
            let uri: Uri = location.parse().map_err(|_| ImageError::Malformed {
                what: format!("redirection from {authority}{place}"),
                reason: format!("{location:?} is no URL"),
            })?;
            if let Some(other) = uri.authority() {
                security = match uri.scheme_str() {
                    Some("http") => Security::Plain,
                    _ if security == Security::Unverified && other.as_str() == authority => security,
                    _ => Security::Verified,
                };
                authority = other.to_string();
            }
            place = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
            let mut next = request(Method::GET, &place, headers)?;
            if authority == self.endpoint.authority
                && let Some(proof) = lock(&self.proof).clone()
            {
                next.headers_mut().insert(AUTHORIZATION, proof);
            }
            answer = self.client.send(&authority, security, next).await?;
        }
        Err(ImageError::Unsupported(format!("more than {REDIRECTS} redirections from {}", self.endpoint.authority)))
    }

    async fn check(&self, answer: Response<Incoming>, target: &str) -> Result<Response<Incoming>, ImageError> {
        let status = answer.status();
        if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(answer);
        }
        let name = format!("{}/{}", self.endpoint.authority, self.repository);
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let body = read_body(answer, MAX_ERROR).await.unwrap_or_default();
        Err(match status {
            StatusCode::NOT_FOUND => ImageError::NotFound(name),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ImageError::Unauthorized(name),
            StatusCode::TOO_MANY_REQUESTS => {
                ImageError::TooManyRequests { registry: self.endpoint.authority.clone(), retry_after }
            }
            _ => ImageError::Status {
                url: format!("{}{target}", self.endpoint.authority),
                status: status.as_u16(),
                body: String::from_utf8_lossy(&body).chars().take(512).collect(),
            },
        })
    }

    /// Gets what the registry asks for, as its challenges say.
    async fn prove(&self, challenges: &[Challenge], security: Security) -> Result<(), ImageError> {
        let unauthorized = || ImageError::Unauthorized(format!("{}/{}", self.endpoint.authority, self.repository));
        let value = if let Some(challenge) = challenges.iter().find(|c| c.scheme == "bearer") {
            match &self.auth {
                Auth::Bearer(token) => format!("Bearer {token}"),
                _ => format!("Bearer {}", self.token(challenge, security).await?),
            }
        } else {
            match (&self.auth, challenges.iter().any(|c| c.scheme == "basic")) {
                (Auth::Basic { username, password }, true) => basic(username, password),
                (Auth::Bearer(token), _) => format!("Bearer {token}"),
                _ => return Err(unauthorized()),
            }
        };
        *lock(&self.proof) = Some(HeaderValue::from_str(&value).map_err(|_| unauthorized())?);
        Ok(())
    }

    async fn token(&self, challenge: &Challenge, security: Security) -> Result<String, ImageError> {
        let malformed = |reason: &str| ImageError::Malformed {
            what: format!("challenge of {}", self.endpoint.authority),
            reason: reason.to_owned(),
        };
        let realm: Uri = challenge.get("realm").parse().map_err(|_| malformed("its realm is no URL"))?;
        let authority = realm.authority().ok_or_else(|| malformed("its realm has no host"))?.to_string();
        let security = match realm.scheme_str() {
            Some("http") => Security::Plain,
            _ if security == Security::Unverified && authority == self.endpoint.authority => security,
            _ => Security::Verified,
        };
        let scope = match challenge.get("scope") {
            "" => format!("repository:{}:pull", self.repository),
            scope => scope.to_owned(),
        };
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let query = format!("service={}&scope={}", encode(challenge.get("service")), encode(&scope));
        let answer = match &self.auth {
            Auth::IdentityToken(token) => {
                let form = format!("grant_type=refresh_token&client_id=rk&refresh_token={}&{query}", encode(token));
                let mut request = request(Method::POST, realm.path(), &HeaderMap::new())?;
                *request.body_mut() = Full::from(form);
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                request.headers_mut().insert(http::header::CONTENT_TYPE, kind);
                self.client.send(&authority, security, request).await?
            }
            other => {
                let own = realm.query().map_or(String::new(), |q| format!("{q}&"));
                let target = format!("{}?{own}{query}", realm.path());
                let mut request = request(Method::GET, &target, &HeaderMap::new())?;
                if let Auth::Basic { username, password } = other
                    && let Ok(value) = HeaderValue::from_str(&basic(username, password))
                {
                    request.headers_mut().insert(AUTHORIZATION, value);
                }
                self.client.send(&authority, security, request).await?
            }
        };
        if !answer.status().is_success() {
            return Err(ImageError::Unauthorized(format!("{}/{}", self.endpoint.authority, self.repository)));
        }
        let token: Token = super::manifest::parse("token", &read_body(answer, MAX_TOKEN).await?)?;
        token.token.or(token.access_token).ok_or_else(|| malformed("its token service gave no token"))
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

fn request(method: Method, target: &str, headers: &HeaderMap) -> Result<Request<Full<Bytes>>, ImageError> {
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .body(Full::default())
        .map_err(|e| ImageError::Malformed { what: format!("request for {target}"), reason: e.to_string() })?;
    request.headers_mut().extend(headers.clone());
    Ok(request)
}

/// A whole small body.
pub(super) async fn read_body(answer: Response<Incoming>, limit: usize) -> Result<Bytes, ImageError> {
    let body = tokio::time::timeout(ANSWER_PATIENCE, Limited::new(answer.into_body(), limit).collect());
    let failed = |reason: String| ImageError::Unreachable { host: "registry".into(), reason };
    match body.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("its answer stopped midway".into())),
    }
}

/// One `WWW-Authenticate` value: a scheme and its parameters.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: HashMap<String, String>,
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut parameters = HashMap::new();
        while let Some((name, tail)) = rest.split_once('=') {
            let name = name.trim_start_matches([',', ' ']).to_ascii_lowercase();
            let (value, after) = match tail.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => tail.split_once(',').unwrap_or((tail, "")),
            };
            parameters.insert(name, value.to_owned());
            rest = after;
        }
        (!scheme.is_empty()).then(|| Self { scheme: scheme.to_ascii_lowercase(), parameters })
    }

    fn get(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_have_quoted_commas() {
        let text = r#"Bearer realm="https://auth.io/token",service="r.io",scope="repository:a/b:pull,push""#;
        let challenge = Challenge::parse(text).unwrap();
        assert_eq!(challenge.scheme, "bearer");
        assert_eq!(challenge.get("scope"), "repository:a/b:pull,push");
        assert_eq!(challenge.get("service"), "r.io");
        assert_eq!(Challenge::parse("Basic realm=x").unwrap().get("realm"), "x");
        assert_eq!(Challenge::parse(""), None);
    }

    #[test]
    fn docker_hub_lives_elsewhere() {
        let config = RegistriesConfig::default();
        let hub = Endpoint::of_registry("docker.io", &config);
        assert_eq!(hub.authority, "registry-1.docker.io");
        assert_eq!(hub.security, Some(Security::Verified));
        assert_eq!(Endpoint::of_registry("127.0.0.1:5000", &config).security, None);
    }

    #[test]
    fn mirrors_may_have_a_path() {
        let config = RegistriesConfig::default();
        let mirror = Endpoint::of_mirror("http://mirror.lan:8080/hub/", &config).unwrap();
        assert_eq!((mirror.authority.as_str(), mirror.prefix.as_str()), ("mirror.lan:8080", "/hub"));
        assert_eq!(mirror.security, Some(Security::Plain));
        assert_eq!(Endpoint::of_mirror("mirror", &config), None);
    }
}
