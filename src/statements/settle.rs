//! Which rows give way where rows collide.
//!
//! Tables are settled parents first, so that what a row refers to is known before it is looked at. In each table the rows
//! that collide are taken in an order of preference, and a row stays unless it collides with one that was taken before it
//! and stays. So nothing gives way but to a row that stays, and whatever collides with none of those stays too.

use super::collisions;
use super::merge::OnConflict;
use super::plan::{Plan, Row, Side};
use super::rekey::{Collision, Mover};
use super::rows::{address, addresses};
use crate::error::Error;
use crate::pg::{self, Arg};
use std::collections::{BTreeMap, BTreeSet};

/// Two rows that collide, as things are planned now.
pub struct Meeting {
    /// The place of the index in [`crate::catalog::shape::Shape::unique`].
    pub unique: usize,
    /// A row that changes.
    pub moved: Row,
    pub other: Row,
    /// The other one changes too.
    pub both: bool,
}

/// What came of letting rows give way.
pub struct Settled {
    pub collisions: Vec<Collision>,
    /// Those in which no row may give way, whosever rows are to stay, each with two rows that collide.
    pub stuck: Vec<(Collision, [Row; 2])>,
    /// Some collision was left as it is: nothing may be done.
    pub unsettled: bool,
    /// Which row gives way to which, in the order in which it was found.
    pub rounds: Vec<Vec<(Row, Row)>>,
}

/// Lets rows of `plan` give way until nothing collides, or finds what collides where nothing may give way.
pub fn settle(plan: &mut Plan, policy: OnConflict) -> Result<Settled, Error> {
    let order = parents_first(plan.mover);
    let position = |place: &usize| order.iter().position(|p| p == place);
    let mut met = Met::new();
    let mut stuck = Met::new();
    let mut examples: BTreeMap<(usize, usize), [Row; 2]> = BTreeMap::new();
    let mut unsettled = false;
    let mut rounds = Vec::new();
    let mut open: BTreeSet<usize> = plan.touched.iter().filter_map(position).collect();
    while let Some(next) = open.pop_first() {
        let is_merge = !plan.gone.is_empty();
        let (mut theirs, mut others) = (Vec::new(), Vec::new());
        for meeting in plan.meetings(order[next]) {
            // Another user's row neither gives way nor takes anything over, and nobody's own row does.
            match !is_merge || order[next] != 0 && plan.are_of_one(&meeting)? {
                true => theirs.push(meeting),
                false => others.push(meeting),
            }
        }
        note(&mut met, plan, next, &theirs);
        // A row that others stand in the way of may itself give way.
        stuck.retain(|(table, _), _| *table != next);
        if policy == OnConflict::Error || order[next] == 0 || theirs.is_empty() {
            note(&mut met, plan, next, &others);
            // What would be whose if rows gave way is not known.
            if policy != OnConflict::Error || !unsettled && theirs.is_empty() {
                note(&mut stuck, plan, next, &others);
                examples
                    .extend(others.iter().rev().map(|m| ((next, m.unique), [m.moved, m.other])));
            }
            unsettled |= !theirs.is_empty() || policy == OnConflict::Error && !others.is_empty();
            continue;
        }
        let losers = losers(plan, &theirs, policy);
        plan.touched.clear();
        for (loser, heir, _) in &losers {
            plan.learn(loser)?;
            plan.learn(heir)?;
        }
        for (loser, heir, side) in &losers {
            plan.give_way(loser, heir, *side);
        }
        plan.follow()?;
        open.extend(plan.touched.iter().filter_map(position));
        rounds.push(losers.into_iter().map(|(loser, heir, _)| (loser, heir)).collect());
    }
    let collision = |(next, unique): (usize, usize), rows: &BTreeSet<Row>| Collision {
        table: plan.mover.references.tables[order[next]].label.clone(),
        constraint: plan.shape(order[next]).unique[unique].name.clone(),
        rows: rows.len() as u64,
    };
    let unsettled = unsettled || !stuck.is_empty();
    let collisions = met.iter().map(|(place, rows)| collision(*place, rows)).collect();
    let stuck = stuck
        .iter()
        .filter_map(|(place, rows)| Some((collision(*place, rows), *examples.get(place)?)))
        .collect();
    Ok(Settled { collisions, stuck, unsettled, rounds })
}

/// Notes the rows of `meetings` that come over.
fn note(met: &mut Met, plan: &Plan, next: usize, meetings: &[Meeting]) {
    for Meeting { unique, moved, other, both } in meetings {
        let pairs = [(moved, other), (other, moved)].into_iter().take(1 + usize::from(*both));
        let come = pairs.filter(|(row, against)| {
            plan.comes_by(row, *unique, against) && !plan.is_done_before(row)
        });
        met.entry((next, *unique)).or_default().extend(come.map(|(row, _)| *row));
    }
}

