//! In which members two large sets differ, found in one pass over each and in little memory: an invertible Bloom lookup
//! table (Goodrich and Mitzenmacher, 2011), which adds the members of one set and takes away those of the other, so that
//! what both have leaves nothing behind (Eppstein, Goodrich, Uyeda and Varghese, "What's the Difference?", 2011).
//!
//! A member counts as in both sets where 64 bits of a hash of its value agree, whose key nobody knows: a difference is
//! overlooked as seldom as two random ids are the same.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Each member lies in as many cells, one in each part of the table. With three, all are found as long as there are at most
/// four members to five cells.
const PARTS: usize = 3;
const PART: usize = 1 << 14;

/// What lies in a cell, all of it together.
#[derive(Clone, Copy, Default, PartialEq)]
struct Cell {
    /// Those of the first set less those of the second.
    count: i32,
    check: u32,
    digest: u64,
    id: u128,
}

impl Cell {
    fn of(count: i32, id: u128, digest: u64) -> Self {
        Cell { count, check: check(digest), digest, id }
    }

    fn add(&mut self, other: &Cell) {
        self.count = self.count.wrapping_add(other.count);
        self.check ^= other.check;
        self.digest ^= other.digest;
        self.id ^= other.id;
    }

    /// Whether just one member lies here.
    fn is_single(&self) -> bool {
        self.count.unsigned_abs() == 1 && self.check == check(self.digest)
    }
}

/// The digests of several members, taken together, have not the checks of these members, taken together.
fn check(digest: u64) -> u32 {
    (digest.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

fn places(digest: u64) -> [usize; PARTS] {
    std::array::from_fn(|part| part * PART + (digest >> (part * 21)) as usize % PART)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Set {
    First,
    Second,
}

/// The table: what two sets of members, each an id with a value, have not in common.
pub struct Differences {
    cells: Vec<Cell>,
    keyed: RandomState,
}

impl Default for Differences {
    fn default() -> Self {
        Differences { cells: vec![Cell::default(); PARTS * PART], keyed: RandomState::new() }
    }
}

impl Differences {
    pub fn add(&mut self, set: Set, id: u128, value: Option<&[u8]>) {
        let mut hasher = self.keyed.build_hasher();
        hasher.write_u128(id);
        if let Some(value) = value {
            hasher.write_u8(1);
            hasher.write(value);
        }
        let count = if set == Set::First { 1 } else { -1 };
        self.put(&Cell::of(count, id, hasher.finish()));
    }

    fn put(&mut self, member: &Cell) {
        for place in places(member.digest) {
            self.cells[place].add(member);
        }
    }

    /// The ids of the members that are in one set only, each once; None where they are too many to tell, at some 40,000.
    pub fn ids(mut self) -> Option<Vec<u128>> {
        let mut ids = Vec::new();
        let mut singles: Vec<usize> = (0..self.cells.len()).collect();
        while let Some(place) = singles.pop() {
            let Cell { count, id, digest, .. } = self.cells[place];
            let is_here = self.cells[place].is_single() && places(digest).contains(&place);
            if is_here {
                ids.push(id);
                self.put(&Cell::of(-count, id, digest));
                singles.extend(places(digest));
            }
        }
        ids.sort_unstable();
        ids.dedup();
        self.cells.iter().all(|cell| *cell == Cell::default()).then_some(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn found(first: &[(u128, Option<&str>)], second: &[(u128, Option<&str>)]) -> Option<Vec<u128>> {
        let mut differences = Differences::default();
        for (set, members) in [(Set::First, first), (Set::Second, second)] {
            for (id, value) in members {
                differences.add(set, *id, value.map(str::as_bytes));
            }
        }
        differences.ids()
    }

    #[test]
    fn what_both_have_leaves_nothing() {
        let both = [(0, None), (1, Some("")), (u128::MAX, Some("a"))];
        assert_eq!(found(&both, &both), Some(vec![]));
    }

    #[test]
    fn each_difference_is_found() {
        let first = [(1, Some("a")), (2, Some("b")), (3, Some("")), (4, Some("d"))];
        let second = [(2, Some("B")), (3, None), (4, Some("d")), (5, Some("a"))];
        assert_eq!(found(&first, &second), Some(vec![1, 2, 3, 5]));
    }

    #[test]
    fn members_there_twice_are_no_single_ones() {
        assert_eq!(found(&[(7, Some("a"))], &[(7, Some("a")), (7, Some("a"))]), Some(vec![7]));
        assert_eq!(found(&[(7, Some("a")), (7, Some("a"))], &[]), None);
    }

    #[test]
    fn tens_of_thousands_are_found_and_more_are_said_to_be_too_many() {
        let members = |n: u128| (0..n).map(|id| (id, None)).collect::<Vec<_>>();
        assert_eq!(found(&members(35_000), &[]).map(|ids| ids.len()), Some(35_000));
        assert_eq!(found(&members(60_000), &members(35_000)).map(|ids| ids.len()), Some(25_000));
        assert_eq!(found(&members(60_000), &[]), None);
    }

    proptest! {
        #[test]
        fn as_two_maps_differ(
            first in prop::collection::btree_map(0..60u128, prop::option::of("[ab]{0,2}"), 0..60),
            second in prop::collection::btree_map(0..60u128, prop::option::of("[ab]{0,2}"), 0..60),
        ) {
            let list = |map: &BTreeMap<u128, Option<String>>| -> Vec<(u128, Option<String>)> {
                map.iter().map(|(id, value)| (*id, value.clone())).collect()
            };
            let mut differences = Differences::default();
            for (set, members) in [(Set::First, list(&first)), (Set::Second, list(&second))] {
                for (id, value) in members {
                    differences.add(set, id, value.as_deref().map(str::as_bytes));
                }
            }
            let ids: BTreeSet<u128> = first.keys().chain(second.keys()).copied().collect();
            let differ: Vec<u128> = ids.into_iter().filter(|id| first.get(id) != second.get(id)).collect();
            prop_assert_eq!(differences.ids(), Some(differ));
        }
    }
}
