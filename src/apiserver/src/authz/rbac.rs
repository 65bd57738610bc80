//! RBAC from the watch cache. An index by subject follows the changes of roles and bindings: the first question after
//! some takes them in. A question then looks at the user's and its groups' grants only.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard},
};

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role, RoleRef, Subject};
use objects::status::Status;
use serde::Deserialize;
use storage::Revision;

use super::{Attributes, Decision};
use crate::{
    authn::User,
    cache::{Change, Entry, Hub, KindCache},
};

const KINDS: [&str; 4] = [
    "rbac.authorization.k8s.io/clusterroles",
    "rbac.authorization.k8s.io/roles",
    "rbac.authorization.k8s.io/clusterrolebindings",
    "rbac.authorization.k8s.io/rolebindings",
];
/// Position in [`KINDS`] of the first kind of binding.
const BINDINGS: usize = 2;

type Caches = [Arc<KindCache>; 4];

/// The shape that both kinds of binding have.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyBinding {
    role_ref: RoleRef,
    subjects: Option<Vec<Subject>>,
}

/// What one binding gives to its subjects.
struct Binding {
    /// Its own: `namespace/name`, or `name`.
    key: Box<str>,
    /// `None` for all namespaces and cluster-scoped resources.
    namespace: Option<Box<str>>,
    /// Key of the role among [`Index::roles`].
    role: String,
    reason: String,
}

struct Grant {
    binding: Arc<Binding>,
    /// `Kind "name"`, for the reason.
    subject: String,
}

#[derive(Default)]
struct Index {
    /// Newest change of each kind that is in the index; `None` before the first fill.
    seen: Option<[Revision; 4]>,
    /// Place in each kind's window.
    next: [u64; 4],
    /// Rules by `namespace/name`; a cluster role has the empty namespace.
    roles: HashMap<String, Vec<PolicyRule>>,
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

/// The RBAC authorizer.
pub(crate) struct Rbac {
    hub: Arc<Hub>,
    caches: OnceLock<Caches>,
    index: RwLock<Index>,
}

impl Rbac {
    pub(crate) fn new(hub: Arc<Hub>) -> Rbac {
        Rbac { hub, caches: OnceLock::new(), index: RwLock::default() }
    }

    fn caches(&self) -> Result<&Caches, Status> {
        if let Some(caches) = self.caches.get() {
            return Ok(caches);
        }
        let kind = |prefix| self.hub.kind(prefix);
        let caches = [kind(KINDS[0])?, kind(KINDS[1])?, kind(KINDS[2])?, kind(KINDS[3])?];
        Ok(self.caches.get_or_init(|| caches))
    }

    /// The index with all that the caches show.
    fn current(&self) -> Result<RwLockReadGuard<'_, Index>, Status> {
        let caches = self.caches()?;
        let newest = || Some(caches.each_ref().map(|cache| cache.revision()));
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        if index.seen == newest() {
            return Ok(index);
        }
        drop(index);
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        // Read before the changes: these may show more, never less.
        let seen = newest();
        if index.seen != seen {
            index.follow(caches);
            index.seen = seen;
        }
        drop(index);
        Ok(self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn authorize(&self, attributes: &Attributes<'_>) -> Result<Decision, Status> {
        let index = self.current()?;
        let found = index.grants(attributes.user).find(|grant| {
            grant.covers(attributes.namespace) && index.rules(grant).iter().any(|rule| allows(rule, attributes))
        });
        Ok(match found {
            Some(grant) => Decision::Allow(format!("{} to {}", grant.binding.reason, grant.subject)),
            None => Decision::NoOpinion(String::new()),
        })
    }

    /// All rules that hold for a user in a namespace.
    pub(crate) fn rules(&self, user: &User, namespace: &str) -> Result<Vec<PolicyRule>, Status> {
        let index = self.current()?;
        let grants = index.grants(user).filter(|grant| grant.covers(namespace));
        Ok(grants.flat_map(|grant| index.rules(grant).iter().cloned()).collect())
    }

    /// The rules of a role, for the escalation check.
    pub(crate) fn role_rules(&self, namespace: &str, role: &RoleRef) -> Result<Option<Vec<PolicyRule>>, Status> {
        Ok(self.current()?.roles.get(&role_key(namespace, role)).cloned())
    }
}

impl Index {
    fn grants<'i>(&'i self, user: &'i User) -> impl Iterator<Item = &'i Grant> {
        let of_user = self.users.get(&user.name).into_iter().flatten();
        of_user.chain(user.groups.iter().filter_map(|group| self.groups.get(group)).flatten())
    }

    fn rules(&self, grant: &Grant) -> &[PolicyRule] {
        self.roles.get(&grant.binding.role).map(Vec::as_slice).unwrap_or_default()
    }

    /// Takes in what has changed since the last time, or everything.
    fn follow(&mut self, caches: &Caches) {
        if self.seen.is_none() {
            return self.fill(caches);
        }
        for (kind, cache) in caches.iter().enumerate() {
            let Ok(changes) = cache.read_changes(self.next[kind], usize::MAX) else { return self.fill(caches) };
            self.next[kind] += changes.len() as u64;
            for Change { before, after, .. } in &changes {
                if let Some(before) = before {
                    self.remove(kind, before);
                }
                if let Some(after) = after {
                    self.insert(kind, after);
                }
            }
        }
    }

