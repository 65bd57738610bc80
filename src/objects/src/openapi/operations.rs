//! One operation: its id, parameters, body, answers, and the marks kubectl looks for
//! (`x-kubernetes-action`, `x-kubernetes-group-version-kind`, the `fieldValidation` parameter).

use serde_json::{Map, Value, json};

use super::Dialect;
use super::schemas::{META, gvk, has_list};
use crate::kinds::{KINDS, Kind, Subresource, VersionRows};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    List,
    Get,
    Post,
    Put,
    Patch,
    Delete,
    DeleteCollection,
    /// With the method's word in operation ids: `Get`, `Post`, ...
    Connect(&'static str),
}

impl Action {
    /// `x-kubernetes-action`.
    fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Get => "get",
            Self::Post => "post",
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Connect(_) => "connect",
        }
    }

    /// The method's name as operation ids of connections hold it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Post => "Post",
            Self::Put => "Put",
            Self::Patch => "Patch",
            Self::Delete | Self::DeleteCollection => "Delete",
            Self::Get | Self::List | Self::Connect(_) => "Get",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Collection,
    AllNamespaces,
    Object,
    ProxyPath,
}

/// What a request or answer holds.
pub(super) struct Body<'a> {
    group: &'a str,
    version: &'a str,
    pub(super) kind: &'a str,
    definition: Option<String>,
    sub: Option<&'static str>,
}

impl<'a> Body<'a> {
    pub(super) fn of(kind: &'a Kind) -> Self {
        let definition = Some(kind.schema.to_string());
        Self { group: &kind.group, version: &kind.version, kind: &kind.kind, definition, sub: None }
    }

    pub(super) fn of_subresource(kind: &'a Kind, sub: &'a Subresource) -> Self {
        let definition = body_definition(kind, sub);
        Self { group: &sub.group, version: &sub.version, kind: &sub.kind, definition, sub: Some(sub.name) }
    }
}

/// Bodies of subresources that are no resource of their own.
const ANSWERS: [(&str, &str, &str, &str); 3] = [
    ("io.k8s.api.autoscaling.v1.Scale", "autoscaling", "v1", "Scale"),
    ("io.k8s.api.policy.v1.Eviction", "policy", "v1", "Eviction"),
    ("io.k8s.api.authentication.v1.TokenRequest", "authentication.k8s.io", "v1", "TokenRequest"),
];

/// The definition of a subresource's body; `None` for streams and options.
pub(super) fn body_definition(kind: &Kind, sub: &Subresource) -> Option<String> {
    let is = |g: &str, v: &str, k: &str| sub.group == g && sub.version == v && sub.kind == k;
    if is(&kind.group, &kind.version, &kind.kind) {
        return Some(kind.schema.to_string());
    }
    let answer = ANSWERS.iter().find(|(_, g, v, k)| is(g, v, k)).map(|a| a.0.to_owned());
    answer.or_else(|| KINDS.iter().find(|k| is(&k.group, &k.version, &k.kind)).map(|k| k.schema.to_string()))
}

/// The kind of a definition in [`ANSWERS`].
pub(super) fn answer_kind(definition: &str) -> Option<Value> {
    ANSWERS.iter().find(|a| a.0 == definition).map(|(_, group, version, kind)| gvk(group, version, kind))
}

/// `GET /apis/G/V/`.
pub(super) fn resources_operation(dialect: Dialect, version: &VersionRows<'_, '_>) -> Value {
    let name = group_name(version.group, version.version);
    let definition = format!("{META}.APIResourceList");
    json!({"get": {
        "operationId": format!("get{name}APIResources"),
        "description": "get available resources",
        "tags": [tag(version.group, version.version)],
        "responses": responses(dialect, Some(&definition), false),
    }})
}

pub(super) fn operation(dialect: Dialect, kind: &Kind, body: &Body<'_>, action: Action, place: Place) -> Value {
    let mut out = Map::new();
    let mut set = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    set("operationId", operation_id(kind, body, action, place).into());
    set("description", describe(body, action).into());
    set("tags", json!([tag(&kind.group, &kind.version)]));
    set("x-kubernetes-action", action.name().into());
    set("x-kubernetes-group-version-kind", gvk(body.group, body.version, body.kind));
    let mut parameters = query_parameters(dialect, action);
    let (definition, media) = match action {
        Action::Post | Action::Put => (body.definition.clone(), vec!["*/*"]),
        Action::Patch => (Some(format!("{META}.Patch")), patch_types(kind)),
        Action::Delete | Action::DeleteCollection => (Some(format!("{META}.DeleteOptions")), vec!["*/*"]),
        Action::List | Action::Get | Action::Connect(_) => (None, Vec::new()),
    };
    if let Some(definition) = definition {
        let required = matches!(action, Action::Post | Action::Put | Action::Patch);
        let schema = dialect.reference(&definition);
        match dialect {
            Dialect::V2 => {
                parameters.push(json!({"name": "body", "in": "body", "required": required, "schema": schema}));
                set("consumes", json!(media));
            }
            Dialect::V3 => {
                let content: Map<String, Value> =
                    media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect();
                set("requestBody", json!({"required": required, "content": content}));
            }
        }
    }
    set("parameters", parameters.into());
    let answer = match action {
        Action::List => has_list(kind).then(|| format!("{}List", kind.schema)),
        Action::Delete | Action::DeleteCollection => Some(format!("{META}.Status")),
        Action::Connect(_) => None,
        _ => body.definition.clone().filter(|_| body.sub != Some("log")),
    };
    if dialect == Dialect::V2 {
        set("produces", json!(media_types(kind.custom)));
    }
    set("responses", responses(dialect, answer.as_deref(), kind.custom));
    Value::Object(out)
}

