//! Merging one app user into another: what is planned before anything is written.
//!
//! The row of the user who goes gives way to the row of the user who stays, and everything that refers to the one, by
//! whichever key, comes to the other. Where a row that comes over would collide with one that is there, one of the two
//! gives way to the other in the same manner, and so on until nothing collides.
//!
//! A re-key is planned in the same way where tables are such that no condition on a row alone tells whether it refers to
//! the user.

use super::changes::{self, TableChanges, Update, address};
use super::collisions;
use super::plan::{Known, Plan, Row, Side};
use super::rekey::{Collision, Held, Mover, Referring, unquoted};
use crate::error::Error;
use crate::pg::{self, Arg, Mode, Session};
use pgrx::pg_sys::Oid;
use pgrx::{JsonB, Uuid};
use std::collections::{BTreeMap, BTreeSet};

/// What to do where rows collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Refuse the merge.
    Error,
    /// The row of the auth user stays.
    KeepAuth,
    /// The row of the user who goes stays.
    KeepApp,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Side::Auth => Side::App,
            Side::App => Side::Auth,
        }
    }
}

/// A planned merge, or a re-key planned row by row.
pub struct Merge<'a> {
    plan: Plan<'a>,
    /// The users' own rows.
    users: Vec<Row>,
    pub collisions: Vec<Collision>,
    /// Some collision was left as it is: nothing may be done.
    pub unsettled: bool,
}

impl<'a> Merge<'a> {
    /// Plans to merge the app user `from` into the app user `to`. To be done, both must be locked.
    pub fn plan(
        session: &'a Session,
        mover: &'a Mover,
        from: Uuid,
        to: Uuid,
        policy: OnConflict,
        mode: Mode,
    ) -> Result<Self, Error> {
        pg::with_stable_text(|| {
            let mut plan = Plan::new(session, mover, mode);
            let leaving = plan.user(from)?;
            let staying = plan.user(to)?;
            take_over(&mut plan, &leaving, &staying, from, to);
            plan.give_way(&leaving, &staying, Side::App);
            plan.bring_soft_references(from, to);
            Self::settle(plan, vec![leaving, staying], policy)
        })
    }

    /// Where a row that stays gets the key of one that gives way, the latter must be gone first, or foreign keys would act
    /// on what refers to that key: the same rows give way, and nothing else happens yet.
    fn first_phase(&self, mode: Mode) -> Result<Option<Self>, Error> {
        if !self.plan.needs_phases() {
            return Ok(None);
        }
        pg::with_stable_text(|| {
            let mut plan = Plan::new(self.plan.session, self.plan.mover, mode);
            plan.is_first = true;
            for (loser, heir) in self.plan.gone.iter().filter(|(row, _)| row.0 != 0) {
                plan.learn(loser)?;
                plan.learn(heir)?;
            }
            for (loser, heir) in self.plan.gone.iter().filter(|(row, _)| row.0 != 0) {
                plan.give_way(loser, heir, Side::App);
            }
            Self::settle(plan, Vec::new(), OnConflict::Error).map(Some)
        })
    }

    /// Does what was planned. Answers the steps that take it back.
    pub fn carry_out(&self, from: Uuid, to: Uuid) -> Result<Vec<serde_json::Value>, Error> {
        let (session, mover) = (self.plan.session, self.plan.mover);
        let mut steps = Vec::new();
        let mut apply = |merge: &Self| {
            if merge.unsettled {
                return Err(Error::Collides {
                    what: Collision::in_words(&merge.collisions),
                    merge: true,
                });
            }
            let done = changes::apply(session, &merge.changes(), &mover.references.deferrable)?;
            steps.push(serde_json::json!({ "changes": done }));
            Ok(())
        };
        match self.first_phase(Mode::Fresh)? {
            None => apply(self)?,
            Some(first) => {
                apply(&first)?;
                apply(&Self::plan(session, mover, from, to, OnConflict::Error, Mode::Fresh)?)?;
            }
        }
        Ok(steps)
    }

