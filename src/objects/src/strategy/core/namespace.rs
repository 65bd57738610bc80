//! Namespaces: the `kubernetes` finalizer, the name label, finalization.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceSpec, NamespaceStatus};
use serde_json::Value;

use crate::columns::{self, Column};
use crate::defaults::fill;
use crate::field::{Errors, Path};
use crate::names::{self, NameRule};
use crate::strategy::typed::{Rules, StatusPolicy};
use crate::strategy::{Context, Part, SelectableField};
use crate::validation::{check, text};

const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

const FIELDS: &[SelectableField] = &[
    SelectableField { label: "metadata.name", path: &["metadata", "name"], absent: "" },
    SelectableField { label: "metadata.namespace", path: &["metadata", "namespace"], absent: "" },
    SelectableField { label: "name", path: &["metadata", "name"], absent: "" },
    SelectableField { label: "status.phase", path: &["status", "phase"], absent: "" },
];

pub struct NamespaceRules;

impl Rules for NamespaceRules {
    type Object = Namespace;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const NAMES: NameRule = names::label;
    const FIELDS: &'static [SelectableField] = FIELDS;
    const COLUMNS: &'static [Column] = columns::core::NAMESPACE;

    fn default(namespace: &mut Namespace) {
        let name = text(namespace.metadata.name.as_ref()).to_owned();
        if !name.is_empty() {
            namespace.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
        }
        namespace.spec.get_or_insert_default();
        fill(&mut namespace.status.get_or_insert_default().phase, "Active");
    }

    fn prepare_create(namespace: &mut Namespace, _context: &Context<'_>) {
        namespace.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), ..NamespaceStatus::default() });
        let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if finalizers.iter().all(|finalizer| finalizer != FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
    }

    fn validate_create(namespace: &Namespace, errors: &mut Errors) {
        finalizers(namespace, errors);
    }

    /// Finalizers change through `/finalize` alone.
    fn prepare_update(new: &mut Namespace, old: &Namespace) {
        new.spec.clone_from(&old.spec);
    }

    fn prepare_part(part: Part, new: &mut Namespace, old: &Namespace) {
        if part == Part::Finalize {
            new.status.clone_from(&old.status);
        }
    }

    fn validate_part(part: Part, new: &Namespace, _old: &Namespace, errors: &mut Errors) {
        if part == Part::Finalize {
            return finalizers(new, errors);
        }
        let path = Path::root("status");
        let path = path.child("Phase");
        let phase = new.status.as_ref().map(|status| text(status.phase.as_ref())).unwrap_or_default();
        match new.metadata.deletion_timestamp {
            None if phase != "Active" => {
                errors.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
            }
            Some(_) if phase != "Terminating" => {
                errors.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
            }
            _ => {}
        }
    }

    fn is_held(namespace: &Namespace) -> bool {
        let spec = namespace.spec.as_ref();
        spec.and_then(|spec| spec.finalizers.as_ref()).is_some_and(|finalizers| !finalizers.is_empty())
    }

    fn mark_deleted(namespace: &mut Namespace) {
        namespace.status.get_or_insert_default().phase = Some("Terminating".to_owned());
    }

    fn cells(namespace: &Namespace, now: Timestamp) -> Vec<Value> {
        columns::core::namespace(namespace, now)
    }
}

fn finalizers(namespace: &Namespace, errors: &mut Errors) {
    let default = NamespaceSpec::default();
    let spec = namespace.spec.as_ref().unwrap_or(&default);
    let path = Path::root("spec");
    let path = path.child("finalizers");
    for finalizer in spec.finalizers.iter().flatten() {
        check(errors, &path, finalizer, names::qualified_name(finalizer));
        if !finalizer.contains('/') && finalizer != FINALIZER {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path, finalizer, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::strategy::{Context, Part, strategy_for};
    use serde_json::json;

    #[test]
    fn a_namespace_gets_its_finalizer_label_and_phase_and_keeps_them() {
        let strategy = strategy_for("", "v1", "Namespace").unwrap();
        let context = Context::sample(None);
        let mut created = strategy.create(json!({"metadata": {"generateName": "team-"}}), &context).unwrap();
        assert_eq!(created["metadata"]["name"], "team-abcde");
        assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], "team-abcde");
        assert_eq!(created["spec"], json!({"finalizers": ["kubernetes"]}));
        assert_eq!(created["status"], json!({"phase": "Active"}));
        created["metadata"]["resourceVersion"] = json!("1");

        let mut emptied = created.clone();
        emptied["spec"] = json!({});
        let updated = strategy.update(Part::Main, emptied.clone(), &created, &context).unwrap();
        assert_eq!(updated["spec"], json!({"finalizers": ["kubernetes"]}));
        let finalized = strategy.update(Part::Finalize, emptied, &created, &context).unwrap();
        assert_eq!(finalized["spec"], json!({}));
    }

    #[test]
    fn names_are_labels() {
        let strategy = strategy_for("", "v1", "Namespace").unwrap();
        let context = Context::sample(None);
        let error = strategy.create(json!({"metadata": {"name": "a.b"}}), &context).unwrap_err();
        assert!(error.message().starts_with("Namespace \"a.b\" is invalid: metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label must consist of"));
    }
}
