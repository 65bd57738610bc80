//! Webhook configurations and admission policies.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhookConfiguration, RuleWithOperations, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::typed::{Generation, Rules, StatusPolicy};
use crate::columns::{self, Column};
use crate::defaults::{fill, fill_value};
use crate::field::{Errors, Path};
use crate::names;
use crate::validation::{check, labels, one_of, text};

/// The fields that both kinds of webhooks share, borrowed.
struct Webhook<'a> {
    name: &'a str,
    versions: &'a [String],
    client: &'a WebhookClientConfig,
    failure_policy: Option<&'a String>,
    match_policy: Option<&'a String>,
    conditions: &'a [MatchCondition],
    namespaces: Option<&'a LabelSelector>,
    objects: Option<&'a LabelSelector>,
    rules: &'a [RuleWithOperations],
    side_effects: &'a str,
    timeout: Option<i32>,
}

macro_rules! webhook {
    ($hook:expr) => {
        Webhook {
            name: &$hook.name,
            versions: &$hook.admission_review_versions,
            client: &$hook.client_config,
            failure_policy: $hook.failure_policy.as_ref(),
            match_policy: $hook.match_policy.as_ref(),
            conditions: $hook.match_conditions.as_deref().unwrap_or_default(),
            namespaces: $hook.namespace_selector.as_ref(),
            objects: $hook.object_selector.as_ref(),
            rules: $hook.rules.as_deref().unwrap_or_default(),
            side_effects: &$hook.side_effects,
            timeout: $hook.timeout_seconds,
        }
    };
}

macro_rules! webhook_defaults {
    ($hook:expr) => {{
        fill(&mut $hook.failure_policy, "Fail");
        fill(&mut $hook.match_policy, "Equivalent");
        $hook.namespace_selector.get_or_insert_default();
        $hook.object_selector.get_or_insert_default();
        fill_value(&mut $hook.timeout_seconds, 10);
        for rule in $hook.rules.iter_mut().flatten() {
            fill(&mut rule.scope, "*");
        }
        if let Some(service) = &mut $hook.client_config.service {
            fill_value(&mut service.port, 443);
        }
    }};
}

pub struct ValidatingWebhookRules;

impl Rules for ValidatingWebhookRules {
    type Object = ValidatingWebhookConfiguration;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::cluster::WEBHOOKS;

    fn default(config: &mut ValidatingWebhookConfiguration) {
        config.webhooks.iter_mut().flatten().for_each(|hook| webhook_defaults!(hook));
    }

    fn validate(config: &ValidatingWebhookConfiguration, errors: &mut Errors) {
        let hooks: Vec<Webhook<'_>> = config.webhooks.iter().flatten().map(|hook| webhook!(hook)).collect();
        webhooks(errors, &hooks);
    }

    fn cells(config: &ValidatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        columns::cluster::count(&config.metadata, config.webhooks.as_ref().map_or(0, Vec::len), now)
    }
}

pub struct MutatingWebhookRules;

impl Rules for MutatingWebhookRules {
    type Object = MutatingWebhookConfiguration;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::cluster::WEBHOOKS;

    fn default(config: &mut MutatingWebhookConfiguration) {
        for hook in config.webhooks.iter_mut().flatten() {
            webhook_defaults!(hook);
            fill(&mut hook.reinvocation_policy, "Never");
        }
    }

