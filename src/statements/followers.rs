//! Rows that came since: what refers to a row that changes again must follow it, where its key goes with it.

use super::changes::{TableChanges, Update};
use super::rekey::{Mover, unquoted};
use super::rows::{Address, Text, address};
use crate::catalog::references::{ForeignKey, Table};
use crate::pg::{self, Mode, Session};
use pgrx::pg_sys::Oid;
use pgrx::{JsonB, Uuid};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A row of a table ([`crate::catalog::references::References::tables`]).
type Row = (usize, Address);

/// What becomes of some of a row's columns; None where it is deleted.
type Fate = Option<BTreeMap<String, Text>>;

/// Adds to `changes` the rows that refer to one which gets another key, and do not change themselves: they follow, unless
/// some row has the key in the end. Adds to `why` those that refer to a row which would be deleted. Answers how many follow.
pub fn follow<'a>(
    session: &Session,
    mover: &'a Mover,
    changes: &mut Vec<TableChanges<'a>>,
    why: &mut Vec<String>,
) -> usize {
    let place = |oid: Oid| mover.references.tables.iter().position(|t| t.oid == oid);
    let mut fates: BTreeMap<Row, Fate> = BTreeMap::new();
    for c in changes.iter() {
        let Some(place) = place(c.of.table.oid) else {
            continue;
        };
        fates.extend(c.deleted.iter().map(|row| ((place, row.clone()), None)));
        for (columns, rows) in &c.updated {
            let fate = |u: &Update| columns.iter().cloned().zip(u.after.iter().cloned()).collect();
            fates.extend(rows.iter().map(|u| ((place, u.address.clone()), Some(fate(u)))));
        }
    }
    let changing: BTreeSet<Row> = fates.keys().cloned().collect();
    let mut found: BTreeMap<Row, BTreeMap<String, (Text, Text)>> = BTreeMap::new();
    let mut open: BTreeSet<Row> = changing.clone();
    while !open.is_empty() {
        let mut next = BTreeSet::new();
        for key in &mover.references.keys {
            let inserted = changes.iter().filter(|c| place(c.of.table.oid) == Some(key.parent));
            let inserted: Vec<&Value> = inserted.flat_map(|c| &c.inserted).collect();
            let (mut orphans, mut in_vain) = (0, 0);
            for child in children(session, mover, key, &open, &fates, &inserted) {
                let row = (key.child, child.address);
                if changing.contains(&row) {
                    // What is put back goes its own way; where its key stays, a foreign key that acts would draw it along.
                    let own = fates.get(&row).and_then(Option::as_ref);
                    let stays = |(column, now): (&String, &Text)| {
                        own.is_some_and(|own| own.get(column).is_none_or(|after| after == now))
                    };
                    let is_drawn = !key.validated
                        && !key.generated.contains(&true)
                        && key.columns.iter().zip(&child.holds).all(stays)
                        && child.becomes.as_ref() != Some(&child.holds);
                    in_vain += usize::from(is_drawn);
                    continue;
                }
                let Some(becomes) = child.becomes else {
                    orphans += 1;
                    continue;
                };
                in_vain += usize::from(!key.validated);
                for (i, column) in
                    key.columns.iter().enumerate().filter(|(i, _)| !key.generated[*i])
                {
                    let change = (child.holds[i].clone(), becomes[i].clone());
                    found.entry(row.clone()).or_default().insert(column.clone(), change);
                    let fate = fates.entry(row.clone()).or_insert_with(|| Some(BTreeMap::new()));
                    let before =
                        fate.as_mut().map(|f| f.insert(column.clone(), becomes[i].clone()));
                    if before != Some(Some(becomes[i].clone())) {
                        next.insert(row.clone());
                    }
                }
            }
            if orphans > 0 {
                why.push(left_behind(mover, orphans, key.child, key.parent));
            }
            if in_vain > 0 {
                why.push(may_have_been_there(mover, in_vain, key));
            }
        }
        open = next;
    }
    for key in mover.references.keys.iter().filter(|key| key.acts) {
        let drawn = drawn_along(session, mover, key, changes, &fates);
        if drawn > 0 {
            why.push(would_act(mover, drawn, key));
        }
    }
    why.extend(soft_left_behind(session, mover, changes, &changing));
    let followers = found.len();
    for ((place, address), columns) in found {
        let table = &mover.references.tables[place];
        let known = changes.iter().position(|c| c.of.table.oid == table.oid);
        let known = known.unwrap_or_else(|| {
            changes.push(TableChanges::new(table, mover.shape(session, place, Mode::Fresh)));
            changes.len() - 1
        });
        let (names, values): (Vec<String>, Vec<(Text, Text)>) = columns.into_iter().unzip();
        let (before, after) = values.into_iter().unzip();
        changes[known].updated.entry(names).or_default().push(Update::new(address, before, after));
    }
    followers
}

