//! `IntOrString`: a count or a percentage.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The number before `%`, if `value` is a percentage.
pub fn percent(value: &IntOrString) -> Option<i32> {
    match value {
        IntOrString::Int(_) => None,
        IntOrString::String(text) => {
            let digits = text.strip_suffix('%')?;
            (!digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
        }
    }
}

/// The count that `value` stands for out of `total`; `None` for a text that is no percentage.
pub fn scaled(value: &IntOrString, total: i32, round_up: bool) -> Option<i32> {
    if let IntOrString::Int(count) = value {
        return Some(*count);
    }
    let product = i64::from(percent(value)?) * i64::from(total);
    let rounded = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
    i32::try_from(rounded).ok()
}

/// As messages and columns show it.
pub fn display(value: &IntOrString) -> String {
    match value {
        IntOrString::Int(count) => count.to_string(),
        IntOrString::String(text) => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_scale_with_the_asked_rounding() {
        let quarter = IntOrString::String("25%".to_owned());
        assert_eq!(scaled(&quarter, 10, true), Some(3));
        assert_eq!(scaled(&quarter, 10, false), Some(2));
        assert_eq!(scaled(&IntOrString::Int(4), 10, false), Some(4));
        assert_eq!(scaled(&IntOrString::String("x".to_owned()), 10, false), None);
        assert_eq!(percent(&IntOrString::String("%".to_owned())), None);
    }
}