    /// Plans to give the app user `from` the id `to`, leaving alone the fields that held `from` before the user had it.
    pub fn plan_rekey(
        session: &'a Session,
        mover: &'a Mover,
        from: Uuid,
        to: Uuid,
        untouchable: &[Held],
        mode: Mode,
    ) -> Result<Self, Error> {
        pg::with_stable_text(|| {
            let mut plan = Plan::new(session, mover, mode);
            let user = plan.user(from)?;
            plan.untouchable =
                untouchable.iter().map(|held| (held.row.clone(), held.column.clone())).collect();
            plan.set(&user, Side::App, vec![("id".into(), Some(to.to_string()))]);
            plan.bring_soft_references(from, to);
            Self::settle(plan, vec![user], OnConflict::Error)
        })
    }

    fn settle(plan: Plan<'a>, users: Vec<Row>, policy: OnConflict) -> Result<Self, Error> {
        let mut merge = Merge { plan, users, collisions: Vec::new(), unsettled: false };
        merge.plan.follow()?;
        while merge.settle_collisions(policy)? {}
        merge.plan.verify()?;
        if merge.plan.is_first && merge.plan.needs_phases() {
            let places = merge.plan.gone.keys().map(|(place, _)| *place);
            let tables: BTreeSet<&str> = places
                .map(|place| merge.plan.mover.references.tables[place].label.as_str())
                .collect();
            return Err(Error::Entangled {
                tables: tables.into_iter().collect::<Vec<_>>().join(", "),
            });
        }
        if !merge.unsettled
            && !merge.plan.is_first
            && merge.plan.mode == Mode::Read
            && let Some(first) = merge.first_phase(Mode::Read)?
            && first.unsettled
        {
            merge.collisions.extend(first.collisions);
            merge.unsettled = true;
        }
        Ok(merge)
    }

    /// Finds the rows that collide as things are planned now, and lets one of each pair give way. Answers whether any
    /// did, so that more may collide.
    fn settle_collisions(&mut self, policy: OnConflict) -> Result<bool, Error> {
        let mut any = false;
        let places: BTreeSet<usize> = self.plan.rows.keys().map(|(place, _)| *place).collect();
        for place in places {
            let changed: Vec<Row> = self.plan.of_table(place).map(|(row, _)| row.clone()).collect();
            if changed.is_empty() {
                continue;
            }
            let columns: BTreeSet<String> = self
                .plan
                .of_table(place)
                .flat_map(|(_, known)| known.after.keys().cloned())
                .collect();
            let columns: Vec<String> = columns.into_iter().collect();
            let mover = self.plan.mover;
            let table = &mover.references.tables[place];
            let shape = mover.shape(self.plan.session, place, self.plan.mode);
            let (query, images) = self.plan.image(place, changed.iter());
            let gone = "(t.tableoid, t.ctid) IN (SELECT g.at, g.r::tid FROM unnest($2::oid[], $3::text[]) AS g(at, r))";
            for unique in shape.touched_by(&columns) {
                let sql = collisions::pairs(table, unique, &query, gone);
                let pairs: Vec<(Row, Row, bool)> = pg::as_role(table.owner, || {
                    let args = self.arguments(place, images.clone());
                    let rows = self.plan.session.run(&sql, &args, self.plan.mode);
                    (0..rows.len())
                        .filter_map(|row| {
                            Some((
                                (place, address(&rows, row, 1)?),
                                (place, address(&rows, row, 3)?),
                                rows.get(row, 5)?,
                            ))
                        })
                        .collect()
                });
                if pairs.is_empty() {
                    continue;
                }
                let colliding: BTreeSet<&Row> = pairs.iter().map(|(moved, _, _)| moved).collect();
                self.note_collision(&table.label, &unique.name, colliding.len() as u64);
                // Another user's row never gives way.
                if policy == OnConflict::Error || place == 0 {
                    self.unsettled = true;
                    continue;
                }
                any = true;
                for (moved, other, both_moved) in &pairs {
                    self.settle_pair(moved, other, *both_moved, policy)?;
                }
                // What is gone now, and where its children went, must be known before the next index is looked at.
                self.plan.follow()?;
                break;
            }
        }
        Ok(any)
    }

