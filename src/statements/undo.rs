//! Taking back what the audit log tells of: the changes that lead from now to then, and whether they are possible.

use super::changes::{Done, Moved, MovedRow, TableChanges, Update};
use super::rows::{Address, address};
use crate::catalog::House;
use crate::catalog::references::Table;
use crate::catalog::shape::Shape;
use crate::pg::{self, Arg, Mode, Session};
use pgrx::JsonB;
use pgrx::pg_sys::Oid;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// How many rows are named where an undo is refused.
const NAMED: usize = 10;

/// A table the audit log names, as it is now.
pub struct Resolved {
    table: Table,
    shape: Shape,
}

/// The tables of `done`, in its order. Adds to `why` those that are not there any more.
pub fn resolve(
    session: &Session,
    house: House,
    done: &[Done],
    why: &mut Vec<String>,
) -> Vec<Resolved> {
    done.iter()
        .filter_map(|d| {
            let found = pg::as_role(house.owner, || {
                let oid = session
                    .run("SELECT to_regclass($1)::oid", &[d.table.clone().into()], Mode::Fresh)
                    .one::<Oid>()?;
                let table = Table::read(session, oid, Mode::Fresh)?;
                Some(Resolved { table, shape: Shape::read(session, oid, Mode::Fresh) })
            });
            if found.is_none() {
                why.push(format!("table {} is not there any more", d.table));
            }
            found
        })
        .collect()
}

/// Where the rows lie that an earlier step of the same undo has changed: by their numbers.
pub type Known = HashMap<usize, Address>;

/// The changes that take `done` back, all rows locked. Adds to `why` what has changed since.
pub fn inverse<'a>(
    session: &Session,
    done: &[Done],
    tables: &'a [Resolved],
    known: &Known,
    why: &mut Vec<String>,
) -> Vec<TableChanges<'a>> {
    done.iter()
        .zip(tables)
        .map(|(d, t)| {
            let mut changes = TableChanges::new(&t.table, &t.shape);
            changes.inserted = d.removed.clone();
            // Rows of the same content stand for each other, but each only once.
            let all = d.moved.iter().flat_map(|moved| &moved.rows);
            let mut used: HashSet<Address> =
                all.filter_map(|row| known.get(&row.number?)).cloned().collect();
            for moved in &d.moved {
                let updates = take_back(session, t, moved, known, &mut used, why);
                changes.updated.entry(moved.columns.clone()).or_default().extend(updates);
            }
            for row in &d.added {
                match find(session, t, std::slice::from_ref(row), true, &mut used).pop() {
                    Some(Found { address: Some(address), same: true, .. }) => {
                        changes.deleted.push(address)
                    }
                    found => note(why, t, row, found.as_ref()),
                }
            }
            changes
        })
        .collect()
}

fn take_back(
    session: &Session,
    t: &Resolved,
    moved: &Moved,
    known: &Known,
    used: &mut HashSet<Address>,
    why: &mut Vec<String>,
) -> Vec<Update> {
    let missing: Vec<&String> =
        moved.columns.iter().filter(|c| t.shape.column(c).is_none()).collect();
    if !missing.is_empty() {
        why.push(format!("{} has lost the column {}", t.table.label, missing[0]));
        return Vec::new();
    }
    let update = |address: Address, row: &MovedRow| Update {
        number: row.number,
        ..Update::new(address, row.after.clone(), row.before.clone())
    };
    let known_at = |row: &&MovedRow| row.number.and_then(|number| known.get(&number)).cloned();
    let (known, unknown): (Vec<&MovedRow>, Vec<&MovedRow>) =
        moved.rows.iter().partition(|row| known_at(row).is_some());
    let mut updates: Vec<Update> =
        known.iter().filter_map(|row| Some(update(known_at(row)?, row))).collect();
    let rows: Vec<Value> =
        unknown.iter().map(|row| serde_json::json!({ "key": row.key, "md5": row.md5 })).collect();
    for (row, found) in unknown.into_iter().zip(find(session, t, &rows, false, used)) {
        match found {
            Found { address: Some(address), same: true, .. } => updates.push(update(address, row)),
            found => note(why, t, row.key.as_ref().unwrap_or(&Value::Null), Some(&found)),
        }
    }
    updates
}

fn note(why: &mut Vec<String>, t: &Resolved, row: &Value, found: Option<&Found>) {
    let what = match found {
        Some(found) if found.address.is_some() => "has changed",
        _ => "is gone or has changed",
    };
    let key: Vec<String> = match row {
        Value::Object(values) => values
            .iter()
            .filter(|(name, _)| {
                t.shape.primary_key.iter().any(|k| super::rekey::unquoted(k) == **name)
            })
            .map(|(name, value)| format!("{name} {}", value.as_str().unwrap_or("NULL")))
            .collect(),
        _ => Vec::new(),
    };
    match why.len() {
        n if n < NAMED => {
            why.push(format!("a row of {} ({}) {what}", t.table.label, key.join(", ")))
        }
        NAMED => why.push("and more".into()),
        _ => {}
    }
}

struct Found {
    address: Option<Address>,
    /// It is to the last byte as it was left.
    same: bool,
}

/// Finds and locks rows, each given by its primary key or else by its content. With `whole`, `rows` are whole rows;
/// else objects of `key` and `md5`. Those in `used` are passed over, and those found are added to it.
fn find(
    session: &Session,
    t: &Resolved,
    rows: &[Value],
    whole: bool,
    used: &mut HashSet<Address>,
) -> Vec<Found> {
    let image = t.shape.image();
    let (key, md5) = if whole {
        ("x.r", "md5(x.r::text)".to_owned())
    } else {
        ("x.r -> 'key'", "x.r ->> 'md5'".to_owned())
    };
    let has_key = !t.shape.primary_key.is_empty()
        && rows.iter().all(|row| whole || row.get("key").is_some_and(Value::is_object));
    let on = if has_key {
        let equal: Vec<String> = t
            .shape
            .columns
            .iter()
            .filter(|c| t.shape.primary_key.contains(&c.quoted))
            .map(|c| {
                let name = pgrx::spi::quote_literal(&c.name);
                format!("t.{} = ({key} ->> {name})::{}", c.quoted, c.kind)
            })
            .collect();
        equal.join(" AND ")
    } else {
        format!("md5({image}::text) = {md5}")
    };
    let sql = format!(
        "SELECT x.place, t.tableoid, t.ctid::text, md5({image}::text) = {md5}
           FROM jsonb_array_elements($1) WITH ORDINALITY AS x(r, place) JOIN {} t ON {on}
          ORDER BY x.place FOR UPDATE OF t",
        t.table.target()
    );
    let mut found: Vec<Found> = rows.iter().map(|_| Found { address: None, same: false }).collect();
    pg::with_stable_text(|| {
        pg::as_role(t.table.owner, || {
            let args = [Arg::from(JsonB(Value::Array(rows.to_vec())))];
            let rows = session.run(&sql, &args, Mode::Fresh);
            for row in 0..rows.len() {
                let place = rows.get::<i64>(row, 1).unwrap_or(1) as usize - 1;
                let Some(address) = address(&rows, row, 2) else {
                    continue;
                };
                if found[place].address.is_none() && used.insert(address.clone()) {
                    found[place] = Found {
                        address: Some(address),
                        same: rows.get(row, 4).unwrap_or_default(),
                    };
                }
            }
        })
    });
    found
}
