//! The task that turns verdicts into API writes.

use crate::Api;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

use super::Occurrence;
use super::correlate::{Correlator, Series, Verdict};
use crate::retry::is_not_found;

pub(super) async fn run(
    client: kube::Client,
    component: String,
    host: String,
    mut occurrences: mpsc::Receiver<Occurrence>,
) {
    let mut correlator = Correlator::default();
    while let Some(occurrence) = occurrences.recv().await {
        let Verdict::Write { message, key, repeat } = correlator.judge(&occurrence) else {
            tracing::debug!(reason = %occurrence.reason, "event over its object's limit");
            continue;
        };
        let source = EventSource { component: Some(component.clone()), host: some_text(&host) };
        match write(&client, source, &occurrence, message, repeat).await {
            Ok(series) => correlator.written(*key, series),
            Err(error) => tracing::debug!(reason = %occurrence.reason, error = %error, "event not written"),
        }
    }
}

fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

async fn write(
    client: &kube::Client,
    source: EventSource,
    occurrence: &Occurrence,
    message: String,
    repeat: Option<Series>,
) -> kube::Result<Series> {
    // Events about cluster-scoped objects live in the default namespace.
    let namespace = occurrence.object.namespace.clone().filter(|ns| !ns.is_empty()).unwrap_or_else(|| "default".into());
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    if let Some(series) = repeat {
        match count_up(&api, occurrence.at, &series).await {
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(Series { count: series.count + 1, ..series }),
        }
    }
    let series = Series { name: event_name(occurrence), count: 1, first: occurrence.at };
    api.create(&PostParams::default(), &event(&namespace, source, occurrence, message, &series)).await?;
    Ok(series)
}

async fn count_up(api: &Api<Event>, at: Timestamp, series: &Series) -> kube::Result<Event> {
    let patch = json!({"count": series.count + 1, "lastTimestamp": Time(at)});
    api.patch(&series.name, &PatchParams::default(), &Patch::Merge(&patch)).await
}

/// The object's name and the time in nanoseconds, in hexadecimal, as client-go names events.
fn event_name(occurrence: &Occurrence) -> String {
    format!("{}.{:x}", occurrence.object.name.as_deref().unwrap_or("object"), occurrence.at.as_nanosecond())
}

fn event(namespace: &str, source: EventSource, occurrence: &Occurrence, message: String, series: &Series) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(series.name.clone()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: occurrence.object.clone(),
        reason: Some(occurrence.reason.clone()),
        message: Some(message),
        type_: Some(occurrence.kind.as_str().to_owned()),
        count: Some(series.count),
        first_timestamp: Some(Time(series.first)),
        last_timestamp: Some(Time(occurrence.at)),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        source: Some(source),
        ..Event::default()
    }
}
