//! Rows that are deleted, changed and inserted together, to the constraints as one statement.
//!
//! Rows are named by their address, which holds as long as they are locked. Values travel as text, in the form that
//! `pg::with_stable_text` fixes, so that what is put back is what was there to the last byte.

use super::collisions::{self, Image};
use super::done::{Done, Moved, MovedRow};
use super::fields::Fields;
use super::one_statement::as_one_statement;
use super::order::{Write, turns};
use super::rekey::{Mover, unquoted};
use super::rows::{Address, Text, address, addresses, follow};
use super::{elements, fit};
use crate::catalog::references::Table;
use crate::catalog::shape::Shape;
use crate::error::Error;
use crate::pg::{self, Json, Mode, Raw, Session};
use pgrx::pg_sys::Oid;
use std::collections::{BTreeMap, BTreeSet};

/// A table with its shape.
pub struct Written<'a> {
    pub table: &'a Table,
    pub shape: &'a Shape,
}

/// Changes of rows of one table.
pub struct TableChanges<'a> {
    pub of: Written<'a>,
    pub deleted: Vec<Address>,
    /// By the columns that change (quoted): each row with its values before and after.
    pub updated: BTreeMap<Vec<String>, Vec<Update>>,
    /// Whole rows, as [`Shape::image`] makes them.
    pub inserted: Vec<Raw>,
}

/// A row that changes, with its values before and after in the order of the columns ([`TableChanges::updated`]).
pub struct Update {
    pub address: Address,
    /// Where the row lay before the first of several steps.
    pub origin: Address,
    /// Its number, where it has one already ([`MovedRow::number`]).
    pub number: Option<usize>,
    pub before: Vec<Text>,
    pub after: Vec<Text>,
}

impl Update {
    pub fn new(address: Address, before: Vec<Text>, after: Vec<Text>) -> Self {
        Update { origin: address, address, number: None, before, after }
    }
}

impl<'a> TableChanges<'a> {
    pub fn new(table: &'a Table, shape: &'a Shape) -> Self {
        TableChanges {
            of: Written { table, shape },
            deleted: Vec::new(),
            updated: BTreeMap::new(),
            inserted: Vec::new(),
        }
    }
}

/// Deletes, then changes, then inserts, to the constraints as one statement. All rows that are deleted or changed must
/// be locked. Answers what must be kept to take it back. Fails (and then everything must be rolled back) where a row
/// could not be written: a trigger of the application may have held it back.
pub fn apply(
    session: &Session,
    mover: &Mover,
    changes: &[TableChanges],
    wanted: Wanted,
) -> Result<Vec<Done>, Error> {
    let mut done: Vec<Done> = changes.iter().map(|c| Done::to(c.of.table, c.of.shape)).collect();
    fit::check(session, changes, Mode::Fresh)?;
    let turns = turns(changes, &mover.references);
    let mut turn = turns.iter();
    let owners: Vec<Oid> = turns.iter().map(|turn| turn.owner).collect();
    as_one_statement(&owners, &mover.references, session, |_| {
        let writes = turn.next().into_iter().flat_map(|turn| &turn.writes);
        // AFTER triggers of the application, which have their turn later, are spared these settings.
        pg::with_stable_text(|| {
            for (place, write) in writes {
                let (c, done) = (&changes[*place], &mut done[*place]);
                let (wanted, written) = match write {
                    Write::Delete => (c.deleted.len(), delete(session, c, done)),
                    Write::Update => (
                        c.updated.values().map(Vec::len).sum(),
                        update_all(session, c, done, &Writing { mover, wanted }),
                    ),
                    Write::Insert => (c.inserted.len(), insert(session, c, done)),
                };
                // What was to give way would be in the way of what comes next.
                if written != wanted {
                    return Err(Error::HeldBack { table: c.of.table.label.clone() });
                }
            }
            Ok(())
        })
    })?;
    // A trigger of the application may have gone on changing them, or rows of another table, before or after.
    if changes.iter().any(|c| c.of.table.after_triggers || c.of.table.keeps_rows) {
        for (c, done) in changes.iter().zip(&mut done) {
            if !look_again(session, c, done, &Writing { mover, wanted }) {
                return Err(Error::HeldBack { table: c.of.table.label.clone() });
            }
        }
    }
    Ok(done)
}

