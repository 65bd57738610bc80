//! Rows from a CustomResourceDefinition.

use std::borrow::Cow;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion,
};

use super::{Kind, Scope, Subresource, Text, verbs};

/// One row per served version. Names are those the CRD was accepted with (`status.acceptedNames`), or the wanted ones
/// where none are accepted yet.
pub fn custom_rows(crd: &CustomResourceDefinition) -> Vec<Kind> {
    let stored = crd.spec.versions.iter().find(|v| v.storage).map_or("", |v| v.name.as_str());
    let served = crd.spec.versions.iter().filter(|v| v.served);
    served.map(|version| row(crd, version, stored)).collect()
}

/// The OpenAPI definition name of a custom kind: the group's labels reversed, then version and kind.
pub fn custom_definition_name(group: &str, version: &str, kind: &str) -> String {
    let package: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", package.join("."))
}

fn row(crd: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion, stored: &str) -> Kind {
    let spec = &crd.spec;
    let accepted = crd.status.as_ref().and_then(|s| s.accepted_names.as_ref()).filter(|n| !n.kind.is_empty());
    let names = accepted.unwrap_or(&spec.names);
    let or =
        |name: &Option<String>, other: String| Text::Owned(name.clone().filter(|n| !n.is_empty()).unwrap_or(other));
    let group = Text::Owned(spec.group.clone());
    Kind {
        version: Text::Owned(version.name.clone()),
        kind: Text::Owned(names.kind.clone()),
        list_kind: or(&names.list_kind, format!("{}List", names.kind)),
        plural: Text::Owned(names.plural.clone()),
        singular: or(&names.singular, names.kind.to_lowercase()),
        short_names: texts(names.short_names.as_deref()),
        categories: texts(names.categories.as_deref()),
        scope: if spec.scope == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        verbs: verbs::ALL,
        subresources: subresources(version, &group, &names.kind),
        storage_prefix: Text::Owned(format!("{}/{}", spec.group, names.plural)),
        storage_group: group.clone(),
        storage_version: Text::Owned(stored.to_owned()),
        schema: Text::Owned(custom_definition_name(&spec.group, &version.name, &names.kind)),
        group,
        custom: true,
    }
}

fn subresources(version: &CustomResourceDefinitionVersion, group: &Text, kind: &str) -> Vec<Subresource> {
    let wanted = version.subresources.as_ref();
    let status = wanted.and_then(|s| s.status.as_ref()).map(|_| Subresource {
        name: "status",
        group: group.clone(),
        version: Text::Owned(version.name.clone()),
        kind: Text::Owned(kind.to_owned()),
        verbs: verbs::READ_WRITE,
    });
    let scale = wanted.and_then(|s| s.scale.as_ref()).map(|_| Subresource {
        name: "scale",
        group: Cow::Borrowed("autoscaling"),
        version: Cow::Borrowed("v1"),
        kind: Cow::Borrowed("Scale"),
        verbs: verbs::READ_WRITE,
    });
    scale.into_iter().chain(status).collect()
}

fn texts(list: Option<&[String]>) -> Vec<Text> {
    list.into_iter().flatten().cloned().map(Text::Owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_crd_yields_a_row_per_served_version() {
        let crd: CustomResourceDefinition = serde_json::from_value(json!({
            "metadata": {"name": "crontabs.stable.example.com"},
            "spec": {"group": "stable.example.com", "scope": "Namespaced",
                "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
                "versions": [
                    {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale":
                        {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}}},
                    {"name": "v1beta1", "served": true, "storage": false},
                    {"name": "v1alpha1", "served": false, "storage": false}]}}))
        .expect("a CRD");
        let rows = custom_rows(&crd);
        assert_eq!(rows.iter().map(|r| r.version.as_ref()).collect::<Vec<_>>(), ["v1", "v1beta1"]);
        let row = &rows[0];
        assert_eq!((row.singular.as_ref(), row.list_kind.as_ref()), ("crontab", "CronTabList"));
        assert_eq!(row.schema, "com.example.stable.v1.CronTab");
        assert_eq!(row.storage_prefix, "stable.example.com/crontabs");
        assert_eq!(row.subresource("scale").map(|s| s.kind.as_ref()), Some("Scale"));
        assert_eq!(rows[1].storage_version, "v1");
        assert!(rows[1].subresources.is_empty());
        assert!(row.custom && row.is_namespaced());
    }
}
