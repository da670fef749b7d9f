//! Merging one app user into another: what is planned before anything is written.
//!
//! The row of the user who goes gives way to the row of the user who stays, and everything that refers to the one, by
//! whichever key, comes to the other. Where a row that comes over would collide with one that is there, one of the two
//! gives way to the other in the same manner, and so on until nothing collides.

use super::changes::{Address, TableChanges, Text, Update, address};
use super::collisions;
use super::rekey::{Collision, Mover, Referring, unquoted};
use crate::catalog::references::{Form, Moving};
use crate::error::Error;
use crate::pg::{self, Arg, Mode, Session};
use pgrx::Uuid;
use pgrx::pg_sys::Oid;
use std::collections::{BTreeMap, BTreeSet};

/// What to do where rows collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Refuse the merge.
    Error,
    /// The row of the auth user stays.
    KeepAuth,
    /// The row of the user who goes stays.
    KeepApp,
}

/// Whose a row was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Auth,
    App,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Side::Auth => Side::App,
            Side::App => Side::Auth,
        }
    }
}

#[derive(Default)]
struct Change {
    /// By column (quoted): before and after.
    values: BTreeMap<String, (Text, Text)>,
    side: Option<Side>,
}

/// Changed rows of a table.
struct MovedRows {
    /// Makes them of `$1`.
    query: String,
    rows: serde_json::Value,
    /// Quoted.
    columns: Vec<String>,
}

/// A planned merge.
pub struct Merge<'a> {
    mover: &'a Mover,
    session: &'a Session,
    /// `Read` for a rehearsal. `Fresh` to do it: then every row is locked as it is found.
    mode: Mode,
    from: Uuid,
    to: Uuid,
    changes: BTreeMap<(usize, Address), Change>,
    /// Rows that give way.
    gone: BTreeSet<(usize, Address)>,
    pub collisions: Vec<Collision>,
    /// Some collision was left as it is: the merge must be refused.
    pub unsettled: bool,
}

impl<'a> Merge<'a> {
    /// Plans to merge the app user `from` into the app user `to`. To be done, both must be locked.
    pub fn plan(
        session: &'a Session,
        mover: &'a Mover,
        from: Uuid,
        to: Uuid,
        policy: OnConflict,
        mode: Mode,
    ) -> Result<Self, Error> {
        let mut merge = Merge {
            mover,
            session,
            mode,
            from,
            to,
            changes: BTreeMap::new(),
            gone: BTreeSet::new(),
            collisions: Vec::new(),
            unsettled: false,
        };
        pg::with_stable_text(|| {
            let leaving = merge.user(from)?;
            let staying = merge.user(to)?;
            merge.take_over(&leaving, &staying)?;
            merge.give_way(0, &leaving, &staying, Side::App)?;
            merge.bring_soft_references()?;
            while merge.settle_collisions(policy)? {}
            Ok(())
        })
        .map(|()| merge)
    }

    fn user(&self, id: Uuid) -> Result<Address, Error> {
        let found = self.find(0, &[], "t.id = $1", &[id.into()]);
        let user = found.into_iter().next().map(|(address, _)| address);
        user.ok_or(Error::AppUserGone { id: id.to_string() })
    }

    /// The rows of a table that a condition over the alias `t` selects, locked unless this is a rehearsal, with the
    /// given columns.
    fn find(
        &self,
        place: usize,
        columns: &[String],
        condition: &str,
        args: &[Arg],
    ) -> Vec<(Address, Vec<Text>)> {
        let table = &self.mover.references.tables[place];
        let lock = if self.mode == Mode::Read { "" } else { " FOR UPDATE" };
        let list: Vec<String> = columns.iter().map(|c| format!("t.{c}::text")).collect();
        let sql = format!(
            "SELECT t.tableoid, t.ctid::text, ARRAY[{}]::text[] FROM {} t WHERE {condition}{lock}",
            list.join(", "),
            table.target()
        );
        pg::as_role(table.owner, || {
            let rows = self.session.run(&sql, args, self.mode);
            let mut found: Vec<(Address, Vec<Text>)> = (0..rows.len())
                .filter_map(|row| Some((address(&rows, row, 1)?, rows.get(row, 3)?)))
                .collect();
            found.sort();
            found
        })
    }

