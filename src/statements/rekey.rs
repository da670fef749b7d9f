//! Moving a user to another id, with everything that refers to it.
//!
//! Each table is changed by one statement, written as its owner. All statements run before any of their foreign-key
//! checks and AFTER triggers does (see [`QueryLevel`]), so that to the constraints it is one statement.

use super::changes::address;
use super::collisions;
use super::plan::Row;
use crate::catalog::references::{Form, Moving, References, Table};
use crate::catalog::shape::Shape;
use crate::catalog::{App, House};
use crate::error::Error;
use crate::pg::{self, Arg, Mode, Plan, QueryLevel, Session};
use pgrx::Uuid;
use pgrx::pg_sys::Oid;
use serde_json::{Value, json};
use std::cell::OnceCell;

/// What refers to the users, and the statements that move it. Made anew for each call, kept for all its users.
pub struct Mover {
    pub house: House,
    pub app_owner: Oid,
    pub references: References,
    statements: Vec<Statements>,
    locker: OnceCell<Plan>,
}

/// The statements for one table; `$1` is the id it is now, `$2` the id it becomes.
struct Statements {
    count: String,
    update: Option<String>,
    counter: OnceCell<Plan>,
    updater: OnceCell<Plan>,
    shape: OnceCell<Shape>,
}

/// How many rows of a table refer to a user.
pub struct Referring {
    pub table: String,
    pub columns: Vec<String>,
    pub rows: u64,
}

impl Referring {
    pub fn to_json(all: &[Referring]) -> Value {
        all.iter()
            .filter(|r| r.rows > 0)
            .map(|r| json!({ "table": r.table, "columns": r.columns, "rows": r.rows }))
            .collect()
    }

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

impl Collision {
    pub fn in_words(all: &[Collision]) -> String {
        let what: Vec<String> = all
            .iter()
            .map(|c| {
                let s = if c.rows == 1 { "" } else { "s" };
                format!("{} row{s} in {} ({})", c.rows, c.table, c.constraint)
            })
            .collect();
        format!("{}.", what.join(", "))
    }

    pub fn to_json(all: &[Collision]) -> Value {
        all.iter()
            .map(|c| json!({ "table": c.table, "constraint": c.constraint, "rows": c.rows }))
            .collect()
    }
}

/// A row that holds an id without any need to.
pub struct Held {
    pub row: Row,
    /// Quoted.
    pub column: String,
    pub key: Option<Value>,
    pub md5: String,
}

const ID: [pgrx::pg_sys::BuiltinOid; 1] = [pgrx::pg_sys::BuiltinOid::UUIDOID];

fn ids(count: usize) -> Vec<Oid> {
    vec![Oid::from(ID[0]); count]
}

impl Mover {
    pub fn read(session: &Session, house: House, app: &App, mode: Mode) -> Result<Self, Error> {
        let references = References::read(session, app, mode)?;
        let statements = (0..references.tables.len())
            .map(|place| Statements {
                count: count_sql(&references, place),
                update: update_sql(&references, place),
                counter: OnceCell::new(),
                updater: OnceCell::new(),
                shape: OnceCell::new(),
            })
            .collect();
        Ok(Mover { house, app_owner: app.owner, references, statements, locker: OnceCell::new() })
    }

    /// The places of the tables that hold ids.
    fn moving(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.references.tables.len()).filter(|t| !self.references.tables[*t].moving.is_empty())
    }

    fn referring(&self, place: usize, rows: u64) -> Referring {
        let table = &self.references.tables[place];
        let columns = table.moving.iter().filter(|m| !(place == 0 && m.column == "id"));
        Referring {
            table: table.label.clone(),
            columns: columns.map(|m| unquoted(&m.column)).collect(),
            rows,
        }
    }

    /// How many rows of each table refer to the user `id`, the user's own not counted.
    pub fn count(&self, session: &Session, id: Uuid, mode: Mode) -> Vec<Referring> {
        self.moving()
            .filter(|place| *place > 0 || self.references.tables[0].moving.len() > 1)
            .map(|place| {
                let statements = &self.statements[place];
                let rows = pg::as_role(self.references.tables[place].owner, || {
                    let plan = statements
                        .counter
                        .get_or_init(|| session.prepare(&statements.count, &ids(1)));
                    session.execute(plan, &[id.into()], mode).one::<i64>().unwrap_or_default()
                });
                self.referring(place, rows as u64)
            })
            .collect()
    }

