//! Impersonation headers: acting as another user, group or service account. This file only reads them; whether the
//! real user may is asked of the authorizer, one question for each thing taken on.

use std::collections::BTreeMap;

use http::HeaderMap;
use objects::status::Status;
use percent_encoding::percent_decode_str;

use super::user::{AUTHENTICATED, UNAUTHENTICATED, User};

/// One question to the authorizer: verb `impersonate` on this.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Who the request wants to act as, and what has to be allowed for it.
pub(crate) struct Impersonation {
    pub(crate) user: User,
    pub(crate) checks: Vec<Check>,
}

/// Reads the headers; `None` when the request impersonates nobody.
pub(crate) fn requested(headers: &HeaderMap) -> Result<Option<Impersonation>, Status> {
    let one = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let user_name = one("impersonate-user");
    let uid = one("impersonate-uid");
    let groups: Vec<String> =
        headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
            let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
            extra.entry(key).or_default().push(value.to_owned());
        }
    }
    if user_name.is_empty() {
        let any = !groups.is_empty() || !extra.is_empty() || !uid.is_empty();
        return if any {
            Err(Status::bad_request("requested impersonation without impersonating a user"))
        } else {
            Ok(None)
        };
    }
    let mut user = User { name: user_name, uid, groups, extra };
    let checks = checks(&user);
    complete_groups(&mut user);
    Ok(Some(Impersonation { user, checks }))
}

fn checks(user: &User) -> Vec<Check> {
    let mut checks = Vec::new();
    let check = |group, resource, subresource: &str, namespace: &str, name: &str| Check {
        group,
        resource,
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
    };
    match user.service_account() {
        Some((namespace, name)) => checks.push(check("", "serviceaccounts", "", namespace, name)),
        None => checks.push(check("", "users", "", "", &user.name)),
    }
    if !user.uid.is_empty() {
        checks.push(check("authentication.k8s.io", "uids", "", "", &user.uid));
    }
    checks.extend(user.groups.iter().map(|group| check("", "groups", "", "", group)));
    for (key, values) in &user.extra {
        checks.extend(values.iter().map(|value| check("authentication.k8s.io", "userextras", key, "", value)));
    }
    checks
}

/// Adds the groups that come with what the user is.
fn complete_groups(user: &mut User) {
    if let Some((namespace, _)) = user.service_account()
        && user.groups.is_empty()
    {
        user.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    let group = if user.name == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
    if !user.in_group(AUTHENTICATED) && !user.in_group(UNAUTHENTICATED) {
        user.groups.push(group.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn groups_alone_are_refused() {
        assert!(requested(&headers(&[("impersonate-group", "a")])).is_err());
        assert!(requested(&headers(&[])).unwrap().is_none());
    }

    #[test]
    fn a_service_account_gets_its_groups() {
        let i = requested(&headers(&[("impersonate-user", "system:serviceaccount:ns:sa")])).unwrap().unwrap();
        assert_eq!(i.checks[0].resource, "serviceaccounts");
        assert!(i.user.in_group("system:serviceaccounts:ns"));
        assert!(i.user.in_group(AUTHENTICATED));
    }

    #[test]
    fn every_group_and_extra_is_a_check() {
        let i = requested(&headers(&[
            ("impersonate-user", "jane"),
            ("impersonate-group", "dev"),
            ("impersonate-extra-acme.com%2fproject", "x"),
        ]))
        .unwrap()
        .unwrap();
        let resources: Vec<_> = i.checks.iter().map(|c| c.resource).collect();
        assert_eq!(resources, ["users", "groups", "userextras"]);
        assert_eq!(i.checks[2].subresource, "acme.com/project");
    }
}
