//! Makes sure a container's image is here: pull policy, pull secrets, back-off, events.
//!
//! Called by a pod's worker before each container start. Concurrent pulls are limited; the same name is downloaded
//! once (the runtime sees to that).

mod secrets;

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use runtime::{Auth, ImageError, ImageRecord, ImageRef};
use tokio::sync::{Semaphore, watch};

use crate::context::Context;
use crate::network::chain;
use crate::plan::Waiting;
use crate::plan::backoff::Backoff;

/// Images of this domain are made on the machine; no registry has it, whatever the pull policy says.
const OWN_DOMAIN: &str = "rk.local";

/// Why there is no image, as the container's waiting state says it.
#[derive(Debug)]
pub(crate) struct NoImage {
    pub(crate) waiting: Waiting,
    /// When another try makes sense.
    pub(crate) retry_at: Timestamp,
}

/// Limits pulls and remembers those that fail.
pub(crate) struct Puller {
    slots: Semaphore,
    /// By image and pod.
    failing: Mutex<HashMap<(String, String), Failing>>,
    changed: watch::Sender<()>,
}

#[derive(Clone)]
struct Failing {
    backoff: Backoff,
    error: String,
}

impl Puller {
    pub(crate) fn new(parallel: usize) -> Puller {
        Puller { slots: Semaphore::new(parallel.max(1)), failing: Mutex::default(), changed: watch::channel(()).0 }
    }

    /// Changes when images come or go.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn note_change(&self) {
        self.changed.send_replace(());
    }

    fn failing(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Failing>> {
        self.failing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Forgets the failures of a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.failing().retain(|(_, of), _| of != uid);
    }
}

/// Whether the policy wants a pull, the image being present or not.
fn wants_pull(container: &Container, reference: &ImageRef, present: bool) -> bool {
    let latest = reference.to_string().ends_with(":latest");
    let default = if latest { "Always" } else { "IfNotPresent" };
    match container.image_pull_policy.as_deref().unwrap_or(default) {
        "Always" => true,
        "Never" => false,
        _ => !present,
    }
}

/// The image of `container`, pulled if its policy wants that.
pub(crate) async fn ensure(
    context: &Context,
    pod: &Pod,
    container: &Container,
    pull_secrets: &[std::sync::Arc<Secret>],
) -> Result<ImageRecord, NoImage> {
    let image = container.image.as_deref().unwrap_or_default();
    let event =
        |kind, reason: &str, message: String| context.container_event(pod, &container.name, kind, reason, message);
    let Ok(reference) = image.parse::<ImageRef>() else {
        let message = format!(
            "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
        );
        event(EventType::Warning, "InspectFailed", message.clone());
        event(EventType::Warning, "Failed", "Error: InvalidImageName".to_owned());
        return Err(no_image("InvalidImageName", message, 60));
    };
    let record = context.runtime.images().get(&reference.to_string());
    if let Some(record) = record.clone().filter(|_| !wants_pull(container, &reference, true)) {
        let message = format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
        event(EventType::Normal, "Pulled", message);
        return Ok(record);
    }
    if !wants_pull(container, &reference, record.is_some()) {
        let message = format!("Container image \"{image}\" is not present with pull policy of Never");
        event(EventType::Warning, "ErrImageNeverPull", message.clone());
        event(EventType::Warning, "Failed", "Error: ErrImageNeverPull".to_owned());
        return Err(no_image("ErrImageNeverPull", message, 10));
    }
    if let Some(record) = record.filter(|_| reference.domain() == OWN_DOMAIN) {
        event(
            EventType::Normal,
            "Pulled",
            format!("Container image \"{image}\" already present on machine and can be accessed by the pod"),
        );
        return Ok(record);
    }
    pull(context, pod, container, &reference, pull_secrets).await
}

