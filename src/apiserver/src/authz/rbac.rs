//! RBAC from the watch cache. Roles and bindings are turned into an index by subject, rebuilt on the first question
//! after one of them changed; a question then looks at the user's and its groups' grants only.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use objects::status::Status;
use storage::Revision;

use super::{Attributes, Decision};
use crate::{
    authn::User,
    cache::{Hub, KindCache},
};

const KINDS: [&str; 4] = [
    "rbac.authorization.k8s.io/clusterroles",
    "rbac.authorization.k8s.io/clusterrolebindings",
    "rbac.authorization.k8s.io/roles",
    "rbac.authorization.k8s.io/rolebindings",
];

type Rules = Arc<[PolicyRule]>;

/// What one binding gives one subject.
#[derive(Clone)]
struct Grant {
    /// `None` for all namespaces and cluster-scoped resources.
    namespace: Option<Arc<str>>,
    rules: Rules,
    reason: Arc<str>,
}

#[derive(Default)]
struct Index {
    stamp: [Revision; 4],
    built: bool,
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

/// The RBAC authorizer.
pub(crate) struct Rbac {
    hub: Arc<Hub>,
    index: ArcSwap<Index>,
    building: Mutex<()>,
}

impl Rbac {
    pub(crate) fn new(hub: Arc<Hub>) -> Rbac {
        Rbac { hub, index: ArcSwap::default(), building: Mutex::new(()) }
    }

    fn caches(&self) -> Result<[Arc<KindCache>; 4], Status> {
        let kind = |prefix| self.hub.kind(prefix);
        Ok([kind(KINDS[0])?, kind(KINDS[1])?, kind(KINDS[2])?, kind(KINDS[3])?])
    }

    fn current(&self) -> Result<Arc<Index>, Status> {
        let caches = self.caches()?;
        let stamp = || caches.each_ref().map(|cache| cache.revision());
        let index = self.index.load_full();
        if index.built && index.stamp == stamp() {
            return Ok(index);
        }
        let _one_builds = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let index = self.index.load_full();
        let wanted = stamp();
        if index.built && index.stamp == wanted {
            return Ok(index);
        }
        let index = Arc::new(build(&caches, wanted));
        self.index.store(index.clone());
        Ok(index)
    }

    pub(crate) fn authorize(&self, attributes: &Attributes<'_>) -> Result<Decision, Status> {
        let index = self.current()?;
        let found = index.grants(attributes.user).find(|grant| {
            grant.covers(attributes.namespace) && grant.rules.iter().any(|rule| allows(rule, attributes))
        });
        Ok(match found {
            Some(grant) => Decision::Allow(grant.reason.to_string()),
            None => Decision::NoOpinion(String::new()),
        })
    }

    /// All rules that hold for a user in a namespace.
    pub(crate) fn rules(&self, user: &User, namespace: &str) -> Result<Vec<PolicyRule>, Status> {
        let index = self.current()?;
        Ok(index
            .grants(user)
            .filter(|grant| grant.covers(namespace))
            .flat_map(|grant| grant.rules.iter().cloned())
            .collect())
    }

    /// The rules of a role, for the escalation check.
    pub(crate) fn role_rules(&self, namespace: &str, role: &RoleRef) -> Result<Option<Vec<PolicyRule>>, Status> {
        let [cluster_roles, _, roles, _] = self.caches()?;
        Ok(if role.kind == "ClusterRole" {
            let entry = cluster_roles.get(&role.name);
            entry.and_then(|e| e.typed::<ClusterRole>().ok()).map(|r| r.rules.unwrap_or_default())
        } else {
            let entry = roles.get_in(namespace, &role.name);
            entry.and_then(|e| e.typed::<Role>().ok()).map(|r| r.rules.unwrap_or_default())
        })
    }
}

impl Index {
    fn grants<'i>(&'i self, user: &'i User) -> impl Iterator<Item = &'i Grant> {
        let of_user = self.users.get(&user.name).into_iter().flatten();
        of_user.chain(user.groups.iter().filter_map(|group| self.groups.get(group)).flatten())
    }

    fn add(&mut self, subjects: Option<Vec<Subject>>, binding_namespace: &str, grant: &Grant) {
        for subject in subjects.unwrap_or_default() {
            let grant = Grant {
                reason: format!("{} to {} \"{}\"", grant.reason, subject.kind, subject.name).into(),
                ..grant.clone()
            };
            match subject.kind.as_str() {
                "User" => self.users.entry(subject.name).or_default().push(grant),
                "Group" => self.groups.entry(subject.name).or_default().push(grant),
                "ServiceAccount" => {
                    let namespace = subject.namespace.as_deref().unwrap_or(binding_namespace);
                    let name = format!("system:serviceaccount:{namespace}:{}", subject.name);
                    self.users.entry(name).or_default().push(grant);
                }
                _ => {}
            }
        }
    }
}

impl Grant {
    fn covers(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }
}

fn build(caches: &[Arc<KindCache>; 4], stamp: [Revision; 4]) -> Index {
    let [cluster_roles, cluster_bindings, roles, bindings] = caches;
    let all = |cache: &KindCache| cache.list("", |_| true).entries;
    let mut known: HashMap<String, Rules> = HashMap::new();
    for entry in all(cluster_roles) {
        if let Ok(role) = entry.typed::<ClusterRole>() {
            known.insert(format!("/{}", entry.key), role.rules.unwrap_or_default().into());
        }
    }
    for entry in all(roles) {
        if let Ok(role) = entry.typed::<Role>() {
            known.insert(entry.key.to_string(), role.rules.unwrap_or_default().into());
        }
    }
    let rules = |namespace: &str, role: &RoleRef| {
        let scope = if role.kind == "ClusterRole" { "" } else { namespace };
        known.get(&format!("{scope}/{}", role.name)).cloned()
    };
    let mut index = Index { stamp, built: true, ..Index::default() };
    for entry in all(cluster_bindings) {
        let Ok(binding) = entry.typed::<ClusterRoleBinding>() else { continue };
        let Some(rules) = rules("", &binding.role_ref) else { continue };
        let reason = format!("RBAC: allowed by ClusterRoleBinding \"{}\" of {}", entry.key, of_role(&binding.role_ref));
        index.add(binding.subjects, "", &Grant { namespace: None, rules, reason: reason.into() });
    }
    for entry in all(bindings) {
        let Ok(binding) = entry.typed::<RoleBinding>() else { continue };
        let namespace = entry.namespace();
        let Some(rules) = rules(namespace, &binding.role_ref) else { continue };
        let of_role = of_role(&binding.role_ref);
        let reason = format!("RBAC: allowed by RoleBinding \"{}/{namespace}\" of {of_role}", entry.name());
        index.add(
            binding.subjects,
            namespace,
            &Grant { namespace: Some(namespace.into()), rules, reason: reason.into() },
        );
    }
    index
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
