//! From what is applied to what is wanted, in an order the kernel takes in one batch. Pure.
//!
//! The order matters because references are counted while the batch is read: new chains come before the elements
//! that name them, elements go before the chains they name, and a key is removed before it is added with other data.

use super::model::{ChainKind, Data, Rule, Ruleset, SetName};

/// One step of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    AddSet(SetName),
    AddChain(&'a str, ChainKind),
    RemoveElements(SetName, Vec<(&'a [u8], &'a Data)>),
    FlushChain(&'a str),
    AddRule(&'a str, &'a Rule),
    AddElements(SetName, Vec<(&'a [u8], &'a Data)>),
    RemoveChain(&'a str),
}

/// Steps that make the whole table in an empty one.
pub(crate) fn build(wanted: &Ruleset) -> Vec<Change<'_>> {
    let mut changes: Vec<Change<'_>> = wanted.sets.keys().map(|name| Change::AddSet(*name)).collect();
    changes.extend(wanted.chains.iter().map(|(name, chain)| Change::AddChain(name, chain.kind)));
    for (name, chain) in &wanted.chains {
        changes.extend(chain.rules.iter().map(|rule| Change::AddRule(name, rule)));
    }
    for (name, elements) in &wanted.sets {
        if !elements.is_empty() {
            changes.push(Change::AddElements(*name, elements.iter().map(|(k, d)| (k.as_slice(), d)).collect()));
        }
    }
    changes
}

/// Steps from `applied` to `wanted`; `None` when only a rebuild will do (a base chain or the list of sets differs).
pub(crate) fn delta<'a>(applied: &'a Ruleset, wanted: &'a Ruleset) -> Option<Vec<Change<'a>>> {
    if !applied.sets.keys().eq(wanted.sets.keys()) {
        return None;
    }
    let mut changes = Vec::new();
    let mut rules = Vec::new();
    for (name, chain) in &wanted.chains {
        match applied.chains.get(name) {
            Some(old) if old == chain => continue,
            Some(old) if old.kind != chain.kind => return None,
            Some(_) => rules.push(Change::FlushChain(name)),
            None => changes.push(Change::AddChain(name, chain.kind)),
        }
        rules.extend(chain.rules.iter().map(|rule| Change::AddRule(name, rule)));
    }
    let gone: Vec<&String> = applied.chains.keys().filter(|name| !wanted.chains.contains_key(*name)).collect();
    if gone.iter().any(|name| applied.chains[*name].kind != ChainKind::Regular) {
        return None;
    }
    let mut additions = Vec::new();
    for (name, elements) in &wanted.sets {
        let old = &applied.sets[name];
        let removed: Vec<_> = old.iter().filter(|(k, d)| elements.get(*k) != Some(d)).map(element).collect();
        let added: Vec<_> = elements.iter().filter(|(k, d)| old.get(*k) != Some(d)).map(element).collect();
        if !removed.is_empty() {
            changes.push(Change::RemoveElements(*name, removed));
        }
        if !added.is_empty() {
            additions.push(Change::AddElements(*name, added));
        }
    }
    changes.extend(rules);
    changes.extend(additions);
    changes.extend(gone.iter().map(|name| Change::FlushChain(name)));
    changes.extend(gone.iter().map(|name| Change::RemoveChain(name)));
    Some(changes)
}

fn element<'a>((key, data): (&'a Vec<u8>, &'a Data)) -> (&'a [u8], &'a Data) {
    (key, data)
}

#[cfg(test)]
mod tests {
    use super::super::model::{Action, Chain};
    use super::*;

    fn ruleset(chains: &[(&str, Action)], elements: &[(u8, Data)]) -> Ruleset {
        let chain = |action: &Action| Chain { kind: ChainKind::Regular, rules: vec![Rule::new([], action.clone())] };
        Ruleset {
            chains: chains.iter().map(|(name, action)| ((*name).to_owned(), chain(action))).collect(),
            sets: [(SetName::Services, elements.iter().map(|(k, d)| (vec![*k], d.clone())).collect())].into(),
        }
    }

    #[test]
    fn equal_rulesets_need_no_change() {
        let one = ruleset(&[("a", Action::Drop)], &[(1, Data::Drop)]);
        assert_eq!(delta(&one, &one), Some(vec![]));
    }

    #[test]
    fn a_removed_chain_goes_after_the_elements_that_name_it() {
        let before = ruleset(&[("a", Action::Drop)], &[(1, Data::Goto("a".into()))]);
        let after = ruleset(&[], &[]);
        let changes = delta(&before, &after).unwrap();
        let at = |wanted: fn(&Change<'_>) -> bool| changes.iter().position(wanted).unwrap();
        assert!(at(|c| matches!(c, Change::RemoveElements(..))) < at(|c| matches!(c, Change::RemoveChain("a"))));
    }

    #[test]
    fn changed_data_is_removed_before_it_is_added() {
        let before = ruleset(&[], &[(1, Data::Drop), (2, Data::Drop)]);
        let after = ruleset(&[("a", Action::Drop)], &[(1, Data::Goto("a".into())), (2, Data::Drop)]);
        let changes = delta(&before, &after).unwrap();
        assert_eq!(
            changes,
            vec![
                Change::AddChain("a", ChainKind::Regular),
                Change::RemoveElements(SetName::Services, vec![(&[1], &Data::Drop)]),
                Change::AddRule("a", &Rule::new([], Action::Drop)),
                Change::AddElements(SetName::Services, vec![(&[1], &Data::Goto("a".into()))]),
            ]
        );
    }

    #[test]
    fn only_the_changed_chain_is_flushed() {
        let before = ruleset(&[("a", Action::Drop), ("b", Action::Drop)], &[]);
        let after = ruleset(&[("a", Action::Drop), ("b", Action::Accept)], &[]);
        assert_eq!(
            delta(&before, &after).unwrap(),
            vec![Change::FlushChain("b"), Change::AddRule("b", &Rule::new([], Action::Accept))]
        );
    }

    #[test]
    fn another_list_of_sets_is_a_rebuild() {
        let before = ruleset(&[], &[]);
        assert_eq!(delta(&before, &Ruleset::default()), None);
    }
}
