//! Deployments.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::columns::{self, Column};
use crate::defaults::{self, fill, fill_value};
use crate::field::{Errors, Path};
use crate::selector::format_label_selector;
use crate::strategy::Part;
use crate::strategy::scale::Scale;
use crate::strategy::typed::{Generation, Rules, StatusPolicy};
use crate::validation::workloads::{
    at_most_100_percent, count_or_percent, int_or_string, lasting_template, number, required_selector, selector_matches,
};
use crate::validation::{immutable, non_negative};

pub struct DeploymentRules;

impl Rules for DeploymentRules {
    type Object = Deployment;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::SpecAndAnnotations;
    const COLUMNS: &'static [Column] = columns::workloads::DEPLOYMENT;

    fn default(deployment: &mut Deployment) {
        let spec = deployment.spec.get_or_insert_default();
        defaults::pod::template(&mut spec.template);
        fill_value(&mut spec.replicas, 1);
        let strategy = spec.strategy.get_or_insert_default();
        fill(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            let quarter = || IntOrString::String("25%".to_owned());
            rolling.max_unavailable.get_or_insert_with(quarter);
            rolling.max_surge.get_or_insert_with(quarter);
        }
        fill_value(&mut spec.revision_history_limit, 10);
        fill_value(&mut spec.progress_deadline_seconds, 600);
    }

    fn validate(deployment: &Deployment, errors: &mut Errors) {
        let default = DeploymentSpec::default();
        spec(errors, &Path::root("spec"), deployment.spec.as_ref().unwrap_or(&default));
    }

    fn validate_update(new: &Deployment, old: &Deployment, errors: &mut Errors) {
        Self::validate(new, errors);
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            immutable(errors, &Path::root("spec").child("selector"), &new.selector, &old.selector);
        }
    }

    fn prepare_part(_part: Part, new: &mut Deployment, old: &Deployment) {
        new.metadata.labels.clone_from(&old.metadata.labels);
    }

    fn validate_part(_part: Part, new: &Deployment, old: &Deployment, errors: &mut Errors) {
        let default = DeploymentStatus::default();
        let path = &Path::root("status");
        let (status, before) = (new.status.as_ref().unwrap_or(&default), old.status.as_ref().unwrap_or(&default));
        self::status(errors, path, status);
        if let (Some(new), Some(old)) = (status.collision_count, before.collision_count)
            && new < old
        {
            errors.invalid(&path.child("collisionCount"), new, "cannot be decremented");
        }
    }

    fn cells(deployment: &Deployment, now: Timestamp) -> Vec<Value> {
        columns::workloads::deployment(deployment, now)
    }

    fn scale(deployment: &Deployment) -> Option<Scale> {
        let spec = deployment.spec.as_ref()?;
        Some(Scale {
            spec_replicas: spec.replicas.unwrap_or(1),
            status_replicas: deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0),
            selector: format_label_selector(Some(&spec.selector)),
        })
    }

    fn set_scale(deployment: &mut Deployment, replicas: i32) -> bool {
        deployment.spec.get_or_insert_default().replicas = Some(replicas);
        true
    }
}

fn spec(errors: &mut Errors, path: &Path<'_>, spec: &DeploymentSpec) {
    non_negative(errors, &path.child("replicas"), spec.replicas.unwrap_or(0));
    required_selector(errors, &path.child("selector"), &spec.selector);
    let template = &path.child("template");
    selector_matches(errors, template, &spec.selector, &spec.template);
    lasting_template(errors, template, &spec.template, "ReplicaSet");
    if let Some(strategy) = &spec.strategy {
        self::strategy(errors, &path.child("strategy"), strategy);
    }
    let ready = spec.min_ready_seconds.unwrap_or(0);
    non_negative(errors, &path.child("minReadySeconds"), ready);
    non_negative(errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit.unwrap_or(0));
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = path.child("progressDeadlineSeconds");
        non_negative(errors, &path, deadline);
        if deadline <= ready {
            errors.invalid(&path, deadline, "must be greater than minReadySeconds");
        }
    }
}