/// Of rows that refer by a key NOT VALID or NOT ENFORCED nobody can tell whether they came since, or were there and referred to nobody.
fn may_have_been_there(mover: &Mover, rows: usize, key: &ForeignKey) -> String {
    let refer = if rows == 1 { "row refers" } else { "rows refer" };
    let table = &mover.references.tables[key.child].label;
    let state = if key.enforced { "NOT VALID" } else { "NOT ENFORCED" };
    format!(
        "{rows} {refer} from {table} by {}, which is {state}, and may have referred to nobody before",
        key.name
    )
}

fn would_act(mover: &Mover, rows: usize, key: &ForeignKey) -> String {
    let refer = if rows == 1 { "row refers" } else { "rows refer" };
    let label = |place: usize| &mover.references.tables[place].label;
    format!(
        "{rows} {refer} from {} by {}, whose ON UPDATE or ON DELETE action would change them when their key passes from one row \
         of {} to another",
        label(key.child),
        key.name,
        label(key.parent)
    )
}

fn left_behind(mover: &Mover, rows: usize, child: usize, parent: usize) -> String {
    let refer = if rows == 1 { "row refers" } else { "rows refer" };
    let label = |place: usize| &mover.references.tables[place].label;
    format!(
        "{rows} {refer} from {} to a row of {} that would not be there any more",
        label(child),
        label(parent)
    )
}

/// What to say of registered references, without a foreign key, to users whose rows would be deleted. None but us sees to
/// it that these are not left behind.
fn soft_left_behind(
    session: &Session,
    mover: &Mover,
    changes: &[TableChanges],
    changing: &BTreeSet<Row>,
) -> Vec<String> {
    let users = &mover.references.tables[0];
    let Some(c) = changes.iter().find(|c| c.of.table.oid == users.oid) else {
        return Vec::new();
    };
    let comes: Vec<String> =
        c.inserted.iter().filter_map(|row| row["id"].as_str().map(str::to_owned)).collect();
    let (at, rows): (Vec<Oid>, Vec<String>) =
        c.deleted.iter().map(|(at, row)| (Oid::from(*at), row.clone())).unzip();
    let sql = format!(
        "SELECT t.id FROM unnest($1::oid[], $2::text[]) AS x(at, row)
           JOIN {} t ON t.tableoid = x.at AND t.ctid = x.row::tid WHERE t.id::text <> ALL ($3)",
        users.target()
    );
    let gone: Vec<Uuid> = pg::as_role(users.owner, || {
        session.run(&sql, &[at.into(), rows.into(), comes.into()], Mode::Fresh).column()
    });
    if gone.is_empty() {
        return Vec::new();
    }
    let mut why = Vec::new();
    for (place, child) in mover.references.tables.iter().enumerate() {
        for soft in child.moving.iter().filter(|m| m.soft && m.through.is_empty()) {
            let sql = format!(
                "SELECT t.tableoid, t.ctid::text FROM unnest($1::uuid[]) AS x(id) JOIN {} t ON {}",
                child.target(),
                soft.holds("t", "x.id")
            );
            let left = pg::as_role(child.owner, || {
                let rows = session.run(&sql, &[gone.clone().into()], Mode::Fresh);
                (0..rows.len())
                    .filter_map(|row| address(&rows, row, 1))
                    .filter(|address| !changing.contains(&(place, address.clone())))
                    .count()
            });
            if left > 0 {
                why.push(left_behind(mover, left, place, 0));
            }
        }
    }
    why
}

/// A row that is referred to, its key as it is, and as it becomes; None where the row is deleted.
type Parent<'r> = (&'r Row, Vec<Text>, Option<Vec<Text>>);

struct Child {
    address: Address,
    /// The columns of the key as they are.
    holds: Vec<Text>,
    /// What they would have to be; None where the parent is deleted.
    becomes: Option<Vec<Text>>,
}

/// The rows that are referred to through a key and whose key changes, or which are deleted.
fn parents<'r>(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    fates: &'r BTreeMap<Row, Fate>,
) -> Vec<Parent<'r>> {
    let changes = |fate: &Fate| match fate {
        Some(fate) => key.keys.iter().any(|k| fate.contains_key(k)),
        None => true,
    };
    let parents: Vec<(&Row, &Fate)> =
        fates.iter().filter(|(row, fate)| row.0 == key.parent && changes(fate)).collect();
    if parents.is_empty() {
        return Vec::new();
    }
    let table = &mover.references.tables[key.parent];
    let values = values_of(session, table, &key.keys, &parents).into_iter();
    values
        .map(|(number, now)| {
            let (row, fate) = parents[number];
            let becomes = after(&key.keys, fate, &now);
            (row, now, becomes)
        })
        .collect()
}

/// What becomes of columns (quoted) that are `now`; None where the row is deleted.
fn after(columns: &[String], fate: &Fate, now: &[Text]) -> Option<Vec<Text>> {
    let fate = fate.as_ref()?;
    let after = |(column, now): (&String, &Text)| fate.get(column).unwrap_or(now).clone();
    Some(columns.iter().zip(now).map(after).collect())
}

