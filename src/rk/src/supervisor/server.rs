//! `rk server`: the whole control plane, and a node on the same box.

use super::dialer::Dialer;
use super::etcd;
use super::routes::{PREFIX, Routes};
use super::worker::{self, Worker};
use crate::config::{ServerConfig, nth_address};
use crate::join::identity::certified_key;
use crate::join::server::Joins;
use crate::progress::Progress;
use crate::snapshot::Snapshots;
use crate::{demo, kubeconfig, manifests, notify, preflight};
use anyhow::{Context, ensure};
use apiserver::{ApiServer, Limits, ServiceAccountConfig, User};
use client::persist::persist;
use client::{Api, Informers, Kubeconfig, Scope};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Client;
use kube::api::{Patch, PatchParams};
use pki::{Ca, Identity, JoinToken, KeyCert, Leaf, files};
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use storage::Store;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const DRAIN: Duration = Duration::from_secs(5);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

pub(crate) async fn run(config: ServerConfig) -> anyhow::Result<()> {
    let progress = Progress::new();
    if config.node.is_some() {
        worker::check("rk server")?;
    }
    let listener = preflight::bind(config.listen)?;
    let etcd_listener = config.etcd_listen.map(etcd::bind).transpose()?;
    let server = Server::start(&config, listener).await?;
    if let Some(listener) = etcd_listener {
        etcd::start(&config, listener, &server.store, &server.ca, &server.serving).await?;
    }
    let local = SocketAddr::new(preflight::local_address(config.listen).ip(), server.port);
    progress.step(&format!("server ready at https://{local}, kubeconfig {}", config.kubeconfig.display()));
    notify::ready();
    let stop = CancellationToken::new();
    let loops = server.start_loops(&config, &stop);
    let outcome = tokio::select! {
        stopped = super::asked_to_stop() => stopped.map(|()| None),
        node = server.start_node(&config, &progress, &stop) => node,
    };
    let ended = match &outcome {
        Ok(Some(_)) => super::asked_to_stop().await,
        _ => Ok(()),
    };
    progress.line("stopping; containers go on running (rk kill-all ends them)");
    stop.cancel();
    if let Ok(Some(worker)) = &outcome {
        worker.node.stopped().await;
    }
    for task in loops {
        if let Err(error) = task.await {
            tracing::error!(%error, "a component ended badly");
        }
    }
    server.stop().await;
    outcome.map(drop).and(ended)
}

/// Connections leave half of the files for all else: the store, pods, and the far ends of what is proxied.
fn limits(open_files: u64) -> Limits {
    let usual = Limits::default();
    let room = usize::try_from(open_files / 2).unwrap_or(usize::MAX);
    Limits { connections: usual.connections.min(room).max(64), ..usual }
}

/// The API server and what it stands on.
struct Server {
    store: Store,
    api: ApiServer,
    ca: Ca,
    serving: Arc<SingleCertAndKey>,
    dialer: Dialer,
    /// One watch per kind for all components of this process.
    informers: Informers,
    snapshots: Snapshots,
    port: u16,
}

