//! Store keys: `/registry/<storage prefix>/[<namespace>/]<name>`.

use bytes::Bytes;

/// Everything this server stores lies below.
pub(crate) const ROOT: &str = "/registry/";

/// Key of an object; `namespace` is empty for cluster-scoped kinds.
pub(crate) fn object(prefix: &str, namespace: &str, name: &str) -> Bytes {
    Bytes::from(if namespace.is_empty() {
        [ROOT, prefix, "/", name].concat()
    } else {
        [ROOT, prefix, "/", namespace, "/", name].concat()
    })
}

/// Prefix of all keys of a kind, or of a kind in a namespace.
pub(crate) fn collection(prefix: &str, namespace: &str) -> String {
    if namespace.is_empty() { [ROOT, prefix, "/"].concat() } else { [ROOT, prefix, "/", namespace, "/"].concat() }
}

/// Splits a key into storage prefix and the rest (`ns/name` or `name`). The prefixes of core kinds are one segment
/// (`pods`), all others two (`apps/deployments`); `is_prefix` says whether a text is a prefix in use.
pub(crate) fn split<T>(key: &[u8], lookup: impl Fn(&str) -> Option<T>) -> Option<(T, &str)> {
    let key = std::str::from_utf8(key).ok()?.strip_prefix(ROOT)?;
    let first = key.find('/')?;
    if let Some(found) = lookup(&key[..first]) {
        return Some((found, &key[first + 1..]));
    }
    let second = first + 1 + key[first + 1..].find('/')?;
    lookup(&key[..second]).map(|found| (found, &key[second + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_finds_one_and_two_segment_prefixes() {
        let known = |text: &str| ["pods", "apps/deployments"].iter().position(|p| *p == text);
        assert_eq!(split(&object("pods", "d", "x"), known), Some((0, "d/x")));
        assert_eq!(split(&object("apps/deployments", "d", "x"), known), Some((1, "d/x")));
        assert_eq!(split(&object("apps/other", "d", "x"), known), None);
        assert_eq!(split(b"/elsewhere/pods/x", known), None);
    }
}
