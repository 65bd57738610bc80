//! Tests of `objects::discovery`.

use serde_json::{Value, json};

use super::*;
use crate::kinds::{KINDS, verbs};

fn value(document: impl Serialize) -> Value {
    serde_json::to_value(document).expect("plain data")
}

fn find<'a>(document: &'a Value, list: &str, key: &str, name: &str) -> &'a Value {
    let items = document[list].as_array().expect("a list");
    items.iter().find(|item| item[key] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn resource_lists_hold_subresources_with_the_kind_of_their_body() {
    let catalog = Catalog::new([]);
    let core = value(resource_list(&catalog, "", "v1").expect("served"));
    assert_eq!(core["groupVersion"], "v1");
    assert_eq!(
        find(&core, "resources", "name", "pods/eviction"),
        &json!({"name": "pods/eviction",
        "singularName": "", "namespaced": true, "group": "policy", "version": "v1", "kind": "Eviction",
        "verbs": ["create"]})
    );
    assert_eq!(find(&core, "resources", "name", "pods")["storageVersionHash"], "xPOwRZ+Yhw8=");
    assert!(resource_list(&catalog, "apps", "v2").is_none());
}

#[test]
fn every_row_and_subresource_is_discoverable_in_both_forms() {
    let catalog = Catalog::new([]);
    let roots = [Root::Api, Root::Apis].map(|root| value(aggregated(&catalog, root, AggregatedVersion::V2)));
    let groups: Vec<&Value> = roots.iter().flat_map(|r| r["items"].as_array().expect("a list")).collect();
    for kind in KINDS.iter() {
        let list = value(resource_list(&catalog, &kind.group, &kind.version).expect("served"));
        assert_eq!(find(&list, "resources", "name", &kind.plural)["kind"], *kind.kind);
        let group = groups
            .iter()
            .find(|g| g["metadata"].get("name").and_then(Value::as_str).unwrap_or("") == kind.group)
            .expect("in the aggregated document");
        let resource = find(find(group, "versions", "version", &kind.version), "resources", "resource", &kind.plural);
        for sub in &kind.subresources {
            find(&list, "resources", "name", &format!("{}/{}", kind.plural, sub.name));
            assert_eq!(find(resource, "subresources", "subresource", sub.name)["responseKind"]["kind"], *sub.kind);
        }
    }
}

#[test]
fn groups_prefer_their_newest_stable_version() {
    let catalog = Catalog::new([]);
    let hpa = value(group(&catalog, "autoscaling").expect("served"));
    assert_eq!(hpa["preferredVersion"], json!({"groupVersion": "autoscaling/v2", "version": "v2"}));
    let all = value(group_list(&catalog));
    assert!(all["groups"].as_array().expect("a list").iter().all(|g| g["name"] != ""));
    assert!(group(&catalog, "").is_none());
}

#[test]
fn custom_rows_are_served_beside_built_in_ones() {
    let mut row = crate::kinds::find_resource("apps", "v1", "deployments").expect("built in").clone();
    row.group = "example.com".into();
    row.verbs = verbs::ALL;
    let custom = [row];
    let catalog = Catalog::new(&custom);
    let list = value(resource_list(&catalog, "example.com", "v1").expect("served"));
    assert_eq!(find(&list, "resources", "name", "deployments/scale")["group"], "autoscaling");
}

#[test]
fn the_core_root_names_the_servers_address() {
    let root = value(api_versions("10.0.0.1:6443"));
    assert_eq!(
        root,
        json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "10.0.0.1:6443"}]})
    );
}
