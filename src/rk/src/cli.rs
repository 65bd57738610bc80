//! The command line: what each subcommand takes. Values are raw here; `config` resolves them.

pub(crate) mod snapshot;

use crate::config::{self, AgentConfig, ServerConfig};
use crate::{Next, hello, images, kill_all, logging, member, supervisor, token};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(name = "rk", version, about = "A whole Kubernetes cluster in one executable", propagate_version = true)]
#[command(args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a server: API, store, controllers, scheduler, and a node on this box
    Server(Box<ServerArgs>),
    /// Join this box to a cluster as a node
    Agent(AgentArgs),
    /// Container images on this node
    Images(ImagesArgs),
    /// Snapshots of the cluster's state: take, list, restore, remove
    Snapshot(Box<snapshot::SnapshotArgs>),
    /// Show the token with which agents join, or servers; replace them
    Token(TokenArgs),
    /// The cluster's servers: list, remove, promote; recover from a lost majority
    Member(MemberArgs),
    /// End every container of this machine and remove its mounts, links, nftables table and cgroups; data stays
    KillAll(KillAllArgs),
    /// Serve a page with pod name, node and address (what the demo runs)
    #[command(hide = true)]
    Hello(HelloArgs),
}

/// Flags of every long-running subcommand that is or has a node.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// Configuration file; its keys are the names of these flags
    #[arg(long, env = "RK_CONFIG", default_value = config::DEFAULT_CONFIG_FILE)]
    pub(crate) config: PathBuf,
    /// Folder for everything that must survive a restart
    #[arg(long, env = "RK_DATA_DIR", default_value = config::DEFAULT_DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    /// Folder for sockets and mounts, gone after a reboot
    #[arg(long, env = "RK_STATE_DIR", default_value = "/run/rk")]
    pub(crate) state_dir: PathBuf,
    /// Join token, or a file that holds it with --token-file. On a server without --server it is what the cluster's
    /// token is to be: only where a server is alone may it be changed so
    #[arg(long, env = "RK_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File that holds the join token
    #[arg(long, env = "RK_TOKEN_FILE", conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// Name of this node [default: the host name]
    #[arg(long, env = "RK_NODE_NAME")]
    pub(crate) node_name: Option<String>,
    /// Address of this node [default: the source address of the default route]
    #[arg(long, env = "RK_NODE_IP")]
    pub(crate) node_ip: Option<IpAddr>,
    /// Label for the node at registration, key=value; may be repeated
    #[arg(long, env = "RK_NODE_LABEL", value_delimiter = ',')]
    pub(crate) node_label: Vec<String>,
    /// Taint for the node at registration, key=value:effect; may be repeated
    #[arg(long, env = "RK_NODE_TAINT", value_delimiter = ',')]
    pub(crate) node_taint: Vec<String>,
    /// Most pods this node runs
    #[arg(long, env = "RK_MAX_PODS", default_value_t = 110)]
    pub(crate) max_pods: u32,
    /// Cgroup under which all pods live
    #[arg(long, env = "RK_CGROUP_ROOT", default_value = "/rk")]
    pub(crate) cgroup_root: String,
    /// Folder for container logs, in `pods` and `containers` below it
    #[arg(long, env = "RK_LOG_DIR", default_value = "/var/log")]
    pub(crate) log_dir: PathBuf,
    /// Registries: mirrors, credentials, CAs (YAML)
    #[arg(long, env = "RK_REGISTRIES", default_value = "/etc/rk/registries.yaml")]
    pub(crate) registries: PathBuf,
    /// Log more: -v debug, -vv trace; RK_LOG takes a filter
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Form of the log lines
    #[arg(long, env = "RK_LOG_FORMAT", value_enum, default_value_t = logging::Format::Text)]
    pub(crate) log_format: logging::Format,
}

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Address the API listens on
    #[arg(long, env = "RK_BIND_ADDRESS", default_value = "0.0.0.0")]
    pub(crate) bind_address: IpAddr,
    /// Port the API listens on, the only open TCP port
    #[arg(long, env = "RK_HTTPS_LISTEN_PORT", default_value_t = 6443)]
    pub(crate) https_listen_port: u16,
    /// Address that others reach this server at [default: the node's address]
    #[arg(long, env = "RK_ADVERTISE_ADDRESS")]
    pub(crate) advertise_address: Option<IpAddr>,
    /// Further name or address for the server's certificate; may be repeated
    #[arg(long, env = "RK_TLS_SAN", value_delimiter = ',')]
    pub(crate) tls_san: Vec<String>,
    /// URL of any server of a cluster, https://ADDRESS:6443, to join as a further server; may be repeated. No longer
    /// needed once this is a server of it
    #[arg(long, env = "RK_URL", value_delimiter = ',')]
    pub(crate) server: Vec<String>,
    /// Join token for agents alone; --token then is for servers alone
    #[arg(long, env = "RK_AGENT_TOKEN", hide_env_values = true)]
    pub(crate) agent_token: Option<String>,
    /// Addresses for pods, the same on all servers [default: 10.42.0.0/16]
    #[arg(long, env = "RK_CLUSTER_CIDR")]
    pub(crate) cluster_cidr: Option<ipnet::Ipv4Net>,
    /// Addresses for services, the same on all servers [default: 10.43.0.0/16]
    #[arg(long, env = "RK_SERVICE_CIDR")]
    pub(crate) service_cidr: Option<ipnet::Ipv4Net>,
    /// Ports for node ports, the same on all servers [default: 30000-32767]
    #[arg(long, env = "RK_SERVICE_NODE_PORT_RANGE")]
    pub(crate) service_node_port_range: Option<String>,
    /// How long agents' certificates hold; agents renew them at two thirds of it
    #[arg(long, env = "RK_AGENT_CERTIFICATE_LIFE", default_value = "8760h")]
    pub(crate) agent_certificate_life: String,
    /// Address of the DNS service, the same on all servers [default: the tenth of the service addresses]
    #[arg(long, env = "RK_CLUSTER_DNS")]
    pub(crate) cluster_dns: Option<std::net::Ipv4Addr>,
    /// DNS domain of the cluster, the same on all servers [default: cluster.local]
    #[arg(long, env = "RK_CLUSTER_DOMAIN")]
    pub(crate) cluster_domain: Option<String>,
    /// Where to write the administrator's kubeconfig
    #[arg(long, env = "RK_WRITE_KUBECONFIG", default_value = "/etc/rk/rk.yaml")]
    pub(crate) write_kubeconfig: PathBuf,
    /// Mode of the kubeconfig file, octal
    #[arg(long, env = "RK_WRITE_KUBECONFIG_MODE", default_value = "0600")]
    pub(crate) write_kubeconfig_mode: String,
    /// Serve etcd's v3 gRPC interface to the store, such as on 127.0.0.1:2379; clients need the certificate that is then
    /// written to server/tls/etcd in the data folder, which opens everything the cluster holds
    #[arg(long, env = "RK_ETCD_LISTEN")]
    pub(crate) etcd_listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) snapshots: snapshot::ScheduleArgs,
    /// Run no node on this box
    #[arg(long, env = "RK_DISABLE_AGENT", num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub(crate) disable_agent: bool,
    /// Run a small web app on node port 30080 and say how to reach it
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub(crate) demo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// URL of a server, https://ADDRESS:6443; may be repeated: any of them that lives will do, and the agent learns of
    /// the cluster's other servers by itself
    #[arg(long, env = "RK_URL", value_delimiter = ',', required = true)]
    pub(crate) server: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Folder of the node's data
    #[arg(long, env = "RK_DATA_DIR", default_value = config::DEFAULT_DATA_DIR, global = true)]
    pub(crate) data_dir: PathBuf,
    /// Folder of sockets and mounts
    #[arg(long, env = "RK_STATE_DIR", default_value = "/run/rk", global = true)]
    pub(crate) state_dir: PathBuf,
    /// Cgroup under which all pods live
    #[arg(long, env = "RK_CGROUP_ROOT", default_value = "/rk", global = true)]
    pub(crate) cgroup_root: String,
    /// Registries: mirrors, credentials, CAs (YAML)
    #[arg(long, env = "RK_REGISTRIES", default_value = "/etc/rk/registries.yaml", global = true)]
    pub(crate) registries: PathBuf,
    #[command(subcommand)]
    pub(crate) command: ImagesCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImagesCommand {
    /// Import a docker-archive or OCI-archive tar (plain, gzip, zstd); - reads standard input
    Import { file: PathBuf },
    /// List images
    Ls,
    /// Remove images by name or id
    Rm {
        /// Also remove images that containers use; their layers stay until those are gone
        #[arg(short, long)]
        force: bool,
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Pull an image from its registry
    Pull {
        image: String,
        /// Credentials, user:password
        #[arg(long, env = "RK_REGISTRY_CREDENTIALS", hide_env_values = true)]
        creds: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Folder of the server's data
    #[arg(long, env = "RK_DATA_DIR", default_value = config::DEFAULT_DATA_DIR, global = true)]
    pub(crate) data_dir: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Option<TokenCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Show the token with which servers join: whoever has it gets the whole cluster
    Server,
    /// Show the token with which agents join
    Agent,
    /// Replace the tokens by new ones, on all servers at once; who has joined stays
    Rotate {
        /// Which of the two [default: both]
        #[arg(value_enum)]
        which: Option<WhichToken>,
        /// The new secret, such as RK_NEW_TOKEN in the environment; left out: a random one for each
        #[arg(long, env = "RK_NEW_TOKEN", hide_env_values = true)]
        new_token: Option<String>,
        /// The administrator's kubeconfig
        #[arg(long, env = "KUBECONFIG", default_value = "/etc/rk/rk.yaml")]
        kubeconfig: PathBuf,
    },
    /// Make a token that expires, for one machine or one afternoon
    Create {
        /// How long it is good for, such as 30m, 24h
        #[arg(long, default_value = "24h")]
        ttl: String,
        /// The administrator's kubeconfig
        #[arg(long, env = "KUBECONFIG", default_value = "/etc/rk/rk.yaml")]
        kubeconfig: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WhichToken {
    Server,
    Agent,
}

#[derive(Debug, Args)]
pub(crate) struct MemberArgs {
    #[command(subcommand)]
    pub(crate) command: MemberCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// List the servers
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        api: MemberApi,
        /// Form of the list
        #[arg(short, long, value_enum, default_value_t = ListForm::Table)]
        output: ListForm,
    },
    /// Take a server out of the cluster
    #[command(visible_alias = "rm")]
    Remove {
        #[command(flatten)]
        api: MemberApi,
        /// Name or id
        member: String,
    },
    /// Make a server that only follows a voter; servers do this by themselves when they join
    Promote {
        #[command(flatten)]
        api: MemberApi,
        /// Name or id
        member: String,
    },
    /// When most servers are lost for good: make this one, which is stopped, a cluster of its own that keeps all it has
    Recover {
        /// Folder of the server's data
        #[arg(long, env = "RK_DATA_DIR", default_value = config::DEFAULT_DATA_DIR)]
        data_dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MemberApi {
    /// The administrator's kubeconfig
    #[arg(long, env = "KUBECONFIG", default_value = "/etc/rk/rk.yaml")]
    pub(crate) kubeconfig: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ListForm {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct KillAllArgs {
    /// Folder of the node's data
    #[arg(long, env = "RK_DATA_DIR", default_value = config::DEFAULT_DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    /// Folder of sockets and mounts
    #[arg(long, env = "RK_STATE_DIR", default_value = "/run/rk")]
    pub(crate) state_dir: PathBuf,
    /// Cgroup under which all pods live
    #[arg(long, env = "RK_CGROUP_ROOT", default_value = "/rk")]
    pub(crate) cgroup_root: String,
}

#[derive(Debug, Args)]
pub(crate) struct HelloArgs {
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub(crate) listen: SocketAddr,
}

/// Parses the arguments, with the configuration file's entries put in below flags and environment.
pub(crate) fn parse(args: Vec<OsString>) -> anyhow::Result<Command> {
    let command = Cli::command();
    let args = config::file::merge(&command, args)?;
    let matches = command.get_matches_from(args);
    Ok(Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command)
}

impl Command {
    pub(crate) async fn run(self) -> anyhow::Result<Next> {
        match self {
            Self::Server(args) => {
                logging::start(args.node.verbose, args.node.log_format)?;
                return Box::pin(supervisor::server::run(ServerConfig::resolve(*args)?)).await;
            }
            Self::Agent(args) => {
                logging::start(args.node.verbose, args.node.log_format)?;
                Box::pin(supervisor::agent::run(AgentConfig::resolve(args)?)).await?;
            }
            Self::Images(args) => Box::pin(images::run(args)).await?,
            Self::Snapshot(args) => {
                logging::start(0, logging::Format::Text)?;
                Box::pin(crate::snapshot::run(*args)).await?;
            }
            Self::Token(args) => Box::pin(token::run(args)).await?,
            Self::Member(args) => Box::pin(member::run(args.command)).await?,
            Self::KillAll(args) => Box::pin(kill_all::run(args)).await?,
            Self::Hello(args) => hello::serve(args.listen).await?,
        }
        Ok(Next::End)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_snapshots_hold_before_and_after_what_is_to_be_done() {
        let bucket = |arguments: &str| {
            let parsed = Cli::try_parse_from(arguments.split(' ')).unwrap_or_else(|error| panic!("{error}"));
            let Command::Snapshot(args) = parsed.command else { panic!("another command") };
            args.s3.s3_bucket
        };
        assert_eq!(bucket("rk snapshot --s3-bucket=file save").as_deref(), Some("file"));
        assert_eq!(bucket("rk snapshot save --s3-bucket=typed").as_deref(), Some("typed"));
        assert_eq!(bucket("rk snapshot --s3-bucket=file save --s3-bucket=typed").as_deref(), Some("typed"));
        assert_eq!(bucket("rk snapshot --s3-bucket=file --s3-bucket=typed ls").as_deref(), Some("typed"));
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
