//! Flags of snapshots: `rk snapshot`, and what a server takes for its own.

use crate::config;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// What a server does by itself.
#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// Time between snapshots, such as 12h; 0 for none. One is skipped when nothing has changed since the last
    #[arg(long, env = "RK_SNAPSHOT_INTERVAL", default_value = "12h")]
    pub(crate) snapshot_interval: String,
    /// Scheduled snapshots of this server that are kept, here and in the bucket
    #[arg(long, env = "RK_SNAPSHOT_RETENTION", default_value_t = 5)]
    pub(crate) snapshot_retention: usize,
    /// Folder of snapshots [default: server/snapshots in the data folder]
    #[arg(long, env = "RK_SNAPSHOT_DIR")]
    pub(crate) snapshot_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) s3: S3Args,
}

/// An S3-compatible service. The keys belong in the configuration file or the environment: arguments can be seen by
/// every user of the machine.
#[derive(Debug, Args)]
pub(crate) struct S3Args {
    /// Also use a bucket of an S3-compatible service
    #[arg(long, env = "RK_S3", global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    pub(crate) s3: bool,
    /// The service, HOST[:PORT] [default: Amazon's, of the region]
    #[arg(long, env = "RK_S3_ENDPOINT", global = true)]
    pub(crate) s3_endpoint: Option<String>,
    /// File with the authority of the service's certificate, beside those that the machine trusts
    #[arg(long, env = "RK_S3_ENDPOINT_CA", global = true)]
    pub(crate) s3_endpoint_ca: Option<PathBuf>,
    /// Speak plain HTTP to the service
    #[arg(long, env = "RK_S3_INSECURE", global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    pub(crate) s3_insecure: bool,
    /// Name of the bucket
    #[arg(long, env = "RK_S3_BUCKET", global = true)]
    pub(crate) s3_bucket: Option<String>,
    /// How the bucket is named in a request; auto: in the host name at Amazon, in the path elsewhere
    #[arg(long, env = "RK_S3_BUCKET_LOOKUP", global = true, value_enum, default_value_t = BucketLookup::Auto)]
    pub(crate) s3_bucket_lookup: BucketLookup,
    /// Folder in the bucket
    #[arg(long, env = "RK_S3_FOLDER", global = true)]
    pub(crate) s3_folder: Option<String>,
    /// Region of the bucket
    #[arg(long, env = "RK_S3_REGION", global = true, default_value = "us-east-1")]
    pub(crate) s3_region: String,
    /// Access key; better in the configuration file or RK_S3_ACCESS_KEY
    #[arg(long, env = "RK_S3_ACCESS_KEY", global = true, hide_env_values = true)]
    pub(crate) s3_access_key: Option<String>,
    /// Secret key; better in the configuration file or RK_S3_SECRET_KEY
    #[arg(long, env = "RK_S3_SECRET_KEY", global = true, hide_env_values = true)]
    pub(crate) s3_secret_key: Option<String>,
    /// Session token of temporary keys; better in RK_S3_SESSION_TOKEN
    #[arg(long, env = "RK_S3_SESSION_TOKEN", global = true, hide_env_values = true)]
    pub(crate) s3_session_token: Option<String>,
    /// Larger files go up in parts of this size, such as 5Mi, each of which has --s3-timeout
    #[arg(long, env = "RK_S3_PART_SIZE", global = true, default_value = "64Mi")]
    pub(crate) s3_part_size: String,
    /// Longest time for one request
    #[arg(long, env = "RK_S3_TIMEOUT", global = true, default_value = "5m")]
    pub(crate) s3_timeout: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BucketLookup {
    Auto,
    /// https://HOST/BUCKET/…
    Path,
    /// `https://BUCKET.HOST/…`
    Dns,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// Configuration file of the server; of its keys those count that are flags here
    #[arg(long, env = "RK_CONFIG", global = true, default_value = config::DEFAULT_CONFIG_FILE)]
    pub(crate) config: PathBuf,
    /// Folder of the server's data
    #[arg(long, env = "RK_DATA_DIR", global = true, default_value = config::DEFAULT_DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    /// Folder of snapshots [default: server/snapshots in the data folder]
    #[arg(long, env = "RK_SNAPSHOT_DIR", global = true, visible_alias = "dir")]
    pub(crate) snapshot_dir: Option<PathBuf>,
    /// Name of this node [default: the host name]
    #[arg(long, env = "RK_NODE_NAME", global = true)]
    pub(crate) node_name: Option<String>,
    #[command(flatten)]
    pub(crate) s3: S3Args,
    #[command(subcommand)]
    pub(crate) command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Take a snapshot, by the running server or of the data folder at rest
    Save {
        /// What its name begins with; the schedule removes old ones that begin with "snapshot" only
        #[arg(long, default_value = "snapshot")]
        name: String,
        /// The administrator's kubeconfig of the running server
        #[arg(long, env = "KUBECONFIG", default_value = "/etc/rk/rk.yaml")]
        kubeconfig: PathBuf,
    },
    /// List snapshots, those in the bucket with --s3
    #[command(visible_alias = "list")]
    Ls {
        /// Form of the list
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Put a snapshot in the place of this stopped server's state, which is moved aside
    Restore {
        /// A file, a name from the list, or s3://BUCKET/KEY
        snapshot: String,
        /// The cluster's join token when the snapshot was taken; for a box without the cluster's keys
        #[arg(long, env = "RK_TOKEN", hide_env_values = true)]
        token: Option<String>,
        /// File that holds the token
        #[arg(long, env = "RK_TOKEN_FILE", conflicts_with = "token")]
        token_file: Option<PathBuf>,
    },
    /// Remove all but the newest snapshots of this node, also in the bucket with --s3
    Prune {
        /// How many stay
        #[arg(long, default_value_t = 5)]
        keep: usize,
        /// What their names begin with
        #[arg(long, default_value = "snapshot")]
        name: String,
    },
    /// Remove snapshots by name, also in the bucket with --s3
    #[command(visible_alias = "rm")]
    Delete {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}
