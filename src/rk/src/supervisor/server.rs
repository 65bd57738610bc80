//! `rk server`: the whole control plane, and a node on the same box.

use super::dialer::Dialer;
use super::elected::{self, Candidate};
use super::files::{Issued, keep_fresh};
use super::routes::{PREFIX, Routes};
use super::serving::Serving;
use super::worker::{self, Worker};
use super::{etcd, node_tunnels};
use crate::config::ServerConfig;
use crate::join::server::Joins;
use crate::members::credentials::Credentials;
use crate::members::enter::{Removed, enter};
use crate::members::gate::Gate;
use crate::members::kept::{self, Kept, Settings};
use crate::members::presence::{self, Presence};
use crate::members::tokens;
use crate::members::tokens::shared::ClusterTokens;
use crate::peers::Peers;
use crate::progress::Progress;
use crate::snapshot::Snapshots;
use crate::{Next, demo, kubeconfig, manifests, notify, preflight};
use anyhow::{Context, bail, ensure};
use apiserver::{ApiServer, Limits, ServiceAccountConfig, User};
use client::backoff::Backoff;
use client::persist::persist;
use client::{Api, Informers, Kubeconfig, Scope};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Client;
use kube::api::{Patch, PatchParams};
use pki::{Ca, Identity, KeyCert, Leaf, files};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use storage::{ClusterId, Exclusion, Member, Store, StoreError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A start that takes longer says what it waits for.
const PATIENCE: Duration = Duration::from_secs(1);
const DRAIN: Duration = Duration::from_secs(5);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

pub(crate) async fn run(mut config: ServerConfig) -> anyhow::Result<Next> {
    let progress = Progress::new();
    if config.node.is_some() {
        worker::check("rk server")?;
    }
    let listener = preflight::bind(config.listen)?;
    let etcd_listener = config.etcd_listen.map(etcd::bind).transpose()?;
    let joining = enter(&mut config).await?;
    let server = Server::open(&config, listener, joining).await?;
    let stop = CancellationToken::new();
    let fresh = tokio::spawn(keep_fresh(server.issue_files(&config)?, Timestamp::now, stop.clone()));
    let mut running = Running { etcd_listener, stop, loops: vec![fresh], worker: None };
    let ended = tokio::select! {
        failed = server.live(&config, joining.is_some(), &progress, &mut running) => Err(failed),
        stopped = super::asked_to_stop() => stopped.map(|()| Ended::Asked),
        exclusion = server.store.excluded() => Ok(Ended::Excluded(exclusion)),
    };
    progress.line("stopping; containers go on running (rk kill-all ends them)");
    running.stop().await;
    server.stop().await;
    match ended? {
        Ended::Asked => Ok(Next::End),
        Ended::Excluded(exclusion) => leave(&config, exclusion),
    }
}

/// Why a server stops.
enum Ended {
    Asked,
    Excluded(Exclusion),
}

/// What runs on top of the API server.
struct Running {
    /// Until it serves.
    etcd_listener: Option<std::net::TcpListener>,
    stop: CancellationToken,
    loops: Vec<JoinHandle<()>>,
    worker: Option<Worker>,
}

impl Running {
    async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(worker) = &self.worker {
            worker.node.stopped().await;
        }
        for task in self.loops.drain(..) {
            if let Err(error) = task.await {
                tracing::error!(%error, "a component ended badly");
            }
        }
    }
}

/// The others have shut this server out. Called when all has stopped.
fn leave(config: &ServerConfig, exclusion: Exclusion) -> anyhow::Result<Next> {
    match exclusion {
        Exclusion::Removed => {
            files::write_private(&kept::removed_path(&config.data_dir), b"removed from the cluster\n")?;
            bail!(Removed::of(config))
        }
        Exclusion::Forked { generation } => {
            if let Some(kept) = Kept::load(&config.data_dir)? {
                Kept { generation, ..kept }.store(&config.data_dir)?;
            }
            let store = storage::Config::new(kept::store_folder(&config.data_dir), 0);
            let aside = storage::move_aside(&store).context("move the store aside")?;
            tracing::warn!(
                generation,
                aside = %aside.display(),
                "the cluster went on without this server; what it had is kept aside, and it joins again"
            );
            Ok(Next::Again)
        }
        Exclusion::Twin => bail!(exclusion),
    }
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
    serving: Arc<Serving>,
    dialer: Dialer,
    presence: Presence,
    /// One watch per kind for all components of this process.
    informers: Informers,
    snapshots: Snapshots,
    tokens: ClusterTokens,
    given_tokens: tokens::Given,
    port: u16,
}