async fn pull(
    context: &Context,
    pod: &Pod,
    container: &Container,
    reference: &ImageRef,
    pull_secrets: &[std::sync::Arc<Secret>],
) -> Result<ImageRecord, NoImage> {
    let image = container.image.as_deref().unwrap_or_default();
    let event =
        |kind, reason: &str, message: String| context.container_event(pod, &container.name, kind, reason, message);
    let puller = &context.puller;
    let key = (image.to_owned(), pod.metadata.uid.clone().unwrap_or_default());
    let known = puller.failing().get(&key).cloned();
    if let Some(failing) = &known
        && let Some(until) = Backoff::until(Some(&failing.backoff), failing.backoff.updated, Timestamp::now())
    {
        let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", failing.error);
        event(EventType::Normal, "BackOff", format!("Back-off pulling image \"{image}\""));
        event(EventType::Warning, "Failed", "Error: ImagePullBackOff".to_owned());
        return Err(NoImage { waiting: Waiting::new("ImagePullBackOff", message), retry_at: until });
    }
    event(EventType::Normal, "Pulling", format!("Pulling image \"{image}\""));
    let asked = Instant::now();
    let Ok(_slot) = puller.slots.acquire().await else {
        return Err(no_image("ErrImagePull", "stopping".to_owned(), 1));
    };
    let began = Instant::now();
    match try_credentials(context, reference, pull_secrets).await {
        Ok(record) => {
            puller.failing().remove(&key);
            puller.note_change();
            let message = format!(
                "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
                seconds(began),
                seconds(asked),
                record.size
            );
            event(EventType::Normal, "Pulled", message);
            Ok(record)
        }
        Err(error) => {
            let error = chain(&error);
            let now = Timestamp::now();
            let backoff = Backoff::next(known.as_ref().map(|k| &k.backoff), now, now);
            let until = Backoff::until(Some(&backoff), now, now).unwrap_or(now);
            puller.failing().insert(key, Failing { backoff, error: error.clone() });
            let message = format!("failed to pull image \"{image}\": {error}");
            event(EventType::Warning, "Failed", format!("Failed to pull image \"{image}\": {error}"));
            event(EventType::Warning, "Failed", "Error: ErrImagePull".to_owned());
            // The first word is the error; the back-off that follows is told when the worker asks again.
            let soon = now.checked_add(jiff::SignedDuration::from_secs(1)).unwrap_or(until).min(until);
            Err(NoImage { waiting: Waiting::new("ErrImagePull", message), retry_at: soon })
        }
    }
}

/// Tries every credential that fits the registry, and anonymously where none does.
async fn try_credentials(
    context: &Context,
    reference: &ImageRef,
    pull_secrets: &[std::sync::Arc<Secret>],
) -> Result<ImageRecord, ImageError> {
    let mut credentials = secrets::matching(&reference.to_string(), pull_secrets);
    if credentials.is_empty() {
        credentials.push(Auth::Anonymous);
    }
    let mut last = None;
    for auth in &credentials {
        match context.runtime.images().pull(reference, auth, |_| {}).await {
            Ok(record) => return Ok(record),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| ImageError::NotFound(reference.to_string())))
}

fn no_image(reason: &str, message: String, seconds: i64) -> NoImage {
    let now = Timestamp::now();
    let retry_at = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now);
    NoImage { waiting: Waiting::new(reason, message), retry_at }
}

fn seconds(since: Instant) -> String {
    let elapsed = since.elapsed();
    if elapsed.as_secs() > 0 { format!("{:.3}s", elapsed.as_secs_f64()) } else { format!("{}ms", elapsed.as_millis()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        let wants = |policy: Option<&str>, image: &str, present| {
            let container = Container { image_pull_policy: policy.map(str::to_owned), ..Container::default() };
            wants_pull(&container, &image.parse().unwrap(), present)
        };
        assert!(wants(None, "busybox", true), ":latest is pulled always by default");
        assert!(!wants(None, "busybox:1", true));
        assert!(wants(Some("IfNotPresent"), "busybox", false));
        assert!(!wants(Some("IfNotPresent"), "busybox", true));
        assert!(!wants(Some("Never"), "busybox", false));
        assert!(wants(Some("Always"), "busybox:1", true));
    }
}
