//! Flags resolved: where snapshots go, how often, and which bucket.

use crate::cli::snapshot::{BucketLookup, S3Args, ScheduleArgs};
use anyhow::{Context, ensure};
use objects::quantity::Quantity;
use rusty_s3::{Bucket, Credentials, UrlStyle};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Those of a server.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(super) dir: PathBuf,
    /// `None`: only when asked.
    pub(super) interval: Option<Duration>,
    pub(super) retention: usize,
    pub(super) s3: Option<S3Settings>,
}

/// What services take for a part; the last one may be smaller.
const PART_SIZES: std::ops::RangeInclusive<u64> = (5 << 20)..=(5 << 30);

/// A bucket, and how to get to it.
#[derive(Clone)]
pub(crate) struct S3Settings {
    pub(super) bucket: Bucket,
    pub(super) credentials: Credentials,
    /// Ends with a slash, unless it is empty.
    pub(super) folder: String,
    pub(super) authority: Option<Vec<u8>>,
    pub(super) timeout: Duration,
    pub(super) part_size: u64,
}

/// Without keys.
impl std::fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Settings").field("bucket", &self.bucket).field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Where snapshots lie unless a flag says otherwise.
pub(super) fn usual_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("server/snapshots")
}

impl Settings {
    pub(crate) fn resolve(args: ScheduleArgs, data_dir: &Path) -> anyhow::Result<Self> {
        let ScheduleArgs { snapshot_interval, snapshot_retention, snapshot_dir, s3 } = args;
        ensure!(
            snapshot_retention > 0,
            "--snapshot-retention must be 1 or more; --snapshot-interval=0 takes none at all"
        );
        Ok(Self {
            dir: resolve_dir(snapshot_dir, data_dir)?,
            interval: parse_interval(&snapshot_interval)?,
            retention: snapshot_retention,
            s3: S3Settings::resolve(s3)?,
        })
    }
}

pub(super) fn resolve_dir(given: Option<PathBuf>, data_dir: &Path) -> anyhow::Result<PathBuf> {
    match given {
        Some(dir) => std::path::absolute(dir).context("--snapshot-dir"),
        None => Ok(usual_dir(data_dir)),
    }
}

fn parse_interval(text: &str) -> anyhow::Result<Option<Duration>> {
    let parsed = objects::duration::parse(text).ok().and_then(|interval| Duration::try_from(interval).ok());
    let interval = parsed.filter(|interval| interval.is_zero() || *interval >= Duration::from_secs(1));
    let interval = interval.with_context(|| {
        format!("--snapshot-interval {text:?} must look like 12h, and be 1s or more, or 0 for none")
    })?;
    Ok(Some(interval).filter(|interval| !interval.is_zero()))
}

fn parse_size(text: &str) -> anyhow::Result<u64> {
    let size: Option<Quantity> = text.parse().ok();
    let size = size.and_then(|size| u64::try_from(size.value()).ok()).filter(|size| PART_SIZES.contains(size));
    size.with_context(|| format!("--s3-part-size {text:?} must look like 64Mi, and be between 5Mi and 5Gi"))
}

impl S3Settings {
    /// `None` without `--s3`.
    pub(crate) fn resolve(args: S3Args) -> anyhow::Result<Option<Self>> {
        if args.s3 { Self::resolve_for(args, None).map(Some) } else { Ok(None) }
    }