    fn fill(&mut self, caches: &Caches) {
        *self = Index::default();
        for (kind, cache) in caches.iter().enumerate() {
            let listing = cache.list("", |_| true);
            self.next[kind] = listing.next;
            listing.entries.iter().for_each(|entry| self.insert(kind, entry));
        }
    }

    fn insert(&mut self, kind: usize, entry: &Entry) {
        if kind >= BINDINGS {
            return self.bind(entry);
        }
        let rules = match kind {
            0 => entry.typed::<ClusterRole>().map(|role| role.rules),
            _ => entry.typed::<Role>().map(|role| role.rules),
        };
        self.roles.insert(stored_role_key(entry), rules.ok().flatten().unwrap_or_default());
    }

    fn remove(&mut self, kind: usize, entry: &Entry) {
        if kind < BINDINGS {
            self.roles.remove(&stored_role_key(entry));
            return;
        }
        for subject in subjects(entry) {
            let Some((of_groups, name)) = holder(&subject, entry.namespace()) else { continue };
            let holders = if of_groups { &mut self.groups } else { &mut self.users };
            if let Some(grants) = holders.get_mut(&name) {
                let scope = scope(entry);
                grants.retain(|grant| grant.binding.key != entry.key || grant.binding.namespace.as_deref() != scope);
                if grants.is_empty() {
                    holders.remove(&name);
                }
            }
        }
    }

