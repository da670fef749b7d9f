//! Whose a row is that one which comes over in a merge collides with.

use super::plan::{Plan, Row};
use super::settle::Meeting;
use crate::error::Error;
use std::collections::{BTreeMap, BTreeSet};

/// The columns of a row, or of one that it refers to, by what they are called in the row that comes over.
type Names = BTreeMap<String, String>;

impl Plan<'_> {
    /// Whether of two rows that meet each belongs where the other one comes, or is.
    pub fn may_give_way(&mut self, meeting: &Meeting) -> Result<bool, Error> {
        let (unique, moved, other) = (meeting.unique, meeting.moved, meeting.other);
        self.learn(&other)?;
        let mut of_one = self.is_of_one(unique, &moved, &other);
        if meeting.both {
            of_one |= self.is_of_one(unique, &other, &moved);
        }
        Ok(of_one)
    }

    /// Whether the row `other` belongs where `moved` comes.
    ///
    /// It does where the index has in it what says so: the id of the user who stays, or all by which both refer to one row, theirs,
    /// to which another gave way (two cards of one number on a board). Where the index has but a part of a key in it, the tenant in
    /// (tenant, owner), it says nothing: then the row must refer to the user who stays by every such key.
    fn is_of_one(&self, unique: usize, moved: &Row, other: &Row) -> bool {
        let Some(known) = self.rows.get(moved) else {
            return false;
        };
        let shape = self.shape(moved.0);
        let uses = |column: &String| {
            shape.is_touched_by(&shape.unique[unique], std::slice::from_ref(column))
        };
        let comes = |column: &String| known.after.get(column).is_some();
        let is_same = |column: &String, others: &String| {
            let held = self.after(other, others);
            held.is_some() && held == self.after(moved, column)
        };
        let moving = self.mover.references.tables[moved.0].moving.iter().map(|m| &m.column);
        let ids: Vec<&String> = moving.filter(|column| uses(column)).collect();
        if ids.iter().any(|id| comes(id) && ids.iter().any(|others| is_same(id, others))) {
            return true;
        }
        let mut by_user = Vec::new();
        let mut seen: BTreeSet<(Row, Names)> = BTreeSet::new();
        let own = self.keys().iter().filter(|key| key.child == moved.0).flat_map(|k| &k.columns);
        let own: Names = own.map(|column| (column.clone(), column.clone())).collect();
        let mut open = vec![(*moved, own)];
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
                let is_to_heir = heir != parent
                    && (row == *moved
                        || parts.all(|(k, c)| self.after(heir, k) == self.after(moved, c)));
                if is_to_heir && columns.iter().any(|column| comes(column) && uses(column)) {
                    // The other row may refer to the heir by another key of the same kind: the pair of a chat has no order.
                    let is_alike = |others: &[String]| {
                        columns.iter().zip(others).all(|(column, others)| is_same(column, others))
                    };
                    let mut alike = self.keys().iter().filter(|k| {
                        row == *moved
                            && (k.child, k.parent) == (key.child, key.parent)
                            && k.keys == key.keys
                            && k.columns.iter().all(uses)
                    });
                    if columns.iter().all(uses) {
                        if is_alike(&columns) || alike.any(|k| is_alike(&k.columns)) {
                            return true;
                        }
                    } else if row == *moved && key.parent == 0 {
                        by_user.push(is_alike(&columns));
                    }
                }
                let up: Names = key.keys.iter().cloned().zip(columns).collect();
                if seen.insert((*parent, up.clone())) {
                    open.push((*parent, up));
                }
            }
        }
        !by_user.is_empty() && !by_user.contains(&false)
    }
}
