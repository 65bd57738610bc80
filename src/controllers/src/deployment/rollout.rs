//! How many replicas each replica set is to have: rolling update, recreate, and proportional scaling. Pure; works on
//! copies of the replica sets, whose differences from the originals are the commands.

use std::cmp::Reverse;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::revision::{age_key, set_sizes};
use super::view::{self, DESIRED, MAX, annotation, available, set_replicas, total_replicas};

/// The present replica set, where there is one, and the older ones.
#[derive(Debug, Default)]
pub(super) struct Sets {
    pub(super) new: Option<ReplicaSet>,
    pub(super) old: Vec<ReplicaSet>,
}

impl Sets {
    pub(super) fn all(&self) -> impl Iterator<Item = &ReplicaSet> + Clone {
        self.new.iter().chain(&self.old)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut ReplicaSet> {
        self.new.iter_mut().chain(&mut self.old)
    }
}

/// Sets a replica set's size. Whether the size changed.
fn resize(deployment: &Deployment, set: &mut ReplicaSet, size: i32) -> bool {
    let changed = set_replicas(set) != size;
    set.spec.get_or_insert_default().replicas = Some(size);
    set_sizes(deployment, set);
    changed
}

/// Whether the deployment's own size was changed since its replica sets were last sized.
pub(super) fn is_scaling(deployment: &Deployment, sets: &Sets) -> bool {
    let wanted = view::replicas(deployment);
    sets.all().filter(|set| set_replicas(set) > 0).any(|set| {
        annotation(set, DESIRED).and_then(|d| d.parse::<i32>().ok()).is_some_and(|desired| desired != wanted)
    })
}

/// The size the present replica set may have now.
pub(super) fn new_size(deployment: &Deployment, sets: &Sets) -> i32 {
    let wanted = view::replicas(deployment);
    let current = sets.new.as_ref().map_or(0, set_replicas);
    if view::is_recreate(deployment) {
        return wanted;
    }
    let room = wanted + view::max_surge(deployment) - total_replicas(sets.all());
    if room <= 0 { current } else { current + room.min(wanted - current) }
}

/// Moves a rolling update one step: up if it can, else down. Whether any size changed.
pub(super) fn roll(deployment: &Deployment, sets: &mut Sets) -> bool {
    grow(deployment, sets) || shrink(deployment, sets)
}

pub(super) fn grow(deployment: &Deployment, sets: &mut Sets) -> bool {
    let wanted = view::replicas(deployment);
    let size = new_size(deployment, sets);
    let Some(new) = &mut sets.new else { return false };
    let current = set_replicas(new);
    if current == wanted {
        return false;
    }
    resize(deployment, new, if current > wanted { wanted } else { size })
}

fn shrink(deployment: &Deployment, sets: &mut Sets) -> bool {
    let wanted = view::replicas(deployment);
    if total_replicas(&sets.old) == 0 {
        return false;
    }
    let least = wanted - view::max_unavailable(deployment);
    let new_unavailable = sets.new.as_ref().map_or(0, |set| set_replicas(set) - available(set));
    let mut budget = total_replicas(sets.all()) - least - new_unavailable;
    if budget <= 0 {
        return false;
    }
    sets.old.sort_by_key(age_key);
    let mut changed = false;
    // Pods that are not available cost nothing to remove.
    for set in &mut sets.old {
        let unhealthy = (set_replicas(set) - available(set)).clamp(0, budget.max(0));
        if unhealthy > 0 {
            budget -= unhealthy;
            changed |= resize(deployment, set, set_replicas(set) - unhealthy);
        }
    }
    let mut spare = sets.all().map(available).sum::<i32>() - least;
    for set in &mut sets.old {
        let down = spare.min(set_replicas(set));
        if down > 0 {
            spare -= down;
            changed |= resize(deployment, set, set_replicas(set) - down);
        }
    }
    changed
}

/// Takes all old replica sets to zero. Whether any was not.
pub(super) fn stop_old(deployment: &Deployment, sets: &mut Sets) -> bool {
    let mut changed = false;
    for set in sets.old.iter_mut().filter(|set| set_replicas(set) > 0) {
        changed |= resize(deployment, set, 0);
    }
    changed
}

/// Follows a change of the deployment's size without moving the rollout: all active replica sets keep their share.
pub(super) fn scale(deployment: &Deployment, sets: &mut Sets) {
    // Whatever happens to sizes, each active set notes the wanted one: else this would be taken for scaling for ever.
    if let Some(set) = sole(sets) {
        resize(deployment, set, view::replicas(deployment));
    } else if is_saturated(deployment, sets.new.as_ref()) {
        stop_old(deployment, sets);
    } else if view::is_recreate(deployment) {
        for set in sets.all_mut().filter(|set| set_replicas(set) > 0) {
            set_sizes(deployment, set);
        }
    } else {
        scale_in_proportion(deployment, sets);
    }
}

/// The only active replica set; if none is active, the present or latest one.
fn sole(sets: &mut Sets) -> Option<&mut ReplicaSet> {
    let active = sets.all().filter(|set| set_replicas(set) > 0).count();
    match active {
        0 if sets.new.is_some() => sets.new.as_mut(),
        0 => sets.old.iter_mut().max_by_key(|set| age_key(set)),
        1 => sets.all_mut().find(|set| set_replicas(set) > 0),
        _ => None,
    }
}

fn is_saturated(deployment: &Deployment, new: Option<&ReplicaSet>) -> bool {
    let wanted = view::replicas(deployment);
    new.is_some_and(|set| {
        set_replicas(set) == wanted
            && annotation(set, DESIRED).and_then(|d| d.parse().ok()) == Some(wanted)
            && available(set) == wanted
    })
}

fn scale_in_proportion(deployment: &Deployment, sets: &mut Sets) {
    let wanted = view::replicas(deployment);
    let allowed = if wanted > 0 { wanted + view::max_surge(deployment) } else { 0 };
    let mut active: Vec<&mut ReplicaSet> = sets.all_mut().filter(|set| set_replicas(set) > 0).collect();
    let to_add = allowed - active.iter().map(|set| set_replicas(set)).sum::<i32>();
    // The largest first; of equals the newest when growing, the oldest when shrinking.
    active.sort_by_key(|set| age_key(set));
    if to_add > 0 {
        active.reverse();
    }
    active.sort_by_key(|set| Reverse(set_replicas(set)));
    let mut added = 0;
    let mut sizes = Vec::with_capacity(active.len());
    for set in &active {
        let part = proportion(deployment, set, to_add, added);
        added += part;
        sizes.push(set_replicas(set) + part);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (set, size) in active.into_iter().zip(sizes) {
        resize(deployment, set, size);
    }
}

fn proportion(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if to_add == 0 || to_add == added {
        return 0;
    }
    let (part, left) = (fraction(deployment, set), to_add - added);
    if to_add > 0 { part.min(left) } else { part.max(left) }
}

/// How much the replica set would grow to keep its share of the deployment's largest size.
fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    let (wanted, size) = (view::replicas(deployment), set_replicas(set));
    if wanted == 0 {
        return -size;
    }
    let noted = annotation(set, MAX).and_then(|m| m.parse().ok());
    let before = noted.or_else(|| deployment.status.as_ref()?.replicas).unwrap_or(0);
    if before == 0 {
        return 0;
    }
    let most = i64::from(wanted + view::max_surge(deployment));
    let (numerator, before) = (i64::from(size) * most, i64::from(before));
    i32::try_from((2 * numerator + before) / (2 * before)).unwrap_or(i32::MAX) - size
}
