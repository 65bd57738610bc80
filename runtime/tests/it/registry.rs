//! Pulls from a registry on loopback, made here: plain and TLS, anonymous and with tokens, good and bad days.

use crate::support::{Host, able, busybox_layer, config_json, gzip, sha256};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use runtime::images::RegistriesConfig;
use runtime::{Auth, ImageError, ImageRef, Progress, Runtime, RuntimeConfig};
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Gate {
    #[default]
    Open,
    Basic,
    Bearer,
}

#[derive(Default)]
struct Registry {
    gate: Gate,
    address: String,
    blobs: HashMap<String, Vec<u8>>,
    manifest: Vec<u8>,
    /// Answers so many blob requests with half of what was asked for.
    interruptions: Mutex<u32>,
    /// Answers so many requests with 503.
    outages: Mutex<u32>,
    requests: Mutex<Vec<String>>,
}

impl Registry {
    fn new(gate: Gate) -> Self {
        let layer = gzip(&busybox_layer());
        let config = config_json(&[sha256(&busybox_layer())]);
        let manifest = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2,
            "config": {"digest": sha256(&config), "size": config.len()},
            "layers": [{"digest": sha256(&layer), "size": layer.len()}],
        }))
        .unwrap();
        let blobs = [layer, config, manifest.clone()].map(|b| (sha256(&b), b)).into();
        Self { gate, manifest, blobs, ..Self::default() }
    }

    /// The same image behind an index for several platforms.
    fn with_index(mut self) -> Self {
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let platform = |a: &str| serde_json::json!({"os": "linux", "architecture": a});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [
            {"digest": sha256(b"none"), "platform": platform("mips")},
            {"digest": sha256(&self.manifest), "platform": platform(architecture)}]});
        self.manifest = serde_json::to_vec(&index).unwrap();
        self.blobs.insert(sha256(&self.manifest), self.manifest.clone());
        self
    }

    async fn listen(mut self, tls: Option<tokio_rustls::TlsAcceptor>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.address = listener.local_addr().unwrap().to_string();
        let registry = Arc::new(self);
        let serving = Arc::clone(&registry);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (registry, tls) = (Arc::clone(&serving), tls.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let registry = Arc::clone(&registry);
                        async move { Ok::<_, Infallible>(registry.answer(&request)) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    let served = match tls {
                        None => http.serve_connection(TokioIo::new(stream), service).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
                            Err(_) => return,
                        },
                    };
                    drop(served);
                });
            }
        });
        registry
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        self.requests.lock().unwrap().push(path.clone());
        let reply = |status: StatusCode, body: &[u8]| {
            let mut response = Response::new(Full::from(body.to_vec()));
            *response.status_mut() = status;
            response
        };
        if take(&self.outages) {
            return reply(StatusCode::SERVICE_UNAVAILABLE, b"come back");
        }
        let shown = request.headers().get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let good = "Basic bWU6c2VjcmV0"; // me:secret
        if path == "/token" {
            let asked = request.uri().query().unwrap_or_default();
            let right = shown == good && asked.contains("scope=repository%3Ateam%2Fapp%3Apull");
            return if right {
                reply(StatusCode::OK, br#"{"token":"t0ken"}"#)
            } else {
                reply(StatusCode::UNAUTHORIZED, b"")
            };
        }
        let (wanted, challenge) = match self.gate {
            Gate::Open => ("", String::new()),
            Gate::Basic => (good, "Basic realm=\"r\"".to_owned()),
            Gate::Bearer => ("Bearer t0ken", format!("Bearer realm=\"http://{}/token\",service=\"s\"", self.address)),
        };
        if shown != wanted {
            let mut response = reply(StatusCode::UNAUTHORIZED, b"");
            response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
            return response;
        }
        match path.strip_prefix("/v2/team/app/").and_then(|p| p.split_once('/')) {
            Some(("manifests", "1")) => reply(StatusCode::OK, &self.manifest),
            Some(("manifests" | "blobs", digest)) => match self.blobs.get(digest) {
                Some(blob) => self.blob(request, blob),
                None => reply(StatusCode::NOT_FOUND, b""),
            },
            _ => reply(StatusCode::NOT_FOUND, b"{}"),
        }
    }

    fn blob(&self, request: &Request<Incoming>, blob: &[u8]) -> Response<Full<Bytes>> {
        let range = request.headers().get("range").and_then(|r| r.to_str().ok());
        let from = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
        let mut body = blob[from..].to_vec();
        if body.len() > 10_000 && take(&self.interruptions) {
            body.truncate(body.len() / 2);
        }
        let mut response = Response::new(Full::from(body));
        if from > 0 {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }

    fn name(&self) -> ImageRef {
        format!("{}/team/app:1", self.address).parse().unwrap()
    }

    fn count(&self, part: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|p| p.contains(part)).count()
    }
}

