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
    /// Those in which no row may give way, whoever's rows are to stay.
    pub stuck: Vec<Collision>,
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
    let mut unsettled = false;
    let mut rounds = Vec::new();
    let mut open: BTreeSet<usize> = plan.touched.iter().filter_map(position).collect();
    while let Some(next) = open.pop_first() {
        let mut meetings = Vec::new();
        for meeting in plan.meetings(order[next]) {
            let both = meeting.both.then_some(&meeting.other);
            let moved = [&meeting.moved].into_iter().chain(both);
            let comes =
                |row: &&Row| plan.comes_by(row, meeting.unique) && !plan.is_done_before(row);
            let moved: Vec<Row> = moved.filter(comes).copied().collect();
            met.entry((next, meeting.unique)).or_default().extend(&moved);
            // Another user's row neither gives way nor takes anything over, and nobody's own row does.
            let is_merge = !plan.gone.is_empty();
            if !is_merge || order[next] != 0 && plan.may_give_way(&meeting)? {
                meetings.push(meeting);
            } else {
                stuck.entry((next, meeting.unique)).or_default().extend(moved);
                unsettled = true;
            }
        }
        if policy == OnConflict::Error || order[next] == 0 {
            unsettled |= !meetings.is_empty();
            continue;
        }
        let losers = losers(plan, &meetings, policy);
        if losers.is_empty() {
            continue;
        }
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
    let in_tables = |met: Met| -> Vec<Collision> {
        let one = |((next, unique), rows): ((usize, usize), BTreeSet<Row>)| Collision {
            table: plan.mover.references.tables[order[next]].label.clone(),
            constraint: plan.shape(order[next]).unique[unique].name.clone(),
            rows: rows.len() as u64,
        };
        met.into_iter().map(one).collect()
    };
    let (collisions, stuck) = (in_tables(met), in_tables(stuck));
    Ok(Settled { collisions, stuck, unsettled, rounds })
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
        let comes = against[row].iter().any(|(unique, _)| plan.comes_by(row, *unique));
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
    /// Whether a row comes over by what an index of its table is made of.
    fn comes_by(&self, row: &Row, unique: usize) -> bool {
        let shape = self.shape(row.0);
        let changed: Vec<String> = self.newly_changed(row).cloned().collect();
        !changed.is_empty() && shape.is_touched_by(&shape.unique[unique], &changed)
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