    /// The arguments of a query for collisions: the changed rows, and those that are gone.
    fn arguments(&self, place: usize, images: serde_json::Value) -> [Arg; 3] {
        let gone = self.plan.gone.keys().filter(|(p, _)| *p == place);
        let (tables, addresses): (Vec<Oid>, Vec<String>) =
            gone.map(|(_, (table, row))| (Oid::from(*table), row.clone())).unzip();
        [JsonB(images).into(), tables.into(), addresses.into()]
    }

    fn note_collision(&mut self, table: &str, constraint: &str, rows: u64) {
        let known =
            self.collisions.iter_mut().find(|c| c.table == table && c.constraint == constraint);
        match known {
            Some(known) => known.rows += rows,
            None => self.collisions.push(Collision {
                table: table.to_owned(),
                constraint: constraint.to_owned(),
                rows,
            }),
        }
    }

    fn settle_pair(
        &mut self,
        moved: &Row,
        other: &Row,
        both_moved: bool,
        policy: OnConflict,
    ) -> Result<(), Error> {
        if self.plan.gone.contains_key(moved) || self.plan.gone.contains_key(other) {
            return Ok(());
        }
        let side = |row: &Row| self.plan.rows.get(row).and_then(|known| known.side);
        let moved_side = side(moved).unwrap_or(Side::App);
        let other_side =
            if both_moved { side(other).unwrap_or(Side::App) } else { moved_side.other() };
        let stays = match policy {
            OnConflict::KeepAuth => Side::Auth,
            _ => Side::App,
        };
        let moved_stays = moved_side == stays || (moved_side == other_side && both_moved);
        let (loser, heir, side) =
            if moved_stays { (other, moved, other_side) } else { (moved, other, moved_side) };
        self.plan.learn(loser)?;
        self.plan.learn(heir)?;
        self.plan.give_way(loser, heir, side);
        Ok(())
    }

    /// How many rows of each table come over or give way, the users' own not counted.
    pub fn referring(&self) -> Vec<Referring> {
        let mut all: BTreeMap<usize, (BTreeSet<String>, u64)> = BTreeMap::new();
        let is_touched = |row: &Row, known: &Known| {
            !self.users.contains(row)
                && (!known.after.is_empty() || self.plan.gone.contains_key(row))
        };
        for (row, known) in &self.plan.rows {
            if is_touched(row, known) {
                let (columns, rows) = all.entry(row.0).or_default();
                columns.extend(known.after.keys().map(|c| unquoted(c)));
                *rows += 1;
            }
        }
        all.into_iter()
            .map(|(place, (columns, rows))| Referring {
                table: self.plan.mover.references.tables[place].label.clone(),
                columns: columns.into_iter().collect(),
                rows,
            })
            .collect()
    }

    /// The plan as changes to the tables.
    pub fn changes(&self) -> Vec<TableChanges<'a>> {
        let places: BTreeSet<usize> = self.plan.rows.keys().map(|(place, _)| *place).collect();
        let mover = self.plan.mover;
        places
            .into_iter()
            .map(|place| {
                let shape = mover.shape(self.plan.session, place, self.plan.mode);
                let mut changes = TableChanges::new(&mover.references.tables[place], shape);
                let gone = self.plan.gone.keys().filter(|(p, _)| *p == place);
                changes.deleted = gone.map(|(_, address)| address.clone()).collect();
                for (row, known) in self.plan.of_table(place) {
                    // A generated column follows by itself.
                    let written = known.after.iter().filter(|(column, _)| {
                        shape.column(column).is_some_and(|c| c.generated.is_none())
                    });
                    let columns: Vec<String> = written.clone().map(|(c, _)| c.clone()).collect();
                    let before = columns.iter().map(|c| self.plan.before(row, c)).collect();
                    let after = written.map(|(_, after)| after.clone()).collect();
                    changes.updated.entry(columns).or_default().push(Update {
                        address: row.1.clone(),
                        before,
                        after,
                    });
                }
                changes.updated.remove(&Vec::new());
                changes
            })
            .filter(|changes| !changes.deleted.is_empty() || !changes.updated.is_empty())
            .collect()
    }
}

