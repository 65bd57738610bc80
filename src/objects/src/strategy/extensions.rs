//! Custom resource definitions and aggregated APIs.

mod crd_schema;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionSpec,
    CustomResourceDefinitionVersion,
};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec};
use serde_json::Value;

use super::Context;
use super::typed::{Generation, Rules, StatusPolicy};
use crate::columns::{self, Column};
use crate::defaults::{fill, fill_value};
use crate::field::{Errors, Path};
use crate::names;
use crate::validation::{check, immutable, one_of, required_one_of, shown, text};

pub struct CustomResourceDefinitionRules;

impl Rules for CustomResourceDefinitionRules {
    type Object = CustomResourceDefinition;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn default(crd: &mut CustomResourceDefinition) {
        let names = &mut crd.spec.names;
        let kind = names.kind.clone();
        fill(&mut names.singular, &kind.to_lowercase());
        fill(&mut names.list_kind, &format!("{kind}List"));
        let conversion = crd.spec.conversion.get_or_insert_default();
        if conversion.strategy.is_empty() {
            conversion.strategy = "None".to_owned();
        }
        let client = conversion.webhook.as_mut().and_then(|webhook| webhook.client_config.as_mut());
        if let Some(service) = client.and_then(|client| client.service.as_mut()) {
            fill_value(&mut service.port, 443);
        }
    }

    fn prepare_create(crd: &mut CustomResourceDefinition, _context: &Context<'_>) {
        store_version(crd);
    }

    /// A version that was ever stored stays listed until someone migrates it away.
    fn prepare_update(new: &mut CustomResourceDefinition, _old: &CustomResourceDefinition) {
        store_version(new);
    }

    fn validate(crd: &CustomResourceDefinition, errors: &mut Errors) {
        let name = text(crd.metadata.name.as_ref());
        let expected = format!("{}.{}", crd.spec.names.plural, crd.spec.group);
        if name != expected {
            let path = Path::root("metadata");
            errors.invalid(&path.child("name"), name, "must be spec.names.plural+\".\"+spec.group");
        }
        spec(errors, &Path::root("spec"), &crd.spec);
    }

    fn validate_update(new: &CustomResourceDefinition, old: &CustomResourceDefinition, errors: &mut Errors) {
        Self::validate(new, errors);
        let path = &Path::root("spec");
        immutable(errors, &path.child("group"), &new.spec.group, &old.spec.group);
        immutable(errors, &path.child("names.plural"), &new.spec.names.plural, &old.spec.names.plural);
        let established = old.status.iter().flat_map(|status| status.conditions.iter().flatten());
        if established.into_iter().any(|c| c.type_ == "Established" && c.status == "True") {
            immutable(errors, &path.child("scope"), &new.spec.scope, &old.spec.scope);
            immutable(errors, &path.child("names.kind"), &new.spec.names.kind, &old.spec.names.kind);
        }
        let stored = new.status.iter().flat_map(|status| status.stored_versions.iter().flatten());
        for (n, version) in stored.enumerate() {
            if new.spec.versions.iter().all(|served| served.name != *version) {
                let path = Path::root("status");
                let path = path.child("storedVersions");
                errors.invalid(&path.index(n), version, "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions".replace("v1", version).as_str());
            }
        }
    }
}

fn store_version(crd: &mut CustomResourceDefinition) {
    let Some(storage) = crd.spec.versions.iter().find(|version| version.storage) else { return };
    let stored = crd.status.get_or_insert_default().stored_versions.get_or_insert_default();
    if !stored.contains(&storage.name) {
        stored.push(storage.name.clone());
    }
}

fn spec(errors: &mut Errors, path: &Path<'_>, spec: &CustomResourceDefinitionSpec) {
    let group = spec.group.as_str();
    let group_path = &path.child("group");
    if group.is_empty() {
        errors.required(group_path, "");
    } else {
        check(errors, group_path, group, names::dns1123_subdomain(group));
        if !group.contains('.') {
            errors.invalid(group_path, group, "should be a domain with at least one dot");
        }
    }
    required_one_of(errors, &path.child("scope"), Some(&spec.scope), &["Cluster", "Namespaced"]);
    if spec.preserve_unknown_fields == Some(true) {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(&path.child("preserveUnknownFields"), true, detail);
    }
    versions(errors, &path.child("versions"), &spec.versions);
    resource_names(errors, &path.child("names"), &spec.names);
    if let Some(conversion) = &spec.conversion {
        self::conversion(errors, &path.child("conversion"), conversion);
    }
}

