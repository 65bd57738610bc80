//! Workload kinds.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job, JobStatus};
use k8s_openapi::api::core::v1::{PodTemplate, PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::{Column, age, bool_or_unset, name, none_if_empty, since};
use crate::duration;
use crate::selector::{format_label_selector, format_labels};

const CONTAINERS: Column = Column::wide("Containers", "string");
const IMAGES: Column = Column::wide("Images", "string");
const SELECTOR: Column = Column::wide("Selector", "string");

pub const DEPLOYMENT: &[Column] = &[
    Column::NAME,
    Column::new("Ready", "string"),
    Column::new("Up-to-date", "string"),
    Column::new("Available", "string"),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const REPLICA_SET: &[Column] = &[
    Column::NAME,
    Column::new("Desired", "integer"),
    Column::new("Current", "integer"),
    Column::new("Ready", "integer"),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const REPLICATION_CONTROLLER: &[Column] = REPLICA_SET;

pub const DAEMON_SET: &[Column] = &[
    Column::NAME,
    Column::new("Desired", "integer"),
    Column::new("Current", "integer"),
    Column::new("Ready", "integer"),
    Column::new("Up-to-date", "integer"),
    Column::new("Available", "integer"),
    Column::new("Node Selector", "string"),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const STATEFUL_SET: &[Column] = &[Column::NAME, Column::new("Ready", "string"), Column::AGE, CONTAINERS, IMAGES];

pub const JOB: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string"),
    Column::new("Completions", "string"),
    Column::new("Duration", "string"),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const CRON_JOB: &[Column] = &[
    Column::NAME,
    Column::new("Schedule", "string"),
    Column::new("Timezone", "string"),
    Column::new("Suspend", "boolean"),
    Column::new("Active", "integer"),
    Column::new("Last Schedule", "string"),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const CONTROLLER_REVISION: &[Column] =
    &[Column::NAME, Column::new("Controller", "string"), Column::new("Revision", "string"), Column::AGE];

pub const POD_TEMPLATE: &[Column] = &[
    Column::NAME,
    Column::new("Containers", "string"),
    Column::new("Images", "string"),
    Column::new("Pod Labels", "string"),
];

/// Names and images of a template's containers.
fn containers(template: Option<&PodTemplateSpec>) -> [Value; 2] {
    let spec = template.and_then(|template| template.spec.as_ref());
    let all = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let names: Vec<&str> = all.iter().map(|container| container.name.as_str()).collect();
    let images: Vec<&str> = all.iter().map(|container| container.image.as_deref().unwrap_or_default()).collect();
    [names.join(",").into(), images.join(",").into()]
}

fn selector(selector: Option<&LabelSelector>) -> Value {
    format_label_selector(selector).into()
}

pub fn deployment(deployment: &Deployment, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (deployment.spec.as_ref(), deployment.status.as_ref());
    let desired = spec.and_then(|spec| spec.replicas).unwrap_or(0);
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let [names, images] = containers(spec.map(|spec| &spec.template));
    vec![
        name(&deployment.metadata),
        format!("{ready}/{desired}").into(),
        status.and_then(|status| status.updated_replicas).unwrap_or(0).into(),
        status.and_then(|status| status.available_replicas).unwrap_or(0).into(),
        age(&deployment.metadata, now),
        names,
        images,
        selector(spec.map(|spec| &spec.selector)),
    ]
}

pub fn replica_set(set: &ReplicaSet, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (set.spec.as_ref(), set.status.as_ref());
    let [names, images] = containers(spec.and_then(|spec| spec.template.as_ref()));
    vec![
        name(&set.metadata),
        spec.and_then(|spec| spec.replicas).unwrap_or(0).into(),
        status.map_or(0, |status| status.replicas).into(),
        status.and_then(|status| status.ready_replicas).unwrap_or(0).into(),
        age(&set.metadata, now),
        names,
        images,
        selector(spec.map(|spec| &spec.selector)),
    ]
}

pub fn replication_controller(controller: &ReplicationController, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (controller.spec.as_ref(), controller.status.as_ref());
    let [names, images] = containers(spec.and_then(|spec| spec.template.as_ref()));
    vec![
        name(&controller.metadata),
        spec.and_then(|spec| spec.replicas).unwrap_or(0).into(),
        status.map_or(0, |status| status.replicas).into(),
        status.and_then(|status| status.ready_replicas).unwrap_or(0).into(),
        age(&controller.metadata, now),
        names,
        images,
        format_labels(spec.and_then(|spec| spec.selector.as_ref())).into(),
    ]
}

pub fn daemon_set(set: &DaemonSet, now: Timestamp) -> Vec<Value> {
    let spec = set.spec.as_ref();
    let status = set.status.clone().unwrap_or_default();
    let [names, images] = containers(spec.map(|spec| &spec.template));
    let pod = spec.and_then(|spec| spec.template.spec.as_ref());
    vec![
        name(&set.metadata),
        status.desired_number_scheduled.into(),
        status.current_number_scheduled.into(),
        status.number_ready.into(),
        status.updated_number_scheduled.unwrap_or(0).into(),
        status.number_available.unwrap_or(0).into(),
        format_labels(pod.and_then(|pod| pod.node_selector.as_ref())).into(),
        age(&set.metadata, now),
        names,
        images,
        selector(spec.map(|spec| &spec.selector)),
    ]
}

pub fn stateful_set(set: &StatefulSet, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (set.spec.as_ref(), set.status.as_ref());
    let desired = spec.and_then(|spec| spec.replicas).unwrap_or(0);
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let [names, images] = containers(spec.map(|spec| &spec.template));
    vec![name(&set.metadata), format!("{ready}/{desired}").into(), age(&set.metadata, now), names, images]
}

pub fn job(job: &Job, now: Timestamp) -> Vec<Value> {
    let spec = job.spec.as_ref();
    let status = job.status.clone().unwrap_or_default();
    let succeeded = status.succeeded.unwrap_or(0);
    let parallelism = spec.and_then(|spec| spec.parallelism).unwrap_or(0);
    let completions = match spec.and_then(|spec| spec.completions) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let took = match (&status.start_time, &status.completion_time) {
        (None, _) => String::new(),
        (Some(start), None) => duration::age(start.0, now),
        (Some(start), Some(end)) => duration::age(start.0, end.0),
    };
    let [names, images] = containers(spec.map(|spec| &spec.template));
    vec![
        name(&job.metadata),
        job_state(&status, job.metadata.deletion_timestamp.is_some()).into(),
        completions.into(),
        took.into(),
        age(&job.metadata, now),
        names,
        images,
        selector(spec.and_then(|spec| spec.selector.as_ref())),
    ]
}

fn job_state(status: &JobStatus, deleted: bool) -> &'static str {
    let has = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True");
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if deleted => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

pub fn cron_job(job: &CronJob, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&job.spec, job.status.as_ref());
    let last = status.and_then(|status| status.last_schedule_time.as_ref());
    let job_spec = spec.job_template.spec.as_ref();
    let [names, images] = containers(job_spec.map(|job| &job.template));
    let active = status.and_then(|status| status.active.as_ref()).map_or(0, Vec::len);
    vec![
        name(&job.metadata),
        spec.schedule.clone().into(),
        none_if_empty(spec.time_zone.as_deref().unwrap_or_default()),
        bool_or_unset(spec.suspend),
        active.into(),
        last.map_or_else(|| "<none>".to_owned(), |last| since(Some(last), now)).into(),
        age(&job.metadata, now),
        names,
        images,
        selector(job_spec.and_then(|job| job.selector.as_ref())),
    ]
}

pub fn controller_revision(revision: &ControllerRevision, now: Timestamp) -> Vec<Value> {
    let owner = revision.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let controller = owner.map_or_else(
        || "<none>".to_owned(),
        |owner| match owner.api_version.split_once('/') {
            Some((group, _)) => format!("{}.{group}/{}", owner.kind.to_lowercase(), owner.name),
            None => format!("{}/{}", owner.kind.to_lowercase(), owner.name),
        },
    );
    vec![name(&revision.metadata), controller.into(), revision.revision.into(), age(&revision.metadata, now)]
}

pub fn pod_template(template: &PodTemplate) -> Vec<Value> {
    let [names, images] = containers(template.template.as_ref());
    let meta = template.template.as_ref().and_then(|template| template.metadata.as_ref());
    vec![name(&template.metadata), names, images, format_labels(meta.and_then(|meta| meta.labels.as_ref())).into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    #[test]
    fn deployments_show_ready_of_desired() {
        let deployment: Deployment = serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                "template": {"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}]}}},
            "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}}))
        .unwrap();
        assert_eq!(deployment_cells(&deployment), json!(["web", "2/3", 3, 1, "60m", "a,b", "x:1,y", "app=web"]));
    }

    fn deployment_cells(object: &Deployment) -> Value {
        deployment(object, now()).into()
    }

    #[test]
    fn jobs_show_status_completions_and_duration() {
        let job = |status: Value| -> Value {
            let object: Job = serde_json::from_value(json!({"apiVersion": "batch/v1", "kind": "Job",
                "metadata": {"name": "j", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"completions": 2, "template": {}}, "status": status}))
            .unwrap();
            super::job(&object, now())[1..4].to_vec().into()
        };
        assert_eq!(
            job(json!({"succeeded": 2, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:42Z",
                "conditions": [{"type": "Complete", "status": "True"}]})),
            json!(["Complete", "2/2", "42s"])
        );
        assert_eq!(job(json!({})), json!(["Running", "0/2", ""]));
    }
}
