//! Rows that an undo has put back must be what they were, whatever triggers of the application have made of them meanwhile.
//! One that counts the rows of another table, for instance, counts those that move back in addition to what a row had counted
//! already.

use super::changes::{self, TableChanges, Update, Wanted};
use super::done::Done;
use super::rekey::Mover;
use super::rows::Text;
use crate::error::Error;
use crate::pg::{Raw, Session};
use serde_json::Value;

/// How often rows are written: what counts may itself be counted, by a trigger of the next table.
const ROUNDS: usize = 4;

/// Writes the rows that `changes` have put back again where they are not what `done` tells of. `now` is what came of the
/// changes, and tells of the rows as they are then. Answers the tables with rows that are not what they were even so.
pub fn set_right(
    session: &Session,
    mover: &Mover,
    changes: &[TableChanges],
    (done, now): (&[Done], &mut [Done]),
) -> Result<Vec<String>, Error> {
    for round in 0.. {
        let wrong = done.iter().zip(now.iter()).filter(|(done, now)| differ(done, now));
        let wrong: Vec<String> = wrong.map(|(done, _)| done.table.clone()).collect();
        if wrong.is_empty() || round == ROUNDS {
            return Ok(wrong);
        }
        let all = changes.iter().zip(done).zip(now.iter());
        let again: Vec<TableChanges> =
            all.map(|((changes, done), now)| differences(changes, done, now)).collect();
        changes::apply(session, mover, &again, Wanted::Keys)?;
        if !changes::look_at_all(session, mover, changes, now) {
            return Ok(wrong);
        }
    }
    Ok(Vec::new())
}

/// Each row that had given way, as it was and as it is.
fn pairs(done: &Done, now: &Done) -> impl Iterator<Item = (Value, Value)> {
    done.removed.iter().map(Raw::parsed).zip(now.added.iter().map(Raw::parsed))
}

/// Whether any is not what it was, in the columns that are known of it.
fn differ(done: &Done, now: &Done) -> bool {
    let differs = |(was, is): (Value, Value)| {
        let columns = was.as_object().into_iter().flatten();
        columns.into_iter().any(|(name, value)| is.get(name) != Some(value))
    };
    done.removed.len() != now.added.len() || pairs(done, now).any(differs)
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
