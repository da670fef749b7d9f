//! Taking back what the audit log tells of: the changes that lead from now to then, and whether they are possible.

mod named;

pub use named::{Resolved, holds, names_now, resolve};

use super::changes::{TableChanges, Update};
use super::done::{Done, Moved, MovedRow};
use super::elements;
use super::rekey::unquoted;
use super::rows::{Address, address};
use crate::catalog::references::Table;
use crate::catalog::shape::Shape;
use crate::pg::{self, Json, Mode, Raw, Session};
use serde::Serialize;
use serde_json::{Value, json};
use std::cell::LazyCell;
use std::collections::{HashMap, HashSet};

/// How many rows are named where an undo is refused.
const NAMED: usize = 10;

/// What triggers have set in a row, by column.
pub type Set = serde_json::Map<String, Value>;

/// Where the rows lie that an earlier step of the same undo has changed: by their numbers.
pub type Known = HashMap<usize, Address>;

/// The changes that take `done` back, all rows locked. Adds to `why` what has changed since. In tables that `has_been_back`, rows
/// may differ in what triggers had set; of rows that were made `set_since` tells that, by their key.
pub fn inverse<'a>(
    session: &Session,
    (done, tables): (&[Done], &'a [Resolved]),
    known: &Known,
    has_been_back: &dyn Fn(&Table) -> bool,
    set_since: &dyn Fn(&Table, &Value) -> Option<Set>,
    why: &mut Vec<String>,
) -> Vec<TableChanges<'a>> {
    done.iter()
        .zip(tables)
        .map(|(d, t)| {
            let mut changes = TableChanges::new(&t.table, &t.shape);
            let names = known_columns(d, &t.shape);
            let is_there = |name: &String| t.shape.columns.iter().any(|c| c.name == *name);
            let lost: Vec<&String> = names.iter().filter(|name| !is_there(name)).collect();
            if !lost.is_empty() {
                let lost =
                    lost.iter().map(|name| format!("{} has lost the column {name}", t.table.label));
                why.extend(lost);
                return changes;
            }
            changes.inserted = d.removed.clone();
            // Rows of the same content stand for each other, but each only once.
            let all = d.moved.iter().flat_map(|moved| &moved.rows);
            let mut used: HashSet<Address> =
                all.filter_map(|row| known.get(&row.number?)).cloned().collect();
            for moved in &d.moved {
                let updates =
                    take_back(session, t, (moved, &names), known, has_been_back, &mut used, why);
                changes.updated.entry(moved.columns.clone()).or_default().extend(updates);
            }
            let look = |set: &[Option<Set>]| {
                find(session, t, Sought::Whole(&d.added, set), &mut used.clone())
            };
            let mut all = look(&[]);
            if all.iter().any(|found| found.same == Some(false)) {
                let set = |(row, found): (&Raw, &Found)| match found.same {
                    Some(false) => set_since(&t.table, &key_of(row, &t.shape)),
                    _ => None,
                };
                let set: Vec<Option<Set>> = d.added.iter().zip(&all).map(set).collect();
                if set.iter().any(Option::is_some) {
                    all = look(&set);
                }
            }
            used.extend(all.iter().filter_map(|found| found.address));
            for (row, found) in d.added.iter().zip(all) {
                match found {
                    Found { address: Some(address), same: Some(true) | None, .. } => {
                        changes.deleted.push(address)
                    }
                    found => note(why, t, Some(row), Some(&found)),
                }
            }
            changes
        })
        .collect()
}

/// The names of the columns that the log tells of. What has come to the table since stands in no undo's way.
fn known_columns(done: &Done, shape: &Shape) -> Vec<String> {
    if !done.columns.is_empty() {
        return done.columns.clone();
    }
    // An entry of version 0.1.0: MD5s are taken to be of the columns there are now.
    let removed = names_of(done.removed.first()).into_iter();
    let moved = done.moved.iter().flat_map(|moved| &moved.columns).map(|c| unquoted(c));
    let mut names: Vec<String> = removed.chain(moved).collect();
    if !done.moved.is_empty() {
        names.extend(shape.columns.iter().map(|c| c.name.clone()));
    }
    names
}

fn take_back(
    session: &Session,
    t: &Resolved,
    (moved, names): (&Moved, &[String]),
    known: &Known,
    has_been_back: &dyn Fn(&Table) -> bool,
    used: &mut HashSet<Address>,
    why: &mut Vec<String>,
) -> Vec<Update> {
    let update = |address: Address, row: &MovedRow| Update {
        number: row.number,
        ..Update::new(address, row.after.clone(), row.before.clone())
    };
    let known_at = |row: &&MovedRow| row.number.and_then(|number| known.get(&number)).cloned();
    let (known, unknown): (Vec<&MovedRow>, Vec<&MovedRow>) =
        moved.rows.iter().partition(|row| known_at(row).is_some());
    let mut updates: Vec<Update> =
        known.iter().filter_map(|row| Some(update(known_at(row)?, row))).collect();
    let wanted = Sought::Left(&unknown, names);
    let has_been_back = LazyCell::new(|| has_been_back(&t.table));
    for (row, found) in unknown.iter().zip(find(session, t, wanted, used)) {
        match found {
            Found { address: Some(address), same, .. }
                if same.unwrap_or_else(|| *has_been_back) =>
            {
                updates.push(update(address, row))
            }
            found => note(why, t, row.key.as_ref(), Some(&found)),
        }
    }
    updates
}

