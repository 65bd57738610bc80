//! A bucket on a host of the suite: a server that speaks S3, checks signatures, and keeps objects in a folder; over plain
//! HTTP or over TLS with an authority of its own, named by path and by host name, and failing when told to.
#![forbid(unsafe_code)]

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::host::MultiDomain;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

/// The keys that open it.
pub const ACCESS_KEY: &str = "an-access-key";
pub const SECRET_KEY: &str = "a-secret-key-that-no-log-may-show";
/// The one bucket there is.
pub const BUCKET: &str = "backups";

/// What goes wrong: requests of a method whose URI holds a text, so many times.
#[derive(Debug, Clone)]
pub struct Fault {
    pub method: Method,
    pub uri_holds: &'static str,
    pub times: u32,
    pub how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// An error of S3 with this status.
    Refuse(StatusCode),
    /// The connection ends instead of an answer.
    HangUp,
}

/// A request as it came in, whatever became of it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub host: String,
    pub uri: String,
}

#[derive(Debug, Default)]
struct Record {
    faults: Vec<Fault>,
    seen: Vec<Seen>,
}

/// A running server. It ends with the value.
#[derive(Debug)]
pub struct Bucket {
    folder: tempfile::TempDir,
    pub address: SocketAddr,
    /// Of the authority that its certificate is from.
    pub authority_pem: Option<String>,
    record: Arc<Mutex<Record>>,
    _runtime: tokio::runtime::Runtime,
}

impl Bucket {
    /// Serves plain HTTP on a listener that may be in another network namespace.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn serve(listener: TcpListener) -> Self {
        Self::start(listener, None)
    }

    /// The same over TLS, with a certificate of an authority that nobody else knows.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn serve_tls(listener: TcpListener) -> Self {
        let (authority, tls) = identity();
        Self::start(listener, Some((authority, tls)))
    }

    fn start(listener: TcpListener, tls: Option<(String, TlsAcceptor)>) -> Self {
        let folder = tempfile::tempdir().expect("make a temporary folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("make the bucket");
        let address = listener.local_addr().expect("a listener has an address");
        let objects = s3s_fs::FileSystem::new(folder.path()).expect("open the bucket");
        let mut service = S3ServiceBuilder::new(objects);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        // What comes before these in the host's name is a bucket.
        let names = [address.to_string(), format!("localhost:{}", address.port())];
        service.set_host(MultiDomain::new(names.iter().map(String::as_str)).expect("names of a service"));
        let service = service.build();
        listener.set_nonblocking(true).expect("set the listener non-blocking");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("start the async runtime");
        let record = Arc::new(Mutex::default());
        let (authority_pem, tls) = tls.map_or((None, None), |(authority, tls)| (Some(authority), Some(tls)));
        let (door, recording) = (tls, record.clone());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("hand over the listener");
            while let Ok((connection, _)) = listener.accept().await {
                let (service, record, door) = (service.clone(), recording.clone(), door.clone());
                tokio::spawn(async move {
                    let ended = match door {
                        None => talk(connection, service, record).await,
                        Some(door) => match door.accept(connection).await {
                            Ok(stream) => talk(stream, service, record).await,
                            Err(error) => Err(error.into()),
                        },
                    };
                    if let Err(error) = ended {
                        eprintln!("a connection to the bucket ended: {error}");
                    }
                });
            }
        });
        Self { folder, address, authority_pem, record, _runtime: runtime }
    }

    /// Where an object lies.
    pub fn object(&self, key: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join(key)
    }

    /// Files beside the bucket: parts of uploads that are not finished.
    ///
    /// # Panics
    /// When the folder cannot be read.
    pub fn parts(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("read the service's folder");
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| name.contains("upload")).collect()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn fail(&self, fault: Fault) {
        self.record().faults.push(fault);
    }

    /// The requests since this was last asked.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.record().seen)
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S3Service,
    record: Arc<Mutex<Record>>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let handle = service_fn(move |request: Request<Incoming>| {
        let (service, wrong) = (service.clone(), happens(&record, &request).or_else(|| absent(&request)));
        async move {
            match wrong {
                None => hyper::service::Service::call(&service, request).await.map_err(|error| format!("{error:?}")),
                Some(How::HangUp) => Err("told to hang up".to_owned()),
                Some(How::Refuse(status)) => {
                    // A connection that ends before all is read may end before the answer is.
                    let mut body = request.into_body();
                    while let Some(frame) = body.frame().await {
                        drop(frame.map_err(|error| error.to_string())?);
                    }
                    let (code, message) = match status {
                        StatusCode::NOT_FOUND => ("NoSuchBucket", "The specified bucket does not exist"),
                        _ => ("Told", "told to fail"),
                    };
                    let text = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
                    let mut answer = Response::new(Body::from(text));
                    *answer.status_mut() = status;
                    Ok(answer)
                }
            }
        }
    });
    auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), handle).await
}

fn happens(record: &Mutex<Record>, request: &Request<Incoming>) -> Option<How> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    let seen = Seen { method: request.method().clone(), host, uri: request.uri().to_string() };
    let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
    let matching =
        |fault: &&mut Fault| fault.times > 0 && fault.method == seen.method && seen.uri.contains(fault.uri_holds);
    let how = record.faults.iter_mut().find(matching).map(|fault| {
        fault.times -= 1;
        fault.how
    });
    record.seen.push(seen);
    how
}

/// A bucket that is named by path and is not there. The server behind would make it, which no service does.
fn absent(request: &Request<Incoming>) -> Option<How> {
    let by_name =
        request.headers().get(header::HOST).is_some_and(|host| host.as_bytes().starts_with(BUCKET.as_bytes()));
    let bucket = request.uri().path().split('/').nth(1);
    (!by_name && bucket != Some(BUCKET)).then_some(How::Refuse(StatusCode::NOT_FOUND))
}

/// An authority's certificate, and a server's for this machine and for the bucket by name.
fn identity() -> (String, TlsAcceptor) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("make a key");
    let authority = params.self_signed(&key).expect("sign the authority's certificate").pem();
    let issuer = Issuer::new(params, key);
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned(), format!("{BUCKET}.localhost")];
    let own = KeyPair::generate().expect("make a key");
    let certificate = CertificateParams::new(names).expect("names of a service").signed_by(&own, &issuer);
    let certificate = certificate.expect("sign the service's certificate").der().clone();
    let key = PrivateKeyDer::try_from(own.serialize_der()).expect("a key just made");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls = tls.expect("versions of TLS").with_no_client_auth().with_single_cert(vec![certificate], key);
    (authority, TlsAcceptor::from(Arc::new(tls.map_err(io::Error::other).expect("a certificate just made"))))
}
