//! In which order tables are written, and as whom.

use super::changes::TableChanges;
use crate::catalog::references::References;
use pgrx::pg_sys::Oid;
use std::collections::HashMap;

/// Each of `owners` once, in the order in which they come first.
pub fn distinct(owners: impl Iterator<Item = Oid>) -> Vec<Oid> {
    let mut all = Vec::new();
    for owner in owners {
        if !all.contains(&owner) {
            all.push(owner);
        }
    }
    all
}

/// The numbers below `tables`, each after those it refers to by one of `keys`, pairs of a child and its parent; in a ring, as
/// they come. Callers leave out what `app_users` itself refers to: it comes before all that refers to it.
pub fn parents_first(tables: usize, keys: impl Iterator<Item = (usize, usize)>) -> Vec<usize> {
    let (mut waits, mut children) = (vec![0; tables], vec![Vec::new(); tables]);
    for (child, parent) in keys.filter(|(child, parent)| child != parent) {
        waits[child] += 1;
        children[parent].push(child);
    }
    let mut left: Vec<usize> = (0..tables).collect();
    let mut all = Vec::with_capacity(tables);
    while !left.is_empty() {
        let next = left.remove(left.iter().position(|one| waits[*one] == 0).unwrap_or(0));
        children[next].iter().for_each(|child| waits[*child] -= 1);
        all.push(next);
    }
    all
}

#[derive(Clone, Copy)]
pub enum Write {
    Delete,
    Update,
    Insert,
}

/// What is written as one owner before another has their turn: places of changes.
pub struct Turn {
    pub owner: Oid,
    pub writes: Vec<(usize, Write)>,
}

/// Nothing is changed before everything that gives way is gone, and what refers to a row not before that row is there: a
/// BEFORE trigger of the application may look it up.
pub fn turns(changes: &[TableChanges], references: &References) -> Vec<Turn> {
    let owner = |place: usize| changes[place].of.table.owner;
    let mut turns: Vec<Turn> = distinct(changes.iter().map(|c| c.of.table.owner))
        .into_iter()
        .map(|of| Turn {
            owner: of,
            writes: (0..changes.len())
                .filter(|place| owner(*place) == of)
                .map(|place| (place, Write::Delete))
                .collect(),
        })
        .collect();
    let first = turns.len();
    let places: HashMap<Oid, usize> =
        changes.iter().enumerate().map(|(place, c)| (c.of.table.oid, place)).collect();
    let place_of = |table: usize| places.get(&references.tables[table].oid).copied();
    let keys = references.keys.iter().filter(|key| key.child != 0);
    let keys = keys.filter_map(|key| Some((place_of(key.child)?, place_of(key.parent)?)));
    for place in parents_first(changes.len(), keys) {
        if turns.len() == first || turns.last().is_none_or(|turn| turn.owner != owner(place)) {
            turns.push(Turn { owner: owner(place), writes: Vec::new() });
        }
        if let Some(turn) = turns.last_mut() {
            turn.writes.extend([(place, Write::Update), (place, Write::Insert)]);
        }
    }
    turns
}
