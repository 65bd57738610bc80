//! A kubeconfig of one cluster and one user with a client certificate: the kind that `rk server` writes, and that rk's
//! own commands and benches read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::https::{Credentials, HttpsConfig};
use crate::servers::ServerList;
use crate::tls::Identity;

/// Where the API server is, and who one is to it. `Debug` would show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    /// `https://HOST:PORT`
    pub server: String,
    pub ca_pem: Vec<u8>,
    pub cert_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("not a kubeconfig with certificates in it")]
    Yaml(#[from] serde_yaml_ng::Error),
    #[error("its certificates are no base64")]
    Base64(#[from] base64::DecodeError),
    #[error("it names no cluster or no user")]
    Empty,
}

#[derive(Deserialize)]
struct File {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: String,
}

impl Kubeconfig {
    /// The first cluster and the first user of a kubeconfig's text.
    pub fn parse(text: &str) -> Result<Self, KubeconfigError> {
        let File { clusters, users } = serde_yaml_ng::from_str(text)?;
        let first = clusters.into_iter().next().zip(users.into_iter().next());
        let (NamedCluster { cluster }, NamedUser { user }) = first.ok_or(KubeconfigError::Empty)?;
        Ok(Self {
            server: cluster.server,
            ca_pem: STANDARD.decode(cluster.certificate_authority_data)?,
            cert_pem: STANDARD.decode(user.client_certificate_data)?,
            key_pem: STANDARD.decode(user.client_key_data)?,
        })
    }

    /// The text of a kubeconfig with one cluster, user and context, all named `default`.
    pub fn render(&self) -> String {
        let server = &self.server;
        let [ca, cert, key] = [&self.ca_pem, &self.cert_pem, &self.key_pem].map(|pem| STANDARD.encode(pem));
        format!(
            "apiVersion: v1
kind: Config
clusters:
- name: default
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: default
  user:
    client-certificate-data: {cert}
    client-key-data: {key}
contexts:
- name: default
  context:
    cluster: default
    user: default
current-context: default
"
        )
    }

    pub fn identity(&self) -> Identity<'_> {
        Identity { cert_pem: &self.cert_pem, key_pem: &self.key_pem }
    }

    /// What [`https`](crate::https()) takes.
    pub fn into_https(self) -> HttpsConfig {
        HttpsConfig {
            servers: ServerList::new(vec![self.server]),
            ca_pem: self.ca_pem,
            credentials: Credentials::Certificate { cert_pem: self.cert_pem, key_pem: self.key_pem },
            by_name: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_reads_back() {
        let config = Kubeconfig {
            server: "https://127.0.0.1:6443".into(),
            ca_pem: b"ca".to_vec(),
            cert_pem: b"cert".to_vec(),
            key_pem: b"key".to_vec(),
        };
        assert!(Kubeconfig::parse(&config.render()).is_ok_and(|read| read == config));
    }

    #[test]
    fn what_is_no_such_kubeconfig_is_refused() {
        let error = |text: &str| Kubeconfig::parse(text).err().unwrap();
        assert!(matches!(error("clusters: []\nusers: []\n"), KubeconfigError::Empty));
        assert!(matches!(error("users: []\n"), KubeconfigError::Yaml(_)));
    }
}
