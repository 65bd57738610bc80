//! Starts one container: image, environment, mounts, create, start, postStart. Part of the worker.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use runtime::{ContainerId, ContainerSpec, ImageRecord, RuntimeError};

use super::hooks;
use super::worker::Worker;
use crate::images::{self, NoImage};
use crate::network::chain;
use crate::plan::Waiting;
use crate::plan::actions::Start;
use crate::plan::backoff::Backoff;
use crate::spec::container::{self as spec, ContainerInput};
use crate::spec::env::{self, EnvError, EnvInput};
use crate::spec::security::SecurityError;
use crate::volumes::{VolumeError, mounts};

/// When a container that could not even be made is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum ConfigError {
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error("failed to prepare subPath or volume for volumeMount of container \"{container}\"")]
    Volume { container: String, source: VolumeError },
    #[error("cannot make {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("unable to find target container {0}")]
    Target(String),
}

/// Why the container does not run.
struct NotStarted {
    waiting: Waiting,
    retry_at: Timestamp,
}

impl NotStarted {
    fn new(reason: &str, message: String) -> NotStarted {
        let now = Timestamp::now();
        NotStarted { waiting: Waiting::new(reason, message), retry_at: now.checked_add(RETRY).unwrap_or(now) }
    }
}

impl From<NoImage> for NotStarted {
    fn from(none: NoImage) -> NotStarted {
        NotStarted { waiting: none.waiting, retry_at: none.retry_at }
    }
}

impl Worker {
    /// Starts the container; a failure is remembered as its waiting state, with the time of the next try.
    pub(super) async fn start(&mut self, pod: &Arc<Pod>, start: &Start) {
        let Some((_, container)) = crate::spec::find(pod, &start.name) else { return };
        let container = container.into_owned();
        match self.try_start(pod, &container, start).await {
            Ok(()) => {
                self.memory.waiting.remove(&start.name);
                self.memory.retry_at.remove(&start.name);
            }
            Err(Some(failed)) => {
                self.memory.waiting.insert(start.name.clone(), failed.waiting);
                self.memory.retry_at.insert(start.name.clone(), failed.retry_at);
            }
            // The pod is ending; nobody asks why it did not start.
            Err(None) => {}
        }
    }

    async fn try_start(
        &mut self,
        pod: &Arc<Pod>,
        container: &Container,
        start: &Start,
    ) -> Result<(), Option<NotStarted>> {
        if let Err(error) = self.ready_volumes(pod).await {
            self.context.pod_event(pod, EventType::Warning, "FailedMount", error.message());
            return Err(Some(NotStarted::new("ContainerCreating", String::new())));
        }
        self.volumes.hold_briefly(&self.context, pod).await;
        let secrets = self.pull_secrets(pod);
        let ending = self.ending();
        let image = tokio::select! {
            image = images::ensure(&self.context, pod, container, &secrets) => image.map_err(|e| Some(e.into()))?,
            () = ending => return Err(None),
        };
        let fail = |reason: &str, message: String| {
            self.context.container_event(
                pod,
                &container.name,
                EventType::Warning,
                "Failed",
                format!("Error: {message}"),
            );
            Some(NotStarted::new(reason, message))
        };
        let wanted = self.specification(pod, container, start, &image);
        let wanted = wanted.map_err(|error| fail("CreateContainerConfigError", chain(&error)))?;
        if let Some(half_made) = &start.replaces {
            let id = ContainerId::new(half_made.clone());
            self.context.runtime.remove_container(&id).await.map_err(|e| fail("CreateContainerError", chain(&e)))?;
        }
        if let Some(failed_at) = start.failed_at {
            let entry = self.memory.backoff.get(&container.name);
            let next = Backoff::next(entry, failed_at, Timestamp::now());
            self.memory.backoff.insert(container.name.clone(), next);
        }
        let log = wanted.log_path.clone();
        let id = match self.context.runtime.create_container(&self.pod_id(), wanted.clone()).await {
            Ok(id) => id,
            Err(error @ RuntimeError::CannotRun(_)) => {
                // It counts as an end: the restart policy and the back-off decide what follows.
                self.messages.note_stillborn(&wanted, &image.id, &chain(&error));
                let failed = fail("RunContainerError", chain(&error));
                return Err(failed.map(|f| NotStarted { retry_at: Timestamp::now(), ..f }));
            }
            Err(error) => return Err(fail("CreateContainerError", chain(&error))),
        };
        self.context.container_event(pod, &container.name, EventType::Normal, "Created", "Container created");
        let started = self.context.runtime.start_container(&id).await;
        started.map_err(|error| fail("RunContainerError", chain(&error)))?;
        self.context.container_event(pod, &container.name, EventType::Normal, "Started", "Container started");
        link_log(&self.context.config.container_logs, pod, &container.name, id.as_str(), log.as_deref());
        self.memory.waiting.remove(&container.name);
        self.post_start(pod, container, &id).await;
        self.prune(&container.name, start.attempt).await;
        Ok(())
    }

