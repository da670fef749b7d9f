//! Moving a user to another id, with everything that refers to it.
//!
//! Each table is changed by one statement, written as its owner. All statements run before any of their foreign-key
//! checks and AFTER triggers does (see [`super::one_statement`]), so that to the constraints it is one statement.

mod foreseen;
mod held;
mod hold;
mod text;
mod written;

pub use foreseen::Foreseer;
pub use held::{Held, Holding};

use super::one_statement::as_one_statement;
use super::order::parents_first;
use crate::catalog::references::{References, Soft, Table};
use crate::catalog::shape::Shape;
use crate::catalog::{App, House};
use crate::error::{Error, Failure};
use crate::pg::{self, Kept, Mode, Plan, Session, connect};
use pgrx::Uuid;
use pgrx::pg_sys::{Oid, UUIDARRAYOID, UUIDOID};
use serde::Serialize;
use serde_json::{Value, json};
use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use text::{count_sql, update_many_sql, update_sql};

/// What refers to the users, and the statements that move it.
pub struct Mover {
    /// Of the catalog, when it was read.
    version: u64,
    pub house: House,
    pub app_owner: Oid,
    pub references: References,
    soft: Vec<Soft>,
    statements: Vec<Statements>,
    locker: OnceCell<Plan>,
    /// Rows are changed one after the other where one takes the key in a unique index that another leaves.
    pub in_order: Cell<bool>,
}

thread_local! {
    static MOVER: Kept<Mover> = const { Kept::new() };
}

/// With more tables than this, a backend does not keep what it knows of them, and the plans, from call to call.
const KEPT_TABLES: usize = 100;

/// The statements for one table; `$1` is the id it is now, `$2` the id it becomes.
struct Statements {
    table: Rc<str>,
    /// The columns that refer to a user.
    columns: Rc<[String]>,
    count: String,
    update: Option<String>,
    /// The same for many users at once, `$1` and `$2` being arrays; answers for each row which user's it is, counted from 1.
    /// There is none where one row may refer to several users.
    update_many: Option<String>,
    counter: OnceCell<Plan>,
    updater: OnceCell<Plan>,
    updater_many: OnceCell<Plan>,
    remaining: OnceCell<Plan>,
    holding: OnceCell<Plan>,
    shape: OnceCell<Shape>,
}

/// How many rows of a table refer to a user: one at least.
#[derive(Serialize)]
pub struct Referring {
    pub table: Rc<str>,
    pub columns: Rc<[String]>,
    pub rows: u64,
}

impl Referring {
    pub fn total(all: &[Referring]) -> u64 {
        all.iter().map(|r| r.rows).sum()
    }
}

/// Rows that would collide.
#[derive(Clone)]
pub struct Collision {
    pub table: String,
    pub constraint: String,
    pub rows: u64,
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.rows == 1 { "" } else { "s" };
        write!(f, "{} row{s} in {} ({})", self.rows, self.table, self.constraint)
    }
}

impl Collision {
    pub fn in_words(all: &[Collision]) -> String {
        let what: Vec<String> = all.iter().map(Collision::to_string).collect();
        format!("{}.", what.join(", "))
    }

    pub fn to_json(all: &[Collision]) -> Value {
        all.iter()
            .map(|c| json!({ "table": c.table, "constraint": c.constraint, "rows": c.rows }))
            .collect()
    }
}

impl Mover {
    /// Whether the catalog may have changed since this was read.
    pub fn is_stale(&self) -> bool {
        self.version != pg::catalog_version()
    }

    /// What refers to the users now.
    pub fn get(house: House, app: &App) -> Result<Rc<Self>, Error> {
        pg::as_role(house.owner, || {
            connect(|session| {
                let version = pg::catalog_version();
                let soft = Soft::read(session, Mode::Fresh);
                let fits = |mover: &Mover| {
                    mover.house.owner == house.owner
                        && mover.references.tables[0].oid == app.table
                        && mover.soft == soft
                };
                let few = |mover: &Mover| mover.references.tables.len() <= KEPT_TABLES;
                let learn = || Self::read(session, version, house, app, soft.clone());
                MOVER.with(|kept| kept.get(version, fits, few, learn))
            })
        })
    }