/// The primary key of a whole row, as [`MovedRow::key`] has it.
fn key_of(row: &Raw, shape: &Shape) -> Value {
    let row = row.parsed();
    shape.primary_key.iter().map(|k| unquoted(k)).map(|k| (k.clone(), row[&k].clone())).collect()
}

/// The names of the columns of a whole row.
fn names_of(row: Option<&Raw>) -> Vec<String> {
    match row.map(Raw::parsed) {
        Some(Value::Object(row)) => row.into_iter().map(|(name, _)| name).collect(),
        _ => Vec::new(),
    }
}

fn note(why: &mut Vec<String>, t: &Resolved, row: Option<&Raw>, found: Option<&Found>) {
    if why.len() > NAMED {
        return;
    }
    let what = match found {
        Some(found) if found.ambiguous => "cannot be told from others, for want of a primary key",
        Some(found) if found.address.is_some() => "has changed",
        _ => "is gone or has changed",
    };
    let key: Vec<String> = match row.map(Raw::parsed) {
        Some(Value::Object(values)) => values
            .iter()
            .filter(|(name, _)| t.shape.primary_key.iter().any(|k| unquoted(k) == **name))
            .map(|(name, value)| format!("{name} {}", value.as_str().unwrap_or("NULL")))
            .collect(),
        _ => Vec::new(),
    };
    match why.len() {
        n if n < NAMED => {
            let key = if key.is_empty() { String::new() } else { format!(" ({})", key.join(", ")) };
            why.push(format!("a row of {}{key} {what}", t.table.label))
        }
        NAMED => why.push("and more".into()),
        _ => {}
    }
}

/// A row that is looked for: by its primary key, where there is one, and how it was left.
#[derive(Serialize)]
struct Left<'w> {
    key: Option<&'w Raw>,
    md5: String,
    /// What triggers had set.
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<Value>,
    /// What they have set since: nobody else has changed that.
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<&'w Set>,
}

/// Rows as they were left.
#[derive(Clone, Copy)]
enum Sought<'w> {
    /// Whole ones, to be deleted: whatever anybody has put into them since would be lost. And what triggers have set in each since.
    Whole(&'w [Raw], &'w [Option<Set>]),
    /// Some of which columns were changed, and the names of the columns that their MD5s are of.
    Left(&'w [&'w MovedRow], &'w [String]),
}

impl<'w> Sought<'w> {
    fn rows(&self, session: &Session) -> Vec<Left<'w>> {
        match self {
            Sought::Whole(rows, set) => {
                let elements = elements("$1", rows.len());
                let sql = format!("SELECT md5(x.r::text) FROM {elements} AS x ORDER BY x.place");
                let md5s = session.run(&sql, &[Json::of(rows).into()], Mode::Fresh);
                let md5s = md5s.column::<String>().into_iter();
                let before = |row: &Raw, now: &Set| match row.parsed() {
                    Value::Object(mut row) => {
                        row.retain(|name, _| now.contains_key(name));
                        Value::Object(row)
                    }
                    other => other,
                };
                rows.iter()
                    .zip(md5s)
                    .enumerate()
                    .map(|(place, (row, md5))| {
                        let now = set.get(place).and_then(Option::as_ref);
                        Left { key: Some(row), md5, set: now.map(|now| before(row, now)), now }
                    })
                    .collect()
            }
            Sought::Left(rows, _) => {
                let left = |row: &&'w MovedRow| Left {
                    key: row.key.as_ref(),
                    md5: row.md5.clone(),
                    set: (!row.set_by_triggers.is_empty()).then(|| json!(row.set_by_triggers)),
                    now: None,
                };
                rows.iter().map(left).collect()
            }
        }
    }

    /// SQL over the alias `t`: what the MD5 of a row is of, and whether it is untouched but for that.
    fn image(&self, shape: &Shape) -> (String, String) {
        let names = match self {
            Sought::Whole(rows, _) => names_of(rows.first()),
            Sought::Left(_, names) => names.to_vec(),
        };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let untouched = match self {
            Sought::Whole(..) => shape.untouched_but(&names),
            Sought::Left(..) => "true".into(),
        };
        (shape.image_over(&names), untouched)
    }
}

#[derive(Default)]
struct Found {
    address: Option<Address>,
    /// It is to the last byte as it was left; None: but for columns that triggers had set.
    same: Option<bool>,
    /// Rows that are not alike could be it.
    ambiguous: bool,
}