/// Makes `done`, what came of `changes`, tell of the rows as they are now; answers whether these are there, under the ids they
/// were to have.
pub fn look_at_all(
    session: &Session,
    mover: &Mover,
    changes: &[TableChanges],
    done: &mut [Done],
) -> bool {
    let writing = Writing { mover, wanted: Wanted::Keys };
    changes.iter().zip(done).all(|(c, done)| look_again(session, c, done, &writing))
}

/// Makes `done` tell of rows as AFTER triggers have left them; answers whether these have left them what they were to be.
fn look_again(session: &Session, c: &TableChanges, done: &mut Done, writing: &Writing) -> bool {
    let Done { added, added_at, at_first, moved, .. } = done;
    let mut rows: Vec<(&Vec<String>, &mut MovedRow)> = Vec::new();
    for Moved { columns, rows: of_columns } in moved {
        rows.extend(of_columns.iter_mut().map(|row| (&*columns, row)));
    }
    let mut all: Vec<Address> = rows.iter().filter_map(|(_, row)| row.now).collect();
    if all.len() < rows.len() {
        return true;
    }
    all.append(added_at);
    let changed = follow(session, c.of.table, &mut all.iter_mut().collect::<Vec<_>>());
    added_at.extend(&all[rows.len()..]);
    if changed.is_empty() {
        return true;
    }
    let (tables, places) = addresses(changed.iter().map(|place| all[*place]));
    let sql = format!(
        "SELECT x.place, {key}, md5({image}::text), {image}
           FROM unnest($1::oid[], $2::text[]) WITH ORDINALITY AS x(at, address, place)
           JOIN {} t ON t.tableoid = x.at AND t.ctid = x.address::tid",
        c.of.table.target(),
        key = c.of.shape.key_image(),
        image = c.of.shape.image(),
    );
    pg::with_stable_text(|| {
        pg::as_role(c.of.table.owner, || {
            let now = session.run(&sql, &[tables.into(), places.into()], Mode::Fresh);
            // A row that is not there was deleted.
            let mut as_wanted = now.len() == changed.len();
            for row in 0..now.len() {
                let place = changed[now.get::<i64>(row, 1).unwrap_or(1) as usize - 1];
                let Some(image) = now.get::<Raw>(row, 4) else {
                    continue;
                };
                if let Some((columns, moved)) = rows.get_mut(place) {
                    let image = image.parsed();
                    as_wanted &= columns.iter().enumerate().all(|(i, column)| {
                        let now = image[unquoted(column)].as_str();
                        writing.accepts(c, column, (&moved.before[i], &moved.after[i]), now)
                    });
                    moved.key = now.get(row, 2);
                    moved.md5 = now.get(row, 3).unwrap_or_default();
                    let now = |column: &String| image[column].as_str().map(str::to_owned);
                    let set = moved.set_by_triggers.names();
                    moved.set_by_triggers = set.map(|c| (c.clone(), now(c))).collect();
                    moved.now = Some(all[place]);
                } else {
                    let place = place - rows.len();
                    let first = std::mem::replace(&mut added[place], image);
                    at_first.entry(place).or_insert(first);
                }
            }
            as_wanted
        })
    })
}

/// What must have come of the values that are written, whatever triggers of the application make of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Ids are what they were to be, and e-mails of users but for their case and blanks around them.
    Keys,
    /// Ids and e-mails of users are, and no other value is kept from being changed.
    Everything,
}

/// How changes are written.
struct Writing<'m> {
    mover: &'m Mover,
    wanted: Wanted,
}

impl Writing<'_> {
    fn is_email(&self, c: &TableChanges, column: &str) -> bool {
        column == "email" && c.of.table.oid == self.mover.references.tables[0].oid
    }

    /// Whether a value that was to change from one to another may be `now` instead.
    fn accepts(
        &self,
        c: &TableChanges,
        column: &str,
        (before, after): (&Text, &Text),
        now: Option<&str>,
    ) -> bool {
        let exact = self.wanted == Wanted::Everything;
        let is_id = self.mover.references.tables.iter().any(|table| {
            table.oid == c.of.table.oid && table.moving.iter().any(|m| m.column == column)
        });
        let (before, after) = (before.as_deref(), after.as_deref());
        if is_id || exact && self.is_email(c, column) {
            return now == after;
        }
        if self.is_email(c, column) {
            let folded = |email: Option<&str>| email.map(|email| email.trim().to_lowercase());
            return folded(now) == folded(after);
        }
        !exact || now != before || before == after
    }
}