    fn read(
        session: &Session,
        version: u64,
        house: House,
        app: &App,
        soft: Vec<Soft>,
    ) -> Result<Self, Error> {
        let references = References::read(session, app, &soft, Mode::Fresh)?;
        let statements = (0..references.tables.len())
            .map(|place| Statements {
                table: references.tables[place].label.as_str().into(),
                columns: referring_columns(&references, place),
                count: count_sql(&references, place),
                update: update_sql(&references, place),
                update_many: update_many_sql(&references, place),
                counter: OnceCell::new(),
                updater: OnceCell::new(),
                updater_many: OnceCell::new(),
                remaining: OnceCell::new(),
                holding: OnceCell::new(),
                shape: OnceCell::new(),
            })
            .collect();
        let locker = OnceCell::new();
        let in_order = Cell::new(false);
        let app_owner = app.owner;
        Ok(Mover { version, house, app_owner, references, soft, statements, locker, in_order })
    }

    /// Tries once more, in order, what failed for a key that is taken: it may be one that the next row leaves.
    pub fn at_once_or_in_order<R>(
        &self,
        attempt: impl Fn() -> Result<R, Box<Failure>>,
    ) -> Result<R, Box<Failure>> {
        self.in_order.set(false);
        match attempt() {
            Err(failure)
                if matches!(failure.sqlstate.as_str(), "23505" | "23P01")
                    && failure.constraint.is_some() =>
            {
                self.in_order.set(true);
                let again = attempt();
                self.in_order.set(false);
                again
            }
            done => done,
        }
    }