    /// Columns of one row as text, as they are in the table.
    fn read(&self, place: usize, address: &Address, columns: &[String]) -> Vec<Text> {
        let table = &self.mover.references.tables[place];
        let list: Vec<String> = columns.iter().map(|c| format!("t.{c}::text")).collect();
        let sql = format!(
            "SELECT ARRAY[{}]::text[] FROM {} t WHERE t.tableoid = $1 AND t.ctid = $2::tid",
            list.join(", "),
            table.target()
        );
        pg::as_role(table.owner, || {
            self.session
                .run(&sql, &[Oid::from(address.0).into(), address.1.clone().into()], self.mode)
                .one::<Vec<Text>>()
                .unwrap_or_else(|| vec![None; columns.len()])
        })
    }

    /// The same, as they will be.
    fn read_final(&self, place: usize, address: &Address, columns: &[String]) -> Vec<Text> {
        let mut values = self.read(place, address, columns);
        if let Some(change) = self.changes.get(&(place, address.clone())) {
            for (column, value) in columns.iter().zip(&mut values) {
                if let Some((_, after)) = change.values.get(column) {
                    value.clone_from(after);
                }
            }
        }
        values
    }

    /// A field that only the user who leaves has is taken over.
    fn take_over(&mut self, leaving: &Address, staying: &Address) -> Result<(), Error> {
        let shape = self.mover.shape(self.session, 0, self.mode);
        let columns: Vec<String> = shape
            .columns
            .iter()
            .filter(|c| c.generated.is_none() && c.quoted != "id")
            .map(|c| c.quoted.clone())
            .collect();
        let theirs = self.read(0, leaving, &columns);
        let ours = self.read(0, staying, &columns);
        for ((column, theirs), ours) in columns.iter().zip(theirs).zip(ours) {
            if ours.is_none() && theirs.is_some() {
                let refers =
                    self.mover.references.tables[0].moving.iter().any(|m| m.column == *column);
                let taken = match theirs {
                    Some(id) if refers && id == self.from.to_string() => Some(self.to.to_string()),
                    other => other,
                };
                self.set(0, staying, Side::Auth, &[(column.clone(), None, taken)])?;
            }
        }
        Ok(())
    }

    /// Everything that refers to the row `loser`, by any key, comes to the row `heir`; the loser will be deleted.
    fn give_way(
        &mut self,
        place: usize,
        loser: &Address,
        heir: &Address,
        side: Side,
    ) -> Result<(), Error> {
        if !self.gone.insert((place, loser.clone())) {
            return Ok(());
        }
        let here = [Arg::from(Oid::from(loser.0)), loser.1.clone().into()];
        if self.find(place, &[], "t.tableoid = $1 AND t.ctid = $2::tid", &here).len() != 1 {
            return Err(Error::ChangedMeanwhile {
                table: self.mover.references.tables[place].label.clone(),
            });
        }
        for number in 0..self.mover.references.keys.len() {
            let key = &self.mover.references.keys[number];
            if key.parent == place {
                let wanted = self.read_final(place, heir, &key.keys);
                self.bring_children(number, loser, &wanted, side)?;
            }
        }
        Ok(())
    }