impl Server {
    async fn start(config: &ServerConfig, listener: std::net::TcpListener) -> anyhow::Result<Self> {
        let folder = config.data_dir.join("server");
        // Keys, and the store with every secret in it.
        preflight::private_folder(&folder)?;
        let tls = folder.join("tls");
        let now = Timestamp::now();
        let store = Store::open(storage::Config::new(folder.join("db"), 1)).await.context("open the store")?;
        let ca = Ca::load_or_create(&tls, "ca", &format!("rk-{:016x}", store.cluster_id()), now)?;
        let signing_key = pki::authority::load_or_create_signing_key(&tls.join("service-account.key"))?;
        let signing_key =
            PrivatePkcs8KeyDer::from_pem_slice(signing_key.as_bytes()).context("read service-account.key")?;
        let port = listener.local_addr().context("read the listener's address")?.port();
        let dialer = Dialer::default();
        let serving = Arc::new(serving_certificate(config, &ca, now)?);
        let limits = limits(runtime::open_files::raise().context("raise the limit of open files")?);
        let api = ApiServer::start(apiserver::Config {
            store: store.clone(),
            service_cidrs: vec![config.network.service_cidr.into()],
            node_ports: config.node_ports.clone(),
            advertise: SocketAddr::new(config.advertise, port),
            serving: serving.clone(),
            client_ca_pem: ca.cert_pem().to_owned(),
            service_accounts: ServiceAccountConfig {
                issuer: format!("https://kubernetes.default.svc.{}", config.network.domain),
                audiences: vec![
                    format!("https://kubernetes.default.svc.{}", config.network.domain),
                    "https://kubernetes.default.svc".into(),
                    "rk".into(),
                ],
                signing_key: signing_key.secret_pkcs8_der().to_vec(),
                max_expiration: YEAR,
            },
            tokens: Vec::new(),
            dialer: Arc::new(dialer.clone()),
            anonymous: true,
            event_ttl: Duration::from_secs(3600),
            compaction_interval: Duration::from_secs(300),
            limits,
            version: crate::version(),
        })
        .await
        .context("start the API server")?;
        let observer = User::new("system:rk:informers", &["system:masters".to_owned()]);
        let informers = Informers::new(client::in_process(api.service_for(observer)));
        let (settings, network) = (config.snapshots.clone(), config.network.clone());
        let snapshots = Snapshots::new(store.clone(), settings, &config.data_dir, &config.name, network);
        let server = Self { store, api, ca, serving, dialer, informers, snapshots, port };
        server.add_routes(config)?;
        server.write_kubeconfig(config, now)?;
        let listener = tokio::net::TcpListener::from_std(listener).context("hand over the listener")?;
        let serving = server.api.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        Ok(server)
    }

    fn client(&self, identity: &Identity) -> Client {
        client::in_process(self.api.service_for(User::new(&identity.user, &identity.groups)))
    }

    fn add_routes(&self, config: &ServerConfig) -> anyhow::Result<()> {
        let path = crate::config::node_token_path(&config.data_dir);
        let token = match (&config.token, files::read_if_present(&path)?) {
            (Some(given), _) => given_token(given, self.ca.cert_der())?,
            (None, Some(kept)) => kept.parse().with_context(|| format!("read {}", path.display()))?,
            (None, None) => JoinToken::new(self.ca.cert_der(), "node", &JoinToken::random_secret()),
        };
        files::write_private(&path, format!("{token}\n").as_bytes())?;
        let client = self.client(&Identity::new("system:rk:join", &["system:masters"]));
        let joins = Joins {
            ca: self.ca.clone(),
            token,
            network: config.network.clone(),
            certificate_life: config.agent_certificate_life,
            client,
        };
        let (tunnels, snapshots) = (self.dialer.tunnels().clone(), self.snapshots.clone());
        self.api.add_route(PREFIX, Arc::new(Routes { joins, tunnels, snapshots }));
        Ok(())
    }

    fn write_kubeconfig(&self, config: &ServerConfig, now: Timestamp) -> anyhow::Result<()> {
        let admin = Leaf::Client(Identity::new("system:admin", &["system:masters"]));
        let local = SocketAddr::new(preflight::local_address(config.listen).ip(), self.port);
        let KeyCert { key_pem, cert_pem } = self.ca.issue(&admin, now)?;
        let kubeconfig = Kubeconfig {
            server: format!("https://{local}"),
            ca_pem: self.ca.cert_pem().into(),
            cert_pem: cert_pem.into(),
            key_pem: key_pem.into(),
        };
        kubeconfig::write(&config.kubeconfig, &kubeconfig, config.kubeconfig_mode)
    }