impl Server {
    /// Opens the store and serves what the other servers need of this one; the API itself comes later.
    async fn open(
        config: &ServerConfig,
        listener: std::net::TcpListener,
        join: Option<ClusterId>,
    ) -> anyhow::Result<Self> {
        let folder = config.data_dir.join("server");
        // Keys, and the store with every secret in it.
        preflight::private_folder(&folder)?;
        let tls = folder.join("tls");
        let now = Timestamp::now();
        let port = listener.local_addr().context("read the listener's address")?.port();
        let me =
            Member { name: config.name.clone(), addresses: vec![SocketAddr::new(config.advertise, port).to_string()] };
        let peers = Arc::new(Peers::default());
        let store = Store::open(storage::Config {
            member: me.clone(),
            join,
            transport: Some(peers.clone()),
            ..storage::Config::new(kept::store_folder(&config.data_dir), 0)
        })
        .await
        .context("open the store")?;
        check_place(config, &store, join.is_some())?;
        let ca = Ca::load_or_create(&tls, "ca", &format!("rk-{:016x}", store.cluster_id()), now)?;
        let credentials = Credentials::issue(&ca, &config.name)?;
        peers.start(credentials.clone())?;
        let key_path = tls.join("service-account.key");
        let signing_key = pki::authority::load_or_create_signing_key(&key_path)?;
        let ca_key = files::read(&tls.join("ca.key"))?;
        let given_tokens = tokens::Given::of(config, ca.cert_der())?;
        let tokens = ClusterTokens::new(store.clone(), &ca, &ca_key, &config.data_dir)?;
        let dialer = Dialer::default();
        let serving = Serving::issue(config, &ca)?;
        let api = ApiServer::new(api_config(config, port, &store, &ca, &signing_key, serving.clone(), &dialer)?)
            .context("start the API server")?;
        let observer = User::new("system:rk:informers", &["system:masters".to_owned()]);
        let informers = Informers::new(client::in_process(api.service_for(observer)));
        let settings = Settings::of(config);
        let schedule = config.snapshots.clone();
        let snapshots = Snapshots::new(store.clone(), schedule, &config.data_dir, &config.name, settings.clone());
        let presence = Presence {
            store: store.clone(),
            credentials,
            peers,
            me,
            hints: hints(config)?,
            data_dir: config.data_dir.clone(),
            settings,
        };
        let server =
            Self { store, api, ca, serving, dialer, presence, informers, snapshots, tokens, given_tokens, port };
        server.add_routes(config, &ca_key, &signing_key);
        let listener = tokio::net::TcpListener::from_std(listener).context("hand over the listener")?;
        let serving = server.api.clone();
        tokio::spawn(async move { serving.serve(listener).await });
        Ok(server)
    }

    /// Brings everything up, in order; returns only when something fails.
    async fn live(
        &self,
        config: &ServerConfig,
        joining: bool,
        progress: &Progress,
        running: &mut Running,
    ) -> anyhow::Error {
        match self.bring_up(config, joining, progress, running).await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    }

    async fn bring_up(
        &self,
        config: &ServerConfig,
        joining: bool,
        progress: &Progress,
        running: &mut Running,
    ) -> anyhow::Result<()> {
        self.come_up(joining).await?;
        if joining {
            progress.step(&format!("joined as server {} of {}", config.name, self.store.members().len()));
        }
        if let Some(listener) = running.etcd_listener.take() {
            etcd::start(config, listener, &self.store, &self.ca, self.serving.clone()).await?;
        }
        let local = SocketAddr::new(preflight::local_address(config.listen).ip(), self.port);
        progress.step(&format!("server ready at https://{local}, kubeconfig {}", config.kubeconfig.display()));
        notify::ready();
        running.loops.extend(self.start_loops(config, &running.stop));
        self.start_node(config, progress, running).await
    }

    /// Waits for the store, says what it waits for, and starts the API.
    async fn come_up(&self, joining: bool) -> anyhow::Result<()> {
        let mut rising = std::pin::pin!(self.rise(joining));
        let mut told = String::new();
        loop {
            if let Ok(risen) = tokio::time::timeout(PATIENCE, &mut rising).await {
                return risen;
            }
            let what = presence::obstacle(&self.store.status());
            if what != told {
                tracing::warn!("waiting for {what}");
                self.api.waits_for(&what);
                told = what;
            }
        }
    }