    /// The rows that refer through the foreign key `number` to the row at `parent`, as that is now, refer to the key
    /// `wanted` from now on.
    fn bring_children(
        &mut self,
        number: usize,
        parent: &Address,
        wanted: &[Text],
        side: Side,
    ) -> Result<(), Error> {
        let key = &self.mover.references.keys[number];
        let (place, child) = (key.parent, key.child);
        let now = self.read(place, parent, &key.keys);
        if now.iter().any(Option::is_none) {
            return Ok(());
        }
        let shape = self.mover.shape(self.session, place, self.mode);
        let mut conditions: Vec<String> = key
            .columns
            .iter()
            .zip(&key.keys)
            .zip(&key.operators)
            .enumerate()
            .map(|(i, ((column, key), operator))| {
                let kind = shape.column(key).map_or("text", |c| c.kind.as_str());
                format!("($1::text[])[{}]::{kind} {operator} t.{column}", i + 1)
            })
            .collect();
        if let Some(partitions) = &key.partitions {
            let list: Vec<String> = partitions.iter().map(u32::to_string).collect();
            conditions.push(format!("t.tableoid IN ({})", list.join(", ")));
        }
        let columns = key.columns.clone();
        let children = self.find(child, &columns, &conditions.join(" AND "), &[now.into()]);
        for (address, before) in children {
            if self.gone.contains(&(child, address.clone())) {
                continue;
            }
            if wanted.iter().any(Option::is_none) {
                return Err(Error::NoKeyToReferTo {
                    table: self.mover.references.tables[child].label.clone(),
                    columns: columns.iter().map(|c| unquoted(c)).collect(),
                });
            }
            let values: Vec<(String, Text, Text)> = columns
                .iter()
                .zip(before)
                .zip(wanted)
                .map(|((column, before), after)| (column.clone(), before, after.clone()))
                .collect();
            self.set(child, &address, side, &values)?;
        }
        Ok(())
    }

    /// Notes what a row's columns become, and brings along what refers to it by them.
    fn set(
        &mut self,
        place: usize,
        address: &Address,
        side: Side,
        values: &[(String, Text, Text)],
    ) -> Result<(), Error> {
        let change = self.changes.entry((place, address.clone())).or_default();
        change.side.get_or_insert(side);
        let mut changed = Vec::new();
        for (column, before, after) in values {
            let known = change.values.get(column).map(|(_, after)| after);
            if known.unwrap_or(before) != after {
                changed.push(column.clone());
                change.values.insert(column.clone(), (before.clone(), after.clone()));
            }
        }
        for number in 0..self.mover.references.keys.len() {
            let key = &self.mover.references.keys[number];
            if key.parent == place && key.keys.iter().any(|k| changed.contains(k)) {
                let wanted = self.read_final(place, address, &key.keys);
                self.bring_children(number, address, &wanted, side)?;
            }
        }
        Ok(())
    }

    fn bring_soft_references(&mut self) -> Result<(), Error> {
        for place in 0..self.mover.references.tables.len() {
            let soft: Vec<(String, Form, String)> = self.mover.references.tables[place]
                .moving
                .iter()
                .filter(|m: &&Moving| m.soft && !m.generated)
                .map(|m| (m.column.clone(), m.form, self.mover.references.condition(place, m)))
                .collect();
            for (column, form, condition) in soft {
                let columns = [column.clone()];
                for (address, mut before) in
                    self.find(place, &columns, &condition, &[self.from.into()])
                {
                    let before = before.remove(0);
                    let to = self.to.to_string();
                    let after = match (form, &before) {
                        (Form::Text, Some(id)) if *id != self.from.to_string() => to.to_uppercase(),
                        _ => to,
                    };
                    self.set(place, &address, Side::App, &[(column.clone(), before, Some(after))])?;
                }
            }
        }
        Ok(())
    }

