//! Controller revisions and pod templates: stored history and stored templates.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{PodTemplate, PodTemplateSpec};
use serde_json::Value;

use crate::columns::{self, Column};
use crate::defaults;
use crate::field::{Errors, Path};
use crate::strategy::typed::{Generation, Rules};
use crate::validation::{immutable, non_negative, pod};

pub struct ControllerRevisionRules;

impl Rules for ControllerRevisionRules {
    type Object = ControllerRevision;
    const COLUMNS: &'static [Column] = columns::workloads::CONTROLLER_REVISION;

    fn validate(revision: &ControllerRevision, errors: &mut Errors) {
        if revision.data.is_none() {
            errors.required(&Path::root("data"), "data is mandatory");
        }
        non_negative(errors, &Path::root("revision"), revision.revision);
    }

    fn validate_update(new: &ControllerRevision, old: &ControllerRevision, errors: &mut Errors) {
        Self::validate(new, errors);
        immutable(errors, &Path::root("data"), &new.data, &old.data);
    }

    fn cells(revision: &ControllerRevision, now: Timestamp) -> Vec<Value> {
        columns::workloads::controller_revision(revision, now)
    }
}

pub struct PodTemplateRules;

impl Rules for PodTemplateRules {
    type Object = PodTemplate;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::workloads::POD_TEMPLATE;

    fn default(template: &mut PodTemplate) {
        defaults::pod::template(template.template.get_or_insert_default());
    }

    fn validate(template: &PodTemplate, errors: &mut Errors) {
        let default = PodTemplateSpec::default();
        pod::template(errors, &Path::root("template"), template.template.as_ref().unwrap_or(&default));
    }

    fn cells(template: &PodTemplate, _now: Timestamp) -> Vec<Value> {
        columns::workloads::pod_template(template)
    }
}
