//! Which paths exist and which operations each has: read off the rows' verbs and subresources.

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Map, Value, json};

use super::Dialect;
use super::operations::{Action, Body, Place, operation, path_parameter, resources_operation};
use crate::kinds::{Kind, Subresource, Verb, VersionRows};

pub(super) struct Paths<'a> {
    pub(super) dialect: Dialect,
    pub(super) versions: &'a [VersionRows<'a, 'a>],
}

impl Serialize for Paths<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut result = Ok(());
        self.each(&mut |path, item| {
            if result.is_ok() {
                result = map.serialize_entry(path, &item);
            }
        });
        result?;
        map.end()
    }
}

impl Paths<'_> {
    /// Calls `f` with each path and its item, one at a time.
    pub(super) fn each(&self, f: &mut dyn FnMut(&str, Value)) {
        for version in self.versions {
            let base = base(version);
            f(&format!("{base}/"), resources_operation(self.dialect, version));
            for kind in version.rows {
                items(self.dialect, &base, kind).into_iter().for_each(|(path, item)| f(&path, item));
            }
        }
    }
}

fn base(version: &VersionRows<'_, '_>) -> String {
    if version.group.is_empty() {
        format!("/api/{}", version.version)
    } else {
        format!("/apis/{}/{}", version.group, version.version)
    }
}

fn items(dialect: Dialect, base: &str, kind: &Kind) -> Vec<(String, Value)> {
    let namespaced = kind.is_namespaced();
    let scope = if namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", kind.plural);
    let named = format!("{collection}/{{name}}");
    let mut out = Vec::new();
    let mut push = |path: String, place: Place, verbs: &[(Verb, Action)], allowed: &[Verb], body: &Body<'_>| {
        let mut item = Map::new();
        for (verb, action) in verbs.iter().filter(|(verb, _)| allowed.contains(verb)) {
            item.insert(method(*verb).into(), operation(dialect, kind, body, *action, place));
        }
        if !item.is_empty() {
            item.insert("parameters".into(), parameters(dialect, kind, body, place));
            out.push((path, Value::Object(item)));
        }
    };
    let own = Body::of(kind);
    let on_collection =
        [(Verb::List, Action::List), (Verb::Create, Action::Post), (Verb::DeleteCollection, Action::DeleteCollection)];
    push(collection, Place::Collection, &on_collection, kind.verbs, &own);
    let on_object = [
        (Verb::Get, Action::Get),
        (Verb::Update, Action::Put),
        (Verb::Patch, Action::Patch),
        (Verb::Delete, Action::Delete),
    ];
    push(named.clone(), Place::Object, &on_object, kind.verbs, &own);
    if namespaced {
        push(format!("{base}/{}", kind.plural), Place::AllNamespaces, &[(Verb::List, Action::List)], kind.verbs, &own);
    }
    for sub in &kind.subresources {
        let body = Body::of_subresource(kind, sub);
        let path = format!("{named}/{}", sub.name);
        let actions = sub_actions(sub);
        push(path.clone(), Place::Object, &actions, sub.verbs, &body);
        if sub.name == "proxy" {
            push(format!("{path}/{{path}}"), Place::ProxyPath, &actions, sub.verbs, &body);
        }
    }
    out
}

fn sub_actions(sub: &Subresource) -> Vec<(Verb, Action)> {
    let plain = |verb: Verb| match verb {
        Verb::Create => Action::Post,
        Verb::Update => Action::Put,
        Verb::Patch => Action::Patch,
        Verb::Delete => Action::Delete,
        _ => Action::Get,
    };
    let connects = sub.kind.ends_with("Options");
    sub.verbs
        .iter()
        .map(|verb| (*verb, if connects { Action::Connect(plain(*verb).word()) } else { plain(*verb) }))
        .collect()
}

/// The HTTP method an operation stands under.
fn method(verb: Verb) -> &'static str {
    match verb {
        Verb::Get | Verb::List | Verb::Watch => "get",
        Verb::Create => "post",
        Verb::Update => "put",
        Verb::Patch => "patch",
        Verb::Delete | Verb::DeleteCollection => "delete",
    }
}

fn parameters(dialect: Dialect, kind: &Kind, body: &Body<'_>, place: Place) -> Value {
    let mut out = Vec::new();
    if matches!(place, Place::Object | Place::ProxyPath) {
        out.push(path_parameter(dialect, "name", &format!("name of the {}", body.kind)));
    }
    if kind.is_namespaced() && place != Place::AllNamespaces {
        out.push(path_parameter(dialect, "namespace", "the object's namespace"));
    }
    if place == Place::ProxyPath {
        out.push(path_parameter(dialect, "path", "path to use in the proxied request"));
    }
    json!(out)
}
