//! The grammars that names, labels and keys follow, and name generation.
//!
//! Each check returns upstream's messages (`apimachinery/pkg/util/validation`), empty when the text is fine.
//! `prefix` asks about a `generateName`: a trailing dash is then fine. Used by metadata validation, by the typed
//! validations and by selectors.

/// Messages about one refused text.
pub type Messages = Vec<String>;

/// How a kind's names are checked.
pub type NameRule = fn(name: &str, prefix: bool) -> Messages;

const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const QUALIFIED_TEXT: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

pub(crate) fn regex_message(text: &str, format: &str, examples: &[&str]) -> String {
    let mut out = format!("{text} (");
    for (n, example) in examples.iter().enumerate() {
        out.push_str(if n == 0 { "e.g. " } else { " or " });
        out.push_str(&format!("'{example}', "));
    }
    out.push_str(&format!("regex used for validation is '{format}')"));
    out
}

pub(crate) fn max_length(length: usize) -> String {
    format!("must be no more than {length} bytes")
}

fn lower_alnum(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Non-empty, first and last byte by `ends`, the rest by `middle`.
fn shaped(text: &str, ends: fn(u8) -> bool, middle: fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [one] => ends(*one),
        [first, inner @ .., last] => ends(*first) && ends(*last) && inner.iter().all(|c| middle(*c)),
    }
}

