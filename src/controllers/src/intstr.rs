//! Counts given as a number or as a percentage of a total, and the two bounds of a rolling update.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    Up,
    Down,
}

/// `value` of `total`. A string that is no percentage counts as nothing.
pub(crate) fn resolve(value: &IntOrString, total: i32, round: Round) -> i32 {
    match value {
        IntOrString::Int(count) => *count,
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|p| p.trim().parse().ok()).unwrap_or(0);
            let product = percent * i64::from(total);
            let count = if round == Round::Up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(count).unwrap_or(i32::MAX)
        }
    }
}

/// How many pods a rolling update may have above and below the wanted number. Not both are zero: it would never end.
pub(crate) fn surge_and_unavailable(
    surge: Option<&IntOrString>,
    unavailable: Option<&IntOrString>,
    replicas: i32,
    default: &IntOrString,
) -> (i32, i32) {
    let surge = resolve(surge.unwrap_or(default), replicas, Round::Up);
    let unavailable = resolve(unavailable.unwrap_or(default), replicas, Round::Down);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let quarter = IntOrString::String("25%".into());
        assert_eq!(resolve(&quarter, 10, Round::Up), 3);
        assert_eq!(resolve(&quarter, 10, Round::Down), 2);
        assert_eq!(resolve(&IntOrString::Int(4), 10, Round::Up), 4);
        assert_eq!(resolve(&IntOrString::String("many".into()), 10, Round::Up), 0);
    }

    #[test]
    fn a_rolling_update_can_always_move() {
        let zero = IntOrString::Int(0);
        assert_eq!(surge_and_unavailable(Some(&zero), Some(&zero), 3, &zero), (0, 1));
        let quarter = IntOrString::String("25%".into());
        assert_eq!(surge_and_unavailable(None, None, 1, &quarter), (1, 0));
    }
}