/// What a re-key did, and what must be kept to take it back.
pub struct Rekeyed {
    pub moved: Vec<Referring>,
    pub step: serde_json::Value,
}

/// Moves the user `from` and all that refers to it to the id `to`, leaving alone what `recorded` names: fields that held
/// `from` before the user had it. The user's row must be locked.
pub fn rekey(
    session: &Session,
    mover: &Mover,
    from: Uuid,
    to: Uuid,
    recorded: &[serde_json::Value],
) -> Result<Rekeyed, Error> {
    let mut held = mover.held(session, to, Mode::Fresh);
    let is_plain = held.is_empty() && recorded.is_empty() && !mover.references.by_rows;
    let moved = if is_plain {
        mover.rekey(session, from, to)?
    } else {
        let untouchable = mover.find_held(session, recorded, from)?;
        let merge = Merge::plan_rekey(session, mover, from, to, &untouchable, Mode::Fresh)?;
        if merge.unsettled {
            return Err(Error::Collides {
                what: Collision::in_words(&merge.collisions),
                merge: false,
            });
        }
        let changes = merge.changes();
        let done = changes::apply(session, &changes, &mover.references.deferrable)?;
        // What held the id before may have changed along with the user, in another column.
        let all = changes.iter().zip(&done);
        for (c, row) in all
            .flat_map(|(c, d)| d.moved.iter().flat_map(move |m| m.rows.iter().map(move |r| (c, r))))
        {
            for held in held.iter_mut().filter(|held| {
                mover.references.tables[held.row.0].oid == c.of.table.oid
                    && Some(&held.row.1) == row.was.as_ref()
            }) {
                held.key.clone_from(&row.key);
                held.md5.clone_from(&row.md5);
            }
        }
        merge.referring()
    };
    Ok(Rekeyed {
        moved,
        step: serde_json::json!({ "rekey": {
            "from": from.to_string(), "to": to.to_string(), "held": mover.held_to_json(&held)
        } }),
    })
}

/// The fields that only the user who leaves has are taken over. Columns that refer together are taken together.
fn take_over(plan: &mut Plan, leaving: &Row, staying: &Row, from: Uuid, to: Uuid) {
    let references = &plan.mover.references;
    let shape = plan.mover.shape(plan.session, 0, plan.mode);
    let own: Vec<&str> = shape
        .columns
        .iter()
        .filter(|c| c.generated.is_none() && c.quoted != "id")
        .map(|c| c.quoted.as_str())
        .collect();
    let theirs = plan.fields(leaving, &own);
    let ours = plan.fields(staying, &own);
    let is_free = |column: &String| {
        let place = own.iter().position(|c| c == column);
        place.is_some_and(|place| ours[place].is_none())
    };
    let mut taken = Vec::new();
    for (place, column) in own.iter().enumerate() {
        let refer = || {
            let keys = references.keys.iter().enumerate();
            keys.filter(|(_, key)| key.child == 0 && key.columns.iter().any(|c| c == column))
        };
        let is_whole = refer().all(|(_, key)| key.columns.iter().all(is_free));
        let (Some(value), None, true) = (&theirs[place], &ours[place], is_whole) else {
            continue;
        };
        for (number, _) in refer() {
            let took_over = &mut plan.took_over;
            took_over.insert((leaving.clone(), number), staying.clone());
        }
        let is_own_id = references.tables[0]
            .moving
            .iter()
            .any(|m| m.column == **column && *value == from.to_string());
        let value = if is_own_id { to.to_string() } else { value.clone() };
        taken.push(((*column).to_owned(), Some(value)));
    }
    plan.set(staying, Side::Auth, taken);
}
