//! Moving a user to another id, with everything that refers to it.
//!
//! Each table is changed by one statement, written as its owner. All statements run before any of their foreign-key
//! checks and AFTER triggers does (see [`QueryLevel`]), so that to the constraints it is one statement.

use super::collisions;
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
    pub fn to_json(all: &[Collision]) -> Value {
        all.iter()
            .map(|c| json!({ "table": c.table, "constraint": c.constraint, "rows": c.rows }))
            .collect()
    }
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
        Ok(Mover { house, app_owner: app.owner, references, statements })
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
            session.run(&sql, &[users.to_vec().into()], Mode::Fresh).column()
        })
    }

    /// Moves the user `from` and all that refers to it to the id `to`. The user's row must be locked.
    pub fn rekey(&self, session: &Session, from: Uuid, to: Uuid) -> Vec<Referring> {
        let mut moved = Vec::new();
        as_one_statement(&self.owners(), &self.references.deferrable(), session, |owner| {
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
        moved
    }

    /// Rows that hold the id `to` before anything is moved to it, where no foreign key keeps them from it. Taking a
    /// re-key back must leave them alone.
    pub fn held_before(&self, session: &Session, to: Uuid) -> Vec<Value> {
        let mut held = Vec::new();
        for place in self.moving() {
            let table = &self.references.tables[place];
            for moving in table.moving.iter().filter(|m| self.references.is_loose(m)) {
                let shape = self.shape(session, place, Mode::Fresh);
                let sql = format!(
                    "SELECT jsonb_agg({}) FROM {} t WHERE t.{}::text = $1::text",
                    shape.key_image(),
                    table.target(),
                    moving.column
                );
                let rows = pg::with_stable_text(|| {
                    pg::as_role(table.owner, || {
                        session.run(&sql, &[to.into()], Mode::Fresh).one::<pgrx::JsonB>()
                    })
                });
                if let Some(rows) = rows {
                    held.push(
                        json!({ "table": table.label, "column": moving.column, "keys": rows.0 }),
                    );
                }
            }
        }
        held
    }

    /// Gives rows that held the id `to` before it was moved there ([`Self::held_before`]) that id again, once it has been
    /// moved back to `from`. Fails with the table's name where they cannot be told apart.
    pub fn give_back(
        &self,
        session: &Session,
        held: &[Value],
        from: Uuid,
        to: Uuid,
    ) -> Result<(), String> {
        for place in self.moving() {
            let table = &self.references.tables[place];
            for rows in held.iter().filter(|rows| rows["table"] == table.label.as_str()) {
                let keys = rows["keys"].as_array().cloned().unwrap_or_default();
                let moving = table.moving.iter().find(|m| rows["column"] == m.column.as_str());
                let (Some(moving), false) = (moving, keys.iter().any(Value::is_null)) else {
                    return Err(table.label.clone());
                };
                let shape = self.shape(session, place, Mode::Fresh);
                let value = if moving.form == Form::Text { "$3::text" } else { "$3" };
                let sql = format!(
                    "UPDATE {} t SET {column} = {value}
                      WHERE t.{column}::text = $2::text AND {} IN (SELECT jsonb_array_elements($1))",
                    table.target(),
                    shape.key_image(),
                    column = moving.column
                );
                let args = [pgrx::JsonB(Value::Array(keys)).into(), from.into(), to.into()];
                pg::with_stable_text(|| {
                    pg::as_role(table.owner, || session.run(&sql, &args, Mode::Fresh).touched())
                });
            }
        }
        Ok(())
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
/// had their turn, as the owner whose statement queued them. Whatever may be deferred is checked then too.
pub fn as_one_statement(
    owners: &[Oid],
    deferrable: &[(String, bool)],
    session: &Session,
    mut write: impl FnMut(Oid),
) {
    set_constraints(session, deferrable.iter(), "IMMEDIATE");
    let mut levels = Vec::new();
    for owner in owners {
        levels.push((*owner, QueryLevel::open()));
        pg::as_role(*owner, || write(*owner));
    }
    while let Some((owner, level)) = levels.pop() {
        pg::as_role(owner, || level.close());
    }
    set_constraints(session, deferrable.iter().filter(|(_, initially)| *initially), "DEFERRED");
}

fn set_constraints<'a>(
    session: &Session,
    all: impl Iterator<Item = &'a (String, bool)>,
    when: &str,
) {
    let names: Vec<&str> = all.map(|(name, _)| name.as_str()).collect();
    if !names.is_empty() {
        session.run(&format!("SET CONSTRAINTS {} {when}", names.join(", ")), &[], Mode::Fresh);
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
        .map(|m| format!("({})", references.condition(place, m)))
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
    format!(
        "CASE WHEN {} THEN {new} ELSE t.{} END",
        references.condition(place, moving),
        moving.column
    )
}

fn count_sql(references: &References, place: usize) -> String {
    let table: &Table = &references.tables[place];
    let mut conditions: Vec<String> = Vec::new();
    for moving in &table.moving {
        if place > 0 || moving.column != "id" {
            conditions.push(format!("({})", references.condition(place, moving)));
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
