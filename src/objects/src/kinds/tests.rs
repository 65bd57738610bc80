//! Tests of `objects::kinds`.

use std::collections::HashSet;

use super::*;

#[test]
fn resource_paths_and_kinds_are_unique() {
    let mut paths = HashSet::new();
    let mut kinds = HashSet::new();
    for kind in KINDS.iter() {
        assert!(paths.insert((&kind.group, &kind.version, &kind.plural)), "{} twice", kind.qualified_plural());
        assert!(kinds.insert((&kind.group, &kind.version, &kind.kind)), "{} twice", kind.kind);
    }
}

#[test]
fn short_names_of_core_kinds_are_those_of_no_other_kind() {
    let mut owner = std::collections::HashMap::new();
    for kind in KINDS.iter().filter(|k| k.storage_group == k.group) {
        for short in &kind.short_names {
            if let Some(other) = owner.insert(short.clone(), &kind.kind) {
                assert_eq!(other, &kind.kind, "short name {short} has two owners");
            }
        }
    }
}

#[test]
fn views_name_a_storage_kind_with_the_same_prefix() {
    for kind in KINDS.iter() {
        let stored = kind.storage_kind().expect("every storage kind is a row");
        assert_eq!(stored.storage_prefix, kind.storage_prefix);
        assert_eq!(stored.scope, kind.scope);
    }
}

#[test]
fn lookups_find_rows_by_path_kind_and_object() {
    let pod = find_resource("", "v1", "pods").expect("pods");
    assert_eq!((pod.singular.as_ref(), pod.storage_prefix.as_ref()), ("pod", "pods"));
    assert_eq!(find_object("apps/v1", "Deployment").expect("deployments").qualified_plural(), "deployments.apps");
    assert!(find_resource("apps", "v1", "pods").is_none());
}

#[test]
fn subresource_names_are_unique_within_a_kind_and_have_verbs() {
    for kind in KINDS.iter() {
        let mut names = HashSet::new();
        for sub in &kind.subresources {
            assert!(names.insert(sub.name), "{}/{} twice", kind.plural, sub.name);
            assert!(!sub.verbs.is_empty());
        }
    }
}