/// Custom kinds have no merge keys, so no strategic merge.
fn patch_types(kind: &Kind) -> Vec<&'static str> {
    let all = [
        "application/apply-patch+yaml",
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ];
    all.into_iter().filter(|t| !kind.custom || !t.contains("strategic")).collect()
}

fn media_types(custom: bool) -> &'static [&'static str] {
    const ALL: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
    if custom { &ALL[..2] } else { ALL }
}

fn responses(dialect: Dialect, definition: Option<&str>, custom: bool) -> Value {
    let schema = definition.map_or_else(|| json!({"type": "string"}), |d| dialect.reference(d));
    let ok = match dialect {
        Dialect::V2 => json!({"description": "OK", "schema": schema}),
        Dialect::V3 => {
            let content = media_types(custom).iter().map(|m| ((*m).to_owned(), json!({"schema": schema})));
            json!({"description": "OK", "content": Map::from_iter(content)})
        }
    };
    json!({"200": ok, "401": {"description": "Unauthorized"}})
}

fn describe(body: &Body<'_>, action: Action) -> String {
    let kind = body.kind;
    let of = body.sub.map(|sub| format!("{sub} of ")).unwrap_or_default();
    match action {
        Action::List => format!("list or watch {kind} objects"),
        Action::Get => format!("read {of}a {kind}"),
        Action::Post => format!("create {of}a {kind}"),
        Action::Put => format!("replace {of}a {kind}"),
        Action::Patch => format!("patch {of}a {kind}"),
        Action::Delete => format!("delete a {kind}"),
        Action::DeleteCollection => format!("delete a collection of {kind} objects"),
        Action::Connect(method) => format!("connect by {method} requests to {}", body.sub.unwrap_or(kind)),
    }
}

/// `rbac.authorization.k8s.io` and `v1` → `RbacAuthorizationV1`.
fn group_name(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    let mut name: String = group.split(['.', '-']).map(capitalized).collect();
    name.push_str(&capitalized(version));
    name
}

fn tag(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    let mut words = group.split(['.', '-']);
    let mut tag = words.next().unwrap_or("").to_owned();
    words.for_each(|word| tag.push_str(&capitalized(word)));
    format!("{tag}_{version}")
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn operation_id(kind: &Kind, body: &Body<'_>, action: Action, place: Place) -> String {
    let group = group_name(&kind.group, &kind.version);
    let scope = if kind.is_namespaced() && place != Place::AllNamespaces { "Namespaced" } else { "" };
    let (verb, infix) = match action {
        Action::List => ("list", ""),
        Action::Get => ("read", ""),
        Action::Post => ("create", ""),
        Action::Put => ("replace", ""),
        Action::Patch => ("patch", ""),
        Action::Delete => ("delete", ""),
        Action::DeleteCollection => ("delete", "Collection"),
        Action::Connect(method) => ("connect", method),
    };
    let sub = body.sub.map(capitalized).unwrap_or_default();
    let suffix = match place {
        Place::AllNamespaces => "ForAllNamespaces",
        Place::ProxyPath => "WithPath",
        Place::Collection | Place::Object => "",
    };
    format!("{verb}{group}{infix}{scope}{}{sub}{suffix}", kind.kind)
}

pub(super) fn path_parameter(dialect: Dialect, name: &str, text: &str) -> Value {
    parameter(dialect, name, "path", "string", text)
}

fn parameter(dialect: Dialect, name: &str, place: &str, ty: &str, text: &str) -> Value {
    let mut out = match dialect {
        Dialect::V2 => json!({"name": name, "in": place, "type": ty, "uniqueItems": true}),
        Dialect::V3 => json!({"name": name, "in": place, "schema": {"type": ty, "uniqueItems": true}}),
    };
    if !text.is_empty() {
        out["description"] = text.into();
    }
    if place == "path" {
        out["required"] = true.into();
    }
    out
}

fn query_parameters(dialect: Dialect, action: Action) -> Vec<Value> {
    const LIST: &[(&str, &str)] = &[
        ("allowWatchBookmarks", "boolean"),
        ("continue", "string"),
        ("fieldSelector", "string"),
        ("labelSelector", "string"),
        ("limit", "integer"),
        ("resourceVersion", "string"),
        ("resourceVersionMatch", "string"),
        ("sendInitialEvents", "boolean"),
        ("timeoutSeconds", "integer"),
        ("watch", "boolean"),
    ];
    const WRITE: &[(&str, &str)] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
    const DELETE: &[(&str, &str)] = &[
        ("dryRun", "string"),
        ("gracePeriodSeconds", "integer"),
        ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
        ("orphanDependents", "boolean"),
        ("propagationPolicy", "string"),
    ];
    let lists: &[&[(&str, &str)]] = match action {
        Action::List => &[LIST],
        Action::Post | Action::Put => &[WRITE],
        Action::Patch => &[WRITE, &[("force", "boolean")]],
        Action::Delete => &[DELETE],
        Action::DeleteCollection => &[LIST, DELETE],
        Action::Get | Action::Connect(_) => &[],
    };
    let names = lists.iter().flat_map(|list| list.iter());
    let mut out: Vec<Value> = names.map(|(name, ty)| parameter(dialect, name, "query", ty, "")).collect();
    if !matches!(action, Action::Connect(_)) {
        out.push(parameter(dialect, "pretty", "query", "string", ""));
    }
    out
}