/// The rows that collide, by the turn of their table and the place of the index.
type Met = BTreeMap<(usize, usize), BTreeSet<Row>>;

/// The places of the tables, each after those it refers to; where they refer to each other, by name.
fn parents_first(mover: &Mover) -> Vec<usize> {
    let tables = &mover.references.tables;
    let mut left: Vec<usize> = (0..tables.len()).collect();
    left.sort_by_key(|place| &tables[*place].label);
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let is_free = |place: &usize| {
            let mut keys = mover.references.keys.iter();
            !keys.any(|k| k.child == *place && k.parent != *place && left.contains(&k.parent))
        };
        let next = left.iter().position(is_free).unwrap_or_default();
        order.push(left.remove(next));
    }
    order
}

/// Which rows give way to which, and whose they were.
fn losers(plan: &Plan, meetings: &[Meeting], policy: OnConflict) -> Vec<(Row, Row, Side)> {
    let (stays, goes) = match policy {
        OnConflict::KeepAuth => (Side::Auth, Side::App),
        _ => (Side::App, Side::Auth),
    };
    let mut against: BTreeMap<&Row, Vec<(usize, &Row)>> = BTreeMap::new();
    for Meeting { unique, moved, other, .. } in meetings {
        against.entry(moved).or_default().push((*unique, other));
        against.entry(other).or_default().push((*unique, moved));
    }
    // A row that is where it was is on the other side of whatever comes, whomever else it names.
    let side = |row: &Row| {
        let known = plan.rows.get(row)?;
        let comes = against[row].iter().any(|(unique, other)| plan.comes_by(row, *unique, other));
        known.side.filter(|_| comes)
    };
    let preference = |row: &Row| {
        let rank = side(row).map_or(1, |side| if side == stays { 0 } else { 2 });
        (rank, row.1)
    };
    let mut rows: Vec<&Row> = against.keys().copied().collect();
    rows.sort_by_key(|row| preference(row));
    let mut kept: BTreeSet<&Row> = BTreeSet::new();
    let mut losers = Vec::new();
    for row in rows {
        let stronger = against[row].iter().filter(|(_, other)| kept.contains(other));
        // To whom its children come: by the first index, which is the primary key where there is one.
        match stronger.min_by_key(|(unique, other)| (*unique, preference(other))) {
            Some((_, heir)) => losers.push((*row, *(*heir), side(row).unwrap_or(goes))),
            None => {
                kept.insert(row);
            }
        }
    }
    losers
}

impl Plan<'_> {
    /// Whether a row comes over by the key of an index of its table, or, where neither of the two does, by what else decides
    /// whether the index has the row in it.
    fn comes_by(&self, row: &Row, unique: usize, against: &Row) -> bool {
        let shape = self.shape(row.0);
        let unique = &shape.unique[unique];
        let changed = |row: &Row| self.newly_changed(row).cloned().collect::<Vec<String>>();
        let comes = |row: &Row| shape.is_keyed_by(unique, &changed(row));
        comes(row) || !comes(against) && shape.is_touched_by(unique, &changed(row))
    }

    /// The rows of a table that collide as things are planned now.
    pub fn meetings(&self, place: usize) -> Vec<Meeting> {
        let changed: Vec<&Row> = self.of_table(place).map(|(row, _)| row).collect();
        let columns: BTreeSet<&String> =
            self.of_table(place).flat_map(|(_, known)| known.after.names()).collect();
        let columns: Vec<String> = columns.into_iter().cloned().collect();
        if changed.is_empty() {
            return Vec::new();
        }
        let table = &self.mover.references.tables[place];
        let shape = self.shape(place);
        let (query, images) = self.image(place, changed.into_iter());
        let gone = "(t.tableoid, t.ctid) IN (SELECT g.at, g.r::tid FROM unnest($2::oid[], $3::text[]) AS g(at, r))";
        let gone_rows = self.gone.keys().filter(|(p, _)| *p == place).map(|(_, address)| *address);
        let (tables, addresses) = addresses(gone_rows);
        let mut all = Vec::new();
        for (number, unique) in shape.unique.iter().enumerate() {
            if !shape.is_touched_by(unique, &columns) {
                continue;
            }
            let sql = collisions::pairs(table, unique, &query, gone);
            let args: [Arg; 3] =
                [images.clone().into(), tables.clone().into(), addresses.clone().into()];
            pg::as_role(table.owner, || {
                let rows = self.session.run(&sql, &args, self.mode);
                all.extend((0..rows.len()).filter_map(|row| {
                    Some(Meeting {
                        unique: number,
                        moved: (place, address(&rows, row, 1)?),
                        other: (place, address(&rows, row, 3)?),
                        both: rows.get(row, 5)?,
                    })
                }));
            });
        }
        all
    }
}