    /// The places of the tables that hold ids.
    fn moving(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.references.tables.len()).filter(|t| !self.references.tables[*t].moving.is_empty())
    }

    fn referring(&self, place: usize, rows: u64) -> Option<Referring> {
        let Statements { table, columns, .. } = &self.statements[place];
        (rows > 0).then(|| Referring { table: table.clone(), columns: columns.clone(), rows })
    }

    /// How many rows of each table refer to the user `id`, the user's own not counted.
    pub fn count(&self, session: &Session, id: Uuid, mode: Mode) -> Vec<Referring> {
        self.moving()
            .filter(|place| *place > 0 || self.references.tables[0].moving.len() > 1)
            .filter_map(|place| {
                let statements = &self.statements[place];
                let rows = pg::as_role(self.references.tables[place].owner, || {
                    let prepare = || session.prepare(&statements.count, &[UUIDOID]);
                    let plan = statements.counter.get_or_init(prepare);
                    session.execute(plan, &[id.into()], mode).one::<i64>().unwrap_or_default()
                });
                self.referring(place, rows as u64)
            })
            .collect()
    }

    /// The shape of a table, read once: as it is now, also where rows are looked at as the caller's snapshot has them.
    pub fn shape(&self, session: &Session, place: usize) -> &Shape {
        self.statements[place].shape.get_or_init(|| {
            pg::as_role(self.house.owner, || {
                Shape::read(session, self.references.tables[place].oid)
            })
        })
    }

    /// Locks the app users with these ids, in the order of their ids, and answers which of them there are.
    pub fn lock(&self, session: &Session, users: &[Uuid]) -> Vec<Uuid> {
        let sql = format!(
            "SELECT t.id FROM {} t WHERE t.id = ANY ($1) ORDER BY t.id FOR UPDATE",
            self.references.tables[0].target()
        );
        pg::as_role(self.app_owner, || {
            let prepare = || session.prepare_by_key(&sql, &[UUIDARRAYOID]);
            let plan = self.locker.get_or_init(prepare);
            session.execute(plan, &[users.to_vec().into()], Mode::Fresh).column()
        })
    }

    /// Moves the user `from` and all that refers to it to the id `to`. The user's row must be locked.
    pub fn rekey(&self, session: &Session, from: Uuid, to: Uuid) -> Result<Vec<Referring>, Error> {
        let mut moved = Vec::new();
        let watched = self.watched(session, &[from]);
        self.update_each(session, |place| {
            let rows = match self.is_out_of_it(session, place, &[from]) {
                true => 0,
                false => self.update_one(session, place, from, to),
            };
            moved.push((place, rows));
        })?;
        self.written(session, &moved, watched, &[(from, to)])?;
        // As a rehearsal tells of them.
        moved.sort_unstable();
        Ok(moved
            .into_iter()
            .filter_map(|(place, rows)| self.referring_to_one(place, rows))
            .collect())
    }

    /// The same for each of `users`, pairs of the id that is and the id that becomes.
    pub fn rekey_all(
        &self,
        session: &Session,
        users: &[(Uuid, Uuid)],
    ) -> Result<Vec<Vec<Referring>>, Error> {
        let (from, to): (Vec<Uuid>, Vec<Uuid>) = users.iter().copied().unzip();
        let mut moved = Vec::new();
        let mut by_place = BTreeMap::new();
        let watched = self.watched(session, &from);
        self.update_each(session, |place| {
            if self.is_out_of_it(session, place, &from) {
                return moved.push((place, 0));
            }
            let mut rows = vec![0; users.len()];
            let statements = &self.statements[place];
            match &statements.update_many {
                Some(sql) => {
                    // By index, where there is one: for short arrays the planner takes it, while for many ids it would
                    // read the whole table for each batch.
                    let prepare = || session.prepare_by_index(sql, &[UUIDARRAYOID; 2]);
                    let plan = statements.updater_many.get_or_init(prepare);
                    let args = [from.clone().into(), to.clone().into()];
                    for user in session.execute(plan, &args, Mode::Queued).column::<i64>() {
                        rows[user as usize - 1] += 1;
                    }
                }
                None => {
                    for (rows, (from, to)) in rows.iter_mut().zip(users) {
                        *rows = self.update_one(session, place, *from, *to);
                    }
                }
            }
            moved.push((place, rows.iter().sum()));
            by_place.insert(place, rows);
        })?;
        self.written(session, &moved, watched, users)?;
        let of_user = |user: usize| {
            let referring = by_place.iter().map(|(place, rows)| (*place, rows[user]));
            referring.filter_map(|(place, rows)| self.referring_to_one(place, rows)).collect()
        };
        Ok((0..users.len()).map(of_user).collect())
    }

    /// Whether rows of some table may refer to users by their e-mails, by what is generated from them, or only as long as the
    /// users lie in one partition.
    pub fn email_is_key(&self) -> bool {
        let mut to_users = self.references.keys.iter().filter(|key| key.parent == 0);
        to_users.any(|key| {
            key.to_generated || key.parents_at.is_some() || key.keys.iter().any(|k| k == "email")
        })
    }

    /// Whether users refer to other rows by their e-mails, or by what is generated.
    pub fn email_refers(&self) -> bool {
        let mut of_users = self.references.keys.iter().filter(|key| key.child == 0);
        of_users
            .any(|key| key.generated.contains(&true) || key.columns.iter().any(|c| c == "email"))
    }

    /// Whether there is a way to move many users at once.
    pub fn moves_many(&self) -> bool {
        !self.references.by_rows
    }

    /// Calls `update` for each table whose rows change, as its owner, to the constraints as one statement: for what a table
    /// refers to first, since a BEFORE trigger of the application may look it up.
    fn update_each(&self, session: &Session, mut update: impl FnMut(usize)) -> Result<(), Error> {
        let owner = |place: usize| self.references.tables[place].owner;
        let keys = self.references.keys.iter().filter(|key| key.child != 0);
        let keys = keys.map(|key| (key.child, key.parent));
        let mut places = parents_first(self.references.tables.len(), keys);
        places.retain(|place| self.statements[*place].update.is_some());
        let turns: Vec<&[usize]> = places.chunk_by(|a, b| owner(*a) == owner(*b)).collect();
        let owners: Vec<Oid> = turns.iter().map(|turn| owner(turn[0])).collect();
        let mut turns = turns.into_iter();
        as_one_statement(&owners, &self.references, session, |_| {
            turns.next().into_iter().flatten().copied().for_each(&mut update);
            Ok(())
        })
    }

    /// Whether no row of a table refers to any of `users`, where the server would refuse an UPDATE of it even so.
    fn is_out_of_it(&self, session: &Session, place: usize, users: &[Uuid]) -> bool {
        self.references.tables[place].no_update.is_some() && !self.remain(session, place, users)
    }

    fn update_one(&self, session: &Session, place: usize, from: Uuid, to: Uuid) -> u64 {
        let statements = &self.statements[place];
        let Some(sql) = &statements.update else {
            return 0;
        };
        let plan = statements.updater.get_or_init(|| session.prepare(sql, &[UUIDOID; 2]));
        session.execute(plan, &[from.into(), to.into()], Mode::Queued).touched()
    }

    /// What was moved with one user, of the rows that changed in a table: the user's own is not counted.
    fn referring_to_one(&self, place: usize, rows: u64) -> Option<Referring> {
        self.referring(place, rows.saturating_sub(u64::from(place == 0)))
    }
}

fn moving_columns(table: &Table) -> Vec<String> {
    table.moving.iter().map(|m| m.column.clone()).collect()
}

/// The columns of a table that refer to a user, the user's own id not counted.
fn referring_columns(references: &References, place: usize) -> Rc<[String]> {
    let moving = references.tables[place].moving.iter();
    moving.filter(|m| !(place == 0 && m.column == "id")).map(|m| unquoted(&m.column)).collect()
}

/// `"Name"` as the catalog has it.
pub fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => name.to_owned(),
    }
}
