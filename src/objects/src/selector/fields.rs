//! Field selector strings: `status.phase=Running,spec.nodeName!=a`.

use std::fmt;

use super::SelectorError;

/// One condition on one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: String,
    pub value: String,
    /// `!=` instead of `=`.
    pub negated: bool,
}

/// A conjunction of conditions on fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    pub fn everything() -> Self {
        Self::default()
    }

    /// Reads the string form. `\`, `,` and `=` in values are escaped by a backslash.
    ///
    /// # Errors
    /// With upstream's message when the text does not parse.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in terms(text).filter(|term| !term.is_empty()) {
            let (field, negated, value) = split(term)
                .ok_or_else(|| SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")))?;
            requirements.push(FieldRequirement { field: field.to_owned(), value: unescape(value)?, negated });
        }
        Ok(Self { requirements })
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// Matches fields that are looked up by `value`; an unknown field counts as empty.
    pub fn matches_by<T: AsRef<str>>(&self, value: impl Fn(&str) -> Option<T>) -> bool {
        self.requirements.iter().all(|requirement| {
            let found = value(&requirement.field);
            let equal = found.as_ref().map_or("", AsRef::as_ref) == requirement.value;
            equal != requirement.negated
        })
    }

    /// The value that `field` must have. For indexes and single-object requests.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.field == field && !r.negated).map(|r| r.value.as_str())
    }

    /// Refuses fields that a kind does not offer.
    ///
    /// # Errors
    /// With upstream's `field label not supported: …`.
    pub fn check(&self, offered: &[crate::strategy::SelectableField]) -> Result<(), SelectorError> {
        match self.requirements.iter().find(|r| offered.iter().all(|field| field.label != r.field)) {
            Some(unknown) => Err(SelectorError(format!("field label not supported: {}", unknown.field))),
            None => Ok(()),
        }
    }
}

/// Splits at commas that are not escaped.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let split = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        split
    })
}

fn split(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    let (negated, value) = match (rest.strip_prefix("!="), rest.strip_prefix("=="), rest.strip_prefix('=')) {
        (Some(value), _, _) => (true, value),
        (_, Some(value), _) | (_, _, Some(value)) => (false, value),
        _ => return None,
    };
    Some((field, negated, value))
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                Some(other) => {
                    return Err(SelectorError(format!("invalid field selector: invalid escape sequence: \\{other}")));
                }
                None => return Err(SelectorError("invalid field selector: invalid escape sequence: \\".to_owned())),
            },
            ',' | '=' => {
                return Err(SelectorError(format!("invalid field selector: unescaped character in value: {c}")));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, requirement) in self.requirements.iter().enumerate() {
            let value = requirement.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            let (comma, sign) = (if n == 0 { "" } else { "," }, if requirement.negated { "!=" } else { "=" });
            write!(f, "{comma}{}{sign}{value}", requirement.field)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_parse_with_escapes() {
        let selector = FieldSelector::parse("status.phase==Running,spec.nodeName!=a\\,b\\=c").unwrap();
        assert_eq!(selector.exact("status.phase"), Some("Running"));
        assert_eq!(selector.requirements()[1].value, "a,b=c");
        assert_eq!(selector.to_string(), "status.phase=Running,spec.nodeName!=a\\,b\\=c");
        assert!(selector.matches_by(|field| (field == "status.phase").then_some("Running")));
    }

    #[test]
    fn broken_terms_are_refused() {
        assert_eq!(
            FieldSelector::parse("abc").unwrap_err().to_string(),
            "invalid selector: 'abc'; can't understand 'abc'"
        );
        assert!(FieldSelector::parse("a=b=c").is_err());
        assert!(FieldSelector::parse("").unwrap().is_everything());
    }

    #[test]
    fn unknown_fields_are_named() {
        let selector = FieldSelector::parse("spec.foo=1").unwrap();
        let offered = crate::strategy::typed::METADATA_FIELDS;
        assert_eq!(selector.check(offered).unwrap_err().to_string(), "field label not supported: spec.foo");
    }
}