fn take(counter: &Mutex<u32>) -> bool {
    let mut counter = counter.lock().unwrap();
    let left = *counter > 0;
    *counter = counter.saturating_sub(1);
    left
}

async fn fresh(host: &Host, registries: RegistriesConfig) -> Runtime {
    Runtime::open(RuntimeConfig {
        root: host.dir.path().join("fresh"),
        state: host.dir.path().join("run2"),
        exe: PathBuf::from("/nonexistent"),
        cgroup_parent: format!("{}/fresh", host.cgroup),
        registries,
    })
    .await
    .unwrap()
}

fn me() -> Auth {
    Auth::Basic { username: "me".into(), password: "secret".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_once_and_for_this_platform() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let registry = Registry::new(Gate::Open).with_index().listen(None).await;
    let runtime = fresh(&host, RegistriesConfig::default()).await;
    let name = registry.name();
    let steps = Mutex::new(Vec::new());
    let tell = |step| steps.lock().unwrap().push(step);
    let images = runtime.images();
    let (first, second) =
        tokio::join!(images.pull(&name, &Auth::Anonymous, tell), images.pull(&name, &Auth::Anonymous, |_| ()));
    let image = first.unwrap();
    assert_eq!(image.id, second.unwrap().id);
    assert_eq!(image.names, [name.to_string()]);
    assert_eq!(image.repo_digests, [format!("{}@{}", name.repository(), sha256(&registry.manifest))]);
    let steps = steps.into_inner().unwrap();
    assert!(matches!(steps[0], Progress::Resolved { layers: 1, .. }));
    let layer = sha256(&gzip(&busybox_layer()));
    assert_eq!(registry.count(&layer), 1, "the layer is downloaded once");
    let by_digest: ImageRef = image.repo_digests[0].parse().unwrap();
    assert_eq!(images.pull(&by_digest, &Auth::Anonymous, |_| ()).await.unwrap().id, image.id);
    assert!(images.gc(&HashSet::new()).unwrap() > 0, "a registry has it");
    assert!(images.get(&name.to_string()).is_none());
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_open_basic_and_token_registries() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let runtime = fresh(&host, RegistriesConfig::default()).await;
    for gate in [Gate::Basic, Gate::Bearer] {
        let registry = Registry::new(gate).listen(None).await;
        let refused = runtime.images().pull(&registry.name(), &Auth::Anonymous, |_| ()).await.unwrap_err();
        assert!(matches!(refused, ImageError::Unauthorized(_)), "{refused}");
        let wrong = Auth::Basic { username: "me".into(), password: "wrong".into() };
        let refused = runtime.images().pull(&registry.name(), &wrong, |_| ()).await.unwrap_err();
        assert!(refused.to_string().contains("unauthorized"), "{refused}");
        runtime.images().pull(&registry.name(), &me(), |_| ()).await.unwrap();
    }
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_downloads_go_on_where_they_were() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let registry = Registry::new(Gate::Open);
    *registry.interruptions.lock().unwrap() = 2;
    *registry.outages.lock().unwrap() = 1;
    let registry = registry.listen(None).await;
    let runtime = fresh(&host, RegistriesConfig::default()).await;
    runtime.images().pull(&registry.name(), &Auth::Anonymous, |_| ()).await.unwrap();
    assert_eq!(registry.count(&sha256(&gzip(&busybox_layer()))), 3);
    assert_eq!(std::fs::read_dir(host.dir.path().join("fresh/ingest")).unwrap().count(), 0);
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_cut_off_by_a_restart_is_resumed() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let layer = gzip(&busybox_layer());
    let ingest = host.dir.path().join("fresh/ingest");
    std::fs::create_dir_all(&ingest).unwrap();
    let begun = ingest.join(format!("{}.part", &sha256(&layer)[7..]));
    std::fs::write(&begun, &layer[..layer.len() / 3]).unwrap();
    let registry = Registry::new(Gate::Open).listen(None).await;
    let runtime = fresh(&host, RegistriesConfig::default()).await;
    let least = Mutex::new(u64::MAX);
    let tell = |step| {
        if let Progress::Downloading { done, .. } = step {
            let mut least = least.lock().unwrap();
            *least = done.min(*least);
        }
    };
    runtime.images().pull(&registry.name(), &Auth::Anonymous, tell).await.unwrap();
    assert!(*least.lock().unwrap() >= layer.len() as u64 / 3);
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let registry = Registry::new(Gate::Open).listen(None).await;
    let runtime = fresh(&host, RegistriesConfig::default()).await;
    let name: ImageRef = format!("{}/team/nosuch:1", registry.address).parse().unwrap();
    let error = runtime.images().pull(&name, &Auth::Anonymous, |_| ()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{name}: not found"));
    let name: ImageRef = "127.0.0.1:1/x".parse().unwrap();
    let error = runtime.images().pull(&name, &Auth::Anonymous, |_| ()).await.unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error}");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tampered_layers_are_refused() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let mut registry = Registry::new(Gate::Open);
    let digest = sha256(&gzip(&busybox_layer()));
    if let Some(layer) = registry.blobs.get_mut(&digest) {
        layer[5000] ^= 1;
    }
    let registry = registry.listen(None).await;
    let runtime = fresh(&host, RegistriesConfig::default()).await;
    let error = runtime.images().pull(&registry.name(), &Auth::Anonymous, |_| ()).await.unwrap_err();
    assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error}");
    assert!(runtime.images().list().is_empty());
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_the_registry_after_them() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let mirror = Registry::new(Gate::Open).listen(None).await;
    let urls = vec!["http://127.0.0.1:1".to_owned(), format!("http://{}", mirror.address)];
    let mirrors = [("registry.invalid".to_owned(), urls)].into();
    let runtime = fresh(&host, RegistriesConfig { mirrors, ..RegistriesConfig::default() }).await;
    let name: ImageRef = "registry.invalid/team/app:1".parse().unwrap();
    let images = runtime.images().clone();
    let pulling = tokio::spawn(async move { images.pull(&name, &Auth::Anonymous, |_| ()).await });
    assert_eq!(pulling.await.unwrap().unwrap().names, ["registry.invalid/team/app:1"]);
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_against_the_configured_authority() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let ca_file = host.dir.path().join("ca.pem");
    std::fs::write(&ca_file, certified.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let registry = Registry::new(Gate::Open).listen(Some(Arc::new(config).into())).await;
    let name = registry.name();
    let runtime = fresh(&host, RegistriesConfig::default()).await;
    let error = runtime.images().pull(&name, &Auth::Anonymous, |_| ()).await.unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error}");
    drop(runtime);
    let of_another = [("127.0.0.1:1".to_owned(), ca_file.clone())].into();
    let runtime = fresh(&host, RegistriesConfig { ca_files: of_another, ..RegistriesConfig::default() }).await;
    let error = runtime.images().pull(&name, &Auth::Anonymous, |_| ()).await.unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "an authority counts for its registry alone: {error}");
    drop(runtime);
    let ca_files = [(registry.address.clone(), ca_file)].into();
    let trusting = RegistriesConfig { ca_files, ..RegistriesConfig::default() };
    let runtime = fresh(&host, trusting).await;
    let image = runtime.images().pull(&name, &Auth::Anonymous, |_| ()).await.unwrap();
    runtime.images().remove(&image.id).unwrap();
    drop(runtime);
    let insecure = RegistriesConfig { insecure: vec![registry.address.clone()], ..RegistriesConfig::default() };
    fresh(&host, insecure).await.images().pull(&name, &Auth::Anonymous, |_| ()).await.unwrap();
    host.close().await;
}