    /// Controllers, scheduler and manifests: they wait for what they need by themselves.
    fn start_loops(&self, config: &ServerConfig, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        let controllers = self.client(&Identity::new("system:kube-controller-manager", &["system:masters"]));
        let mut settings = controllers::Config::new(self.ca.cert_pem().to_owned(), config.network.cluster_cidr.into());
        settings.signer = Some(self.ca.clone());
        self.api.extend_metrics(|registry| settings.metrics.register(registry));
        let scheduler = self.client(&Identity::new("system:kube-scheduler", &[]));
        let informers = self.informers.clone();
        let admin = self.client(&Identity::new("system:rk:manifests", &["system:masters"]));
        let folder = config.data_dir.join("server/manifests");
        let dns = embedded::KUBE_DNS.replace("${CLUSTER_DNS}", &config.network.dns.to_string());
        let (own, ended) = (admin.clone(), stop.clone());
        vec![
            tokio::spawn(controllers::run(controllers, informers.clone(), settings, stop.clone())),
            tokio::spawn(persist("scheduler", move || {
                scheduler::run(scheduler.clone(), informers.clone(), scheduler::Config::default(), ended.clone())
            })),
            tokio::spawn(manifests::follow(admin, folder, stop.clone())),
            tokio::spawn(self.snapshots.clone().keep_taking(stop.clone())),
            tokio::spawn(async move {
                if let Err(error) = manifests::apply(&own, &dns).await {
                    tracing::error!(error = format!("{error:#}"), "the DNS service could not be made");
                }
            }),
        ]
    }

    async fn start_node(
        &self,
        config: &ServerConfig,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Worker>> {
        let Some(node_config) = &config.node else { return std::future::pending().await };
        let client = self.client(&Identity::node(&node_config.name));
        let informers = self.informers.clone();
        let scope = Some(Scope::all());
        let worker = worker::start(node_config, &config.network, client, informers, scope, stop.clone()).await?;
        self.dialer.set_local(&node_config.name, worker.node.clone());
        let admin = self.client(&Identity::new("system:rk:demo", &["system:masters"]));
        mark_control_plane(&admin, &node_config.name).await?;
        let is_ready = |node: &NodeObject| {
            let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
        };
        ensure!(self.informers.of().until("", &node_config.name, is_ready).await, "the node did not become ready");
        progress.step(&format!("node {} ready", node_config.name));
        if config.demo {
            demo::build_image(worker.runtime.images().clone()).await?;
            demo::run(&admin, &self.informers, config, progress).await?;
        }
        Ok(Some(worker))
    }

    async fn stop(&self) {
        self.informers.shutdown().await;
        self.api.shutdown(DRAIN).await;
        self.store.shutdown().await;
    }
}

/// The node is shown with its role. By the server: a node may not give itself a label that places pods.
async fn mark_control_plane(client: &Client, node: &str) -> anyhow::Result<()> {
    let labels = serde_json::json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "true"}}});
    let nodes: Api<NodeObject> = Api::all(client.clone());
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(labels)).await.context("label the node")?;
    Ok(())
}

/// A server's `--token`: a whole join token of this cluster, or a bare secret.
fn given_token(given: &str, ca_der: &[u8]) -> anyhow::Result<JoinToken> {
    if !given.starts_with("K10") {
        return Ok(JoinToken::new(ca_der, "node", given));
    }
    let token: JoinToken = given.parse().context("--token")?;
    anyhow::ensure!(token.is_for(ca_der), "--token is another cluster's: this data dir has its own CA");
    Ok(token)
}

/// The certificate of the API port, for every name and address it is reached by.
fn serving_certificate(config: &ServerConfig, ca: &Ca, now: Timestamp) -> anyhow::Result<SingleCertAndKey> {
    let domain = &config.network.domain;
    let mut dns_names: Vec<String> =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).to_vec();
    dns_names.push(format!("kubernetes.default.svc.{domain}"));
    dns_names.extend(config.node.as_ref().map(|node| node.name.clone()));
    let mut addresses = vec![
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V4(nth_address(config.network.service_cidr, 1)),
        config.advertise,
    ];
    let listening = [Some(config.listen), config.etcd_listen].into_iter().flatten().map(|address| address.ip());
    addresses.extend(listening.filter(|ip| !ip.is_unspecified()));
    addresses.extend(config.node.as_ref().map(|node| node.ip));
    for san in &config.tls_sans {
        match san.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => dns_names.push(san.clone()),
        }
    }
    addresses.sort();
    addresses.dedup();
    let leaf = Leaf::Server { common_name: "rk".into(), dns_names, addresses };
    let pair = ca.issue(&leaf, now)?;
    let certified = certified_key(&pair)?;
    Ok(certified.into())
}