/// Finds and locks rows, each by its primary key or else by its content. Those in `used` are passed over, and those found are
/// added to it.
fn find(
    session: &Session,
    t: &Resolved,
    wanted: Sought,
    used: &mut HashSet<Address>,
) -> Vec<Found> {
    pg::with_stable_text(|| {
        pg::as_role(t.table.owner, || {
            let rows = wanted.rows(session);
            // The key may have been made, or become another, since.
            let key: Vec<String> = t.shape.primary_key.iter().map(|k| unquoted(k)).collect();
            let is_whole = |row: &Left| {
                let known = names_of(row.key);
                key.iter().all(|k| known.contains(k))
            };
            let has_key = !key.is_empty() && rows.iter().all(is_whole);
            match (rows.is_empty(), has_key) {
                (true, _) => Vec::new(),
                (_, true) => find_by_key(session, t, &rows, wanted.image(&t.shape), used),
                _ => find_by_content(session, t, &rows, wanted.image(&t.shape), used),
            }
        })
    })
}

fn find_by_key(
    session: &Session,
    t: &Resolved,
    rows: &[Left],
    (image, untouched): (String, String),
    used: &mut HashSet<Address>,
) -> Vec<Found> {
    let equal: Vec<String> = t
        .shape
        .columns
        .iter()
        .filter(|c| t.shape.primary_key.contains(&c.quoted))
        .map(|c| {
            let name = pgrx::spi::quote_literal(&c.name);
            let value = c.of_text(&format!("x.r -> 'key' ->> {name}"));
            t.shape.same(&c.quoted, &format!("t.{}", c.quoted), &value)
        })
        .collect();
    let sql = format!(
        "SELECT x.place, t.tableoid, t.ctid::text,
                CASE x.r ->> 'md5' WHEN md5({image}::text) THEN {untouched}
                                   WHEN md5(({image} || (x.r -> 'set'))::text) THEN CASE WHEN NOT {untouched} OR NOT {image} @> coalesce(x.r -> 'now', '{{}}') THEN false END
                                   ELSE false END
           FROM {} AS x JOIN {} t ON {}
          ORDER BY x.place FOR UPDATE OF t",
        elements("$1", rows.len()),
        t.table.target(),
        equal.join(" AND ")
    );
    let mut found: Vec<Found> = rows.iter().map(|_| Found::default()).collect();
    let there = session.run(&sql, &[Json::of(&rows).into()], Mode::Fresh);
    for row in 0..there.len() {
        let place = there.get::<i64>(row, 1).unwrap_or(1) as usize - 1;
        let Some(address) = address(&there, row, 2) else {
            continue;
        };
        if found[place].address.is_none() && used.insert(address) {
            let same = there.get(row, 4);
            found[place] = Found { address: Some(address), same, ambiguous: false };
        }
    }
    found
}

/// Rows of the same content stand for each other.
fn find_by_content(
    session: &Session,
    t: &Resolved,
    rows: &[Left],
    (image, untouched): (String, String),
    used: &mut HashSet<Address>,
) -> Vec<Found> {
    let md5 = format!("md5({image}::text)");
    let wanted: Vec<&str> = rows.iter().map(|row| row.md5.as_str()).collect();
    let distinct: HashSet<&str> = wanted.iter().copied().collect();
    let distinct: Vec<String> = distinct.into_iter().map(str::to_owned).collect();
    let sql = format!(
        "SELECT {md5}, t.tableoid, t.ctid::text, md5({}::text)
           FROM {} t WHERE {md5} = ANY ($1) AND {untouched} FOR UPDATE OF t",
        t.shape.image(),
        t.table.target(),
    );
    let there = session.run(&sql, &[distinct.into()], Mode::Fresh);
    let mut by_content: HashMap<String, Vec<(Address, String)>> = HashMap::new();
    for row in (0..there.len()).rev() {
        if let (Some(md5), Some(address), Some(whole)) =
            (there.get(row, 1), address(&there, row, 2), there.get(row, 4))
            && !used.contains(&address)
        {
            by_content.entry(md5).or_default().push((address, whole));
        }
    }
    // What has come to the table since may make a difference between those that were alike.
    let mut counts: HashMap<&str, usize> = HashMap::new();
    wanted.iter().for_each(|md5| *counts.entry(*md5).or_default() += 1);
    for (md5, alike) in &by_content {
        if alike.len() > counts.get(md5.as_str()).copied().unwrap_or_default()
            && alike.iter().any(|(_, whole)| *whole != alike[0].1)
        {
            return rows.iter().map(|_| Found { ambiguous: true, ..Found::default() }).collect();
        }
    }
    let mut next = |md5: &str| {
        let (address, _) = by_content.get_mut(md5)?.pop()?;
        used.insert(address);
        Some(address)
    };
    wanted
        .iter()
        .map(|md5| {
            let address = next(md5);
            Found { same: Some(address.is_some()), address, ambiguous: false }
        })
        .collect()
}
