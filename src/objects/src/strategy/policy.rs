//! Pod disruption budgets.

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use serde_json::Value;

use super::Part;
use super::typed::{Generation, Rules, StatusPolicy};
use crate::columns::{self, Column};
use crate::field::{BadValue, Errors, Path};
use crate::validation::workloads::{at_most_100_percent, count_or_percent};
use crate::validation::{labels, non_negative, one_of};

pub struct PodDisruptionBudgetRules;

impl Rules for PodDisruptionBudgetRules {
    type Object = PodDisruptionBudget;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
    const UNCONDITIONAL_UPDATE: bool = false;
    const COLUMNS: &'static [Column] = columns::policy::POD_DISRUPTION_BUDGET;

    fn validate(budget: &PodDisruptionBudget, errors: &mut Errors) {
        let default = PodDisruptionBudgetSpec::default();
        let spec = budget.spec.as_ref().unwrap_or(&default);
        let path = &Path::root("spec");
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            errors.invalid(path, BadValue::json(spec), "minAvailable and maxUnavailable cannot be both set");
        }
        for (field, value) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
            count_or_percent(errors, &path.child(field), value.as_ref());
            at_most_100_percent(errors, &path.child(field), value.as_ref());
        }
        labels::selector(errors, &path.child("selector"), spec.selector.as_ref());
        if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
            let supported = ["AlwaysAllow", "IfHealthyBudget"];
            one_of(errors, &path.child("unhealthyPodEvictionPolicy"), policy, &supported);
        }
    }

    fn validate_part(_part: Part, new: &PodDisruptionBudget, _old: &PodDisruptionBudget, errors: &mut Errors) {
        let Some(status) = &new.status else { return };
        let path = Path::root("status");
        let counts = [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ];
        for (field, count) in counts {
            non_negative(errors, &path.child(field), count.unwrap_or(0));
        }
    }

    fn cells(budget: &PodDisruptionBudget, now: Timestamp) -> Vec<Value> {
        columns::policy::pod_disruption_budget(budget, now)
    }
}