    /// The shape of a table, read once.
    pub fn shape(&self, session: &Session, place: usize, mode: Mode) -> &Shape {
        self.statements[place].shape.get_or_init(|| {
            pg::as_role(self.house.owner, || {
                Shape::read(session, self.references.tables[place].oid, mode)
            })
        })
    }

    /// Every unique or exclusion conflict that moving `from` to `to` would meet.
    pub fn collisions(
        &self,
        session: &Session,
        from: Uuid,
        to: Uuid,
        mode: Mode,
    ) -> Vec<Collision> {
        let mut found = Vec::new();
        for place in self.moving() {
            let table = &self.references.tables[place];
            let shape = self.shape(session, place, mode);
            let changed: Vec<String> = table.moving.iter().map(|m| m.column.clone()).collect();
            let source = format!(
                "FROM {} t WHERE {}",
                table.target(),
                any_condition(&self.references, place)
            );
            let moved = collisions::moved(shape, &source, |column| {
                let moving = table.moving.iter().find(|m| m.column == column.quoted)?;
                Some(new_value(&self.references, place, moving))
            });
            for unique in shape.touched_by(&changed) {
                let sql = format!(
                    "SELECT count(DISTINCT ROW(p.a, p.b)) FROM ({}) AS p(a, b, c, d, e)",
                    collisions::pairs(table, unique, &moved, "false")
                );
                let rows = pg::as_role(table.owner, || {
                    session
                        .run(&sql, &[from.into(), to.into()], mode)
                        .one::<i64>()
                        .unwrap_or_default()
                });
                if rows > 0 {
                    found.push(Collision {
                        table: table.label.clone(),
                        constraint: unique.name.clone(),
                        rows: rows as u64,
                    });
                }
            }
        }
        found
    }

    /// Locks the app users with these ids, in the order of their ids, and answers which of them there are.
    pub fn lock(&self, session: &Session, users: &[Uuid]) -> Vec<Uuid> {
        let sql = format!(
            "SELECT t.id FROM {} t WHERE t.id = ANY ($1) ORDER BY t.id FOR UPDATE",
            self.references.tables[0].target()
        );
        pg::as_role(self.app_owner, || {
            let uuids = [Oid::from(pgrx::pg_sys::BuiltinOid::UUIDARRAYOID)];
            let plan = self.locker.get_or_init(|| session.prepare(&sql, &uuids));
            session.execute(plan, &[users.to_vec().into()], Mode::Fresh).column()
        })
    }

    /// Moves the user `from` and all that refers to it to the id `to`. The user's row must be locked.
    pub fn rekey(&self, session: &Session, from: Uuid, to: Uuid) -> Result<Vec<Referring>, Error> {
        let mut moved = Vec::new();
        as_one_statement(&self.owners(), &self.references.deferrable, session, |owner| {
            for place in self.moving().filter(|p| self.references.tables[*p].owner == owner) {
                let statements = &self.statements[place];
                let Some(sql) = &statements.update else {
                    continue;
                };
                let plan = statements.updater.get_or_init(|| session.prepare(sql, &ids(2)));
                let args: [Arg; 2] = [from.into(), to.into()];
                let rows = session.execute(plan, &args, Mode::Queued).touched();
                let own = u64::from(place == 0);
                moved.push(self.referring(place, rows.saturating_sub(own)));
            }
        });
        match self.left_behind(session, from, to) {
            Some(table) => Err(Error::HeldBack { table }),
            None => Ok(moved),
        }
    }

    /// The first table where a trigger or rule has kept a row as it was.
    fn left_behind(&self, session: &Session, from: Uuid, to: Uuid) -> Option<String> {
        let tables = &self.references.tables;
        let user_has_moved = !tables[0].keeps_rows || !self.lock(session, &[to]).is_empty();
        let stays = |place: &usize| {
            let plan = &self.statements[*place].counter;
            let sql = &self.statements[*place].count;
            let rows = pg::as_role(tables[*place].owner, || {
                let plan = plan.get_or_init(|| session.prepare(sql, &ids(1)));
                session.execute(plan, &[from.into()], Mode::Fresh).one::<i64>()
            });
            rows != Some(0)
        };
        let place = match user_has_moved {
            false => Some(0),
            true => self.moving().filter(|place| tables[*place].keeps_rows).find(stays),
        };
        place.map(|place| tables[place].label.clone())
    }