    fn pull_secrets(&self, pod: &Pod) -> Vec<Arc<Secret>> {
        let named = pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten());
        named.filter_map(|reference| self.volumes.held.secret(&reference.name)).collect()
    }

    fn specification(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        start: &Start,
        image: &ImageRecord,
    ) -> Result<ContainerSpec, ConfigError> {
        let config = &self.context.config;
        let around = self.surroundings();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let links = pod.spec.as_ref().and_then(|s| s.enable_service_links) != Some(false);
        let mut services = self.context.services.in_namespace(namespace);
        services.extend(self.context.services.get("default", "kubernetes").filter(|_| namespace != "default"));
        let env = env::environment(&EnvInput {
            pod,
            container,
            sources: &self.volumes.held.sources(),
            service_env: &env::service_variables(services.iter().map(AsRef::as_ref), namespace, links),
            addresses: &around.addresses,
            allocatable: &around.allocatable,
        })?;
        let volume_error = |source| ConfigError::Volume { container: container.name.clone(), source };
        let mounts = mounts::of_container(config, pod, container, &env, &self.volumes).map_err(volume_error)?;
        let termination = config.pod_root(&self.uid).join("containers").join(&container.name);
        let termination_log = termination.join(format!("{}-{:08x}", start.attempt, rand::random::<u32>()));
        make_file(&termination_log)?;
        let log_path = spec::log_path(&config.pod_logs, pod, &container.name, start.attempt);
        make_parent(&log_path)?;
        let processes_of = self.debugged(pod, &container.name)?;
        let wanted = spec::spec(ContainerInput {
            pod,
            container,
            attempt: start.attempt,
            image,
            env: &env,
            mounts,
            devices: Vec::new(),
            log_path,
            log_limits: config.log_limits,
            termination_log: Some(termination_log),
            seccomp_root: &config.seccomp_root,
            node_memory: self.context.machine.memory,
        })?;
        Ok(ContainerSpec { processes_of, ..wanted })
    }

    /// The container whose processes the debugger `name` is to see.
    fn debugged(&self, pod: &Pod, name: &str) -> Result<Option<ContainerId>, ConfigError> {
        let Some(target) = crate::spec::debug_target(pod, name) else { return Ok(None) };
        let known = self.context.runtime.pod_status(&self.pod_id());
        let instances = known.iter().flat_map(|status| &status.containers).filter(|c| c.spec.name == target);
        let newest = instances.max_by_key(|c| c.spec.attempt).map(|c| c.id.clone());
        newest.map(Some).ok_or_else(|| ConfigError::Target(target.to_owned()))
    }

    /// Runs the postStart hook; a container whose hook fails is killed.
    async fn post_start(&mut self, pod: &Arc<Pod>, container: &Container, id: &ContainerId) {
        let hook = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        if let Some(hook) = hook {
            let ip = self.memory.pod_ips.first().map(String::as_str);
            let ran = hooks::run(&self.context, container, id, hook, ip);
            let ending = self.ending();
            let result = tokio::select! {
                result = ran => result,
                () = ending => return,
            };
            if let Err(error) = result {
                let warn = |reason, text: String| {
                    self.context.container_event(pod, &container.name, EventType::Warning, reason, text);
                };
                warn("FailedPostStartHook", format!("PostStartHook failed: {}", chain(&error)));
                let kill = crate::plan::actions::Kill {
                    id: id.to_string(),
                    name: container.name.clone(),
                    cause: crate::plan::actions::KillCause::Changed,
                    message: "FailedPostStartHook".to_owned(),
                };
                self.kill(pod, &kill).await;
                return;
            }
        }
        self.probes.post_start_done(&container.name, id.as_str());
    }

    /// Drops instances older than the one before the newest, with their logs.
    async fn prune(&mut self, name: &str, newest: u32) {
        let Ok(status) = self.context.runtime.pod_status(&self.pod_id()) else { return };
        for old in status.containers.iter().filter(|c| c.spec.name == name && c.spec.attempt + 1 < newest) {
            if let Err(error) = self.context.runtime.remove_container(&old.id).await {
                tracing::debug!(container = %old.id, error = %chain(&error), "cannot remove an old container");
                continue;
            }
            let files = [
                old.spec.log_path.as_deref(),
                old.spec.annotations.get(crate::spec::pod::labels::TERMINATION_LOG).map(Path::new),
            ];
            for file in files.into_iter().flatten() {
                drop(fs::remove_file(file));
            }
            super::cleanup::unlink_log(&self.context.config.container_logs, old.id.as_str());
        }
    }
}

fn make_file(path: &Path) -> Result<(), ConfigError> {
    make_parent(path)?;
    let made = fs::write(path, b"").and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o666)));
    made.map_err(|source| ConfigError::File { path: path.to_owned(), source })
}

fn make_parent(path: &Path) -> Result<(), ConfigError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).map_err(|source| ConfigError::File { path: parent.to_owned(), source })
}

/// `<pod>_<namespace>_<container>-<id>.log`, as log collectors look for it.
fn link_log(folder: &Path, pod: &Pod, container: &str, id: &str, log: Option<&Path>) {
    let Some(log) = log else { return };
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let name = format!("{}_{}_{container}-{id}.log", text(&pod.metadata.name), text(&pod.metadata.namespace));
    if let Err(error) = symlink(log, folder.join(name)) {
        tracing::debug!(error = %error, "cannot link a container's log");
    }
}
