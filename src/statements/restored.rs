//! Rows that an undo has put back must be what they were, whatever triggers of the application have made of them meanwhile.
//! One that counts the rows of another table, for instance, counts those that move back in addition to what a row had counted
//! already.

use super::changes::{self, TableChanges, Update, Wanted};
use super::done::{self, Done};
use super::rekey::Mover;
use super::rows::{self, Address, Text};
use super::undo::Resolved;
use crate::error::Error;
use crate::pg::{Raw, Session};
use serde_json::Value;
use std::collections::HashMap;

/// Writes the rows that `now` has put back once more where they are not what `done` tells of. Answers what was done for it, and the
/// tables with rows that are not what they were even so.
pub fn set_right(
    session: &Session,
    mover: &Mover,
    tables: &[Resolved],
    (done, now): (&[Done], &[Done]),
) -> Result<(Vec<Done>, Vec<String>), Error> {
    let all = || done.iter().zip(now).zip(tables);
    let odd = |(done, now): (&Done, &Done)| {
        done.removed.len() != now.added.len() || rows(done).zip(rows_of(now)).any(differ)
    };
    if !all().any(|((done, now), _)| odd((done, now))) {
        return Ok((Vec::new(), Vec::new()));
    }
    let again: Vec<TableChanges> =
        all().map(|((done, now), table)| differences(done, now, table)).collect();
    let written = changes::apply(session, mover, &again, Wanted::Keys)?;
    let moved: HashMap<Address, Address> =
        done::moved(&written).filter_map(|row| Some((row.was?, row.now?))).collect();
    let mut wrong = Vec::new();
    for ((done, now), table) in all() {
        let at = now.added_at.iter().map(|at| *moved.get(at).unwrap_or(at));
        let images = rows::images(session, &table.table, &table.shape, at);
        if done.removed.len() != images.len()
            || rows(done).zip(images.iter().map(Raw::parsed)).any(differ)
        {
            wrong.push(done.table.clone());
        }
    }
    Ok((written, wrong))
}

fn rows(done: &Done) -> impl Iterator<Item = Value> {
    done.removed.iter().map(Raw::parsed)
}

fn rows_of(now: &Done) -> impl Iterator<Item = Value> {
    now.added.iter().map(Raw::parsed)
}

/// Whether a row is not what it was, in the columns that are known of it.
fn differ((was, is): (Value, Value)) -> bool {
    let columns = was.as_object().into_iter().flatten();
    columns.into_iter().any(|(name, value)| is.get(name) != Some(value))
}

fn differences<'a>(done: &Done, now: &Done, of: &'a Resolved) -> TableChanges<'a> {
    let mut changes = TableChanges::new(&of.table, &of.shape);
    for ((was, is), at) in rows(done).zip(rows_of(now)).zip(&now.added_at) {
        let columns = of.shape.columns.iter().filter(|column| {
            let name = column.name.as_str();
            column.generated.is_none() && was.get(name).is_some() && was.get(name) != is.get(name)
        });
        let columns: Vec<_> = columns.collect();
        if columns.is_empty() {
            continue;
        }
        let texts = |row: &Value| -> Vec<Text> {
            columns.iter().map(|c| row[&c.name].as_str().map(str::to_owned)).collect()
        };
        let names = columns.iter().map(|c| c.quoted.clone()).collect();
        let update = Update::new(*at, texts(&is), texts(&was));
        changes.updated.entry(names).or_default().push(update);
    }
    changes
}
