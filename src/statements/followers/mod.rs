//! Rows that came since: what refers to a row that changes again must follow it, where its key goes with it.

mod keyed;
mod words;

use super::changes::{TableChanges, Update};
use super::collisions::{self, Image};
use super::fields::Fields;
use super::fit::{self, Images};
use super::rekey::{Holding, Mover};
use super::rows::{Address, Text, address};
use super::verify;
use crate::catalog::references::ForeignKey;
use crate::error::Failure;
use crate::pg::{self, Json, Mode, Raw, Session};
use keyed::{Parent, after, children, fitting, holders, inserted_as, keyed, parents, values_of};
use pgrx::Uuid;
use pgrx::pg_sys::Oid;
use std::collections::{BTreeMap, BTreeSet};
use words::{left_behind, may_have_been_there, would_act, would_leave};

/// A row of a table ([`crate::catalog::references::References::tables`]).
type Row = (usize, Address);

/// What becomes of some of a row's columns; None where it is deleted.
type Fate = Option<Fields>;

/// Adds to `changes` the rows that refer to one which gets another key, and do not change themselves: they follow, unless
/// some row has the key in the end. Adds to `why` those that refer to a row which would be deleted, but for as many as `held` its id
/// before there was such a row. Answers how many follow.
pub fn follow<'a>(
    session: &Session,
    mover: &'a Mover,
    changes: &mut Vec<TableChanges<'a>>,
    held: &[Holding],
    why: &mut Vec<String>,
) -> usize {
    let place = |oid: Oid| mover.references.tables.iter().position(|t| t.oid == oid);
    let mut fates: BTreeMap<Row, Fate> = BTreeMap::new();
    for c in changes.iter() {
        let Some(place) = place(c.of.table.oid) else {
            continue;
        };
        fates.extend(c.deleted.iter().map(|row| ((place, *row), None)));
        for (columns, rows) in &c.updated {
            let fate = |u: &Update| columns.iter().cloned().zip(u.after.iter().cloned()).collect();
            fates.extend(rows.iter().map(|u| ((place, u.address), Some(fate(u)))));
        }
    }
    let changing: BTreeSet<Row> = fates.keys().cloned().collect();
    let mut found: BTreeMap<Row, BTreeMap<String, (Text, Text)>> = BTreeMap::new();
    let mut open: BTreeSet<Row> = changing.clone();
    while !open.is_empty() {
        compute_generated(session, mover, &open, &mut fates);
        let mut next = BTreeSet::new();
        for key in &mover.references.keys {
            let inserted = changes.iter().filter(|c| place(c.of.table.oid) == Some(key.parent));
            let inserted: Vec<&Raw> = inserted.flat_map(|c| &c.inserted).collect();
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
                let becomes = match fitting(session, mover, key, &child.holds, becomes) {
                    Ok(becomes) => becomes,
                    Err(error) => {
                        why.push(Failure::from(error).message);
                        continue;
                    }
                };
                in_vain += usize::from(!key.validated);
                for (i, column) in
                    key.columns.iter().enumerate().filter(|(i, _)| !key.generated[*i])
                {
                    let change = (child.holds[i].clone(), becomes[i].clone());
                    found.entry(row).or_default().insert(column.clone(), change);
                    let fate = fates.entry(row).or_insert_with(|| Some(Fields::default()));
                    let before =
                        fate.as_mut().map(|f| f.insert(column.clone(), becomes[i].clone()));
                    if before != Some(Some(becomes[i].clone())) {
                        next.insert(row);
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
    for key in mover.references.keys.iter().filter(|key| key.enforced) {
        if key.zoned
            && !parents(session, mover, key, &fates).is_empty()
            && let Err(error) = fit::has_no_zone(session, mover, key, Mode::Fresh)
        {
            why.push(Failure::from(error).message);
        }
        let outside = left_outside(session, mover, key, changes, &fates);
        if outside > 0 {
            why.push(would_leave(mover, outside, key));
        }
    }
    why.extend(soft_left_behind(session, mover, changes, &changing, held));
    let followers = found.len();
    for ((place, address), columns) in found {
        let table = &mover.references.tables[place];
        let known = changes.iter().position(|c| c.of.table.oid == table.oid);
        let known = known.unwrap_or_else(|| {
            changes.push(TableChanges::new(table, mover.shape(session, place)));
            changes.len() - 1
        });
        let (names, values): (Vec<String>, Vec<(Text, Text)>) = columns.into_iter().unzip();
        let (before, after) = values.into_iter().unzip();
        changes[known].updated.entry(names).or_default().push(Update::new(address, before, after));
    }
    followers
}

/// What to say of registered references, without a foreign key, to users whose rows would be deleted, but for as many as there were
/// before. None but us sees to it that these are not left behind.
fn soft_left_behind(
    session: &Session,
    mover: &Mover,
    changes: &[TableChanges],
    changing: &BTreeSet<Row>,
    held: &[Holding],
) -> Vec<String> {
    let users = &mover.references.tables[0];
    let Some(c) = changes.iter().find(|c| c.of.table.oid == users.oid) else {
        return Vec::new();
    };
    let comes: Vec<String> = c
        .inserted
        .iter()
        .filter_map(|row| row.parsed()["id"].as_str().map(str::to_owned))
        .collect();
    let (at, rows): (Vec<Oid>, Vec<String>) =
        c.deleted.iter().map(|(at, row)| (Oid::from(*at), row.to_string())).unzip();
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
    for (place, soft) in mover.registered() {
        let child = &mover.references.tables[place];
        let sql = format!(
            "SELECT t.tableoid, t.ctid::text FROM unnest($1::uuid[]) AS x(id) JOIN {} t ON {}",
            child.target(),
            soft.holds("t", "x.id")
        );
        let holding = pg::as_role(child.owner, || {
            let rows = session.run(&sql, &[gone.clone().into()], Mode::Fresh);
            (0..rows.len())
                .filter_map(|row| address(&rows, row, 1))
                .filter(|address| !changing.contains(&(place, *address)))
                .count()
        });
        let is_here = |h: &&Holding| h.table == child.label && h.column == soft.column;
        let before: usize = held.iter().filter(is_here).map(|h| h.rows).sum();
        if holding > before {
            why.push(left_behind(mover, holding - before, place, 0));
        }
    }
    why
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
    let parents = parents(session, mover, key, fates);
    let leaves = |(_, now, becomes): &&Parent| becomes.as_ref() != Some(now);
    let mut taken: BTreeSet<Vec<Text>> =
        parents.iter().filter(leaves).filter_map(|(_, _, becomes)| becomes.clone()).collect();
    taken.extend(inserted_as(&inserted_into(mover, changes, key.parent), &key.keys));
    let passes = |now: &&Vec<Text>| taken.contains(*now) && now.iter().all(Option::is_some);
    let left = || parents.iter().filter(leaves).map(|(_, now, _)| now);
    let strays = strays(session, mover, key, left().filter(|now| !taken.contains(*now)), fates);
    let handed: Vec<&Vec<Text>> = left().filter(passes).collect();
    if handed.is_empty() {
        return strays;
    }
    let stays = |(_, address, _): &(usize, Address, Vec<Text>)| {
        fates.get(&(key.child, *address)).is_none_or(|fate| {
            fate.as_ref().is_some_and(|fate| !key.columns.iter().any(|c| fate.contains(c)))
        })
    };
    let stay = holders(session, mover, key, &handed).into_iter().filter(stays).count();
    let comes = |fate: &Fate| {
        fate.as_ref().is_some_and(|fate| key.columns.iter().any(|c| fate.contains(c)))
    };
    let stands = |at: u32| key.partitions.as_ref().is_none_or(|parts| parts.contains(&at));
    let refer = |row: &Row| row.0 == key.child && stands(row.1.0);
    let children: Vec<(&Row, &Fate)> =
        fates.iter().filter(|(row, fate)| refer(row) && comes(fate)).collect();
    let table = &mover.references.tables[key.child];
    let shape = mover.shape(session, key.child);
    let come = values_of(session, (table, shape), &key.columns, &children)
        .into_iter()
        .filter_map(|(number, now)| after(&key.columns, children[number].1, &now))
        .filter(|becomes| handed.contains(&becomes))
        .count();
    let made = inserted_as(&inserted_into(mover, changes, key.child), &key.columns);
    strays + stay + come + made.iter().filter(|row| handed.contains(row)).count()
}

/// The rows that are put back into a table.
fn inserted_into<'c>(mover: &Mover, changes: &'c [TableChanges], place: usize) -> Vec<&'c Raw> {
    let oid = mover.references.tables[place].oid;
    changes.iter().filter(|c| c.of.table.oid == oid).flat_map(|c| &c.inserted).collect()
}

/// A query for rows of one table as they will be, those that are deleted left out, and its argument.
fn images_of<'r>(
    session: &Session,
    mover: &Mover,
    place: usize,
    rows: impl Iterator<Item = (&'r Row, &'r Fate)>,
) -> (String, Json) {
    let changed: Vec<(Address, &Fields)> =
        rows.filter_map(|((_, at), fate)| Some((*at, fate.as_ref()?))).collect();
    let columns: BTreeSet<&String> = changed.iter().flat_map(|(_, fate)| fate.names()).collect();
    let images: Vec<_> = changed.iter().map(|(at, fate)| Image::new(*at, fate)).collect();
    let (table, shape) = (&mover.references.tables[place], mover.shape(session, place));
    (collisions::images(table, shape, &columns, images.len()), Json::of(&images))
}

/// Generated columns that are keys follow the columns they are made of.
fn compute_generated(
    session: &Session,
    mover: &Mover,
    rows: &BTreeSet<Row>,
    fates: &mut BTreeMap<Row, Fate>,
) {
    let references = &mover.references;
    let places: BTreeSet<usize> = rows.iter().map(|(place, _)| *place).collect();
    for place in places {
        let shape = mover.shape(session, place);
        let is_key = |column: &str| {
            let mut keys = references.keys.iter();
            keys.any(|key| {
                let names = |place_of: usize, names: &[String]| {
                    place_of == place && names.iter().any(|name| name == column)
                };
                names(key.parent, &key.keys) || names(key.child, &key.columns)
            })
        };
        let generated = shape.columns.iter().filter(|c| c.generated.is_some());
        let generated: Vec<&str> =
            generated.map(|c| c.quoted.as_str()).filter(|c| is_key(c)).collect();
        if generated.is_empty() {
            continue;
        }
        let of_place = fates.iter().filter(|(row, _)| row.0 == place && rows.contains(*row));
        let (query, images) = images_of(session, mover, place, of_place);
        let sql = format!(
            "SELECT m.\"#table\"::oid, m.\"#row\"::text, {} FROM ({query}) m",
            shape.texts("m", generated.iter().copied())
        );
        let found: Vec<(Address, Vec<Text>)> = pg::with_stable_text(|| {
            pg::as_role(references.tables[place].owner, || {
                let rows = session.run(&sql, &[images.into()], Mode::Fresh);
                (0..rows.len())
                    .filter_map(|row| Some((address(&rows, row, 1)?, rows.get(row, 3)?)))
                    .collect()
            })
        });
        for (address, values) in found {
            if let Some(Some(fate)) = fates.get_mut(&(place, address)) {
                for (column, value) in generated.iter().zip(values) {
                    fate.insert((*column).to_owned(), value);
                }
            }
        }
    }
}

/// How many rows the server would take for those of keys that nobody has any more ([`ForeignKey::strays`]).
fn strays<'r>(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    gone: impl Iterator<Item = &'r Vec<Text>>,
    fates: &BTreeMap<Row, Fate>,
) -> usize {
    let gone: Vec<&Vec<Text>> = gone.filter(|now| now.iter().all(Option::is_some)).collect();
    if !key.strays || gone.is_empty() {
        return 0;
    }
    let children = || fates.iter().filter(|(row, _)| row.0 == key.child);
    let (query, images) = images_of(session, mover, key.child, children());
    let known = children().map(|((_, address), _)| *address).collect();
    fit::strays(session, mover, key, &gone, Images { query, images, known }, Mode::Fresh)
}

