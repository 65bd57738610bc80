//! The conditions of a namespace that is going away, in upstream's words. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;

use super::content::Content;
use crate::conditions;

struct Row {
    type_: &'static str,
    bad: Option<String>,
    bad_reason: &'static str,
    good_reason: &'static str,
    good: &'static str,
}

pub(super) fn set_conditions(conditions: &mut Vec<NamespaceCondition>, content: &Content, now: Timestamp) {
    for row in rows(content) {
        let (status, reason, message) = match row.bad {
            Some(message) => ("True", row.bad_reason, message),
            None => ("False", row.good_reason, row.good.to_owned()),
        };
        let condition = NamespaceCondition {
            type_: row.type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: None,
        };
        conditions::set(conditions, condition, now);
    }
}

fn rows(content: &Content) -> [Row; 5] {
    [
        Row {
            type_: "NamespaceDeletionDiscoveryFailure",
            bad: joined(content.undiscovered.clone()).map(|groups| {
                format!("Discovery failed for some groups, {} failing: {groups}", content.undiscovered.len())
            }),
            bad_reason: "DiscoveryFailed",
            good_reason: "ResourcesDiscovered",
            good: "All resources successfully discovered",
        },
        Row {
            type_: "NamespaceDeletionGroupVersionParsingFailure",
            bad: None,
            bad_reason: "GroupVersionParsingFailed",
            good_reason: "ParsedGroupVersions",
            good: "All legacy kube types successfully parsed",
        },
        Row {
            type_: "NamespaceDeletionContentFailure",
            bad: joined(content.failures.clone()).map(|failures| {
                format!("Failed to delete all resource types, {} remaining: {failures}", content.failures.len())
            }),
            bad_reason: "ContentDeletionFailed",
            good_reason: "ContentDeleted",
            good: "All content successfully deleted, may be waiting on finalization",
        },
        Row {
            type_: "NamespaceContentRemaining",
            bad: joined(content.remaining.iter().map(|(r, n)| format!("{r} has {n} resource instances")).collect())
                .map(|left| format!("Some resources are remaining: {left}")),
            bad_reason: "SomeResourcesRemain",
            good_reason: "ContentRemoved",
            good: "All content successfully removed",
        },
        Row {
            type_: "NamespaceFinalizersRemaining",
            bad: joined(content.finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect())
                .map(|left| format!("Some content in the namespace has finalizers remaining: {left}")),
            bad_reason: "SomeFinalizersRemain",
            good_reason: "ContentHasNoFinalizers",
            good: "All content-preserving finalizers finished",
        },
    ]
}

fn joined(parts: Vec<String>) -> Option<String> {
    (!parts.is_empty()).then(|| parts.join(", "))
}
