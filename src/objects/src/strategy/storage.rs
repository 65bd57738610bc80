//! Storage classes, CSI objects, volume attachments.

use jiff::Timestamp;
use k8s_openapi::api::storage::{v1, v1beta1};
use serde_json::Value;

use super::typed::{Generation, Rules, StatusPolicy};
use crate::columns::{self, Column};
use crate::defaults::{fill, fill_value};
use crate::field::{Errors, Path};
use crate::names;
use crate::validation::{check, immutable, one_of, text};

pub struct StorageClassRules;

impl Rules for StorageClassRules {
    type Object = v1::StorageClass;
    const COLUMNS: &'static [Column] = columns::cluster::STORAGE_CLASS;

    fn default(class: &mut v1::StorageClass) {
        fill(&mut class.reclaim_policy, "Delete");
        fill(&mut class.volume_binding_mode, "Immediate");
    }

    fn validate(class: &v1::StorageClass, errors: &mut Errors) {
        let path = Path::root("provisioner");
        match class.provisioner.as_str() {
            "" => errors.required(&path, ""),
            name => check(errors, &path, name, names::qualified_name(&name.to_lowercase())),
        }
        let policy = text(class.reclaim_policy.as_ref());
        one_of(errors, &Path::root("reclaimPolicy"), policy, &["Delete", "Retain"]);
        let mode = text(class.volume_binding_mode.as_ref());
        one_of(errors, &Path::root("volumeBindingMode"), mode, &["Immediate", "WaitForFirstConsumer"]);
        let path = Path::root("parameters");
        let mut size = 0;
        for (key, value) in class.parameters.iter().flatten() {
            if key.is_empty() {
                errors.invalid(&path, key, "field can not be empty.");
            }
            size += key.len() + value.len();
        }
        if size > 256 * 1024 {
            errors.too_long(&path, 256 * 1024);
        }
        if class.parameters.as_ref().is_some_and(|parameters| parameters.len() > 512) {
            errors.too_long(&path, 512);
        }
    }

    fn validate_update(new: &v1::StorageClass, old: &v1::StorageClass, errors: &mut Errors) {
        Self::validate(new, errors);
        if new.parameters != old.parameters {
            errors.forbidden(&Path::root("parameters"), "updates to parameters are forbidden.");
        }
        if new.provisioner != old.provisioner {
            errors.forbidden(&Path::root("provisioner"), "updates to provisioner are forbidden.");
        }
        if new.reclaim_policy != old.reclaim_policy {
            errors.forbidden(&Path::root("reclaimPolicy"), "updates to reclaimPolicy are forbidden.");
        }
        let mode = Path::root("volumeBindingMode");
        immutable(errors, &mode, &new.volume_binding_mode, &old.volume_binding_mode);
    }

    fn cells(class: &v1::StorageClass, now: Timestamp) -> Vec<Value> {
        columns::cluster::storage_class(class, now)
    }
}

pub struct CsiDriverRules;

impl Rules for CsiDriverRules {
    type Object = v1::CSIDriver;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::cluster::CSI_DRIVER;

    fn default(driver: &mut v1::CSIDriver) {
        let spec = &mut driver.spec;
        fill_value(&mut spec.attach_required, true);
        fill_value(&mut spec.pod_info_on_mount, false);
        fill_value(&mut spec.storage_capacity, false);
        fill(&mut spec.fs_group_policy, "ReadWriteOnceWithFSType");
        fill_value(&mut spec.requires_republish, false);
        fill_value(&mut spec.se_linux_mount, false);
        if spec.volume_lifecycle_modes.as_ref().is_none_or(Vec::is_empty) {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
        }
    }

    fn validate(driver: &v1::CSIDriver, errors: &mut Errors) {
        let name = text(driver.metadata.name.as_ref());
        if name.len() > 63 {
            errors.too_long(&Path::root("metadata").child("name"), 63);
        }
        let path = &Path::root("spec");
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        one_of(errors, &path.child("fsGroupPolicy"), text(driver.spec.fs_group_policy.as_ref()), &policies);
        for mode in driver.spec.volume_lifecycle_modes.iter().flatten() {
            one_of(errors, &path.child("volumeLifecycleModes"), mode, &["Ephemeral", "Persistent"]);
        }
    }

    fn validate_update(new: &v1::CSIDriver, old: &v1::CSIDriver, errors: &mut Errors) {
        Self::validate(new, errors);
        let path = &Path::root("spec");
        immutable(errors, &path.child("attachedRequired"), &new.spec.attach_required, &old.spec.attach_required);
        let modes = (&new.spec.volume_lifecycle_modes, &old.spec.volume_lifecycle_modes);
        immutable(errors, &path.child("volumeLifecycleModes"), modes.0, modes.1);
    }