    /// Finds the rows that collide as things are planned now, and lets one of each pair give way. Answers whether any
    /// did, so that more may collide.
    fn settle_collisions(&mut self, policy: OnConflict) -> Result<bool, Error> {
        let mut any = false;
        let places: BTreeSet<usize> = self.changes.keys().map(|(place, _)| *place).collect();
        for place in places {
            let Some(moved) = self.moved(place) else {
                continue;
            };
            let table = &self.mover.references.tables[place];
            let shape = self.mover.shape(self.session, place, self.mode);
            let gone = "(t.tableoid, t.ctid) IN (SELECT g.at, g.r::tid FROM unnest($2::oid[], $3::text[]) AS g(at, r))";
            for unique in shape.touched_by(&moved.columns) {
                let sql = collisions::pairs(table, unique, &moved.query, gone);
                let pairs: Vec<(Address, Address, bool)> = pg::as_role(table.owner, || {
                    let rows = self.session.run(&sql, &self.arguments(place, &moved), self.mode);
                    (0..rows.len())
                        .filter_map(|row| {
                            Some((
                                address(&rows, row, 1)?,
                                address(&rows, row, 3)?,
                                rows.get(row, 5)?,
                            ))
                        })
                        .collect()
                });
                if pairs.is_empty() {
                    continue;
                }
                let colliding: BTreeSet<&Address> = pairs.iter().map(|(m, _, _)| m).collect();
                self.note_collision(&table.label, &unique.name, colliding.len() as u64);
                // Another user's row never gives way.
                if policy == OnConflict::Error || place == 0 {
                    self.unsettled = true;
                    continue;
                }
                any = true;
                for (moved, other, both_moved) in &pairs {
                    self.settle_pair(place, moved, other, *both_moved, policy)?;
                }
                // What is gone now must be known before the next index is looked at.
                break;
            }
        }
        Ok(any)
    }

    fn note_collision(&mut self, table: &str, constraint: &str, rows: u64) {
        let known =
            self.collisions.iter_mut().find(|c| c.table == table && c.constraint == constraint);
        match known {
            Some(known) => known.rows += rows,
            None => self.collisions.push(Collision {
                table: table.to_owned(),
                constraint: constraint.to_owned(),
                rows,
            }),
        }
    }

    fn settle_pair(
        &mut self,
        place: usize,
        moved: &Address,
        other: &Address,
        both_moved: bool,
        policy: OnConflict,
    ) -> Result<(), Error> {
        if self.gone.contains(&(place, moved.clone()))
            || self.gone.contains(&(place, other.clone()))
        {
            return Ok(());
        }
        let side = |address: &Address| {
            self.changes.get(&(place, address.clone())).and_then(|change| change.side)
        };
        let moved_side = side(moved).unwrap_or(Side::App);
        let other_side =
            if both_moved { side(other).unwrap_or(Side::App) } else { moved_side.other() };
        let stays = match policy {
            OnConflict::KeepAuth => Side::Auth,
            _ => Side::App,
        };
        if moved_side == stays || (moved_side == other_side && both_moved) {
            self.give_way(place, other, moved, other_side)
        } else {
            self.give_way(place, moved, other, moved_side)
        }
    }

    /// The changed rows of a table that stay, as they will be.
    fn moved(&self, place: usize) -> Option<MovedRows> {
        let table = &self.mover.references.tables[place];
        let shape = self.mover.shape(self.session, place, self.mode);
        let mut columns = BTreeSet::new();
        let mut rows = Vec::new();
        for ((_, address), change) in self.of_table(place) {
            let values: serde_json::Map<String, serde_json::Value> = change
                .values
                .iter()
                .map(|(column, (_, after))| (column.clone(), serde_json::json!(after)))
                .collect();
            columns.extend(change.values.keys().cloned());
            rows.push(serde_json::json!({
                "t": address.0.to_string(), "r": address.1, "v": values
            }));
        }
        if rows.is_empty() {
            return None;
        }
        let source = format!(
            "FROM jsonb_array_elements($1) AS x(r) JOIN {} t
               ON t.tableoid = (x.r ->> 't')::oid AND t.ctid = (x.r ->> 'r')::tid",
            table.target()
        );
        let query = collisions::moved(shape, &source, |column| {
            columns.contains(&column.quoted).then(|| {
                let name = pgrx::spi::quote_literal(&column.quoted);
                format!(
                    "CASE WHEN x.r -> 'v' ? {name} THEN (x.r -> 'v' ->> {name})::{} ELSE t.{} END",
                    column.kind, column.quoted
                )
            })
        });
        Some(MovedRows {
            query,
            rows: serde_json::Value::Array(rows),
            columns: columns.into_iter().collect(),
        })
    }

