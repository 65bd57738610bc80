//! Resolved configuration: raw arguments in, checked values out.
//!
//! Each `resolve` destructures its arguments exhaustively, so a new flag does not compile until it is handled here.

mod address;
pub(crate) mod cluster;
pub(crate) mod file;
pub(crate) mod registries;

use crate::cli::{AgentArgs, NodeArgs, ServerArgs};
use crate::config::cluster::Given;
use crate::members::kept::Settings;
use anyhow::{Context, bail, ensure};
use ipnet::Ipv4Net;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Taint;
use objects::names::dns1123_subdomain;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

pub(crate) const DEFAULT_CONFIG_FILE: &str = "/etc/rk/config.yaml";
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/rk";

/// What a node needs, on a server or an agent.
#[derive(Debug, Clone)]
pub(crate) struct NodeConfig {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) data_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) max_pods: u32,
    pub(crate) cgroup_root: String,
    pub(crate) log_dir: PathBuf,
    pub(crate) registries: PathBuf,
}

impl NodeConfig {
    pub(crate) fn images_dir(&self) -> PathBuf {
        self.data_dir.join("agent/images")
    }
}

/// Addresses and names that hold for the whole cluster; agents get them from the server when they join.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ClusterNetwork {
    pub(crate) cluster_cidr: Ipv4Net,
    pub(crate) service_cidr: Ipv4Net,
    pub(crate) dns: Ipv4Addr,
    pub(crate) domain: String,
}

#[derive(Debug)]
pub(crate) struct ServerConfig {
    /// Of this machine, whether or not it is a node.
    pub(crate) name: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: IpAddr,
    pub(crate) tls_sans: Vec<String>,
    pub(crate) network: ClusterNetwork,
    pub(crate) node_ports: RangeInclusive<u16>,
    /// What was said of the settings that hold for the whole cluster.
    pub(crate) given: Given,
    pub(crate) agent_certificate_life: SignedDuration,
    /// Of the cluster to join, `https://HOST:PORT`; none: this server begins one, or is of one already.
    pub(crate) servers: Vec<String>,
    pub(crate) token: Option<String>,
    pub(crate) agent_token: Option<String>,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) kubeconfig_mode: u32,
    /// Where etcd's interface is served, if it is.
    pub(crate) etcd_listen: Option<SocketAddr>,
    /// `None` with `--disable-agent`.
    pub(crate) node: Option<NodeConfig>,
    pub(crate) demo: bool,
    pub(crate) snapshots: crate::snapshot::Settings,
}

#[derive(Debug, Clone)]
pub(crate) struct AgentConfig {
    /// URLs with ports, in the order given, none twice.
    pub(crate) servers: Vec<String>,
    pub(crate) token: pki::JoinToken,
    pub(crate) node: NodeConfig,
}

/// Where a server keeps the token that agents join with.
pub(crate) fn node_token_path(data_dir: &Path) -> PathBuf {
    data_dir.join("server/node-token")
}

/// Where a server keeps the token that servers join with.
pub(crate) fn server_token_path(data_dir: &Path) -> PathBuf {
    data_dir.join("server/token")
}

impl ServerConfig {
    /// Where other servers reach this one; port 0 is none yet.
    pub(crate) fn own_address(&self) -> String {
        SocketAddr::new(self.advertise, self.listen.port()).to_string()
    }

    /// Takes over settings that the cluster has, or that were kept. A flag that says something else is an error, unless
    /// this server is alone and may `change` them.
    pub(crate) fn adopt(&mut self, settings: &Settings, change: bool) -> anyhow::Result<()> {
        let settings = if change { self.given.over(settings)? } else { self.given.agree_with(settings)? };
        self.node_ports = settings.node_ports();
        self.network = settings.network;
        Ok(())
    }