    async fn rise(&self, joining: bool) -> anyhow::Result<()> {
        self.presence.check()?;
        if joining {
            self.presence.settle().await?;
        } else {
            tokio::spawn(self.presence.clone().keep_place());
        }
        loop {
            match self.store.read_barrier().await {
                Ok(_) => break,
                Err(StoreError::NoLeader | StoreError::Unknown) => {}
                // Whoever waits for the exclusion ends this.
                Err(StoreError::Excluded(_)) => std::future::pending().await,
                Err(error) => return Err(error).context("read the store"),
            }
        }
        self.tokens.settle(&self.given_tokens).await?;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            match self.api.bootstrap().await {
                Ok(()) => return Ok(()),
                Err(error) if self.store.members().len() > 1 => {
                    let error = format!("{:#}", anyhow::Error::new(error));
                    tracing::warn!(%error, "the API server has not started yet; trying again");
                }
                Err(error) => return Err(error).context("start the API server"),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    fn client(&self, identity: &Identity) -> Client {
        client::in_process(self.api.service_for(User::new(&identity.user, &identity.groups)))
    }

    fn add_routes(&self, config: &ServerConfig, ca_key: &str, service_account_key: &str) {
        let client = self.client(&Identity::new("system:rk:join", &["system:masters"]));
        let joins = Joins {
            ca: self.ca.clone(),
            tokens: self.tokens.clone(),
            network: config.network.clone(),
            store: self.store.clone(),
            certificate_life: config.agent_certificate_life,
            client: client.clone(),
        };
        let gate = Gate {
            store: self.store.clone(),
            ca: self.ca.clone(),
            ca_key: ca_key.into(),
            service_account_key: service_account_key.into(),
            tokens: self.tokens.clone(),
            settings: self.presence.settings.clone(),
            name: config.name.clone(),
            data_dir: config.data_dir.clone(),
            credentials: self.presence.credentials.clone(),
            peers: self.presence.peers.clone(),
            client,
            joins: joins.clone(),
        };
        let (tunnels, snapshots) = (self.dialer.tunnels().clone(), self.snapshots.clone());
        self.api.add_route(PREFIX, Arc::new(Routes::new(joins, tunnels, gate, snapshots)));
    }

    /// Certificates for others on this box, in files.
    fn issue_files(&self, config: &ServerConfig) -> anyhow::Result<Vec<Issued>> {
        let etcd = config.etcd_listen.map(|_| etcd::credentials(config, &self.ca));
        std::iter::once(self.write_kubeconfig(config)).chain(etcd).collect()
    }

    fn write_kubeconfig(&self, config: &ServerConfig) -> anyhow::Result<Issued> {
        let admin = Leaf::Client(Identity::new("system:admin", &["system:masters"]));
        let local = SocketAddr::new(preflight::local_address(config.listen).ip(), self.port);
        let (ca, path, mode) = (self.ca.clone(), config.kubeconfig.clone(), config.kubeconfig_mode);
        Issued::new("kubeconfig", Timestamp::now(), move |now| {
            let KeyCert { key_pem, cert_pem } = ca.issue(&admin, now)?;
            let kubeconfig = Kubeconfig {
                server: format!("https://{local}"),
                ca_pem: ca.cert_pem().into(),
                cert_pem: cert_pem.clone().into(),
                key_pem: key_pem.into(),
            };
            kubeconfig::write(&path, &kubeconfig, mode)?;
            Ok(cert_pem)
        })
    }

    /// Controllers and scheduler, on one server at a time, and manifests: they wait for what they need by themselves.
    fn start_loops(&self, config: &ServerConfig, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        let controllers = self.client(&Identity::new("system:kube-controller-manager", &["system:masters"]));
        let mut settings = controllers::Config::new(self.ca.cert_pem().to_owned(), config.network.cluster_cidr.into());
        settings.signer = Some(self.ca.clone());
        self.api.extend_metrics(|registry| settings.metrics.register(registry));
        let scheduler = self.client(&Identity::new("system:kube-scheduler", &[]));
        let (informers, watched) = (self.informers.clone(), self.informers.clone());
        let admin = self.client(&Identity::new("system:rk:manifests", &["system:masters"]));
        let folder = config.data_dir.join("server/manifests");
        let dns = embedded::KUBE_DNS.replace("${CLUSTER_DNS}", &config.network.dns.to_string());
        let own = admin.clone();
        let candidate = Candidate::new(&self.store, &config.name, stop);
        vec![
            candidate.run(elected::CONTROLLERS, controllers.clone(), move |leading| {
                controllers::run(controllers.clone(), watched.borrowed(), settings.clone(), leading)
            }),
            candidate.run(elected::SCHEDULER, scheduler.clone(), move |leading| {
                let (scheduler, informers) = (scheduler.clone(), informers.borrowed());
                persist("scheduler", move || {
                    scheduler::run(scheduler.clone(), informers.clone(), scheduler::Config::default(), leading.clone())
                })
            }),
            tokio::spawn(manifests::follow(admin, folder, stop.clone())),
            tokio::spawn(self.snapshots.clone().keep_taking(stop.clone())),
            tokio::spawn(self.tokens.clone().follow(self.given_tokens.clone(), stop.clone())),
            tokio::spawn(manifests::insist(own, dns, "the DNS service", stop.clone())),
        ]
    }

    async fn start_node(
        &self,
        config: &ServerConfig,
        progress: &Progress,
        running: &mut Running,
    ) -> anyhow::Result<()> {
        let Some(node_config) = &config.node else { return Ok(()) };
        let client = self.client(&Identity::node(&node_config.name));
        let informers = self.informers.clone();
        let scope = Some(Scope::all());
        let stop = running.stop.clone();
        let worker = worker::start(node_config, &config.network, client, informers, scope, stop).await?;
        let worker = running.worker.insert(worker);
        self.dialer.set_local(&node_config.name, worker.node.clone());
        let advertise = SocketAddr::new(config.advertise, self.port);
        let (node, own, stop) = (worker.node.clone(), self.informers.clone(), running.stop.clone());
        tokio::spawn(node_tunnels::keep(self.ca.clone(), advertise, node, own, stop));
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
        Ok(())
    }

    async fn stop(&self) {
        // While the others can still reach this server.
        self.store.hand_over().await;
        if let Err(error) = self.presence.remember() {
            tracing::warn!(error = format!("{error:#}"), "where the other servers are could not be kept");
        }
        self.informers.shutdown().await;
        self.api.drain(DRAIN).await;
        self.store.shutdown().await;
        self.api.close().await;
    }
}

/// What cannot be told before the store is open.
fn check_place(config: &ServerConfig, store: &Store, joining: bool) -> anyhow::Result<()> {
    let members = store.members().len();
    let folder = config.data_dir.join("server");
    ensure!(
        joining || members > 1 || config.servers.is_empty() || config.token.is_some(),
        "{0} holds a cluster of its own: leave out --server to go on with it, or move {0} out of the way and give --token \
         as well to join another one",
        folder.display()
    );
    for name in ["ca.crt", "ca.key", "service-account.key"] {
        let path = folder.join("tls").join(name);
        ensure!(
            !joining && members < 2 || path.exists(),
            "{} is missing: copy it from another server of the cluster",
            path.display()
        );
    }
    Ok(())
}

/// Servers that may know where the others are now.
fn hints(config: &ServerConfig) -> anyhow::Result<Vec<String>> {
    let kept = Kept::load(&config.data_dir)?.map_or_else(Vec::new, |kept| kept.servers);
    Ok(kept.iter().map(|address| format!("https://{address}")).chain(config.servers.iter().cloned()).collect())
}

fn api_config(
    config: &ServerConfig,
    port: u16,
    store: &Store,
    ca: &Ca,
    signing_key: &str,
    serving: Arc<Serving>,
    dialer: &Dialer,
) -> anyhow::Result<apiserver::Config> {
    let signing_key = PrivatePkcs8KeyDer::from_pem_slice(signing_key.as_bytes()).context("read service-account.key")?;
    let issuer = format!("https://kubernetes.default.svc.{}", config.network.domain);
    Ok(apiserver::Config {
        store: store.clone(),
        service_cidrs: vec![config.network.service_cidr.into()],
        node_ports: config.node_ports.clone(),
        advertise: SocketAddr::new(config.advertise, port),
        serving,
        client_ca_pem: ca.cert_pem().to_owned(),
        service_accounts: ServiceAccountConfig {
            audiences: vec![issuer.clone(), "https://kubernetes.default.svc".into(), "rk".into()],
            issuer,
            signing_key: signing_key.secret_pkcs8_der().to_vec(),
            max_expiration: YEAR,
        },
        tokens: Vec::new(),
        dialer: Arc::new(dialer.clone()),
        anonymous: true,
        event_ttl: Duration::from_secs(3600),
        compaction_interval: Duration::from_secs(300),
        limits: limits(runtime::open_files::raise().context("raise the limit of open files")?),
        version: crate::version(),
    })
}

/// The node is shown with its role. By the server: a node may not give itself a label that places pods.
async fn mark_control_plane(client: &Client, node: &str) -> anyhow::Result<()> {
    let labels = serde_json::json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "true"}}});
    let nodes: Api<NodeObject> = Api::all(client.clone());
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(labels)).await.context("label the node")?;
    Ok(())
}
