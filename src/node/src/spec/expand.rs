//! `$(NAME)` expansion in commands, arguments, variables and `subPathExpr`. Pure.
//!
//! `$$` is a literal dollar; a reference to an unknown name stays as it is written, as the API documents.

/// Expands `input`, asking `lookup` for each name.
pub fn expand<'a>(input: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|body| body.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The first `$(NAME)` in `input` that `lookup` does not know.
pub fn first_unknown<'a>(input: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let mut rest = input;
    while let Some(dollar) = rest.find('$') {
        let after = &rest[dollar + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|body| body.split_once(')')) {
            if lookup(name).is_none() {
                return Some(name.to_owned());
            }
            rest = tail;
        } else {
            rest = after;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{expand, first_unknown};

    fn vars(name: &str) -> Option<&'static str> {
        match name {
            "A" => Some("1"),
            "EMPTY" => Some(""),
            _ => None,
        }
    }

    #[test]
    fn expands_known_names_and_keeps_unknown_ones() {
        for (input, want) in [
            ("x$(A)y", "x1y"),
            ("$(A)$(A)", "11"),
            ("$(NOPE)", "$(NOPE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$(EMPTY)!", "!"),
            ("π$(A)", "π1"),
        ] {
            assert_eq!(expand(input, vars), want, "{input}");
        }
    }

    #[test]
    fn names_the_first_unknown_reference() {
        assert_eq!(first_unknown("$(A)/$(B)/$(C)", vars).as_deref(), Some("B"));
        assert_eq!(first_unknown("$(A)/$$(B)", vars), None);
    }
}
