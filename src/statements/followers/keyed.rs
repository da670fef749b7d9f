//! Reading rows by the keys they have, and those that refer to them.

use super::{Fate, Row};
use crate::catalog::references::{ForeignKey, Table};
use crate::catalog::shape::Shape;
use crate::error::Error;
use crate::pg::{self, Json, Mode, Raw, Session};
use crate::statements::rekey::{Mover, unquoted};
use crate::statements::rows::{Address, Text, address};
use crate::statements::{elements, fit};
use pgrx::pg_sys::Oid;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A row that is referred to, its key as it is, and as it becomes; None where the row is deleted.
pub(super) type Parent<'r> = (&'r Row, Vec<Text>, Option<Vec<Text>>);

pub(super) struct Child {
    pub address: Address,
    /// The columns of the key as they are.
    pub holds: Vec<Text>,
    /// What they would have to be; None where the parent is deleted.
    pub becomes: Option<Vec<Text>>,
}

/// The rows that are referred to through a key and whose key changes, or which are deleted.
pub(super) fn parents<'r>(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    fates: &'r BTreeMap<Row, Fate>,
) -> Vec<Parent<'r>> {
    let changes = |fate: &Fate| match fate {
        Some(fate) => key.keys.iter().any(|k| fate.contains(k)),
        None => true,
    };
    let parents: Vec<(&Row, &Fate)> =
        fates.iter().filter(|(row, fate)| row.0 == key.parent && changes(fate)).collect();
    keyed(session, mover, key, &parents)
}

/// Those of the rows that a key can refer to.
pub(super) fn keyed<'r>(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    parents: &[(&'r Row, &'r Fate)],
) -> Vec<Parent<'r>> {
    let parents: Vec<(&Row, &Fate)> =
        parents.iter().filter(|(row, _)| key.is_to(row.1.0)).copied().collect();
    if parents.is_empty() {
        return Vec::new();
    }
    let table = &mover.references.tables[key.parent];
    let shape = mover.shape(session, key.parent);
    let values = values_of(session, (table, shape), &key.keys, &parents).into_iter();
    values
        .map(|(number, now)| {
            let (row, fate) = parents[number];
            let becomes = after(&key.keys, fate, &now);
            (row, now, becomes)
        })
        .collect()
}

/// What becomes of columns (quoted) that are `now`; None where the row is deleted.
pub(super) fn after(columns: &[String], fate: &Fate, now: &[Text]) -> Option<Vec<Text>> {
    let fate = fate.as_ref()?;
    let after = |(column, now): (&String, &Text)| fate.get(column).unwrap_or(now).clone();
    Some(columns.iter().zip(now).map(after).collect())
}

/// Columns (quoted) of rows that are inserted.
pub(super) fn inserted_as(inserted: &[&Raw], columns: &[String]) -> Vec<Vec<Text>> {
    let names: Vec<String> = columns.iter().map(|k| unquoted(k)).collect();
    let text = |row: &Value, name: &String| row[name.as_str()].as_str().map(str::to_owned);
    let of_row = |row: &&Raw| {
        let row = row.parsed();
        names.iter().map(|name| text(&row, name)).collect()
    };
    inserted.iter().map(of_row).collect()
}

/// The rows, locked, that refer through a key to one of `open`, and whose key no row has in the end.
pub(super) fn children(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    open: &BTreeSet<Row>,
    fates: &BTreeMap<Row, Fate>,
    inserted: &[&Raw],
) -> Vec<Child> {
    if !open.iter().any(|row| row.0 == key.parent) {
        return Vec::new();
    }
    let keys = parents(session, mover, key, fates);
    let mut stay: BTreeSet<Vec<Text>> =
        keys.iter().filter_map(|(_, _, becomes)| becomes.clone()).collect();
    stay.extend(inserted_as(inserted, &key.keys));
    let goes = |(row, now, _): &Parent| {
        open.contains(*row) && !stay.contains(now) && now.iter().all(Option::is_some)
    };
    let keys: Vec<_> = keys.into_iter().filter(goes).collect();
    let wanted: Vec<&Vec<Text>> = keys.iter().map(|(_, now, _)| now).collect();
    holders(session, mover, key, &wanted)
        .into_iter()
        .map(|(number, address, holds)| {
            let (_, now, becomes) = &keys[number];
            // What is equal to a part of the key that stays is good enough.
            let part = |((now, becomes), held): ((&Text, &Text), &Text)| {
                if now == becomes { held.clone() } else { becomes.clone() }
            };
            let becomes = becomes
                .as_ref()
                .map(|becomes| now.iter().zip(becomes).zip(&holds).map(part).collect());
            Child { address, holds, becomes }
        })
        .collect()
}