    /// Rows that hold an id in a column where no foreign key keeps them from it, whoever has that id: locked unless this
    /// is a rehearsal.
    pub fn held(&self, session: &Session, id: Uuid, mode: Mode) -> Vec<Held> {
        let mut held = Vec::new();
        let lock = if mode == Mode::Read { "" } else { " FOR UPDATE" };
        for (place, moving) in self.loose() {
            let table = &self.references.tables[place];
            let shape = self.shape(session, place, mode);
            let sql = format!(
                "SELECT t.tableoid, t.ctid::text, {}, md5({}::text) FROM {} t WHERE {}{lock}",
                shape.key_image(),
                shape.image(),
                table.target(),
                moving.holds("t")
            );
            pg::with_stable_text(|| {
                pg::as_role(table.owner, || {
                    let rows = session.run(&sql, &[id.into()], mode);
                    held.extend((0..rows.len()).filter_map(|row| {
                        Some(Held {
                            row: (place, address(&rows, row, 1)?),
                            column: moving.column.clone(),
                            key: rows.get::<pgrx::JsonB>(row, 3).map(|key| key.0),
                            md5: rows.get(row, 4)?,
                        })
                    }));
                })
            });
        }
        held
    }

    /// What the audit log keeps of rows that held the id before the user got it: taking that back must leave them alone.
    pub fn held_to_json(&self, held: &[Held]) -> Value {
        let rows = held.iter().map(|held| {
            let table = &self.references.tables[held.row.0].label;
            json!({ "table": table, "column": held.column, "key": held.key, "md5": held.md5 })
        });
        rows.collect()
    }

    /// Those of the rows that hold `id` now that are named in `recorded` ([`Self::held_to_json`]).
    pub fn find_held(
        &self,
        session: &Session,
        recorded: &[Value],
        id: Uuid,
    ) -> Result<Vec<Held>, Error> {
        if recorded.is_empty() {
            return Ok(Vec::new());
        }
        let mut wanted: Vec<&Value> = recorded.iter().collect();
        let mut found = self.held(session, id, Mode::Fresh);
        found.retain(|held| {
            let table = self.references.tables[held.row.0].label.as_str();
            let is = |w: &&Value| {
                let same = match &held.key {
                    Some(key) if !w["key"].is_null() => w["key"] == *key,
                    _ => w["md5"] == held.md5.as_str(),
                };
                same && w["table"] == table && w["column"] == held.column.as_str()
            };
            let place = wanted.iter().position(is);
            place.map(|place| wanted.swap_remove(place)).is_some()
        });
        match wanted.iter().find(|w| w["key"].is_null()) {
            Some(lost) => Err(Error::CannotTellApart {
                table: lost["table"].as_str().unwrap_or_default().to_owned(),
            }),
            None => Ok(found),
        }
    }

    fn loose(&self) -> impl Iterator<Item = (usize, &Moving)> {
        self.moving().flat_map(|place| {
            let moving = self.references.tables[place].moving.iter();
            moving.filter(|m| self.references.is_loose(m)).map(move |m| (place, m))
        })
    }

    /// The owners of the tables that hold ids, the application's first.
    fn owners(&self) -> Vec<Oid> {
        distinct(self.moving().map(|place| self.references.tables[place].owner))
    }
}

pub fn distinct(owners: impl Iterator<Item = Oid>) -> Vec<Oid> {
    let mut all = Vec::new();
    for owner in owners {
        if !all.contains(&owner) {
            all.push(owner);
        }
    }
    all
}

/// Runs `write` as each owner in turn. Foreign-key checks and AFTER triggers of what it writes fire when all owners have
/// had their turn, as the owner whose statement queued them. Whatever may be deferred is checked then too: nothing is left
/// for COMMIT to fire as the session's role.
pub fn as_one_statement(
    owners: &[Oid],
    deferrable: &[(String, bool)],
    session: &Session,
    mut write: impl FnMut(Oid),
) {
    let constraints = by_owner(session, owners, deferrable);
    set_constraints(session, &constraints, "IMMEDIATE", |_| true);
    let mut levels = Vec::new();
    for owner in owners {
        levels.push((*owner, QueryLevel::open()));
        pg::as_role(*owner, || write(*owner));
    }
    while let Some((owner, level)) = levels.pop() {
        pg::as_role(owner, || level.close());
    }
    set_constraints(session, &constraints, "DEFERRED", |initially| initially);
}

/// A constraint by its qualified name, the owner of its table, and whether it is deferred at first.
type OwnedConstraint = (Oid, String, bool);