    /// For a bucket that is named elsewhere, or that of the flags.
    pub(super) fn resolve_for(args: S3Args, bucket: Option<String>) -> anyhow::Result<Self> {
        let S3Args {
            s3: _,
            s3_endpoint,
            s3_endpoint_ca,
            s3_insecure,
            s3_bucket,
            s3_bucket_lookup,
            s3_folder,
            s3_region,
            s3_access_key,
            s3_secret_key,
            s3_session_token,
            s3_part_size,
            s3_timeout,
        } = args;
        let bucket = bucket.or(s3_bucket).context("--s3 needs --s3-bucket")?;
        let key =
            s3_access_key.context("--s3 needs an access key: RK_S3_ACCESS_KEY, or s3-access-key in config.yaml")?;
        let secret =
            s3_secret_key.context("--s3 needs a secret key: RK_S3_SECRET_KEY, or s3-secret-key in config.yaml")?;
        let credentials = match s3_session_token {
            Some(token) => Credentials::new_with_token(key, secret, token),
            None => Credentials::new(key, secret),
        };
        let amazon = format!("s3.{s3_region}.amazonaws.com");
        let host = s3_endpoint.as_deref().unwrap_or(&amazon);
        let host = host.trim_start_matches("https://").trim_end_matches('/');
        let scheme = if s3_insecure { "http" } else { "https" };
        let endpoint = format!("{scheme}://{}", host.trim_start_matches("http://"));
        ensure!(
            s3_insecure || !host.starts_with("http://"),
            "--s3-endpoint {host:?} is plain HTTP, which shows every Secret of the cluster on the way: give \
             --s3-insecure if that is wanted"
        );
        let malformed = || format!("--s3-endpoint {host:?} must look like HOST or HOST:PORT");
        let endpoint = endpoint.parse().ok().with_context(malformed)?;
        let style = match s3_bucket_lookup {
            // Services of one's own seldom have wildcard names, and no certificate is for a name with another dot.
            BucketLookup::Auto if host.ends_with(".amazonaws.com") && !bucket.contains('.') => UrlStyle::VirtualHost,
            BucketLookup::Dns => UrlStyle::VirtualHost,
            BucketLookup::Auto | BucketLookup::Path => UrlStyle::Path,
        };
        let bucket =
            Bucket::new(endpoint, style, bucket, s3_region).map_err(anyhow::Error::msg).with_context(malformed)?;
        let folder = s3_folder.map(|folder| folder.trim_matches('/').to_owned()).filter(|folder| !folder.is_empty());
        let plain = |part: &str| !matches!(part, "" | "." | "..");
        ensure!(
            folder.iter().flat_map(|folder| folder.split('/')).all(plain),
            "--s3-folder must be a path without empty parts, . and .."
        );
        let authority =
            s3_endpoint_ca.map(|path| std::fs::read(&path).with_context(|| format!("read {}", path.display())));
        let timeout = objects::duration::parse(&s3_timeout).ok().and_then(|timeout| Duration::try_from(timeout).ok());
        let timeout = timeout.filter(|timeout| !timeout.is_zero());
        Ok(Self {
            bucket,
            credentials,
            folder: folder.map(|folder| folder + "/").unwrap_or_default(),
            authority: authority.transpose().context("--s3-endpoint-ca")?,
            part_size: parse_size(&s3_part_size)?,
            timeout: timeout.with_context(|| format!("--s3-timeout {s3_timeout:?} must look like 5m"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(change: impl FnOnce(&mut S3Args)) -> S3Args {
        let mut args = S3Args {
            s3: true,
            s3_endpoint: None,
            s3_endpoint_ca: None,
            s3_insecure: false,
            s3_bucket: Some("backups".into()),
            s3_bucket_lookup: BucketLookup::Auto,
            s3_folder: None,
            s3_region: "eu-west-1".into(),
            s3_access_key: Some("KEY".into()),
            s3_secret_key: Some("SECRET".into()),
            s3_session_token: None,
            s3_part_size: "64Mi".into(),
            s3_timeout: "5m".into(),
        };
        change(&mut args);
        args
    }

    fn resolve(change: impl FnOnce(&mut S3Args)) -> anyhow::Result<S3Settings> {
        S3Settings::resolve(args(change)).map(|settings| settings.expect("--s3 was given"))
    }

    #[test]
    fn buckets_are_hosts_at_amazon_and_paths_elsewhere() {
        let url = |change: &dyn Fn(&mut S3Args)| resolve(change).unwrap().bucket.base_url().to_string();
        assert_eq!(url(&|_| {}), "https://backups.s3.eu-west-1.amazonaws.com/");
        assert_eq!(url(&|args| args.s3_endpoint = Some("10.0.0.1:9000".into())), "https://10.0.0.1:9000/backups/");
        let plain = |args: &mut S3Args| {
            args.s3_endpoint = Some("http://nas:9000/".into());
            args.s3_insecure = true;
        };
        assert_eq!(url(&plain), "http://nas:9000/backups/");
        let asked = |lookup, endpoint: Option<&str>| {
            url(&|args| {
                args.s3_bucket_lookup = lookup;
                args.s3_endpoint = endpoint.map(str::to_owned);
            })
        };
        assert_eq!(asked(BucketLookup::Dns, Some("nas:9000")), "https://backups.nas:9000/");
        assert_eq!(asked(BucketLookup::Path, None), "https://s3.eu-west-1.amazonaws.com/backups/");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_and_keys_are_not_shown() {
        let error = |change: &dyn Fn(&mut S3Args)| format!("{:#}", resolve(change).unwrap_err());
        assert!(error(&|args| args.s3_bucket = None).contains("--s3-bucket"));
        assert!(error(&|args| args.s3_access_key = None).contains("RK_S3_ACCESS_KEY"));
        assert!(error(&|args| args.s3_secret_key = None).contains("RK_S3_SECRET_KEY"));
        assert!(error(&|args| args.s3_endpoint = Some("http://nas".into())).contains("--s3-insecure"));
        assert!(error(&|args| args.s3_endpoint = Some("a b".into())).contains("--s3-endpoint"));
        assert!(error(&|args| args.s3_folder = Some("a/../b".into())).contains("--s3-folder"));
        assert!(error(&|args| args.s3_timeout = "soon".into()).contains("--s3-timeout"));
        for bad in ["", "much", "-5Mi", "1Mi", "6Gi"] {
            assert!(error(&|args| args.s3_part_size = bad.into()).contains("--s3-part-size"), "{bad}");
        }
        assert_eq!(resolve(|args| args.s3_part_size = "5Mi".into()).unwrap().part_size, 5 << 20);
        let shown = format!("{:?}", resolve(|_| {}).unwrap());
        assert!(!shown.contains("SECRET") && !shown.contains("KEY"), "{shown}");
        assert_eq!(resolve(|args| args.s3_folder = Some("/a/b/".into())).unwrap().folder, "a/b/");
    }

    #[test]
    fn intervals_are_durations_or_nothing() {
        assert_eq!(parse_interval("12h").unwrap(), Some(Duration::from_secs(12 * 3600)));
        assert_eq!(parse_interval("0").unwrap(), None);
        for bad in ["", "-1h", "often", "1ms"] {
            assert!(parse_interval(bad).unwrap_err().to_string().contains("--snapshot-interval"), "{bad}");
        }
    }
}