fn strategy(errors: &mut Errors, path: &Path<'_>, strategy: &DeploymentStrategy) {
    let rolling = path.child("rollingUpdate");
    match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
        ("Recreate", Some(_)) => {
            errors.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => errors.required(&rolling, "this should be defaulted and never be nil"),
        ("RollingUpdate", Some(update)) => rolling_update(errors, &rolling, update),
        (other, _) => errors.not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

fn rolling_update(errors: &mut Errors, path: &Path<'_>, update: &RollingUpdateDeployment) {
    let (unavailable, surge) = (update.max_unavailable.as_ref(), update.max_surge.as_ref());
    let unavailable_path = path.child("maxUnavailable");
    count_or_percent(errors, &unavailable_path, unavailable);
    count_or_percent(errors, &path.child("maxSurge"), surge);
    if number(unavailable) == 0
        && number(surge) == 0
        && let Some(value) = unavailable
    {
        errors.invalid(&unavailable_path, int_or_string(value), "may not be 0 when `maxSurge` is 0");
    }
    at_most_100_percent(errors, &unavailable_path, unavailable);
}

fn status(errors: &mut Errors, path: &Path<'_>, status: &DeploymentStatus) {
    let total = status.replicas.unwrap_or(0);
    let (updated, ready) = (status.updated_replicas.unwrap_or(0), status.ready_replicas.unwrap_or(0));
    let available = status.available_replicas.unwrap_or(0);
    non_negative(errors, &path.child("observedGeneration"), status.observed_generation.unwrap_or(0));
    let counts = [
        ("replicas", total),
        ("updatedReplicas", updated),
        ("readyReplicas", ready),
        ("availableReplicas", available),
        ("unavailableReplicas", status.unavailable_replicas.unwrap_or(0)),
        ("collisionCount", status.collision_count.unwrap_or(0)),
    ];
    for (field, count) in counts {
        non_negative(errors, &path.child(field), count);
    }
    const TOTAL: &str = "cannot be greater than status.replicas";
    for (field, count) in [("updatedReplicas", updated), ("readyReplicas", ready), ("availableReplicas", available)] {
        if count > total {
            errors.invalid(&path.child(field), count, TOTAL);
        }
    }
    if available > ready {
        errors.invalid(&path.child("availableReplicas"), available, "cannot be greater than readyReplicas");
    }
}

#[cfg(test)]
mod tests {
    use crate::strategy::{Context, Part, Strategy, strategy_for};
    use serde_json::{Value, json};

    fn context() -> Context<'static> {
        Context::sample(Some("default"))
    }

    fn strategy() -> &'static dyn Strategy {
        strategy_for("apps", "v1", "Deployment").unwrap()
    }

    fn web(extra: Value) -> Value {
        let mut spec = json!({"selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"metadata": {"name": "web"}, "spec": spec})
    }

    fn refused(extra: Value) -> String {
        let message = strategy().create(web(extra), &context()).unwrap_err().message().to_owned();
        message.strip_prefix("Deployment.apps \"web\" is invalid: ").unwrap().to_owned()
    }

    #[test]
    fn defaults_and_generation() {
        let created = strategy().create(web(json!({})), &context()).unwrap();
        assert_eq!(created["spec"]["replicas"], 1);
        assert_eq!(
            created["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!(created["metadata"]["generation"], 1);
        assert_eq!(created["spec"]["template"]["spec"]["restartPolicy"], "Always");
        assert!(created["spec"]["template"]["spec"].get("enableServiceLinks").is_none());

        let mut new = created.clone();
        new["metadata"]["resourceVersion"] = json!("1");
        new["metadata"]["annotations"] = json!({"a": "b"});
        let updated = strategy().update(Part::Main, new, &created, &context()).unwrap();
        assert_eq!(updated["metadata"]["generation"], 2);
    }

    #[test]
    fn bad_specifications_are_worded_as_upstream() {
        assert_eq!(
            refused(json!({"replicas": -1})),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        assert_eq!(
            refused(json!({"selector": {"matchLabels": {"app": "x"}}})),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"
        );
        assert_eq!(
            refused(json!({"selector": null})),
            "[spec.selector: Required value, spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`]"
        );
        assert_eq!(
            refused(json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}})),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"
        );
        assert_eq!(
            refused(json!({"strategy": {"type": "Foo"}})),
            "spec.strategy.type: Unsupported value: \"Foo\": supported values: \"Recreate\", \"RollingUpdate\""
        );
    }

    #[test]
    fn the_selector_is_immutable_and_the_scale_is_not() {
        let mut old = strategy().create(web(json!({})), &context()).unwrap();
        old["metadata"]["resourceVersion"] = json!("1");
        let mut new = old.clone();
        new["spec"]["selector"]["matchLabels"]["x"] = json!("y");
        new["spec"]["template"]["metadata"]["labels"]["x"] = json!("y");
        assert_eq!(
            strategy().update(Part::Main, new, &old, &context()).unwrap_err().message(),
            "Deployment.apps \"web\" is invalid: spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"x\":\"y\"}}: field is immutable"
        );
        let mut scaled = old.clone();
        assert!(strategy().set_scale(&mut scaled, 5));
        let scale = strategy().scale(&scaled).unwrap();
        assert_eq!((scale.spec_replicas, scale.selector.as_str()), (5, "app=web"));
    }
}