    pub(crate) fn resolve(args: ServerArgs) -> anyhow::Result<Self> {
        let ServerArgs {
            node,
            bind_address,
            https_listen_port,
            advertise_address,
            tls_san,
            server,
            agent_token,
            cluster_cidr,
            service_cidr,
            service_node_port_range,
            agent_certificate_life,
            cluster_dns,
            cluster_domain,
            write_kubeconfig,
            write_kubeconfig_mode,
            etcd_listen,
            snapshots,
            disable_agent,
            demo,
        } = args;
        ensure!(!(demo && disable_agent), "--demo needs a node on this box: leave out --disable-agent");
        let (node, token) = resolve_node(node)?;
        let given = Given {
            cluster_cidr,
            service_cidr,
            dns: cluster_dns,
            domain: cluster_domain,
            node_ports: service_node_port_range.as_deref().map(parse_port_range).transpose()?,
        };
        let settings = given.over(&Given::defaults())?;
        let servers = server.iter().map(|url| server_url(url)).collect::<anyhow::Result<_>>()?;
        let mode = u32::from_str_radix(&write_kubeconfig_mode, 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .with_context(|| format!("--write-kubeconfig-mode {write_kubeconfig_mode:?} is no octal file mode"))?;
        Ok(Self {
            name: node.name.clone(),
            data_dir: node.data_dir.clone(),
            listen: SocketAddr::new(bind_address, https_listen_port),
            advertise: advertise_address.unwrap_or(node.ip),
            tls_sans: tls_san,
            node_ports: settings.node_ports(),
            network: settings.network,
            given,
            agent_certificate_life: parse_life(&agent_certificate_life)?,
            servers,
            token,
            agent_token,
            kubeconfig: write_kubeconfig,
            kubeconfig_mode: mode,
            etcd_listen,
            snapshots: crate::snapshot::Settings::resolve(snapshots, &node.data_dir)?,
            node: (!disable_agent).then_some(node),
            demo,
        })
    }
}

impl AgentConfig {
    pub(crate) fn resolve(args: AgentArgs) -> anyhow::Result<Self> {
        let AgentArgs { node, server } = args;
        let (node, token) = resolve_node(node)?;
        let token = token.context("an agent needs --token (or RK_TOKEN): run `rk token` on the server to see it")?;
        let mut servers = Vec::new();
        for url in &server {
            let url = server_url(url)?;
            if !servers.contains(&url) {
                servers.push(url);
            }
        }
        Ok(Self { servers, token: token.parse().context("--token")?, node })
    }
}

/// A server's URL, its port put in where it is left out.
pub(crate) fn server_url(url: &str) -> anyhow::Result<String> {
    let server = url.trim().trim_end_matches('/');
    let authority = server.strip_prefix("https://").filter(|rest| !rest.is_empty() && !rest.contains('/'));
    let Some(authority) = authority else {
        bail!("--server {server:?} must look like https://ADDRESS:6443");
    };
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(if has_port { server.to_owned() } else { format!("{server}:6443") })
}

fn resolve_node(args: NodeArgs) -> anyhow::Result<(NodeConfig, Option<String>)> {
    let NodeArgs {
        config: _,
        data_dir,
        state_dir,
        token,
        token_file,
        node_name,
        node_ip,
        node_label,
        node_taint,
        max_pods,
        cgroup_root,
        log_dir,
        registries,
        verbose: _,
        log_format: _,
    } = args;
    let name = self::node_name(node_name)?;
    let token = match (token, token_file) {
        (Some(token), _) => Some(token),
        (None, Some(path)) => Some(pki::files::read(&path).context("--token-file")?.trim().to_owned()),
        (None, None) => None,
    };
    // An empty secret is one that everybody knows.
    ensure!(
        token.as_deref() != Some(""),
        "the join token is empty: give --token (or RK_TOKEN) a value, or leave it out"
    );
    ensure!(cgroup_root.starts_with('/'), "--cgroup-root {cgroup_root:?} must be an absolute cgroup path");
    let node = NodeConfig {
        name,
        ip: node_ip.map_or_else(address::default_source, Ok)?,
        data_dir: real_path(&data_dir)?,
        state_dir: real_path(&state_dir)?,
        labels: node_label.iter().map(|label| parse_label(label)).collect::<anyhow::Result<_>>()?,
        taints: node_taint.iter().map(|taint| parse_taint(taint)).collect::<anyhow::Result<_>>()?,
        max_pods,
        cgroup_root,
        log_dir: real_path(&log_dir)?,
        registries,
    };
    Ok((node, token))
}

/// The name of this machine, given or the host's.
pub(crate) fn node_name(given: Option<String>) -> anyhow::Result<String> {
    let name = given.map_or_else(address::host_name, Ok)?;
    check_node_name(&name)?;
    Ok(name)
}

/// The path as the kernel's mount table has it, whatever symbolic links lead there. It need not exist yet.
pub(crate) fn real_path(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    for ancestor in path.ancestors() {
        match ancestor.canonicalize() {
            // Taken piece by piece, for an empty rest would leave a slash at the end.
            Ok(real) => {
                return Ok(path.strip_prefix(ancestor).into_iter().flatten().fold(real, |at, name| at.join(name)));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(path)
}

/// The `n`-th address of a network.
pub(crate) fn nth_address(network: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network.network()).saturating_add(n))
}

fn parse_port_range(text: &str) -> anyhow::Result<RangeInclusive<u16>> {
    text.split_once('-')
        .and_then(|(first, last)| Some(first.trim().parse().ok()?..=last.trim().parse().ok()?))
        .filter(|range: &RangeInclusive<u16>| !range.is_empty() && *range.start() > 0)
        .with_context(|| format!("--service-node-port-range {text:?} must look like 30000-32767"))
}

fn parse_life(text: &str) -> anyhow::Result<SignedDuration> {
    let life = objects::duration::parse(text).ok().filter(|life| *life >= SignedDuration::from_secs(10));
    life.with_context(|| format!("--agent-certificate-life {text:?} must look like 8760h, and be 10s or more"))
}

fn check_node_name(name: &str) -> anyhow::Result<()> {
    ensure!(
        dns1123_subdomain(name).is_empty(),
        "node name {name:?} must be lower-case letters, digits, '-' and '.': give another with --node-name"
    );
    Ok(())
}

fn parse_label(text: &str) -> anyhow::Result<(String, String)> {
    let (key, value) =
        text.split_once('=').with_context(|| format!("--node-label {text:?} must look like key=value"))?;
    ensure!(!key.is_empty(), "--node-label {text:?} has no key");
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_taint(text: &str) -> anyhow::Result<Taint> {
    let shape = || format!("--node-taint {text:?} must look like key=value:NoSchedule");
    let (pair, effect) = text.rsplit_once(':').with_context(shape)?;
    ensure!(matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute"), "{}", shape());
    let (key, value) = match pair.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (pair, None),
    };
    ensure!(!key.is_empty(), "{}", shape());
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_as_the_mount_table_names_them() {
        let folder = std::env::temp_dir().join(format!("rk-config-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("disk")).unwrap();
        let real = folder.canonicalize().unwrap();
        std::os::unix::fs::symlink(real.join("disk"), real.join("link")).unwrap();
        assert_eq!(real_path(&real.join("link/new/deep")).unwrap(), real.join("disk/new/deep"));
        assert_eq!(real_path(&real.join("link")).unwrap().as_os_str(), real.join("disk").as_os_str());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn urls_of_servers_get_the_usual_port() {
        let url = |text| server_url(text).unwrap();
        assert_eq!(url("https://10.0.0.1:6443"), "https://10.0.0.1:6443");
        assert_eq!(url(" https://10.0.0.1/ "), "https://10.0.0.1:6443");
        assert_eq!(url("https://[fd00::1]"), "https://[fd00::1]:6443");
        assert_eq!(url("https://[fd00::1]:7443"), "https://[fd00::1]:7443");
        for bad in ["", "10.0.0.1:6443", "http://10.0.0.1:6443", "https://", "https://10.0.0.1/x"] {
            assert!(server_url(bad).unwrap_err().to_string().contains("must look like"), "{bad}");
        }
    }

    #[test]
    fn port_ranges_are_checked() {
        assert_eq!(parse_port_range("30000-32767").unwrap(), 30000..=32767);
        for bad in ["", "1", "5-4", "0-10", "a-b", "1-70000"] {
            assert!(parse_port_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lives_of_certificates_are_durations_of_some_length() {
        assert_eq!(parse_life("36h").unwrap(), SignedDuration::from_hours(36));
        for bad in ["", "1", "9s", "-5h", "a year"] {
            assert!(parse_life(bad).unwrap_err().to_string().contains("--agent-certificate-life"), "{bad}");
        }
    }

    #[test]
    fn taints_and_labels_name_the_flag_when_malformed() {
        assert_eq!(parse_taint("gpu:NoSchedule").unwrap().value, None);
        assert!(parse_taint("gpu=yes:Never").unwrap_err().to_string().contains("--node-taint"));
        assert!(parse_label("zone").unwrap_err().to_string().contains("--node-label"));
    }

    #[test]
    fn node_names_are_dns_subdomains() {
        assert!(check_node_name("edge-1.lab").is_ok());
        for bad in ["", "Edge", "a_b", "-a", "a..b"] {
            assert!(check_node_name(bad).is_err(), "{bad}");
        }
    }
}