/// What the columns of a key become in a row that follows one which gets another.
pub(super) fn fitting(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    holds: &[Text],
    becomes: Vec<Text>,
) -> Result<Vec<Text>, Error> {
    let each = becomes.into_iter().zip(holds).enumerate();
    each.map(|(place, (becomes, holds))| match becomes {
        Some(becomes) if Some(&becomes) != holds.as_ref() => {
            fit::as_referring(session, mover, (key, place), &becomes, Mode::Fresh).map(Some)
        }
        same => Ok(same),
    })
    .collect()
}

/// The rows, locked, that hold one of these keys: each with the number of the key, and the columns of it as they are.
pub(super) fn holders(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    wanted: &[&Vec<Text>],
) -> Vec<(usize, Address, Vec<Text>)> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let (child, shape) = (&mover.references.tables[key.child], mover.shape(session, key.parent));
    let mut on: Vec<String> = (0..key.keys.len())
        .map(|i| {
            let theirs = shape.base_of_text(&key.keys[i], &format!("x.r ->> {i}"));
            key.equal(i, &theirs, &format!("t.{}", key.columns[i]))
        })
        .collect();
    on.extend(key.within("t"));
    let held = mover.shape(session, key.child).texts("t", key.columns.iter().map(String::as_str));
    let sql = format!(
        "SELECT x.place, t.tableoid, t.ctid::text, {held}
           FROM {} AS x JOIN {} t ON {} FOR UPDATE OF t",
        elements("$1", wanted.len()),
        child.target(),
        on.join(" AND ")
    );
    pg::with_stable_text(|| {
        pg::as_role(child.owner, || {
            let rows = session.run(&sql, &[Json::of(&wanted).into()], Mode::Fresh);
            (0..rows.len())
                .filter_map(|row| {
                    Some((
                        rows.get::<i64>(row, 1)? as usize - 1,
                        address(&rows, row, 2)?,
                        rows.get(row, 4)?,
                    ))
                })
                .collect()
        })
    })
}

/// Columns (quoted) of rows of a table as they are, each with the row's number.
pub(super) fn values_of(
    session: &Session,
    (table, shape): (&Table, &Shape),
    columns: &[String],
    rows: &[(&Row, &Fate)],
) -> Vec<(usize, Vec<Text>)> {
    if rows.is_empty() {
        return Vec::new();
    }
    let sql = format!(
        "SELECT x.place, {}
           FROM unnest($1::oid[], $2::text[]) WITH ORDINALITY AS x(at, row, place)
           JOIN {} t ON t.tableoid = x.at AND t.ctid = x.row::tid",
        shape.texts("t", columns.iter().map(String::as_str)),
        table.target()
    );
    let (at, rows): (Vec<Oid>, Vec<String>) =
        rows.iter().map(|((_, (at, row)), _)| (Oid::from(*at), row.to_string())).unzip();
    pg::with_stable_text(|| {
        pg::as_role(table.owner, || {
            let found = session.run(&sql, &[at.into(), rows.into()], Mode::Fresh);
            (0..found.len())
                .filter_map(|row| {
                    Some((found.get::<i64>(row, 1)? as usize - 1, found.get(row, 2)?))
                })
                .collect()
        })
    })
}
