//! Whose the rows are that collide in a merge.

use super::plan::{Plan, Row};
use super::settle::Meeting;
use crate::error::Error;
use std::collections::{BTreeMap, BTreeSet};

/// The columns of a row, or of one that it refers to, by what they are called in the row that collides.
type Names = BTreeMap<String, String>;

impl Plan<'_> {
    /// Whether two rows that collide are both of the two users, so that one may give way to the other.
    ///
    /// They are where the key of the index has in it what says so: the id of the user who stays, or all by which both refer to one
    /// row that two became (two cards of one number on a board). Where it has but a part of that in it, the tenant in (tenant, owner),
    /// both must refer to that row, and neither may name another user. So it is where only the predicate, or the bounds of a
    /// partition, have the id in them.
    pub fn are_of_one(&mut self, meeting: &Meeting) -> Result<bool, Error> {
        let (unique, moved, other) = (meeting.unique, meeting.moved, meeting.other);
        self.learn(&other)?;
        Ok(self.is_of_one(unique, &moved, &other) || self.is_of_one(unique, &other, &moved))
    }

    fn is_of_one(&self, unique: usize, one: &Row, other: &Row) -> bool {
        let shape = self.shape(one.0);
        let is_key = |column: &String| {
            shape.is_keyed_by(&shape.unique[unique], std::slice::from_ref(column))
        };
        let uses = |column: &String| {
            shape.is_touched_by(&shape.unique[unique], std::slice::from_ref(column))
        };
        let leaving = self.gone.keys().find(|row| row.0 == 0);
        let staying = leaving.and_then(|row| self.after(self.heir(row), "id")).unwrap_or_default();
        let ids: Vec<&String> =
            self.mover.references.tables[one.0].moving.iter().map(|m| &m.column).collect();
        let named = |row: &Row, column: &String| {
            self.after(row, column).map(|id| id.eq_ignore_ascii_case(&staying))
        };
        let says_whose =
            |row: &Row| ids.iter().any(|id| is_key(id) && named(row, id) == Some(true));
        if says_whose(one) && says_whose(other) {
            return true;
        }
        let names_others = |row: &Row| ids.iter().any(|id| named(row, id) == Some(false));
        let is_only_theirs = |row: &Row| {
            let mut used = ids.iter().filter(|id| uses(id));
            used.any(|id| named(row, id) == Some(true)) && !names_others(row)
        };
        if is_only_theirs(one) && is_only_theirs(other) {
            return true;
        }
        let is_alike = |columns: &[String], others: &[String]| {
            columns.iter().zip(others).all(|(column, others)| {
                let held = self.after(other, others);
                held.is_some() && held == self.after(one, column)
            })
        };
        let mut seen: BTreeSet<(Row, Names)> = BTreeSet::new();
        let own = self.keys().iter().filter(|key| key.child == one.0).flat_map(|k| &k.columns);
        let own: Names = own.map(|column| (column.clone(), column.clone())).collect();
        let mut open = vec![(*one, own)];
        while let Some((row, names)) = open.pop() {
            for (number, key) in self.keys().iter().enumerate().filter(|(_, k)| k.child == row.0) {
                let ids = key.columns.len() - usize::from(key.period);
                let columns = key.columns[..ids].iter().map(|column| names.get(column).cloned());
                let (Some(parent), Some(columns)) =
                    (self.parents.get(&(row, number)), columns.collect::<Option<Vec<String>>>())
                else {
                    continue;
                };
                let heir = self.heir(parent);
                let mut parts = key.keys.iter().zip(&columns);
                let refers =
                    row == *one || parts.all(|(k, c)| self.after(heir, k) == self.after(one, c));
                if refers && self.has_losers(heir) {
                    let is_inside = columns.iter().all(is_key);
                    // The other row may refer to it by another key of the same kind: the pair of a chat has no order.
                    let mut alike = self.keys().iter().filter(|k| {
                        row == *one
                            && (k.child, k.parent) == (key.child, key.parent)
                            && k.keys == key.keys
                            && k.columns.iter().all(is_key)
                    });
                    let of_one = match is_inside {
                        true => {
                            is_alike(&columns, &columns)
                                || alike.any(|k| is_alike(&columns, &k.columns))
                        }
                        false => {
                            row == *one
                                && columns.iter().any(is_key)
                                && is_alike(&columns, &columns)
                                && !names_others(one)
                                && !names_others(other)
                        }
                    };
                    if of_one {
                        return true;
                    }
                }
                let up: Names = key.keys.iter().cloned().zip(columns).collect();
                if seen.insert((*parent, up.clone())) {
                    open.push((*parent, up));
                }
            }
        }
        false
    }
}