fn is_label(text: &str) -> bool {
    shaped(text, lower_alnum, |c| lower_alnum(c) || c == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_qualified_part(text: &str) -> bool {
    shaped(text, |c| c.is_ascii_alphanumeric(), |c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// A generated name ends in random letters, so that the dash before them is no dash at the end.
fn without_dash(name: &str, prefix: bool) -> std::borrow::Cow<'_, str> {
    match name.strip_suffix('-') {
        Some(base) if prefix && name.len() > 1 => format!("{base}a").into(),
        _ => name.into(),
    }
}

fn limited(text: &str, max: usize, fits: bool, message: impl FnOnce() -> String) -> Messages {
    let mut out = Messages::new();
    if text.len() > max {
        out.push(max_length(max));
    }
    if !fits {
        out.push(message());
    }
    out
}

/// RFC 1123 label, at most 63 bytes.
pub fn dns1123_label(text: &str) -> Messages {
    limited(text, 63, is_label(text), || regex_message(LABEL_TEXT, LABEL_FORMAT, &["my-name", "123-abc"]))
}

/// RFC 1123 subdomain, at most 253 bytes.
pub fn dns1123_subdomain(text: &str) -> Messages {
    limited(text, 253, is_subdomain(text), || regex_message(SUBDOMAIN_TEXT, SUBDOMAIN_FORMAT, &["example.com"]))
}

/// RFC 1035 label, at most 63 bytes: like [`dns1123_label`], starting with a letter.
pub fn dns1035_label(text: &str) -> Messages {
    let fits = is_label(text) && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    limited(text, 63, fits, || {
        let text = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        regex_message(text, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"])
    })
}

/// `*.` and a subdomain.
pub fn wildcard_subdomain(text: &str) -> Messages {
    let fits = text.strip_prefix("*.").is_some_and(is_subdomain);
    limited(text, 253, fits, || {
        let text = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        regex_message(text, &format!("\\*\\.{SUBDOMAIN_FORMAT}"), &["*.example.com"])
    })
}

/// Rule of most kinds.
pub fn subdomain(name: &str, prefix: bool) -> Messages {
    dns1123_subdomain(&without_dash(name, prefix))
}

/// Rule of namespaces and the like.
pub fn label(name: &str, prefix: bool) -> Messages {
    dns1123_label(&without_dash(name, prefix))
}

/// Rule of services.
pub fn label_1035(name: &str, prefix: bool) -> Messages {
    dns1035_label(&without_dash(name, prefix))
}

/// Rule of RBAC kinds: whatever can stand in a URL path.
pub fn path_segment(name: &str, prefix: bool) -> Messages {
    let mut out = Messages::new();
    if !prefix && (name == "." || name == "..") {
        out.push(format!("may not be '{name}'"));
    }
    out.extend(["/", "%"].iter().filter(|part| name.contains(**part)).map(|part| format!("may not contain '{part}'")));
    out
}

/// Label keys, annotation keys (lower-cased first), resource names: `[prefix/]name`.
pub fn qualified_name(text: &str) -> Messages {
    let mut out = Messages::new();
    let name = match text.split_once('/') {
        None => text,
        Some((prefix, name)) if !name.contains('/') => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                out.extend(dns1123_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        Some(_) => {
            let text = format!("a qualified name {QUALIFIED_TEXT}");
            let message = regex_message(&text, QUALIFIED_FORMAT, &["MyName", "my.name", "123-abc"]);
            out.push(format!("{message} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"));
            return out;
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        out.push(format!("name part {}", max_length(63)));
    }
    if !is_qualified_part(name) {
        let message = regex_message(QUALIFIED_TEXT, QUALIFIED_FORMAT, &["MyName", "my.name", "123-abc"]);
        out.push(format!("name part {message}"));
    }
    out
}

/// Label values: empty or at most 63 bytes of a name.
pub fn label_value(text: &str) -> Messages {
    limited(text, 63, text.is_empty() || is_qualified_part(text), || {
        let text = format!("a valid label must be an empty string or {}", &QUALIFIED_TEXT["must ".len()..]);
        regex_message(&text, &format!("({QUALIFIED_FORMAT})?"), &["MyValue", "my_value", "12345"])
    })
}

/// Keys of config maps and secrets.
pub fn config_key(text: &str) -> Messages {
    let fits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
    let mut out = limited(text, 253, fits, || {
        let text = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        regex_message(text, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"])
    });
    if text == "." {
        out.push("must not be '.'".to_owned());
    } else if text == ".." {
        out.push("must not be '..'".to_owned());
    } else if text.starts_with("..") {
        out.push("must not start with '..'".to_owned());
    }
    out
}

/// Environment variable names: printable ASCII without `=`.
pub fn env_var_name(text: &str) -> Messages {
    if !text.is_empty() && text.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=') {
        return Messages::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// IANA service names, as container ports are called.
pub fn port_name(text: &str) -> Messages {
    let mut out = Messages::new();
    if text.len() > 15 {
        out.push(max_length(15));
    }
    if !text.bytes().all(|c| lower_alnum(c) || c == b'-') || text.is_empty() {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|c| c.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

/// 1 to 65535.
pub fn port_number(port: i32) -> Messages {
    if (1..=65535).contains(&port) {
        Messages::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// Header names of HTTP probes.
pub fn http_header_name(text: &str) -> Messages {
    if !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Messages::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex_message(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// `10%` and the like.
pub fn percent(text: &str) -> Messages {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) {
        return Messages::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_message(message, "[0-9]+%", &["1%", "93%"])]
}

/// IPv4 or IPv6 literal.
pub fn ip(text: &str) -> Messages {
    match text.parse::<std::net::IpAddr>() {
        Ok(_) => Messages::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// CIDR notation.
pub fn cidr(text: &str) -> Messages {
    match text.parse::<ipnet::IpNet>() {
        Ok(_) => Messages::new(),
        Err(_) => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()],
    }
}

/// Characters of generated suffixes: no vowels and nothing that looks like another, so that no words come out.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Random characters in a generated name.
pub const SUFFIX_LENGTH: usize = 5;

/// Longest base kept before the random characters.
const MAX_BASE: usize = 63 - SUFFIX_LENGTH;

/// A suffix from random bytes.
pub fn suffix(random: [u8; SUFFIX_LENGTH]) -> String {
    spell(&random)
}

/// One safe character for each byte, whose value does not come through whole: for hashes and random names.
pub fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// `base` cut to fit, then `suffix`.
pub fn generate(base: &str, suffix: &str) -> String {
    let mut end = base.len().min(MAX_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &base[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        assert!(dns1123_label("my-name").is_empty());
        assert!(dns1123_subdomain("a.b-c.9").is_empty());
        assert_eq!(
            dns1123_label("My_name"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            dns1123_subdomain("a..b"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert!(!dns1035_label("1a").is_empty());
    }

    #[test]
    fn a_generate_name_may_end_with_a_dash() {
        assert!(subdomain("web-", true).is_empty());
        assert!(!subdomain("web-", false).is_empty());
        assert!(!subdomain("-", true).is_empty());
    }

    #[test]
    fn qualified_names() {
        assert!(qualified_name("example.com/My.Name").is_empty());
        assert!(qualified_name("app").is_empty());
        assert_eq!(qualified_name("a/b/c").len(), 1);
        assert_eq!(qualified_name("/b"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("")[0], "name part must be non-empty");
        assert!(label_value("a b")[0].starts_with(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and"
        ));
        assert!(label_value("").is_empty());
    }

    #[test]
    fn generated_names_are_cut_and_use_the_safe_alphabet() {
        let name = generate(&"a".repeat(70), &suffix([0, 26, 27, 255, 9]));
        assert_eq!(name.len(), 63);
        assert!(name.ends_with("b9bml") || name[58..].bytes().all(|c| ALPHABET.contains(&c)));
        assert_eq!(generate("web-", "abcde"), "web-abcde");
    }

    #[test]
    fn port_names() {
        assert!(port_name("http").is_empty());
        assert_eq!(port_name("a-very-long-port-name").len(), 1);
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
    }
}
