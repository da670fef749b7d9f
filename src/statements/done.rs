//! What was done to rows, as the audit log keeps it.

use super::fields::Fields;
use super::rekey::{Holding, unquoted};
use super::rows::{Address, Text};
use crate::catalog::references::Table;
use crate::catalog::shape::Shape;
use crate::pg::{self, Raw};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// A part of what was done to users, as the audit log keeps it for an undo: an object with one member.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// A user was given another id: `from` and `to`, where they are not the entry's own ids, and what
    /// [`crate::statements::merge::rekey`] knows besides.
    Rekey(Value),
    /// Rows were changed, to the constraints by one statement.
    Changes(Vec<Done>),
    /// Not a step: the id that was left was that of an auth user already, by a person's decision.
    Auths(String),
}

/// What was done to one table, kept in the audit log for [`crate::statements::undo`].
#[derive(Default, Serialize, Deserialize)]
pub struct Done {
    pub table: String,
    /// Its number, which outlives a new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oid: Option<u32>,
    /// In which database it has that number ([`pg::database`]): in what a dump is restored to it may be any other table's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub database: String,
    /// The names of the columns that the table had then, of which MD5s were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Rows that were deleted, whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<Raw>,
    /// Rows that were inserted, whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<Raw>,
    /// Where the ids of app users in `added` stood before these were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Holding>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<Moved>,
    /// Where the rows in `added` lie.
    #[serde(skip)]
    pub added_at: Vec<Address>,
    /// What rows in `added` were at first, by their places, where AFTER triggers have gone on changing them.
    #[serde(skip)]
    pub at_first: HashMap<usize, Raw>,
}

impl Done {
    /// Nothing yet.
    pub fn to(table: &Table, shape: &Shape) -> Self {
        Done {
            table: table.label.clone(),
            oid: Some(table.oid.to_u32()),
            database: pg::database(),
            columns: shape.columns.iter().map(|c| c.name.clone()).collect(),
            ..Done::default()
        }
    }
}

/// Rows of which the same columns were changed.
#[derive(Serialize, Deserialize)]
pub struct Moved {
    /// Quoted.
    pub columns: Vec<String>,
    pub rows: Vec<MovedRow>,
}

/// A row that was changed; its values are those of [`Moved::columns`], in the same order.
#[derive(Serialize, Deserialize)]
pub struct MovedRow {
    /// The row's primary key after the change, where the table has one.
    pub key: Option<Raw>,
    pub before: Vec<Text>,
    pub after: Vec<Text>,
    /// MD5 of the whole row after the change: whether it is still as it was left.
    pub md5: String,
    /// Columns that were not written, and that triggers of the application set as the row was changed: what they made of them.
    #[serde(default, rename = "set", skip_serializing_if = "Fields::is_empty")]
    pub set_by_triggers: Fields,
    /// Columns that were written, and of which triggers made something else.
    #[serde(skip)]
    pub overruled: Vec<String>,
    /// The number of a row that was changed in several steps, the same in each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<usize>,
    /// Where it lay before the first step, before the change, and where it lies since.
    #[serde(skip)]
    pub origin: Option<Address>,
    #[serde(skip)]
    pub was: Option<Address>,
    #[serde(skip)]
    pub now: Option<Address>,
}

/// The rows that were changed.
pub fn moved(done: &[Done]) -> impl Iterator<Item = &MovedRow> {
    done.iter().flat_map(|d| &d.moved).flat_map(|m| &m.rows)
}

/// Notes of rows that were changed by one step after another where they lay before the first.
pub fn trace<'d>(steps: impl Iterator<Item = &'d mut Vec<Done>>) {
    let mut origins: HashMap<Address, Address> = HashMap::new();
    for row in steps.flatten().flat_map(|d| &mut d.moved).flat_map(|m| &mut m.rows) {
        if let (Some(was), Some(now)) = (row.was, row.now) {
            let origin = origins.remove(&was).unwrap_or(was);
            origins.insert(now, origin);
            row.origin = Some(origin);
        }
    }
}

/// Numbers the rows that were changed in several steps.
pub fn number<'d>(steps: impl Iterator<Item = &'d mut Vec<Done>>) {
    let mut seen: BTreeMap<Address, Vec<(&[String], &mut MovedRow)>> = BTreeMap::new();
    for moved in steps.flatten().flat_map(|d| &mut d.moved) {
        for row in &mut moved.rows {
            row.number = None;
            if let Some(origin) = row.origin {
                seen.entry(origin).or_default().push((&moved.columns, row));
            }
        }
    }
    let often = seen.into_values().filter(|rows| rows.len() > 1);
    for (number, rows) in often.enumerate() {
        // What a trigger sets in the first step may be the same in all.
        let mut set = Fields::default();
        for (columns, row) in rows {
            for (column, value) in row.set_by_triggers.iter() {
                set.insert(column.clone(), value.clone());
            }
            columns.iter().for_each(|column| set.remove(&unquoted(column)));
            row.set_by_triggers = set.clone();
            row.number = Some(number);
        }
    }
}