    fn cells(driver: &v1::CSIDriver, now: Timestamp) -> Vec<Value> {
        columns::cluster::csi_driver(driver, now)
    }
}

pub struct CsiNodeRules;

impl Rules for CsiNodeRules {
    type Object = v1::CSINode;
    const COLUMNS: &'static [Column] = columns::cluster::CSI_NODE;

    fn validate(node: &v1::CSINode, errors: &mut Errors) {
        let path = Path::root("spec");
        let path = path.child("drivers");
        let drivers = &node.spec.drivers;
        for (n, driver) in drivers.iter().enumerate() {
            let path = path.index(n);
            for (field, value) in [("name", &driver.name), ("nodeID", &driver.node_id)] {
                if value.is_empty() {
                    errors.required(&path.child(field), "");
                }
            }
            if drivers[..n].iter().any(|other| other.name == driver.name) {
                errors.duplicate(&path.child("name"), &driver.name);
            }
        }
    }

    fn cells(node: &v1::CSINode, now: Timestamp) -> Vec<Value> {
        columns::cluster::count(&node.metadata, node.spec.drivers.len(), now)
    }
}

pub struct CsiStorageCapacityRules;

impl Rules for CsiStorageCapacityRules {
    type Object = v1::CSIStorageCapacity;
    const COLUMNS: &'static [Column] = columns::cluster::CSI_STORAGE_CAPACITY;

    fn validate(capacity: &v1::CSIStorageCapacity, errors: &mut Errors) {
        let class = capacity.storage_class_name.as_str();
        check(errors, &Path::root("storageClassName"), class, names::dns1123_subdomain(class));
    }

    fn validate_update(new: &v1::CSIStorageCapacity, old: &v1::CSIStorageCapacity, errors: &mut Errors) {
        immutable(errors, &Path::root("nodeTopology"), &new.node_topology, &old.node_topology);
        let class = Path::root("storageClassName");
        immutable(errors, &class, &new.storage_class_name, &old.storage_class_name);
    }

    fn cells(capacity: &v1::CSIStorageCapacity, _now: Timestamp) -> Vec<Value> {
        columns::cluster::csi_storage_capacity(capacity)
    }
}

pub struct VolumeAttachmentRules;

impl Rules for VolumeAttachmentRules {
    type Object = v1::VolumeAttachment;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const COLUMNS: &'static [Column] = columns::cluster::VOLUME_ATTACHMENT;

    fn validate(attachment: &v1::VolumeAttachment, errors: &mut Errors) {
        let path = &Path::root("spec");
        let spec = &attachment.spec;
        for (field, value) in [("attacher", &spec.attacher), ("nodeName", &spec.node_name)] {
            if value.is_empty() {
                errors.required(&path.child(field), "");
            }
        }
        if spec.source.persistent_volume_name.is_none() && spec.source.inline_volume_spec.is_none() {
            errors.required(
                &path.child("source"),
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            );
        }
    }

    fn validate_update(new: &v1::VolumeAttachment, old: &v1::VolumeAttachment, errors: &mut Errors) {
        Self::validate(new, errors);
        immutable(errors, &Path::root("spec"), &new.spec, &old.spec);
    }

    fn cells(attachment: &v1::VolumeAttachment, now: Timestamp) -> Vec<Value> {
        columns::cluster::volume_attachment(attachment, now)
    }
}

macro_rules! attributes_class {
    ($version:ident, $rules:ident) => {
        pub struct $rules;

        impl Rules for $rules {
            type Object = $version::VolumeAttributesClass;
            const COLUMNS: &'static [Column] = columns::cluster::DRIVER_NAME;

            fn validate(class: &$version::VolumeAttributesClass, errors: &mut Errors) {
                if class.driver_name.is_empty() {
                    errors.required(&Path::root("driverName"), "");
                }
                if class.parameters.as_ref().is_none_or(|parameters| parameters.is_empty()) {
                    errors.required(&Path::root("parameters"), "must contain at least one key/value pair");
                }
            }

            fn validate_update(
                new: &$version::VolumeAttributesClass,
                old: &$version::VolumeAttributesClass,
                errors: &mut Errors,
            ) {
                if new.driver_name != old.driver_name {
                    errors.forbidden(&Path::root("driverName"), "updates to driverName are forbidden.");
                }
                if new.parameters != old.parameters {
                    errors.forbidden(&Path::root("parameters"), "updates to parameters are forbidden.");
                }
            }

            fn cells(class: &$version::VolumeAttributesClass, now: Timestamp) -> Vec<Value> {
                columns::core::name_text_age(&class.metadata, &class.driver_name, now)
            }
        }
    };
}

attributes_class!(v1, VolumeAttributesClassRules);
attributes_class!(v1beta1, VolumeAttributesClassBetaRules);