/// Columns (quoted) of rows that are inserted.
fn inserted_as(inserted: &[&Value], columns: &[String]) -> Vec<Vec<Text>> {
    let names: Vec<String> = columns.iter().map(|k| unquoted(k)).collect();
    let text = |row: &Value, name: &String| row[name.as_str()].as_str().map(str::to_owned);
    inserted.iter().map(|row| names.iter().map(|name| text(row, name)).collect()).collect()
}

/// The rows, locked, that refer through a key to one of `open`, and whose key no row has in the end.
fn children(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    open: &BTreeSet<Row>,
    fates: &BTreeMap<Row, Fate>,
    inserted: &[&Value],
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
        .map(|(number, address, holds)| Child { address, holds, becomes: keys[number].2.clone() })
        .collect()
}

/// How many rows refer, before or after, through a key that acts, to a row whose key passes to another one meanwhile: they
/// would be changed, or deleted, along with the first.
fn drawn_along(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    changes: &[TableChanges],
    fates: &BTreeMap<Row, Fate>,
) -> usize {
    let inserted_into = |place: usize| -> Vec<&Value> {
        let oid = mover.references.tables[place].oid;
        changes.iter().filter(|c| c.of.table.oid == oid).flat_map(|c| &c.inserted).collect()
    };
    let parents = parents(session, mover, key, fates);
    let leaves = |(_, now, becomes): &&Parent| becomes.as_ref() != Some(now);
    let mut taken: BTreeSet<Vec<Text>> =
        parents.iter().filter(leaves).filter_map(|(_, _, becomes)| becomes.clone()).collect();
    taken.extend(inserted_as(&inserted_into(key.parent), &key.keys));
    let passes = |now: &&Vec<Text>| taken.contains(*now) && now.iter().all(Option::is_some);
    let handed: Vec<&Vec<Text>> =
        parents.iter().filter(leaves).map(|(_, now, _)| now).filter(passes).collect();
    if handed.is_empty() {
        return 0;
    }
    let stays = |(_, address, _): &(usize, Address, Vec<Text>)| {
        fates.get(&(key.child, address.clone())).is_none_or(|fate| {
            fate.as_ref().is_some_and(|fate| !key.columns.iter().any(|c| fate.contains_key(c)))
        })
    };
    let stay = holders(session, mover, key, &handed).into_iter().filter(stays).count();
    let changes = |fate: &Fate| {
        fate.as_ref().is_some_and(|fate| key.columns.iter().any(|c| fate.contains_key(c)))
    };
    let children: Vec<(&Row, &Fate)> =
        fates.iter().filter(|(row, fate)| row.0 == key.child && changes(fate)).collect();
    let table = &mover.references.tables[key.child];
    let come = values_of(session, table, &key.columns, &children)
        .into_iter()
        .filter_map(|(number, now)| after(&key.columns, children[number].1, &now))
        .filter(|becomes| handed.contains(&becomes))
        .count();
    let made = inserted_as(&inserted_into(key.child), &key.columns);
    stay + come + made.iter().filter(|row| handed.contains(row)).count()
}

/// The rows, locked, that hold one of these keys: each with the number of the key, and the columns of it as they are.
fn holders(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    wanted: &[&Vec<Text>],
) -> Vec<(usize, Address, Vec<Text>)> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let (child, shape) =
        (&mover.references.tables[key.child], mover.shape(session, key.parent, Mode::Fresh));
    let mut on: Vec<String> = (0..key.keys.len())
        .map(|i| {
            let base = shape.base(&key.keys[i]);
            format!("(x.r ->> {i})::{base} {} t.{}", key.operators[i], key.columns[i])
        })
        .collect();
    on.extend(key.within("t"));
    let list: Vec<String> = key.columns.iter().map(|c| format!("t.{c}::text")).collect();
    let sql = format!(
        "SELECT x.place, t.tableoid, t.ctid::text, ARRAY[{}]::text[]
           FROM jsonb_array_elements($1) WITH ORDINALITY AS x(r, place) JOIN {} t ON {} FOR UPDATE OF t",
        list.join(", "),
        child.target(),
        on.join(" AND ")
    );
    pg::with_stable_text(|| {
        pg::as_role(child.owner, || {
            let rows = session.run(&sql, &[JsonB(json!(wanted)).into()], Mode::Fresh);
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
fn values_of(
    session: &Session,
    table: &Table,
    columns: &[String],
    rows: &[(&Row, &Fate)],
) -> Vec<(usize, Vec<Text>)> {
    if rows.is_empty() {
        return Vec::new();
    }
    let list: Vec<String> = columns.iter().map(|c| format!("t.{c}::text")).collect();
    let sql = format!(
        "SELECT x.place, ARRAY[{}]::text[]
           FROM unnest($1::oid[], $2::text[]) WITH ORDINALITY AS x(at, row, place)
           JOIN {} t ON t.tableoid = x.at AND t.ctid = x.row::tid",
        list.join(", "),
        table.target()
    );
    let (at, rows): (Vec<Oid>, Vec<String>) =
        rows.iter().map(|((_, (at, row)), _)| (Oid::from(*at), row.clone())).unzip();
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
