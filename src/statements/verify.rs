//! Whether a plan leaves every row with somebody to refer to.

use super::elements;
use super::fit::{self, Images};
use super::plan::{Known, Plan, Row};
use super::rekey::unquoted;
use super::rows::{Address, Text, address};
use crate::catalog::references::{Bounds, ForeignKey, Table};
use crate::catalog::tables::AUTH_USERS;
use crate::error::Error;
use crate::pg::{self, Arg, Json, Mode, Session};
use std::collections::BTreeSet;

impl Plan<'_> {
    /// Fails where a column has to follow two keys that do not agree, where a row that must stay as it is would have to
    /// follow, and where a row would refer to nobody.
    pub fn verify(&self) -> Result<(), Error> {
        if let Some(number) = self.loosened()?.first() {
            return Err(self.disagree(&self.keys()[*number]));
        }
        let temporal = |key: &&ForeignKey| key.period && key.validated;
        self.keys().iter().filter(temporal).try_for_each(|key| match self.uncovered(key) {
            0 => Ok(()),
            rows => Err(self.orphans(key, rows)),
        })
    }

    /// The same, but answers the foreign keys through which rows come to refer to another row though theirs stays.
    pub fn loosened(&self) -> Result<BTreeSet<usize>, Error> {
        for ((child, number), parent) in &self.parents {
            let Some(row) = self.stays(*number, child) else {
                continue;
            };
            let key = &self.keys()[*number];
            let heir = self.heir(parent);
            let wanted = self.wanted(*number, child)?;
            let mut disagrees =
                wanted.iter().any(|(column, wanted)| self.after(row, column) != *wanted);
            let generated = key.columns.iter().zip(&key.keys).zip(&key.generated).enumerate();
            for (place, ((column, k), _)) in generated.filter(|(_, (_, generated))| **generated) {
                let (is, held) = (self.after(heir, k), self.after(row, column));
                let refers = |is: &String, held: &String| {
                    fit::refers(self.session, self.mover, (key, place), (is, held), self.mode)
                };
                disagrees |= !matches!((&is, &held), (Some(is), Some(held)) if refers(is, held));
            }
            if disagrees {
                return Err(self.disagree(key));
            }
            let moves = |(column, wanted): &(String, Text)| self.before(row, column) != *wanted;
            let moving = wanted.into_iter().filter(moves);
            let mut fields = moving.map(|(column, _)| (*row, column));
            if fields.any(|field| self.untouchable.contains(&field)) {
                let table = self.mover.references.tables[child.0].label.clone();
                return Err(Error::Adopted { table });
            }
        }
        self.verify_partitions()?;
        self.verify_strays()?;
        self.verify_ties()
    }

    /// Fails where a row that others refer to comes to lie outside of the partition that their key refers to.
    fn verify_partitions(&self) -> Result<(), Error> {
        for (number, key) in self.keys().iter().enumerate().filter(|(_, key)| key.enforced) {
            let Some(bounds) = &key.parents_at else {
                continue;
            };
            let of_key = self.parents.iter().filter(|((_, of), _)| *of == number);
            let staying = of_key.filter(|((child, _), _)| self.stays(number, child).is_some());
            let heirs: Vec<&Row> = staying.map(|(_, parent)| self.heir(parent)).collect();
            let inside = self.inside(key.parent, heirs.iter().copied().collect(), bounds);
            match heirs.into_iter().filter(|heir| !inside.contains(*heir)).count() {
                0 => {}
                rows => return Err(self.orphans(key, rows)),
            }
            let Some(condition) = key.parent_stays.clone() else {
                continue;
            };
            let in_there = self.changing(key.parent).map(|(row, _)| row);
            let in_there: BTreeSet<&Row> = in_there.filter(|row| key.is_to(row.1.0)).collect();
            let stay = Bounds { partitions: bounds.partitions.clone(), condition };
            match in_there.len() - self.inside(key.parent, in_there, &stay).len() {
                0 => {}
                rows => return Err(self.cannot_leave(key, rows)),
            }
        }
        Ok(())
    }

    fn cannot_leave(&self, key: &ForeignKey, rows: usize) -> Error {
        Error::CannotLeave {
            table: self.mover.references.tables[key.parent].label.clone(),
            constraint: key.name.clone(),
            rows,
        }
    }

    /// Fails where the server would take rows for those of a key that goes ([`ForeignKey::strays`]).
    fn verify_strays(&self) -> Result<(), Error> {
        for key in self.keys().iter().filter(|key| key.strays && key.enforced) {
            let value = |row: &Row, after: bool| -> Vec<Text> {
                let value =
                    |k: &String| if after { self.after(row, k) } else { self.before(row, k) };
                key.keys.iter().map(value).collect()
            };
            let parents = || self.rows.keys().filter(|row| row.0 == key.parent);
            let stay: BTreeSet<Vec<Text>> = parents()
                .filter(|row| !self.gone.contains_key(row))
                .map(|row| value(row, true))
                .collect();
            let gone: BTreeSet<Vec<Text>> = parents()
                .map(|row| value(row, false))
                .filter(|now| now.iter().all(Option::is_some) && !stay.contains(now))
                .collect();
            if gone.is_empty() {
                continue;
            }
            let children = || self.rows.keys().filter(|row| row.0 == key.child);
            let (query, images) =
                self.image(key.child, children().filter(|row| !self.gone.contains_key(row)));
            let known = children().map(|(_, address)| *address).collect();
            let gone: Vec<&Vec<Text>> = gone.iter().collect();
            let images = Images { query, images, known };
            match fit::strays(self.session, self.mover, key, &gone, images, self.mode) {
                0 => {}
                rows => return Err(self.orphans(key, rows)),
            }
        }
        Ok(())
    }

    fn disagree(&self, key: &ForeignKey) -> Error {
        Error::KeysDisagree {
            table: self.mover.references.tables[key.child].label.clone(),
            columns: key.columns.iter().map(|c| unquoted(c)).collect(),
        }
    }

    /// Fails where a row would come to refer to nobody: by a key that it shares columns with, or because it does now and
    /// the foreign key is NOT VALID.
    fn verify_ties(&self) -> Result<BTreeSet<usize>, Error> {
        let mut loosened = BTreeSet::new();
        for (number, key) in self.keys().iter().enumerate() {
            let mut wanted: Vec<Vec<Text>> = Vec::new();
            let mut had: Vec<Vec<Text>> = Vec::new();
            let (comes, goes) = self.crossings(key);
            let looked_at = self.changing(key.child).filter(|(row, _)| {
                comes.contains(*row)
                    || key.partitions.as_ref().is_none_or(|parts| parts.contains(&row.1.0))
            });
            for (row, known) in looked_at {
                let changes = key.columns.iter().any(|c| known.after.contains(c));
                // The server checks an unchanged key too, where a row is changed for the second time in a transaction.
                let is_again = self.again.contains(row) || comes.contains(row);
                // A row that mixes NULLs under MATCH FULL fails with any change.
                let is_looked_at =
                    changes || comes.contains(row) || !key.validated && (is_again || key.full);
                if !is_looked_at || self.parents.contains_key(&(*row, number)) {
                    continue;
                }
                let before: Vec<Text> = key.columns.iter().map(|c| self.before(row, c)).collect();
                let after: Vec<Text> = key.columns.iter().map(|c| self.after(row, c)).collect();
                let nulls = after.iter().filter(|value| value.is_none()).count();
                let is_checked = key.enforced && !goes.contains(row);
                if is_checked && key.full && nulls > 0 && nulls < after.len() {
                    return Err(self.orphans(key, 1));
                }
                let was_bound = key.bounds.as_ref().is_none_or(|b| b.partitions.contains(&row.1.0));
                if self.leaves(key, row) && was_bound && before.iter().all(Option::is_some) {
                    had.push(before);
                }
                if is_checked && nulls == 0 && (changes || is_again) {
                    wanted.push(after);
                }
            }
            // What it refers to stays where it is: it cannot go on referring to it.
            let is_loosened = || key.validated || self.count_parents(key, &had) > 0;
            if key.enforced && !had.is_empty() && !self.is_to_auth(key) && is_loosened() {
                loosened.insert(number);
            }
            let there = self.referable(key);
            wanted.retain(|values| {
                !there
                    .iter()
                    .any(|row| key.keys.iter().zip(values).all(|(k, v)| self.after(row, k) == *v))
            });
            let missing = wanted.len() - self.count_parents(key, &wanted);
            if missing > 0 {
                return Err(self.orphans(key, missing));
            }
        }
        Ok(loosened)
    }

    /// Whether a row comes to refer to another by a column that moves. What is generated, and an e-mail, may.
    fn leaves(&self, key: &ForeignKey, row: &Row) -> bool {
        let changes =
            |column: &String| self.rows.get(row).is_some_and(|known| known.after.contains(column));
        let is_email = |column: &String| row.0 == 0 && column == "email";
        let mut columns = key.columns.iter().zip(&key.generated);
        columns.any(|(column, generated)| !generated && !is_email(column) && changes(column))
    }

    /// Whether a key refers to `auth.users`. What refers to both by one column, and changes, is meant to refer to another auth
    /// user than before.
    fn is_to_auth(&self, key: &ForeignKey) -> bool {
        self.mover.references.tables[key.parent].name == AUTH_USERS
    }

    /// The rows of a table that are written and stay.
    pub fn changing(&self, place: usize) -> impl Iterator<Item = (&Row, &Known)> {
        self.rows.iter().filter(move |(row, known)| {
            row.0 == place
                && !self.gone.contains_key(*row)
                && (!known.after.is_empty() || self.again.contains(*row))
        })
    }

    /// Where a key stands on a partition: the rows that come to lie in there, and those that will do so no more.
    pub fn crossings(&self, key: &ForeignKey) -> (BTreeSet<&Row>, BTreeSet<&Row>) {
        let Some(bounds) = &key.bounds else {
            return Default::default();
        };
        let rows: BTreeSet<&Row> = self.changing(key.child).map(|(row, _)| row).collect();
        let inside = self.inside(key.child, rows.clone(), bounds);
        let (stay, leave): (BTreeSet<&Row>, BTreeSet<&Row>) =
            rows.into_iter().partition(|row| inside.contains(*row));
        let was_there = |row: &&Row| bounds.partitions.contains(&row.1.0);
        let comes = stay.into_iter().filter(|row| !was_there(row)).collect();
        (comes, leave)
    }

    /// Those of `rows`, of one table, that come to lie, or stay, in a partition.
    fn inside(&self, place: usize, rows: BTreeSet<&Row>, bounds: &Bounds) -> BTreeSet<Row> {
        if rows.is_empty() {
            return BTreeSet::new();
        }
        let (query, images) = self.image(place, rows.into_iter());
        let table = &self.mover.references.tables[place];
        let args = [images.into()];
        within(self.session, table, bounds, &query, &args, self.mode)
            .into_iter()
            .map(|address| (place, address))
            .collect()
    }

    /// The known rows that a key can refer to in the end.
    pub(super) fn referable(&self, key: &ForeignKey) -> BTreeSet<Row> {
        let stay = |row: &&Row| row.0 == key.parent && !self.gone.contains_key(*row);
        let rows: BTreeSet<&Row> = self.rows.keys().filter(stay).collect();
        match &key.parents_at {
            Some(bounds) => self.inside(key.parent, rows, bounds),
            None => rows.into_iter().cloned().collect(),
        }
    }

    fn orphans(&self, key: &ForeignKey, rows: usize) -> Error {
        Error::Orphans {
            table: self.mover.references.tables[key.child].label.clone(),
            constraint: key.name.clone(),
            rows,
        }
    }

    /// How many rows have a period that those of the rows they refer to would not cover.
    fn uncovered(&self, key: &ForeignKey) -> usize {
        let stays = |row: &&Row| row.0 == key.child && !self.gone.contains_key(*row);
        let values =
            |row: &Row| -> Vec<Text> { key.columns.iter().map(|c| self.after(row, c)).collect() };
        let held: Vec<Vec<Text>> = self.rows.keys().filter(stays).map(values).collect();
        let held: Vec<_> = held.into_iter().filter(|v| v.iter().all(Option::is_some)).collect();
        let (Some((period, ids)), false) = (key.keys.split_last(), held.is_empty()) else {
            return 0;
        };
        let parents = self.rows.iter().filter(|(row, _)| row.0 == key.parent);
        let (changed, left): (Vec<_>, Vec<_>) =
            parents.partition(|(row, _)| !self.gone.contains_key(*row));
        let (query, images) = self.image(key.parent, changed.iter().map(|(row, _)| *row));
        let known = changed.iter().chain(&left);
        let known: Vec<[String; 2]> =
            known.map(|((_, (at, row)), _)| [at.to_string(), row.to_string()]).collect();
        let ours = self.shape(key.child);
        let on: Vec<String> = ids
            .iter()
            .enumerate()
            .map(|(i, k)| {
                let held = ours.base_of_text(&key.columns[i], &format!("x.r ->> {i}"));
                key.equal(i, &format!("p.{k}"), &held)
            })
            .collect();
        let list = key.keys.join(", ");
        let sql = format!(
            "WITH p AS (SELECT {list} FROM ({query}) m
                        UNION ALL
                        SELECT {list} FROM {} t
                         WHERE NOT EXISTS (SELECT FROM {} AS y
                                            WHERE t.tableoid = (y.r ->> 0)::oid AND t.ctid = (y.r ->> 1)::tid))
             SELECT count(*) FROM {} AS x
              WHERE ({} <@ (SELECT range_agg(p.{period}) FROM p WHERE {})) IS NOT TRUE",
            self.mover.references.tables[key.parent].target(),
            elements("$2", known.len()),
            elements("$3", held.len()),
            ours.base_of_text(&key.columns[ids.len()], &format!("x.r ->> {}", ids.len())),
            on.join(" AND ")
        );
        let args = [images.into(), Json::of(&known).into(), Json::of(&held).into()];
        let owner = self.mover.references.tables[key.parent].owner;
        let rows = pg::as_role(owner, || self.session.run(&sql, &args, self.mode).one::<i64>());
        rows.unwrap_or_default() as usize
    }

    /// How many of these keys belong to rows that neither change nor give way.
    fn count_parents(&self, key: &ForeignKey, wanted: &[Vec<Text>]) -> usize {
        if wanted.is_empty() {
            return 0;
        }
        let ours = self.shape(key.child);
        let parent = &self.mover.references.tables[key.parent];
        let on: Vec<String> = key
            .keys
            .iter()
            .enumerate()
            .map(|(i, k)| {
                let held = ours.base_of_text(&key.columns[i], &format!("x.r ->> {i}"));
                key.equal(i, &format!("t.{k}"), &held)
            })
            .collect();
        let there = self.referable(key);
        let sql = format!(
            "SELECT x.place, t.tableoid, t.ctid::text
                   FROM {} AS x JOIN {} t ON {}",
            elements("$1", wanted.len()),
            parent.target(),
            on.join(" AND ")
        );
        let mut found = BTreeSet::new();
        pg::as_role(parent.owner, || {
            let rows = self.session.run(&sql, &[Json::of(&wanted).into()], self.mode);
            for row in 0..rows.len() {
                if let (Some(place), Some(address)) =
                    (rows.get::<i64>(row, 1), address(&rows, row, 2))
                {
                    let parent = (key.parent, address);
                    let is_as_it_was = |known: &Known| {
                        there.contains(&parent) && !key.keys.iter().any(|k| known.after.contains(k))
                    };
                    if key.is_to(parent.1.0) && self.rows.get(&parent).is_none_or(is_as_it_was) {
                        found.insert(place);
                    }
                }
            }
        });
        found.len()
    }
}

/// The addresses of those rows of `moved` (see [`super::collisions::moved`]), a query over `args`, that lie in a partition.
pub fn within(
    session: &Session,
    table: &Table,
    bounds: &Bounds,
    moved: &str,
    args: &[Arg],
    mode: Mode,
) -> Vec<Address> {
    let sql = format!(
        "SELECT \"#table\"::oid, \"#row\"::text FROM ({moved}) m WHERE {}",
        bounds.condition
    );
    pg::as_role(table.owner, || {
        let found = session.run(&sql, args, mode);
        (0..found.len()).filter_map(|row| address(&found, row, 1)).collect()
    })
}