fn versions(errors: &mut Errors, path: &Path<'_>, versions: &[CustomResourceDefinitionVersion]) {
    for (n, version) in versions.iter().enumerate() {
        let path = &path.index(n);
        check(errors, &path.child("name"), &version.name, names::dns1035_label(&version.name));
        if versions[..n].iter().any(|other| other.name == version.name) {
            errors.invalid(&path.child("name"), &version.name, "must contain unique version names");
        }
        let schema_path = &path.child("schema.openAPIV3Schema");
        match version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()) {
            None => errors.required(schema_path, "schemas are required"),
            Some(schema) => crd_schema::root(errors, schema_path, schema),
        }
        if version.deprecation_warning.is_some() && version.deprecated != Some(true) {
            let detail = "can only be set for deprecated versions";
            errors.invalid(&path.child("deprecationWarning"), text(version.deprecation_warning.as_ref()), detail);
        }
        columns(errors, &path.child("additionalPrinterColumns"), version);
        if let Some(scale) = version.subresources.as_ref().and_then(|subresources| subresources.scale.as_ref()) {
            let path = path.child("subresources.scale");
            let paths = [
                ("specReplicasPath", ".spec.", &scale.spec_replicas_path),
                ("statusReplicasPath", ".status.", &scale.status_replicas_path),
            ];
            for (field, prefix, value) in paths {
                if value.is_empty() {
                    errors.required(&path.child(field), "");
                } else if !value.starts_with(prefix) {
                    errors.invalid(
                        &path.child(field),
                        value,
                        &format!("should be a json path under {}", prefix.trim_end_matches('.')),
                    );
                }
            }
        }
    }
    if versions.iter().filter(|version| version.storage).count() != 1 {
        let names: Vec<&str> = versions.iter().map(|version| version.name.as_str()).collect();
        errors.invalid(path, shown(&names), "must have exactly one version marked as storage version");
    }
}

fn columns(errors: &mut Errors, path: &Path<'_>, version: &CustomResourceDefinitionVersion) {
    for (n, column) in version.additional_printer_columns.iter().flatten().enumerate() {
        let path = path.index(n);
        if column.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        let types = ["boolean", "date", "integer", "number", "string"];
        match column.type_.as_str() {
            "" => errors.required(&path.child("type"), "must be one of boolean,date,integer,number,string"),
            kind if !types.contains(&kind) => {
                errors.invalid(&path.child("type"), kind, "must be one of boolean,date,integer,number,string");
            }
            _ => {}
        }
        if column.json_path.is_empty() {
            errors.required(&path.child("jsonPath"), "");
        }
    }
}

fn resource_names(errors: &mut Errors, path: &Path<'_>, names: &CustomResourceDefinitionNames) {
    let label =
        |errors: &mut Errors, path: &Path<'_>, name: &str| check(errors, path, name, names::dns1035_label(name));
    label(errors, &path.child("plural"), &names.plural);
    if let Some(singular) = names.singular.as_deref().filter(|singular| !singular.is_empty()) {
        label(errors, &path.child("singular"), singular);
    }
    if names.kind.is_empty() {
        errors.required(&path.child("kind"), "");
    }
    // Kinds are like labels, with capitals.
    label(errors, &path.child("kind"), &names.kind.to_lowercase());
    let list = text(names.list_kind.as_ref());
    label(errors, &path.child("listKind"), &list.to_lowercase());
    if !names.kind.is_empty() && names.kind == list {
        errors.invalid(&path.child("listKind"), list, "kind and listKind may not be the same");
    }
    for (field, list) in [("shortNames", &names.short_names), ("categories", &names.categories)] {
        let path = path.child(field);
        for (n, name) in list.iter().flatten().enumerate() {
            label(errors, &path.index(n), name);
        }
    }
}