fn delete(session: &Session, c: &TableChanges, done: &mut Done) -> usize {
    if c.deleted.is_empty() {
        return 0;
    }
    let (tables, rows) = addresses(c.deleted.iter().copied());
    let sql = format!(
        "DELETE FROM {} t USING unnest($1::oid[], $2::text[]) AS x(at, address)
          WHERE t.tableoid = x.at AND t.ctid = x.address::tid RETURNING {}",
        c.of.table.target(),
        c.of.shape.image()
    );
    let rows = session.run_by_key(&sql, &[tables.into(), rows.into()], Mode::Queued);
    done.removed = rows.column();
    rows.len()
}

/// Changes the rows; `in_order`, each after those that leave a key in a unique index which it takes.
fn update_all(session: &Session, c: &TableChanges, done: &mut Done, writing: &Writing) -> usize {
    let all: Vec<(&Vec<String>, &Update)> = c
        .updated
        .iter()
        .flat_map(|(columns, rows)| rows.iter().map(move |u| (columns, u)))
        .collect();
    if !writing.mover.in_order.get() {
        return update(session, c, done, &all, writing);
    }
    let takes = takes(session, c);
    let mut left = all;
    let mut written = 0;
    while !left.is_empty() {
        let there: BTreeSet<&Address> = left.iter().map(|(_, u)| &u.address).collect();
        let waits =
            |u: &Update| takes.get(&u.address).is_some_and(|t| t.iter().any(|o| there.contains(o)));
        let (later, now): (Vec<_>, Vec<_>) = left.iter().copied().partition(|(_, u)| waits(u));
        let (now, later) = if now.is_empty() { (later, now) } else { (now, later) };
        written += update(session, c, done, &now, writing);
        left = later;
    }
    written
}

/// Whose key in a unique index, as it is, a row takes when it is changed.
fn takes(session: &Session, c: &TableChanges) -> BTreeMap<Address, Vec<Address>> {
    let images = c.updated.iter().flat_map(|(columns, rows)| {
        rows.iter().map(move |u| {
            let values: BTreeMap<&String, &Text> = columns.iter().zip(&u.after).collect();
            Image::new(u.address, values)
        })
    });
    let images: Vec<_> = images.collect();
    let columns: BTreeSet<&String> = c.updated.keys().flatten().collect();
    let query = collisions::images(c.of.table, c.of.shape, &columns, images.len());
    let images = Json::of(&images);
    let columns: Vec<String> = columns.into_iter().cloned().collect();
    let mut takes: BTreeMap<Address, Vec<Address>> = BTreeMap::new();
    for unique in c.of.shape.touched_by(&columns) {
        let sql = collisions::takes(c.of.table, unique, &query);
        let rows = session.run(&sql, &[images.clone().into()], Mode::Fresh);
        for row in 0..rows.len() {
            if let (Some(one), Some(other)) = (address(&rows, row, 1), address(&rows, row, 3)) {
                takes.entry(one).or_default().push(other);
            }
        }
    }
    takes
}

