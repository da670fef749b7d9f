//! Rows that an undo has put back must be what they were, whatever triggers of the application have made of them meanwhile.
//! One that counts the rows of another table, for instance, counts those that move back in addition to what a row had counted
//! already.

use super::changes::{self, TableChanges, Update, Wanted};
use super::done::{self, Done, MovedRow};
use super::rekey::Mover;
use super::rows::{Address, Text};
use crate::error::Error;
use crate::pg::{Raw, Session};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::slice;

/// How often rows are written: what counts may itself be counted, by a trigger of the next table.
const ROUNDS: usize = 4;

/// Columns that triggers set as a row is written again, by the rows' places.
type SetAnew = HashMap<usize, BTreeSet<String>>;

/// Writes the rows that `changes` have put back again where they are not what `done` tells of. `now` is what came of the
/// changes, and tells of the rows as they are then. Answers the tables with rows that are not what they were even so, but for
/// what triggers set whenever a row changes.
pub fn set_right(
    session: &Session,
    mover: &Mover,
    changes: &[TableChanges],
    (done, now): (&[Done], &mut [Done]),
) -> Result<Vec<String>, Error> {
    let mut anew: Vec<SetAnew> = done.iter().map(|_| SetAnew::new()).collect();
    for round in 0.. {
        let all = done.iter().zip(now.iter()).zip(&anew);
        let wrong = all.filter(|((done, now), anew)| differ(done, now, anew));
        let wrong: Vec<String> = wrong.map(|((done, _), _)| done.table.clone()).collect();
        if wrong.is_empty() || round == ROUNDS {
            return Ok(wrong);
        }
        let all = changes.iter().zip(done).zip(now.iter());
        let again: Vec<TableChanges> =
            all.map(|((changes, done), now)| differences(changes, done, now)).collect();
        let written = changes::apply(session, mover, &again, Wanted::Keys)?;
        for ((written, now), anew) in written.iter().zip(now.iter()).zip(&mut anew) {
            anew.extend(set_anew(written, now));
        }
        if !changes::look_at_all(session, mover, changes, now) {
            return Ok(wrong);
        }
    }
    Ok(Vec::new())
}

/// What triggers have set in rows of `now` as these were `written`.
fn set_anew(written: &Done, now: &Done) -> SetAnew {
    let rows = done::moved(slice::from_ref(written));
    let rows: HashMap<Address, &MovedRow> = rows.filter_map(|row| Some((row.was?, row))).collect();
    let set =
        |row: &MovedRow| row.overruled.iter().chain(row.set_by_triggers.names()).cloned().collect();
    let places = now.added_at.iter().enumerate();
    places.filter_map(|(place, at)| Some((place, set(rows.get(at)?)))).collect()
}

/// Each row that had given way, as it was and as it is.
fn pairs(done: &Done, now: &Done) -> impl Iterator<Item = (Value, Value)> {
    done.removed.iter().map(Raw::parsed).zip(now.added.iter().map(Raw::parsed))
}

/// Whether any is not what it was, in the columns that are known of it. What had come back right may have been set by triggers
/// since: as other triggers changed the row, or as it was written again.
fn differ(done: &Done, now: &Done, anew: &SetAnew) -> bool {
    let differs = |(place, (was, is)): (usize, (Value, Value))| {
        let first = now.at_first.get(&place).map(Raw::parsed).unwrap_or_default();
        let is_theirs = |name: &String, value: &Value| {
            first.get(name) == Some(value) && anew.get(&place).is_some_and(|set| set.contains(name))
        };
        let mut columns = was.as_object().into_iter().flatten();
        columns.any(|(name, value)| is.get(name) != Some(value) && !is_theirs(name, value))
    };
    done.removed.len() != now.added.len() || pairs(done, now).enumerate().any(differs)
}

fn differences<'a>(changes: &TableChanges<'a>, done: &Done, now: &Done) -> TableChanges<'a> {
    let (table, shape) = (changes.of.table, changes.of.shape);
    let mut again = TableChanges::new(table, shape);
    for ((was, is), at) in pairs(done, now).zip(&now.added_at) {
        let columns = shape.columns.iter().filter(|column| {
            let (was, is) = (was.get(&column.name), is.get(&column.name));
            column.generated.is_none() && was.is_some() && was != is
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
        again.updated.entry(names).or_default().push(update);
    }
    again
}