fn conversion(errors: &mut Errors, path: &Path<'_>, conversion: &CustomResourceConversion) {
    one_of(errors, &path.child("strategy"), &conversion.strategy, &["None", "Webhook"]);
    let webhook = &path.child("webhook");
    match (conversion.strategy.as_str(), &conversion.webhook) {
        ("None", Some(_)) => errors.forbidden(webhook, "should not be set when strategy is not set to Webhook"),
        ("Webhook", None) => {
            errors.required(&webhook.child("clientConfig"), "required when strategy is set to Webhook")
        }
        ("Webhook", Some(hook)) => {
            let versions = webhook.child("conversionReviewVersions");
            if hook.conversion_review_versions.is_empty() {
                errors.required(&versions, "");
            } else if !hook.conversion_review_versions.iter().any(|v| v == "v1" || v == "v1beta1") {
                errors.invalid(
                    &versions,
                    shown(&hook.conversion_review_versions),
                    "must include at least one of v1, v1beta1",
                );
            }
            match &hook.client_config {
                None => errors.required(&webhook.child("clientConfig"), "required when strategy is set to Webhook"),
                Some(client) if client.url.is_some() == client.service.is_some() => {
                    errors.required(&webhook.child("clientConfig"), "exactly one of url or service is required");
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
}

pub struct ApiServiceRules;

impl Rules for ApiServiceRules {
    type Object = APIService;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const UNCONDITIONAL_UPDATE: bool = false;
    const NAMES: names::NameRule = names::path_segment;
    const COLUMNS: &'static [Column] = columns::cluster::API_SERVICE;

    fn default(service: &mut APIService) {
        if let Some(target) = service.spec.as_mut().and_then(|spec| spec.service.as_mut()) {
            fill_value(&mut target.port, 443);
        }
    }

    fn validate(service: &APIService, errors: &mut Errors) {
        let default = APIServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&default);
        let (group, version) = (text(spec.group.as_ref()), text(spec.version.as_ref()));
        let name = text(service.metadata.name.as_ref());
        if name != format!("{version}.{group}") {
            let path = Path::root("metadata");
            errors.invalid(&path.child("name"), name, "must be `spec.version+\".\"+spec.group`");
        }
        let path = &Path::root("spec");
        if version.is_empty() {
            errors.required(&path.child("version"), "");
        } else {
            check(errors, &path.child("version"), version, names::dns1035_label(version));
        }
        let ranges = [
            ("groupPriorityMinimum", spec.group_priority_minimum, 20_000, "must be positive and less than 20000"),
            ("versionPriority", spec.version_priority, 1_000, "must be positive and less than 1000"),
        ];
        for (field, value, max, detail) in ranges {
            if !(1..=max).contains(&value) {
                errors.invalid(&path.child(field), value, detail);
            }
        }
        match &spec.service {
            None => {
                if spec.ca_bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty()) {
                    let detail = "local APIServices may not have a caBundle";
                    errors.invalid(&path.child("caBundle"), shown(&spec.ca_bundle), detail);
                }
                if spec.insecure_skip_tls_verify == Some(true) {
                    let detail = "local APIServices may not have insecureSkipTLSVerify";
                    errors.invalid(&path.child("insecureSkipTLSVerify"), true, detail);
                }
            }
            Some(target) => {
                for (field, value) in [("service.namespace", &target.namespace), ("service.name", &target.name)] {
                    if text(value.as_ref()).is_empty() {
                        errors.required(&path.child(field), "");
                    }
                }
            }
        }
        if spec.insecure_skip_tls_verify == Some(true) && spec.ca_bundle.as_ref().is_some_and(|b| !b.0.is_empty()) {
            let detail = "may not be true if caBundle is present";
            errors.invalid(&path.child("insecureSkipTLSVerify"), true, detail);
        }
    }

    fn cells(service: &APIService, now: Timestamp) -> Vec<Value> {
        columns::cluster::api_service(service, now)
    }
}

#[cfg(test)]
mod tests {
    use crate::strategy::{Context, strategy_for};
    use serde_json::{Value, json};

    fn create(spec: Value) -> Result<Value, String> {
        let strategy = strategy_for("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
        let context = Context::sample(None);
        let object = json!({"metadata": {"name": "foos.example.com"}, "spec": spec});
        strategy.create(object, &context).map_err(|status| status.to_string())
    }

    fn base(schema: Value) -> Value {
        json!({"group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]})
    }

    #[test]
    fn definitions_get_names_and_stored_versions() {
        let created = create(base(json!({"openAPIV3Schema": {"type": "object"}}))).unwrap();
        assert_eq!(
            created["spec"]["names"],
            json!({"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"})
        );
        assert_eq!(created["spec"]["conversion"], json!({"strategy": "None"}));
        assert_eq!(created["status"]["storedVersions"], json!(["v1"]));
    }

    #[test]
    fn schemas_are_required_and_structural() {
        let prefix = "CustomResourceDefinition.apiextensions.k8s.io \"foos.example.com\" is invalid: ";
        assert_eq!(
            create(base(Value::Null)).unwrap_err(),
            format!("{prefix}spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required")
        );
        assert_eq!(
            create(base(json!({"openAPIV3Schema": {"type": "object", "properties": {"a": {}}}}))).unwrap_err(),
            format!(
                "{prefix}spec.versions[0].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields"
            )
        );
    }
}
