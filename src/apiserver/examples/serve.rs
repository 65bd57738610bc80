//! An API server by itself, for trying things with kubectl: `cargo run -p apiserver --example serve -- DIR [PORT]`
//! keeps its data in DIR, writes DIR/admin.yaml and serves on loopback.

use std::{error::Error, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use apiserver::{ApiServer, Config, Limits, NoNodes, ServiceAccountConfig};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use pki::{Ca, Identity, Leaf};
use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: serve DIR [PORT]")?);
    let port: u16 = arguments.next().unwrap_or_else(|| "0".into()).parse()?;
    std::fs::create_dir_all(&dir)?;
    let now = Timestamp::now();
    let ca = Ca::load_or_create(&dir, "ca", "test-ca", now)?;
    let serving = ca.issue(
        &Leaf::Server {
            common_name: "kube-apiserver".into(),
            dns_names: vec!["localhost".into()],
            addresses: vec![[127, 0, 0, 1].into()],
        },
        now,
    )?;
    let chain = vec![CertificateDer::from_pem_slice(serving.cert_pem.as_bytes())?];
    let key = any_supported_type(&PrivateKeyDer::from_pem_slice(serving.key_pem.as_bytes())?)?;
    let signing = pki::authority::load_or_create_signing_key(&dir.join("sa.key"))?;
    let PrivateKeyDer::Pkcs8(signing) = PrivateKeyDer::from_pem_slice(signing.as_bytes())? else {
        return Err("the signing key is not PKCS#8".into());
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    let store = storage::Store::open(storage::Config::new(dir.join("db"), 1)).await?;
    let started = std::time::Instant::now();
    let api = ApiServer::start(Config {
        store: store.clone(),
        service_cidrs: vec!["10.43.0.0/16".parse()?],
        node_ports: 30000..=32767,
        advertise: address,
        serving: Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))),
        client_ca_pem: ca.cert_pem().to_owned(),
        service_accounts: ServiceAccountConfig {
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            audiences: vec!["https://kubernetes.default.svc.cluster.local".into()],
            signing_key: signing.secret_pkcs8_der().to_vec(),
            max_expiration: Duration::from_secs(86400),
        },
        tokens: Vec::new(),
        dialer: Arc::new(NoNodes),
        anonymous: true,
        event_ttl: Duration::from_secs(3600),
        compaction_interval: Duration::from_secs(300),
        limits: Limits::default(),
        version: "v1.36.0+rk0.1.0".into(),
    })
    .await?;
    println!("started in {:?}", started.elapsed());
    let admin = ca.issue(&Leaf::Client(Identity::new("admin", &["system:masters"])), now)?;
    std::fs::write(dir.join("admin.yaml"), kubeconfig(address, ca.cert_pem(), &admin.cert_pem, &admin.key_pem))?;
    println!("kubeconfig {}", dir.join("admin.yaml").display());
    tokio::select! {
        () = api.serve(listener) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    api.shutdown(Duration::from_secs(2)).await;
    store.shutdown().await;
    Ok(())
}

fn kubeconfig(address: SocketAddr, ca: &str, cert: &str, key: &str) -> String {
    let encode = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: \"https://{address}\", certificate-authority-data: {}}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{client-certificate-data: {}, client-key-data: {}}}}}]\n",
        encode(ca),
        encode(cert),
        encode(key)
    )
}
