//! Makes a pod's surroundings, in this order: volumes, namespaces, network. Part of the worker.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{HostAlias, Pod};
use net::{NetError, PodAttach};
use runtime::RuntimeError;

use super::handler;
use super::worker::Worker;
use crate::network::chain;
use crate::plan::actions::NewSandbox;
use crate::spec::files::{self, ClusterDns, Hostname, HostnameError, ResolvConf};
use crate::spec::pod as spec;
use crate::spec::resources;
use crate::volumes::VolumeError;

/// How long volumes may wait for the API to tell of their objects.
const OBJECTS_DEADLINE: Duration = Duration::from_secs(30);
const FIRST_RETRY: SignedDuration = SignedDuration::from_millis(500);
const MAX_RETRY: SignedDuration = SignedDuration::from_secs(122);

#[derive(Debug, thiserror::Error)]
enum SandboxError {
    #[error("volume {name}")]
    Volume { name: String, source: VolumeError },
    #[error("timed out waiting for the condition")]
    Objects,
    #[error(transparent)]
    Handler(#[from] handler::HandlerError),
    #[error(transparent)]
    Hostname(#[from] HostnameError),
    #[error("cannot write the pod's files")]
    Files(#[source] io::Error),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Network(#[from] NetError),
}

impl Worker {
    /// Makes the sandbox, or arranges for another try.
    pub(super) async fn make_sandbox(&mut self, pod: &Arc<Pod>, new: NewSandbox) {
        // Only the waiting is cut short by the pod's end; what makes things is seen through, so that nothing is left
        // half made.
        let ending = self.ending();
        let ready = tokio::select! {
            ready = self.prepare(pod) => ready,
            () = ending => return,
        };
        let result = match ready {
            Ok(hostname) => self.try_sandbox(pod, new, &hostname).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => self.sandbox_retry = None,
            Err(error) => {
                self.tell(pod, &error);
                self.needs_network = matches!(error, SandboxError::Network(NetError::NotReady));
                let pause = self.sandbox_retry.map_or(FIRST_RETRY, |(_, pause)| (pause * 2).min(MAX_RETRY));
                let now = Timestamp::now();
                self.sandbox_retry = Some((now.checked_add(pause).unwrap_or(now), pause));
            }
        }
    }

    fn tell(&self, pod: &Pod, error: &SandboxError) {
        let warn = |reason: &str, message: String| self.context.pod_event(pod, EventType::Warning, reason, message);
        match error {
            SandboxError::Volume { name, source } => {
                warn("FailedMount", format!("MountVolume.SetUp failed for volume \"{name}\" : {}", chain(source)));
            }
            SandboxError::Objects => {
                warn(
                    "FailedMount",
                    "Unable to attach or mount volumes: timed out waiting for the condition".to_owned(),
                );
            }
            SandboxError::Network(NetError::NotReady) => {
                let text = "network is not ready: container runtime network not ready: the node has no pod range yet";
                warn("NetworkNotReady", text.to_owned());
            }
            other => warn("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {}", chain(other))),
        }
        tracing::warn!(namespace = ?pod.metadata.namespace, name = ?pod.metadata.name, error = %chain(error), "pod cannot start yet");
    }

    async fn prepare(&mut self, pod: &Arc<Pod>) -> Result<Hostname, SandboxError> {
        handler::check(&self.context, pod).await?;
        let hostname = files::hostname(pod, &self.context.config.cluster_domain)?;
        self.ready_volumes(pod).await?;
        Ok(hostname)
    }

    async fn try_sandbox(&mut self, pod: &Arc<Pod>, new: NewSandbox, hostname: &Hostname) -> Result<(), SandboxError> {
        let id = self.pod_id();
        if new == NewSandbox::Again {
            let text = "Pod sandbox changed, it will be killed and re-created.";
            self.context.pod_event(pod, EventType::Normal, "SandboxChanged", text);
            self.context.net.detach(&self.uid).await?;
            self.context.runtime.remove_pod(&id).await?;
            self.memory.pod_ips.clear();
        }
        self.write_files(pod, hostname).map_err(SandboxError::Files)?;
        let config = &self.context.config;
        let mut wanted = spec::runtime_spec(pod, hostname, &self.context.machine.hostname, &config.cgroup_parent);
        wanted.annotations.insert("rk.io/node".to_owned(), config.name.clone());
        let status = self.context.runtime.run_pod(wanted).await?;
        if let Err(error) = self.context.runtime.ensure_cgroup(&status.cgroup_path, &resources::pod(pod)) {
            tracing::warn!(uid = %self.uid, error = %chain(&error), "pod-level limits are not in force");
        }
        let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        self.memory.pod_ips = if host_network {
            self.host_ips()
        } else {
            let attach = PodAttach { pod_id: self.uid.clone(), netns: status.netns, host_ports: spec::host_ports(pod) };
            vec![self.context.net.attach(attach).await?.ip.to_string()]
        };
        self.write_hosts(pod, hostname).map_err(SandboxError::Files)
    }

    /// The volumes, once per life of this worker; afterwards they are kept current.
    pub(super) async fn ready_volumes(&mut self, pod: &Arc<Pod>) -> Result<(), VolumesError> {
        if self.volumes_ready {
            return Ok(());
        }
        let held = tokio::time::timeout(OBJECTS_DEADLINE, self.volumes.hold(&self.context, pod)).await;
        held.map_err(|_| VolumesError(None))?;
        let around = self.surroundings();
        self.volumes.set_up(&self.context, pod, &around).await.map_err(|e| VolumesError(Some(e)))?;
        self.volumes_ready = true;
        Ok(())
    }

    fn write_files(&self, pod: &Pod, hostname: &Hostname) -> io::Result<()> {
        let config = &self.context.config;
        let root = config.pod_root(&self.uid);
        fs::create_dir_all(&root)?;
        let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let kernel = if host_network { &self.context.machine.hostname } else { &hostname.kernel };
        fs::write(root.join("hostname"), format!("{kernel}\n"))?;
        let servers: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
        let spare = config.dns_elsewhere.map(|ip| ip.to_string());
        let dns = ClusterDns { servers: &servers, spare: spare.as_deref(), domain: &config.cluster_domain };
        let host = ResolvConf::parse(&host_resolver(config));
        fs::write(root.join("resolv.conf"), files::resolv_conf(pod, &dns, &host).render())
    }

    fn write_hosts(&self, pod: &Pod, hostname: &Hostname) -> io::Result<()> {
        let spec = pod.spec.as_ref();
        let aliases: &[HostAlias] = spec.and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
        let text = if spec.and_then(|s| s.host_network) == Some(true) {
            files::host_network_hosts(&fs::read_to_string("/etc/hosts").unwrap_or_default(), aliases)
        } else {
            files::hosts(&self.memory.pod_ips, hostname, aliases)
        };
        fs::write(self.context.config.pod_root(&self.uid).join("etc-hosts"), text)
    }
}

/// The volume that is not to be had; `None`: the API did not tell in time.
pub(super) struct VolumesError(Option<(String, VolumeError)>);

impl From<VolumesError> for SandboxError {
    fn from(error: VolumesError) -> SandboxError {
        match error.0 {
            Some((name, source)) => SandboxError::Volume { name, source },
            None => SandboxError::Objects,
        }
    }
}

impl VolumesError {
    pub(super) fn message(&self) -> String {
        match &self.0 {
            Some((name, error)) => format!("MountVolume.SetUp failed for volume \"{name}\" : {}", chain(error)),
            None => "Unable to attach or mount volumes: timed out waiting for the condition".to_owned(),
        }
    }
}

/// The host's resolver configuration; behind systemd-resolved, the real one, for a stub is of no use to pods.
fn host_resolver(config: &crate::NodeConfig) -> String {
    let text = fs::read_to_string(&config.resolv_conf).unwrap_or_default();
    let stub = ResolvConf::parse(&text).nameservers.iter().all(|s| s == "127.0.0.53");
    let real = || fs::read_to_string("/run/systemd/resolve/resolv.conf").ok();
    if stub { real().unwrap_or(text) } else { text }
}
