//! Reading the rows of a plan: each once, and locked as it is read unless this is a rehearsal.

use super::{Known, Plan, Row, Side};
use crate::error::Error;
use crate::pg::{self, Arg, Json, Mode};
use crate::statements::collisions::{self, Image};
use crate::statements::fields::Fields;
use crate::statements::rekey::Mover;
use crate::statements::rows::{Address, Text, address};
use crate::statements::{elements, fit};
use pgrx::Uuid;
use pgrx::pg_sys::Oid;
use std::collections::{BTreeMap, BTreeSet};

impl Plan<'_> {
    fn lock(&self) -> &'static str {
        if self.mode == Mode::Read { "" } else { " FOR UPDATE OF t" }
    }

    /// The rows of a table that `source` (`… t …`) selects, each with the number `place` of what it was found by.
    pub(super) fn find(
        &mut self,
        table: usize,
        place: &str,
        source: &str,
        args: &[Arg],
    ) -> Vec<(usize, Row)> {
        let of = &self.mover.references.tables[table];
        let columns = self.columns[table].iter().map(String::as_str);
        let sql = format!(
            "SELECT {place}::bigint, t.tableoid, t.ctid::text, {} FROM {source}{}",
            self.shape(table).texts("t", columns),
            self.lock()
        );
        let found: Vec<(usize, Address, Vec<Text>)> = pg::as_role(of.owner, || {
            let rows = self.session.run(&sql, args, self.mode);
            (0..rows.len())
                .filter_map(|row| {
                    let place = rows.get::<i64>(row, 1)? as usize;
                    Some((place, address(&rows, row, 2)?, rows.get(row, 4)?))
                })
                .collect()
        });
        let mut all: Vec<(usize, Row)> = found
            .into_iter()
            .map(|(place, address, before)| {
                let row = (table, address);
                self.rows.entry(row).or_insert_with(|| Known {
                    before,
                    after: Fields::default(),
                    side: None,
                });
                (place, row)
            })
            .collect();
        all.sort();
        all
    }

    /// The app user with this id.
    pub fn user(&mut self, id: Uuid) -> Result<Row, Error> {
        let target = self.mover.references.tables[0].target();
        let found = self.find(0, "0", &format!("{target} t WHERE t.id = $1"), &[id.into()]);
        let user = found.into_iter().next().map(|(_, row)| row);
        user.ok_or(Error::AppUserGone { id: id.to_string() })
    }

    /// Reads, and locks, a row that is only known by its address.
    pub fn learn(&mut self, row: &Row) -> Result<(), Error> {
        if self.rows.contains_key(row) {
            return Ok(());
        }
        let table = &self.mover.references.tables[row.0];
        let source = format!("{} t WHERE t.tableoid = $1 AND t.ctid = $2::tid", table.target());
        let args = [Oid::from(row.1.0).into(), row.1.1.to_string().into()];
        if self.find(row.0, "0", &source, &args) == [(0, *row)] {
            return Ok(());
        }
        Err(Error::ChangedMeanwhile { table: table.label.clone() })
    }

    /// Any columns of a row, as they are in the table.
    pub fn fields(&self, row: &Row, columns: &[&str]) -> Vec<Text> {
        let table = &self.mover.references.tables[row.0];
        let sql = format!(
            "SELECT {} FROM {} t WHERE t.tableoid = $1 AND t.ctid = $2::tid",
            self.shape(row.0).texts("t", columns.iter().copied()),
            table.target()
        );
        let args = [Oid::from(row.1.0).into(), row.1.1.to_string().into()];
        let found = pg::as_role(table.owner, || {
            self.session.run(&sql, &args, self.mode).one::<Vec<Text>>()
        });
        found.unwrap_or_else(|| vec![None; columns.len()])
    }

    /// What a person finds a row by: its primary key as it is in the table, or where the row lies.
    pub fn name(&self, row: &Row) -> String {
        let table = &self.mover.references.tables[row.0];
        let key: Vec<&str> = self.shape(row.0).primary_key.iter().map(String::as_str).collect();
        if key.is_empty() {
            let at = match Oid::from(row.1.0) {
                at if at == table.oid => String::new(),
                partition => format!("{}: ", pg::table_name(partition)),
            };
            return format!("{at}(ctid)=({})", row.1.1);
        }
        let values = self.fields(row, &key).into_iter().map(|value| cut(value.unwrap_or_default()));
        format!("({})=({})", key.join(", "), values.collect::<Vec<String>>().join(", "))
    }

    /// Finds the rows that refer through a foreign key to any of `parents`, as those are now.
    pub(super) fn look_up<'r>(
        &mut self,
        number: usize,
        parents: impl Iterator<Item = &'r Row>,
    ) -> Result<(), Error> {
        let key = &self.keys()[number];
        let mut new: Vec<Row> = Vec::new();
        let mut values: Vec<Vec<Text>> = Vec::new();
        for parent in parents {
            if !key.is_to(parent.1.0) || !self.looked_up.insert((*parent, number)) {
                continue;
            }
            let now: Vec<Text> = key.keys.iter().map(|k| self.before(parent, k)).collect();
            if now.iter().all(Option::is_some) {
                new.push(*parent);
                values.push(now);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        fit::has_no_zone(self.session, self.mover, key, self.mode)?;
        let shape = self.mover.shape(self.session, key.parent);
        let mut conditions: Vec<String> = key
            .columns
            .iter()
            .zip(&key.keys)
            .enumerate()
            .map(|(i, (column, k))| {
                let theirs = shape.base_of_text(k, &format!("x.r ->> {i}"));
                key.equal(i, &theirs, &format!("t.{column}"))
            })
            .collect();
        conditions.extend(key.within("t"));
        let source = format!(
            "{} AS x JOIN {} t ON {}",
            elements("$1", values.len()),
            self.mover.references.tables[key.child].target(),
            conditions.join(" AND ")
        );
        let args = [Json::of(&values).into()];
        for (place, child) in self.find(key.child, "x.place", &source, &args) {
            let parent = new[place - 1];
            self.parents.insert((child, number), parent);
            self.children.entry((parent, number)).or_default().push(child);
        }
        Ok(())
    }

    /// Generated columns that are keys follow the columns they are made of.
    pub(super) fn compute_generated(&mut self, open: &BTreeMap<Row, (BTreeSet<String>, Side)>) {
        let places: BTreeSet<usize> = open.keys().map(|row| row.0).collect();
        for place in places {
            let shape = self.mover.shape(self.session, place);
            let generated: Vec<String> = self.columns[place]
                .iter()
                .filter(|c| shape.column(c).is_some_and(|c| c.generated.is_some()))
                .cloned()
                .collect();
            let rows: Vec<Row> = open
                .iter()
                .filter(|(row, (columns, _))| {
                    row.0 == place && !columns.is_empty() && !self.gone.contains_key(*row)
                })
                .map(|(row, _)| *row)
                .collect();
            if generated.is_empty() || rows.is_empty() {
                continue;
            }
            let (query, images) = self.image(place, rows.iter());
            let sql = format!(
                "SELECT m.\"#table\"::oid, m.\"#row\"::text, {} FROM ({query}) m",
                shape.texts("m", generated.iter().map(String::as_str))
            );
            let owner = self.mover.references.tables[place].owner;
            let found: Vec<(Row, Vec<Text>)> = pg::as_role(owner, || {
                let rows = self.session.run(&sql, &[images.into()], self.mode);
                (0..rows.len())
                    .filter_map(|row| Some(((place, address(&rows, row, 1)?), rows.get(row, 3)?)))
                    .collect()
            });
            for (row, values) in found {
                let side = open.get(&row).map_or(Side::App, |(_, side)| *side);
                self.set(&row, side, generated.iter().cloned().zip(values).collect());
            }
        }
    }

    /// A query over `$1` for rows of a table as they will be (see [`collisions::moved`]), and that argument.
    pub fn image<'r>(&self, place: usize, rows: impl Iterator<Item = &'r Row>) -> (String, Json) {
        let table = &self.mover.references.tables[place];
        let shape = self.mover.shape(self.session, place);
        let mut columns = BTreeSet::new();
        let images: Vec<Image<&Fields>> = rows
            .filter_map(|row| {
                let after = &self.rows.get(row)?.after;
                columns.extend(after.names());
                Some(Image::new(row.1, after))
            })
            .collect();
        let query = collisions::images(table, shape, &columns, images.len());
        (query, Json::of(&images))
    }
}

/// The beginning of a value that is too long to be read.
fn cut(value: String) -> String {
    const LONGEST: usize = 100;
    match value.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &value[..end]),
        None => value,
    }
}

/// The columns of a table that a plan has to know.
pub(super) fn key_columns(mover: &Mover, place: usize) -> Vec<String> {
    let mut all: BTreeSet<String> = BTreeSet::new();
    for key in &mover.references.keys {
        if key.child == place {
            all.extend(key.columns.iter().cloned());
        }
        if key.parent == place {
            all.extend(key.keys.iter().cloned());
        }
    }
    let moving = mover.references.tables[place].moving.iter();
    all.extend(moving.map(|m| m.column.clone()));
    if place == 0 {
        all.insert("email".into());
    }
    all.into_iter().collect()
}
