//! Persistent volumes and claims.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus,
    PersistentVolumeSpec, PersistentVolumeStatus, TypedLocalObjectReference, TypedObjectReference,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use crate::columns::{self, Column};
use crate::defaults::fill;
use crate::field::{Errors, Path};
use crate::strategy::Context;
use crate::strategy::typed::{Rules, StatusPolicy};
use crate::validation::{storage, text};

pub struct PersistentVolumeRules;

impl Rules for PersistentVolumeRules {
    type Object = PersistentVolume;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const COLUMNS: &'static [Column] = columns::core::PERSISTENT_VOLUME;

    fn default(volume: &mut PersistentVolume) {
        let spec = volume.spec.get_or_insert_default();
        fill(&mut spec.persistent_volume_reclaim_policy, "Retain");
        fill(&mut spec.volume_mode, "Filesystem");
        if let Some(path) = &mut spec.host_path {
            path.type_.get_or_insert_default();
        }
        fill(&mut volume.status.get_or_insert_default().phase, "Pending");
    }

    fn prepare_create(volume: &mut PersistentVolume, context: &Context<'_>) {
        volume.status = Some(PersistentVolumeStatus {
            phase: Some("Pending".to_owned()),
            last_phase_transition_time: Some(Time(context.now)),
            ..PersistentVolumeStatus::default()
        });
    }

    fn validate(volume: &PersistentVolume, errors: &mut Errors) {
        let default = PersistentVolumeSpec::default();
        storage::volume_spec(errors, volume.spec.as_ref().unwrap_or(&default));
    }

    fn validate_update(new: &PersistentVolume, old: &PersistentVolume, errors: &mut Errors) {
        storage::volume_update(errors, new, old);
    }

    fn cells(volume: &PersistentVolume, now: Timestamp) -> Vec<Value> {
        columns::core::persistent_volume(volume, now)
    }
}

pub struct PersistentVolumeClaimRules;

impl Rules for PersistentVolumeClaimRules {
    type Object = PersistentVolumeClaim;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const COLUMNS: &'static [Column] = columns::core::PERSISTENT_VOLUME_CLAIM;

    fn default(claim: &mut PersistentVolumeClaim) {
        fill(&mut claim.spec.get_or_insert_default().volume_mode, "Filesystem");
        fill(&mut claim.status.get_or_insert_default().phase, "Pending");
    }

    fn prepare_create(claim: &mut PersistentVolumeClaim, _context: &Context<'_>) {
        let phase = Some("Pending".to_owned());
        claim.status = Some(PersistentVolumeClaimStatus { phase, ..PersistentVolumeClaimStatus::default() });
        if let Some(spec) = &mut claim.spec {
            same_source(spec);
        }
    }

    fn prepare_update(new: &mut PersistentVolumeClaim, _old: &PersistentVolumeClaim) {
        if let Some(spec) = &mut new.spec {
            same_source(spec);
        }
    }

    fn validate(claim: &PersistentVolumeClaim, errors: &mut Errors) {
        let default = PersistentVolumeClaimSpec::default();
        storage::claim_spec(errors, &Path::root("spec"), claim.spec.as_ref().unwrap_or(&default));
    }

    fn validate_update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim, errors: &mut Errors) {
        storage::claim_update(errors, new, old);
    }

    fn cells(claim: &PersistentVolumeClaim, now: Timestamp) -> Vec<Value> {
        columns::core::persistent_volume_claim(claim, now)
    }
}

/// `dataSource` and `dataSourceRef` say the same where both can.
fn same_source(spec: &mut PersistentVolumeClaimSpec) {
    let source = spec.data_source_ref.as_ref();
    if source.is_some_and(|source| !text(source.namespace.as_ref()).is_empty()) {
        return;
    }
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(plain), None) => {
            spec.data_source_ref = Some(TypedObjectReference {
                api_group: plain.api_group.clone(),
                kind: plain.kind.clone(),
                name: plain.name.clone(),
                namespace: None,
            });
        }
        (None, Some(source)) => {
            let group = text(source.api_group.as_ref());
            let known = matches!(
                (group, source.kind.as_str()),
                ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
            );
            if known {
                spec.data_source = Some(TypedLocalObjectReference {
                    api_group: source.api_group.clone(),
                    kind: source.kind.clone(),
                    name: source.name.clone(),
                });
            }
        }
        _ => {}
    }
}