    fn validate(config: &MutatingWebhookConfiguration, errors: &mut Errors) {
        let hooks: Vec<Webhook<'_>> = config.webhooks.iter().flatten().map(|hook| webhook!(hook)).collect();
        webhooks(errors, &hooks);
        let path = Path::root("webhooks");
        for (n, hook) in config.webhooks.iter().flatten().enumerate() {
            let policy = text(hook.reinvocation_policy.as_ref());
            one_of(errors, &path.index(n).child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
        }
    }

    fn cells(config: &MutatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        columns::cluster::count(&config.metadata, config.webhooks.as_ref().map_or(0, Vec::len), now)
    }
}

fn webhooks(errors: &mut Errors, hooks: &[Webhook<'_>]) {
    let path = Path::root("webhooks");
    for (n, hook) in hooks.iter().enumerate() {
        let path = &path.index(n);
        hook.validate(errors, path);
        if hooks[..n].iter().any(|other| other.name == hook.name) {
            errors.duplicate(&path.child("name"), hook.name);
        }
    }
}

impl Webhook<'_> {
    fn validate(&self, errors: &mut Errors, path: &Path<'_>) {
        qualified_name(errors, &path.child("name"), self.name);
        let versions = &path.child("admissionReviewVersions");
        if self.versions.is_empty() {
            errors.required(versions, "must specify one of v1, v1beta1");
        } else if !self.versions.iter().any(|version| matches!(version.as_str(), "v1" | "v1beta1")) {
            let detail = "must include at least one of v1, v1beta1";
            errors.invalid(versions, crate::validation::shown(&self.versions), detail);
        }
        let rules = path.child("rules");
        for (n, item) in self.rules.iter().enumerate() {
            rule(errors, &rules.index(n), item);
        }
        one_of(errors, &path.child("failurePolicy"), text(self.failure_policy), &["Fail", "Ignore"]);
        one_of(errors, &path.child("matchPolicy"), text(self.match_policy), &["Equivalent", "Exact"]);
        if self.side_effects.is_empty() {
            errors.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun");
        } else {
            one_of(errors, &path.child("sideEffects"), self.side_effects, &["None", "NoneOnDryRun"]);
        }
        if let Some(seconds) = self.timeout.filter(|seconds| !(1..=30).contains(seconds)) {
            let detail = "the timeout value must be between 1 and 30 seconds";
            errors.invalid(&path.child("timeoutSeconds"), seconds, detail);
        }
        labels::selector(errors, &path.child("namespaceSelector"), self.namespaces);
        labels::selector(errors, &path.child("objectSelector"), self.objects);
        client_config(errors, &path.child("clientConfig"), self.client);
        let conditions = path.child("matchConditions");
        for (n, condition) in self.conditions.iter().enumerate() {
            let path = conditions.index(n);
            for (field, value) in [("name", &condition.name), ("expression", &condition.expression)] {
                if value.is_empty() {
                    errors.required(&path.child(field), "");
                }
            }
        }
    }
}

fn qualified_name(errors: &mut Errors, path: &Path<'_>, name: &str) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    check(errors, path, name, names::dns1123_subdomain(name));
    if name.split('.').count() < 3 {
        errors.invalid(path, name, "should be a domain with at least three segments separated by dots");
    }
}

fn rule(errors: &mut Errors, path: &Path<'_>, rule: &RuleWithOperations) {
    const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    let lists = [
        ("operations", &rule.operations),
        ("apiGroups", &rule.api_groups),
        ("apiVersions", &rule.api_versions),
        ("resources", &rule.resources),
    ];
    for (field, list) in lists {
        let list = list.as_deref().unwrap_or_default();
        let path = path.child(field);
        if list.is_empty() {
            errors.required(&path, "");
        }
        let alone = field != "resources" && list.len() > 1 && list.iter().any(|item| item == "*");
        if alone {
            let detail = if field == "operations" {
                "if '*' is present, must not specify other operations"
            } else if field == "apiGroups" {
                "if '*' is present, must not specify other API groups"
            } else {
                "if '*' is present, must not specify other API versions"
            };
            errors.invalid(&path, crate::validation::shown(&list), detail);
        }
        for (n, item) in list.iter().enumerate() {
            match field {
                "operations" => one_of(errors, &path.index(n), item, OPERATIONS),
                "apiVersions" | "resources" if item.is_empty() => errors.required(&path.index(n), ""),
                _ => {}
            }
        }
    }
    one_of(errors, &path.child("scope"), text(rule.scope.as_ref()), &["*", "Cluster", "Namespaced"]);
}

fn client_config(errors: &mut Errors, path: &Path<'_>, config: &WebhookClientConfig) {
    match (&config.url, &config.service) {
        (None, None) | (Some(_), Some(_)) => errors.required(path, "exactly one of url or service is required"),
        (Some(url), None) => {
            let path = path.child("url");
            if !url.starts_with("https://") {
                let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
                errors.invalid(
                    &path,
                    scheme,
                    "'https' is the only allowed URL scheme; desired format: https://host[/path]",
                );
            }
        }
        (None, Some(service)) => {
            let path = path.child("service");
            for (field, value) in [("name", &service.name), ("namespace", &service.namespace)] {
                if value.is_empty() {
                    let detail = format!("service {field} is required");
                    errors.required(&path.child(field), &detail);
                }
            }
            for message in service.port.map(names::port_number).unwrap_or_default() {
                errors.invalid(
                    &path.child("port"),
                    service.port.unwrap_or(0),
                    &format!("port is not valid: {message}"),
                );
            }
            if let Some(target) = service.path.as_deref().filter(|target| !target.starts_with('/')) {
                errors.invalid(&path.child("path"), target, "must start with a '/'");
            }
        }
    }
}

pub struct ValidatingAdmissionPolicyRules;

impl Rules for ValidatingAdmissionPolicyRules {
    type Object = ValidatingAdmissionPolicy;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::cluster::ADMISSION_POLICY;