/// Constraints and constraint triggers that must not wait: those named, and what triggers of these owners may write to in
/// other tables of theirs. Setting one fires what waits under its name, so that each is set by its table's owner, and a name
/// that somebody else's trigger has too is left alone.
const BY_OWNER: &str = "
    SELECT t.relowner, format('%I.%I', n.nspname, c.conname),
           bool_and(c.condeferred)
           AND NOT EXISTS (SELECT FROM pg_constraint o
                            WHERE o.connamespace = n.oid AND o.conname = c.conname AND NOT o.condeferred)
      FROM pg_constraint c
      JOIN pg_namespace n ON n.oid = c.connamespace
      JOIN pg_class t ON t.oid = c.conrelid
     WHERE c.condeferrable
       AND (format('%I.%I', n.nspname, c.conname) = ANY ($1) OR c.condeferred AND t.relowner = ANY ($2))
       AND has_schema_privilege(t.relowner, n.oid, 'USAGE')
       AND NOT EXISTS (SELECT FROM pg_constraint o JOIN pg_class ot ON ot.oid = o.conrelid
                        WHERE o.connamespace = n.oid AND o.conname = c.conname AND o.contype <> 'f'
                          AND ot.relowner <> t.relowner)
     GROUP BY t.relowner, n.oid, n.nspname, c.conname
     ORDER BY 1, 2";

fn by_owner(
    session: &Session,
    owners: &[Oid],
    deferrable: &[(String, bool)],
) -> Vec<OwnedConstraint> {
    let (Some(first), false) = (owners.first(), deferrable.is_empty()) else {
        return Vec::new();
    };
    let names: Vec<String> = deferrable.iter().map(|(name, _)| name.clone()).collect();
    let rows = pg::as_role(*first, || {
        session.run(BY_OWNER, &[names.into(), owners.to_vec().into()], Mode::Fresh)
    });
    (0..rows.len())
        .filter_map(|row| Some((rows.get(row, 1)?, rows.get(row, 2)?, rows.get(row, 3)?)))
        .collect()
}

fn set_constraints(
    session: &Session,
    all: &[OwnedConstraint],
    when: &str,
    which: impl Fn(bool) -> bool,
) {
    for owner in distinct(all.iter().map(|(owner, _, _)| *owner)) {
        let names: Vec<&str> = all
            .iter()
            .filter(|(of, _, initially)| *of == owner && which(*initially))
            .map(|(_, name, _)| name.as_str())
            .collect();
        if !names.is_empty() {
            let sql = format!("SET CONSTRAINTS {} {when}", names.join(", "));
            pg::as_role(owner, || session.run(&sql, &[], Mode::Fresh));
        }
    }
}

/// `"Name"` as the catalog has it.
pub fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => name.to_owned(),
    }
}

fn any_condition(references: &References, place: usize) -> String {
    let all: Vec<String> = references.tables[place]
        .moving
        .iter()
        .map(|m| format!("({})", references.condition(m)))
        .collect();
    all.join(" OR ")
}

/// What a moving column becomes, in any of the rows that one of the table's moving columns selects.
fn new_value(references: &References, place: usize, moving: &Moving) -> String {
    let new = match moving.form {
        Form::Uuid => "$2".to_owned(),
        Form::Text => format!(
            "CASE WHEN t.{}::text = $1::text THEN $2::text ELSE upper($2::text) END",
            moving.column
        ),
    };
    if references.tables[place].moving.len() == 1 {
        return new;
    }
    format!("CASE WHEN {} THEN {new} ELSE t.{} END", references.condition(moving), moving.column)
}

fn count_sql(references: &References, place: usize) -> String {
    let table: &Table = &references.tables[place];
    let mut conditions: Vec<String> = Vec::new();
    for moving in &table.moving {
        if place > 0 || moving.column != "id" {
            conditions.push(format!("({})", references.condition(moving)));
        }
    }
    let others = if place == 0 { " AND t.id <> $1" } else { "" };
    format!(
        "SELECT count(*) FROM {} t WHERE ({}){others}",
        table.target(),
        if conditions.is_empty() { "false".to_owned() } else { conditions.join(" OR ") },
    )
}

fn update_sql(references: &References, place: usize) -> Option<String> {
    let table = &references.tables[place];
    let sets: Vec<String> = table
        .moving
        .iter()
        .filter(|m| !m.generated)
        .map(|m| format!("{} = {}", m.column, new_value(references, place, m)))
        .collect();
    if sets.is_empty() {
        return None;
    }
    Some(format!(
        "UPDATE {} t SET {} WHERE {}",
        table.target(),
        sets.join(", "),
        any_condition(references, place)
    ))
}