/// How many rows refer, and go on referring, through a key to rows that leave the partition it refers to, or are deleted
/// there.
fn left_outside(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    changes: &[TableChanges],
    fates: &BTreeMap<Row, Fate>,
) -> usize {
    let Some(bounds) = &key.parents_at else {
        return 0;
    };
    let parents: Vec<(&Row, &Fate)> =
        fates.iter().filter(|(row, _)| row.0 == key.parent && key.is_to(row.1.0)).collect();
    if parents.is_empty() {
        return 0;
    }
    let table = &mover.references.tables[key.parent];
    let (query, images) = images_of(session, mover, key.parent, parents.iter().copied());
    let stay: BTreeSet<Address> = pg::with_stable_text(|| {
        let args = [images.into()];
        let inside = verify::within(session, table, bounds, &query, &args, Mode::Fresh);
        inside.into_iter().collect()
    });
    let leave: Vec<(&Row, &Fate)> =
        parents.into_iter().filter(|((_, at), _)| !stay.contains(at)).collect();
    let left = keyed(session, mover, key, &leave);
    // Where a row is put back that has the key, and the foreign key does not act, the server may find it there.
    let put_back = match key.acts {
        true => Vec::new(),
        false => inserted_as(&inserted_into(mover, changes, key.parent), &key.keys),
    };
    let is_lost = |now: &&Vec<Text>| now.iter().all(Option::is_some) && !put_back.contains(*now);
    let keys: Vec<&Vec<Text>> = left.iter().map(|(_, now, _)| now).filter(is_lost).collect();
    holders(session, mover, key, &keys)
        .into_iter()
        .filter(|(_, address, holds)| match fates.get(&(key.child, *address)) {
            Some(fate) => after(&key.columns, fate, holds).as_ref() == Some(holds),
            None => true,
        })
        .count()
}