    fn default(policy: &mut ValidatingAdmissionPolicy) {
        let spec = policy.spec.get_or_insert_default();
        fill(&mut spec.failure_policy, "Fail");
        if let Some(constraints) = &mut spec.match_constraints {
            fill(&mut constraints.match_policy, "Equivalent");
            constraints.namespace_selector.get_or_insert_default();
            constraints.object_selector.get_or_insert_default();
            let rules = constraints.resource_rules.iter_mut().chain(constraints.exclude_resource_rules.iter_mut());
            rules.flatten().for_each(|rule| fill(&mut rule.scope, "*"));
        }
    }

    fn validate(policy: &ValidatingAdmissionPolicy, errors: &mut Errors) {
        let spec = policy.spec.clone().unwrap_or_default();
        let path = &Path::root("spec");
        one_of(errors, &path.child("failurePolicy"), text(spec.failure_policy.as_ref()), &["Fail", "Ignore"]);
        let validations = spec.validations.as_deref().unwrap_or_default();
        if validations.is_empty() && spec.audit_annotations.as_ref().is_none_or(Vec::is_empty) {
            let detail = "validations or auditAnnotations must contain at least one item";
            errors.required(&path.child("validations"), detail);
        }
        let validations_path = path.child("validations");
        for (n, _) in validations.iter().enumerate().filter(|(_, v)| v.expression.trim().is_empty()) {
            errors.required(&validations_path.index(n).child("expression"), "expression is not specified");
        }
        if spec.match_constraints.is_none() {
            errors.required(&path.child("matchConstraints"), "");
        }
    }

    fn cells(policy: &ValidatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
        columns::cluster::admission_policy(policy, now)
    }
}

pub struct ValidatingAdmissionPolicyBindingRules;

impl Rules for ValidatingAdmissionPolicyBindingRules {
    type Object = ValidatingAdmissionPolicyBinding;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::cluster::ADMISSION_POLICY_BINDING;

    fn validate(binding: &ValidatingAdmissionPolicyBinding, errors: &mut Errors) {
        let spec = binding.spec.clone();
        let path = &Path::root("spec");
        if spec.policy_name.is_empty() {
            errors.required(&path.child("policyName"), "");
        }
        let actions = path.child("validationActions");
        if spec.validation_actions.is_empty() {
            errors.required(&actions, "at least one validation action is required");
        }
        for (n, action) in spec.validation_actions.iter().enumerate() {
            one_of(errors, &actions.index(n), action, &["Audit", "Deny", "Warn"]);
        }
        let has = |action: &str| spec.validation_actions.iter().any(|a| a == action);
        if has("Deny") && has("Warn") {
            let shown = crate::validation::shown(&spec.validation_actions);
            errors.invalid(&actions, shown, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
        }
    }

    fn cells(binding: &ValidatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
        columns::cluster::admission_policy_binding(binding, now)
    }
}