fn update(
    session: &Session,
    c: &TableChanges,
    done: &mut Done,
    all: &[(&Vec<String>, &Update)],
    writing: &Writing,
) -> usize {
    let mut written = 0;
    let mut by_columns: BTreeMap<&Vec<String>, Vec<&Update>> = BTreeMap::new();
    for (columns, update) in all {
        by_columns.entry(columns).or_default().push(update);
    }
    for (columns, updates) in by_columns {
        let sets: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(i, column)| {
                let text = format!("x.r -> 'v' ->> {i}");
                let value = c.of.shape.column(column).map_or(text.clone(), |c| c.of_text(&text));
                format!("{column} = {value}")
            })
            .collect();
        let values = c.of.shape.texts("t", columns.iter().map(String::as_str));
        let image = c.of.shape.image();
        // Only triggers, or the expressions of generated columns, change what is not written.
        let (before, set) = match c.of.table.keeps_rows {
            true => (
                format!(
                    "JOIN (SELECT t.tableoid AS at, t.ctid AS address, {image} AS image FROM {} t) b
                       ON b.at = (x.r ->> 't')::oid AND b.address = (x.r ->> 'r')::tid",
                    c.of.table.target()
                ),
                format!(
                    "(SELECT jsonb_object_agg(n.key, n.value) FROM jsonb_each({image}) n
                       WHERE n.value <> b.image -> n.key AND n.key <> ALL ($2))"
                ),
            ),
            false => (String::new(), "NULL::jsonb".into()),
        };
        let sql = format!(
            "UPDATE {} t SET {}
               FROM {elements} AS x {before}
              WHERE t.tableoid = (x.r ->> 't')::oid AND t.ctid = (x.r ->> 'r')::tid
            RETURNING x.place, {}, md5({image}::text), t.tableoid, t.ctid::text, {values}, {set}",
            c.of.table.target(),
            sets.join(", "),
            c.of.shape.key_image(),
            elements = elements("$1", updates.len()),
        );
        let rows: Vec<_> = updates.iter().map(|u| Image::new(u.address, &u.after)).collect();
        let names: Vec<String> = columns.iter().map(|column| unquoted(column)).collect();
        let args = [Json::of(&rows).into(), names.clone().into()];
        let rows = session.run_by_key(&sql, &args, Mode::Queued);
        let mut moved = Vec::with_capacity(rows.len());
        let set =
            |row| rows.get::<Raw>(row, 7).and_then(|set| set.read::<Fields>()).unwrap_or_default();
        for row in 0..rows.len() {
            let update = updates[rows.get::<i64>(row, 1).unwrap_or(1) as usize - 1];
            let now: Vec<Text> = rows.get(row, 6).unwrap_or_default();
            // A trigger may have put something back.
            let as_wanted = columns.iter().zip(&now).enumerate().all(|(i, (column, now))| {
                let wanted = (&update.before[i], &update.after[i]);
                writing.accepts(c, column, wanted, now.as_deref())
            });
            written += usize::from(as_wanted);
            let made = names.iter().zip(update.after.iter().zip(&now));
            let overruled = made.filter(|(_, (after, now))| after != now);
            moved.push(MovedRow {
                key: rows.get(row, 2),
                before: update.before.clone(),
                after: update.after.clone(),
                md5: rows.get(row, 3).unwrap_or_default(),
                set_by_triggers: set(row),
                overruled: overruled.map(|(name, _)| name.clone()).collect(),
                number: update.number,
                origin: Some(update.origin),
                was: Some(update.address),
                now: address(&rows, row, 4),
            });
        }
        done.moved.push(Moved { columns: columns.clone(), rows: moved });
    }
    written
}

fn insert(session: &Session, c: &TableChanges, done: &mut Done) -> usize {
    let Some(first) = c.inserted.first().map(Raw::parsed) else {
        return 0;
    };
    let (columns, values): (Vec<String>, Vec<String>) =
        c.of.shape
            .columns
            .iter()
            // What has come to the table since has its default.
            .filter(|column| column.generated.is_none() && first.get(&column.name).is_some())
            .map(|column| {
                let name = pgrx::spi::quote_literal(&column.name);
                (column.quoted.clone(), column.of_text(&format!("x.r ->> {name}")))
            })
            .unzip();
    let insert = format!(
        "INSERT INTO {} AS t ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS x",
        c.of.table.name,
        columns.join(", "),
        values.join(", "),
        elements("$1", c.inserted.len()),
    );
    let image = c.of.shape.image();
    // PostgreSQL (15.20, 16.14, 17.11, 18.4) cannot compute with what is generated, being of a domain, as a row goes into a
    // partitioned table: "attribute 3 of type record has wrong type". To return it alone it can.
    let sql = if c.of.shape.columns.iter().any(|column| column.generated.is_some()) {
        format!(
            "WITH t AS ({insert} RETURNING t.*, t.tableoid AS \"#table\", t.ctid AS \"#row\")
             SELECT {image}, t.\"#table\", t.\"#row\"::text FROM t"
        )
    } else {
        format!("{insert} RETURNING {image}, t.tableoid, t.ctid::text")
    };
    let rows = session.run(&sql, &[Json::of(&c.inserted).into()], Mode::Queued);
    done.added = rows.column();
    done.added_at = (0..rows.len()).filter_map(|row| address(&rows, row, 2)).collect();
    rows.len()
}