    fn bind(&mut self, entry: &Entry) {
        let Ok(binding) = entry.typed::<AnyBinding>() else { return };
        let namespace = entry.namespace();
        let of_role = of_role(&binding.role_ref);
        let reason = match scope(entry) {
            Some(_) => format!("RBAC: allowed by RoleBinding \"{}/{namespace}\" of {of_role}", entry.name()),
            None => format!("RBAC: allowed by ClusterRoleBinding \"{}\" of {of_role}", entry.name()),
        };
        let granted = Arc::new(Binding {
            key: entry.key.clone(),
            namespace: scope(entry).map(Into::into),
            role: role_key(namespace, &binding.role_ref),
            reason,
        });
        for subject in binding.subjects.unwrap_or_default() {
            let Some((of_groups, name)) = holder(&subject, namespace) else { continue };
            let grant = Grant {
                binding: granted.clone(),
                subject: format!("{} \"{}\"", subject.kind, subject_name(&subject, namespace)),
            };
            let holders = if of_groups { &mut self.groups } else { &mut self.users };
            holders.entry(name).or_default().push(grant);
        }
    }
}

impl Grant {
    fn covers(&self, namespace: &str) -> bool {
        self.binding.namespace.as_deref().is_none_or(|own| own == namespace)
    }
}

/// Where a binding holds: its namespace, or everywhere.
fn scope(binding: &Entry) -> Option<&str> {
    Some(binding.namespace()).filter(|namespace| !namespace.is_empty())
}

fn subjects(binding: &Entry) -> Vec<Subject> {
    binding.typed::<AnyBinding>().ok().and_then(|binding| binding.subjects).unwrap_or_default()
}

/// Whether a subject is a group, and the name it is known by in requests.
fn holder(subject: &Subject, binding_namespace: &str) -> Option<(bool, String)> {
    match subject.kind.as_str() {
        "User" => Some((false, subject.name.clone())),
        "Group" => Some((true, subject.name.clone())),
        "ServiceAccount" => {
            let namespace = subject.namespace.as_deref().unwrap_or(binding_namespace);
            Some((false, format!("system:serviceaccount:{namespace}:{}", subject.name)))
        }
        _ => None,
    }
}

/// A subject as reasons name it.
fn subject_name(subject: &Subject, binding_namespace: &str) -> String {
    match subject.kind.as_str() {
        "ServiceAccount" => {
            format!("{}/{}", subject.name, subject.namespace.as_deref().unwrap_or(binding_namespace))
        }
        _ => subject.name.clone(),
    }
}

fn stored_role_key(role: &Entry) -> String {
    format!("{}/{}", role.namespace(), role.name())
}

fn role_key(namespace: &str, role: &RoleRef) -> String {
    let scope = if role.kind == "ClusterRole" { "" } else { namespace };
    format!("{scope}/{}", role.name)
}

fn of_role(role: &RoleRef) -> String {
    format!("{} \"{}\"", role.kind, role.name)
}

fn any(list: Option<&[String]>, test: impl Fn(&str) -> bool) -> bool {
    list.unwrap_or_default().iter().any(|item| test(item))
}

/// Whether rules allow everything that `wanted` allows.
pub(crate) fn covers(own: &[PolicyRule], wanted: &PolicyRule) -> bool {
    let has = |rules: Option<&[String]>, item: &str| any(rules, |text| text == "*" || text == item);
    let paths = wanted.non_resource_urls.iter().flatten();
    let paths_covered = paths.into_iter().all(|path| {
        wanted.verbs.iter().all(|verb| {
            own.iter().any(|rule| {
                has(Some(&rule.verbs), verb)
                    && any(rule.non_resource_urls.as_deref(), |own| match own.strip_suffix('*') {
                        Some(prefix) => path.starts_with(prefix),
                        None => own == path,
                    })
            })
        })
    });
    let names = wanted.resource_names.clone().filter(|names| !names.is_empty());
    let resources_covered = wanted.resources.iter().flatten().all(|resource| {
        let by_star = resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
        wanted.api_groups.iter().flatten().all(|group| {
            wanted.verbs.iter().all(|verb| {
                let one = |name: Option<&String>| {
                    own.iter().any(|rule| {
                        let own_names = rule.resource_names.as_deref().unwrap_or_default();
                        has(Some(&rule.verbs), verb)
                            && has(rule.api_groups.as_deref(), group)
                            && (has(rule.resources.as_deref(), resource)
                                || by_star.as_ref().is_some_and(|star| any(rule.resources.as_deref(), |r| r == star)))
                            && (own_names.is_empty() || name.is_some_and(|name| own_names.contains(name)))
                    })
                };
                match &names {
                    None => one(None),
                    Some(names) => names.iter().all(|name| one(Some(name))),
                }
            })
        })
    });
    paths_covered && resources_covered
}

/// Whether a rule allows a request.
pub(crate) fn allows(rule: &PolicyRule, wanted: &Attributes<'_>) -> bool {
    if !rule.verbs.iter().any(|verb| verb == "*" || verb == wanted.verb) {
        return false;
    }
    if !wanted.is_resource() {
        return any(rule.non_resource_urls.as_deref(), |url| match url.strip_suffix('*') {
            Some(prefix) => wanted.path.starts_with(prefix),
            None => url == wanted.path,
        });
    }
    any(rule.api_groups.as_deref(), |group| group == "*" || group == wanted.group)
        && any(rule.resources.as_deref(), |resource| resource_matches(resource, wanted))
        && (rule.resource_names.as_deref().unwrap_or_default().is_empty()
            || any(rule.resource_names.as_deref(), |name| !wanted.name.is_empty() && name == wanted.name))
}

fn resource_matches(rule: &str, wanted: &Attributes<'_>) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => wanted.subresource.is_empty() && rule == wanted.resource,
        Some((resource, sub)) => sub == wanted.subresource && (resource == "*" || resource == wanted.resource),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        let texts = |list: &[&str]| Some(list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        PolicyRule {
            verbs: texts(verbs).unwrap(),
            api_groups: texts(groups),
            resources: texts(resources),
            resource_names: texts(names),
            non_resource_urls: None,
        }
    }

    #[test]
    fn subresources_and_names_narrow_a_rule() {
        let user = User::new("u", Vec::<String>::new());
        let base = Attributes { verb: "get", resource: "pods", namespace: "d", ..Attributes::of(&user) };
        let pods = rule(&["get"], &[""], &["pods"], &[]);
        assert!(allows(&pods, &base));
        assert!(!allows(&pods, &Attributes { subresource: "log", ..base }));
        assert!(allows(&rule(&["get"], &[""], &["*/log"], &[]), &Attributes { subresource: "log", ..base }));
        let named = rule(&["get"], &[""], &["pods"], &["a"]);
        assert!(allows(&named, &Attributes { name: "a", ..base }));
        assert!(!allows(&named, &base));
        assert!(!allows(&rule(&["*"], &["apps"], &["*"], &[]), &base));
    }

    #[test]
    fn a_rule_is_covered_verb_by_verb() {
        let own = [rule(&["get"], &["*"], &["*"], &[]), rule(&["list"], &[""], &["pods"], &[])];
        assert!(covers(&own, &rule(&["get", "list"], &[""], &["pods"], &[])));
        assert!(!covers(&own, &rule(&["get", "list"], &[""], &["pods", "secrets"], &[])));
        let named = [rule(&["get"], &[""], &["secrets"], &["a"])];
        assert!(covers(&named, &rule(&["get"], &[""], &["secrets"], &["a"])));
        assert!(!covers(&named, &rule(&["get"], &[""], &["secrets"], &[])));
    }

    #[test]
    fn paths_match_with_a_star_at_the_end() {
        let user = User::new("u", Vec::<String>::new());
        let rule = PolicyRule {
            verbs: vec!["get".into()],
            non_resource_urls: Some(vec!["/healthz".into(), "/apis/*".into()]),
            ..PolicyRule::default()
        };
        let at = |path| Attributes { verb: "get", path, ..Attributes::of(&user) };
        assert!(allows(&rule, &at("/healthz")));
        assert!(allows(&rule, &at("/apis/apps")));
        assert!(!allows(&rule, &at("/healthz/x")));
    }

    #[test]
    fn refusals_read_as_upstream() {
        let user = User::new("x", Vec::<String>::new());
        let at = Attributes { verb: "list", resource: "pods", namespace: "default", ..Attributes::of(&user) };
        assert_eq!(
            at.refusal(""),
            "User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
    }
}