    /// The arguments of a query for collisions: the changed rows, and those that are gone.
    fn arguments(&self, place: usize, moved: &MovedRows) -> [Arg; 3] {
        let gone = self.gone.iter().filter(|(p, _)| *p == place);
        let (tables, addresses): (Vec<Oid>, Vec<String>) =
            gone.map(|(_, (table, row))| (Oid::from(*table), row.clone())).unzip();
        [pgrx::JsonB(moved.rows.clone()).into(), tables.into(), addresses.into()]
    }

    /// The changed rows of a table that stay.
    fn of_table(&self, place: usize) -> impl Iterator<Item = (&(usize, Address), &Change)> {
        self.changes.iter().filter(move |(key, change)| {
            key.0 == place && !self.gone.contains(*key) && !change.values.is_empty()
        })
    }

    /// How many rows of each table come over or give way, the two users' own not counted.
    pub fn referring(&self) -> Vec<Referring> {
        let mut all: BTreeMap<usize, (BTreeSet<String>, u64)> = BTreeMap::new();
        let users: BTreeSet<&(usize, Address)> = self
            .gone
            .iter()
            .filter(|(place, _)| *place == 0)
            .chain(self.changes.keys().filter(|(place, _)| *place == 0))
            .filter(|key| self.is_a_user(key))
            .collect();
        for (key, change) in &self.changes {
            if users.contains(key) || change.values.is_empty() {
                continue;
            }
            let (columns, rows) = all.entry(key.0).or_default();
            columns.extend(change.values.keys().map(|c| unquoted(c)));
            *rows += 1;
        }
        for key in self.gone.iter().filter(|key| !users.contains(key)) {
            let is_counted = self.changes.get(key).is_some_and(|c| !c.values.is_empty());
            if !is_counted {
                all.entry(key.0).or_default().1 += 1;
            }
        }
        all.into_iter()
            .map(|(place, (columns, rows))| Referring {
                table: self.mover.references.tables[place].label.clone(),
                columns: columns.into_iter().collect(),
                rows,
            })
            .collect()
    }

    /// Whether a row of `app_users` is one of the two users' own.
    fn is_a_user(&self, key: &(usize, Address)) -> bool {
        let ids = self.read(0, &key.1, &["id".to_owned()]);
        ids.iter().flatten().any(|id| *id == self.from.to_string() || *id == self.to.to_string())
    }

    /// The plan as changes to the tables.
    pub fn changes(&self) -> Vec<TableChanges<'a>> {
        let places: BTreeSet<usize> =
            self.changes.keys().chain(self.gone.iter()).map(|(place, _)| *place).collect();
        places
            .into_iter()
            .map(|place| {
                let table = &self.mover.references.tables[place];
                let shape = self.mover.shape(self.session, place, self.mode);
                let mut changes = TableChanges::new(table, shape);
                let gone = self.gone.iter().filter(|(p, _)| *p == place);
                changes.deleted = gone.map(|(_, address)| address.clone()).collect();
                for ((_, address), change) in self.of_table(place) {
                    // A generated column follows by itself.
                    let written = change.values.iter().filter(|(column, _)| {
                        shape.column(column).is_some_and(|c| c.generated.is_none())
                    });
                    let columns: Vec<String> = written.clone().map(|(c, _)| c.clone()).collect();
                    let (before, after) = written.map(|(_, v)| v.clone()).unzip();
                    changes.updated.entry(columns).or_default().push(Update {
                        address: address.clone(),
                        before,
                        after,
                    });
                }
                changes.updated.remove(&Vec::new());
                changes
            })
            .collect()
    }
}
