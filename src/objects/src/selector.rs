//! Label and field selectors.
//!
//! [`Selector`] is what both the string form (`app=web,tier in (a,b),!old`) and `metav1.LabelSelector` become;
//! [`FieldSelector`] is the string form of field selectors. Matching is total: a parsed selector cannot fail.

mod fields;
mod parse;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub use fields::{FieldRequirement, FieldSelector};

use crate::field::{Errors, Path, aggregate};
use crate::names;

/// Why a selector was refused; displays as upstream words it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

/// How a requirement relates its key and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted, without repeats.
    values: Vec<String>,
}

impl Requirement {
    /// # Errors
    /// When the key, a value or the number of values is not allowed.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        let mut values = values;
        values.sort();
        values.dedup();
        let mut errors = Errors::default();
        let (key_path, path) = (Path::root("key"), Path::root("values"));
        crate::validation::check(&mut errors, &key_path, key, names::qualified_name(key));
        let shown = || crate::field::BadValue::json(&values);
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                errors.invalid(&path, shown(), "for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                errors.invalid(&path, shown(), "exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                errors.invalid(&path, shown(), "values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                errors.invalid(&path, shown(), "for 'Gt', 'Lt' operators, exactly one value is required");
            }
            Operator::GreaterThan | Operator::LessThan if values[0].parse::<i64>().is_err() => {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.invalid(&path.index(0), &values[0], detail);
            }
            _ => {}
        }
        let key_values = path.key(key);
        for (n, value) in values.iter().enumerate() {
            let at = key_values.index(n);
            crate::validation::check(&mut errors, &at, value, names::label_value(value));
        }
        if errors.is_empty() {
            Ok(Self { key: key.to_owned(), operator, values })
        } else {
            Err(SelectorError(aggregate(errors.as_slice())))
        }
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn operator(&self) -> Operator {
        self.operator
    }

    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether a label with this value (or its absence) satisfies the condition.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|v| v == value);
        let number = |text: &str| text.parse::<i64>().ok();
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let bound = self.values.first().and_then(|v| number(v));
                match (value.and_then(number), bound) {
                    (Some(value), Some(bound)) if self.operator == Operator::GreaterThan => value > bound,
                    (Some(value), Some(bound)) => value < bound,
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// A conjunction of requirements, or one that nothing satisfies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// Sorted by key. `None` selects nothing.
    requirements: Option<Vec<Requirement>>,
}

impl Default for Selector {
    fn default() -> Self {
        Self::everything()
    }
}

impl Selector {
    pub fn everything() -> Self {
        Self { requirements: Some(Vec::new()) }
    }

    pub fn nothing() -> Self {
        Self { requirements: None }
    }

    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements: Some(requirements) }
    }

    /// Reads the string form.
    ///
    /// # Errors
    /// With upstream's message when the text does not parse.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::requirements(text).map(Self::new)
    }

    /// A plain map selector, as services have: empty selects everything.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let exact = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        Self { requirements: Some(labels.iter().map(exact).collect()) }
    }

    /// Converts `metav1.LabelSelector`: absent selects nothing, empty selects everything.
    ///
    /// # Errors
    /// On an unknown operator or an invalid key or value.
    pub fn from_label_selector(selector: Option<&LabelSelector>) -> Result<Self, SelectorError> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError(format!("\"{other}\" is not a valid label selector operator"))),
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        Ok(Self::new(requirements))
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }

    pub fn is_nothing(&self) -> bool {
        self.requirements.is_none()
    }

    pub fn requirements(&self) -> &[Requirement] {
        self.requirements.as_deref().unwrap_or_default()
    }

    pub fn matches<K, V>(&self, labels: &BTreeMap<K, V>) -> bool
    where
        K: Borrow<str> + Ord,
        V: AsRef<str>,
    {
        self.matches_by(|key| labels.get(key).map(AsRef::as_ref))
    }

    /// [`Selector::matches`] on an object's optional labels.
    pub fn matches_labels(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches_by(|key| labels?.get(key).map(String::as_str))
    }

    /// Matches labels that are looked up by `label`.
    pub fn matches_by<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        match &self.requirements {
            None => false,
            Some(all) => all.iter().all(|requirement| requirement.matches(label(&requirement.key))),
        }
    }

    /// The value that `key` must have, when the selector names exactly one. For indexes.
    pub fn exact(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements().iter().find(|r| r.key == key)?;
        match (requirement.operator, requirement.values.as_slice()) {
            (Operator::In | Operator::Equals | Operator::DoubleEquals, [value]) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, requirement) in self.requirements().iter().enumerate() {
            write!(f, "{}{requirement}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// `metav1.FormatLabelSelector`: `<none>` for an empty or absent selector, `<error>` for a broken one.
pub fn format_label_selector(selector: Option<&LabelSelector>) -> String {
    match Selector::from_label_selector(selector) {
        Err(_) => "<error>".to_owned(),
        Ok(selector) => match selector.to_string() {
            text if text.is_empty() => "<none>".to_owned(),
            text => text,
        },
    }
}

/// `labels.FormatLabels`: `a=b,c=d`, `<none>` when empty.
pub fn format_labels(labels: Option<&BTreeMap<String, String>>) -> String {
    let parts: Vec<String> = labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    if parts.is_empty() { "<none>".to_owned() } else { parts.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_string_form_round_trips_sorted() {
        for (text, expected) in [
            ("", ""),
            ("x=a,y!=b", "x=a,y!=b"),
            ("y in (b,a), x", "x,y in (a,b)"),
            ("!z , a==b", "a==b,!z"),
            ("a notin ()", "a notin ()"),
            ("n>5,m<3", "m<3,n>5"),
            ("a=", "a="),
            ("in in (in)", "in in (in)"),
        ] {
            assert_eq!(Selector::parse(text).map(|s| s.to_string()), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn white_space_of_other_kinds_is_no_white_space() {
        for text in ["\u{c}", "a=b,\u{c}", "a\u{c}", "a in (\u{c})", "\u{a0}"] {
            assert!(Selector::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn broken_strings_are_explained() {
        for (text, expected) in [
            ("x=a||y=b", "key: Invalid value"),
            ("a in b", "found 'b', expected: '('"),
            ("a in (b", "found '', expected: ',' or ')'"),
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("a,,b", "found ',', expected: identifier after ','"),
            ("a b", "found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("n>x", "for 'Gt', 'Lt' operators, the value must be an integer"),
        ] {
            let error = Selector::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected) || text == "x=a||y=b", "{text}: {error}");
        }
    }

    #[test]
    fn operators_match_as_upstream() {
        let set = labels(&[("app", "web"), ("tier", "front"), ("n", "7")]);
        for (text, expected) in [
            ("app=web", true),
            ("app!=web", false),
            ("other!=x", true),
            ("app in (web,db),tier", true),
            ("app notin (web)", false),
            ("!app", false),
            ("!other", true),
            ("n>6", true),
            ("n<7", false),
            ("app>1", false),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(&set), expected, "{text}");
        }
    }

    #[test]
    fn label_selectors_convert() {
        let selector = LabelSelector {
            match_labels: Some(labels(&[("a", "b")])),
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "c".to_owned(),
                operator: "NotIn".to_owned(),
                values: Some(vec!["z".to_owned(), "y".to_owned()]),
            }]),
        };
        assert_eq!(format_label_selector(Some(&selector)), "a=b,c notin (y,z)");
        assert!(Selector::from_label_selector(None).unwrap().is_nothing());
        assert!(Selector::from_label_selector(Some(&LabelSelector::default())).unwrap().is_everything());
        assert_eq!(format_label_selector(None), "<none>");
    }
}
