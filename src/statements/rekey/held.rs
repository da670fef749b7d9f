//! Rows that hold an id without any need to: no foreign key keeps them from it, whoever has that id.

use super::{Mover, unquoted};
use crate::catalog::references::{Form, Moving};
use crate::error::Error;
use crate::pg::{self, Mode, Session};
use crate::statements::plan::Row;
use crate::statements::rows::address;
use pgrx::Uuid;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;

/// A row that holds an id without any need to.
pub struct Held {
    pub row: Row,
    /// Quoted.
    pub column: String,
    pub key: Option<Value>,
    pub md5: String,
}

/// How many rows of a table hold an id in a registered column, where no foreign key keeps them from it. The audit log keeps it of
/// app users who are made: what was there before does not hang on them.
#[derive(Clone, Serialize, Deserialize)]
pub struct Holding {
    pub table: String,
    /// Quoted.
    pub column: String,
    pub rows: usize,
}

/// Which columns the MD5 is of, in the audit log.
const COLUMNS: &str = "columns";

/// Whether two keys are of the same columns.
fn is_alike(one: &Value, other: &Value) -> bool {
    match (one.as_object(), other.as_object()) {
        (Some(one), Some(other)) => !one.is_empty() && one.keys().eq(other.keys()),
        _ => false,
    }
}

impl Mover {
    /// Whether some row holds one of `ids` without any need to ([`Self::held`]).
    pub fn holds_any(&self, session: &Session, ids: &[Uuid]) -> bool {
        self.loose().any(|(place, moving)| {
            let table = &self.references.tables[place];
            let sql = format!(
                "SELECT EXISTS (SELECT FROM unnest($1::uuid[]) AS m(id) JOIN {} t ON {})",
                table.target(),
                moving.holds("t", "m.id")
            );
            let args = [ids.to_vec().into()];
            let held = pg::as_role(table.owner, || session.run(&sql, &args, Mode::Fresh).one());
            held.unwrap_or(true)
        })
    }

    /// Rows that hold an id in a column where no foreign key keeps them from it, whoever has that id: locked unless this
    /// is a rehearsal.
    pub fn held(&self, session: &Session, id: Uuid, mode: Mode) -> Vec<Held> {
        self.held_as(session, id, mode, &[])
    }

    /// The same; MD5s are of the columns that rows of the table in `recorded` name.
    fn held_as(&self, session: &Session, id: Uuid, mode: Mode, recorded: &[Value]) -> Vec<Held> {
        let mut held = Vec::new();
        let lock = if mode == Mode::Read { "" } else { " FOR UPDATE" };
        for (place, moving) in self.loose() {
            let table = &self.references.tables[place];
            let shape = self.shape(session, place);
            let of_table = |w: &&Value| w["table"] == table.label.as_str() && w[COLUMNS].is_array();
            let names: Option<Vec<&str>> = recorded.iter().find(of_table).map(|w| {
                w[COLUMNS].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
            });
            let sql = format!(
                "SELECT t.tableoid, t.ctid::text, {}, md5({}::text) FROM {} t WHERE {}{lock}",
                shape.key_image(),
                names.map_or_else(|| shape.image(), |names| shape.image_over(&names)),
                table.target(),
                moving.holds("t", "$1")
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
    pub fn held_to_json(&self, session: &Session, held: &[Held]) -> Vec<Value> {
        let rows = held.iter().map(|held| {
            let table = &self.references.tables[held.row.0].label;
            let columns = &self.shape(session, held.row.0).columns;
            let columns: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
            json!({
                "table": table, "column": held.column, "key": held.key, "md5": held.md5, COLUMNS: columns
            })
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
        let mut found = self.held_as(session, id, Mode::Fresh, recorded);
        found.retain(|held| {
            let table = self.references.tables[held.row.0].label.as_str();
            let is = |w: &&Value| {
                // The key may have been made, or become another, since.
                let same = match &held.key {
                    Some(key) if is_alike(key, &w["key"]) => w["key"] == *key,
                    _ => w["md5"] == held.md5.as_str(),
                };
                same && w["table"] == table && w["column"] == held.column.as_str()
            };
            let place = wanted.iter().position(is);
            place.map(|place| wanted.swap_remove(place)).is_some()
        });
        // What has its key still, and is not found by it, was deleted.
        let is_gone = |w: &&Value| {
            let place = self.references.tables.iter().position(|t| w["table"] == t.label.as_str());
            place.is_none_or(|place| {
                let key = &self.shape(session, place).primary_key;
                let key: Value = key.iter().map(|k| (unquoted(k), Value::Null)).collect();
                is_alike(&key, &w["key"])
            })
        };
        match wanted.iter().find(|w| !is_gone(w)) {
            Some(lost) => Err(Error::CannotTellApart {
                table: lost["table"].as_str().unwrap_or_default().to_owned(),
            }),
            None => Ok(found),
        }
    }

    /// The registered columns, those apart that a foreign key brings along.
    pub fn registered(&self) -> impl Iterator<Item = (usize, &Moving)> {
        self.references.tables.iter().enumerate().flat_map(|(place, table)| {
            let registered = table.moving.iter().filter(|m| m.soft && m.through.is_empty());
            registered.map(move |moving| (place, moving))
        })
    }

    /// In how many rows of which registered columns each of `ids` stands. No row is locked.
    pub fn holdings(&self, session: &Session, ids: &[Uuid]) -> HashMap<Uuid, Vec<Holding>> {
        let mut holdings: HashMap<Uuid, Vec<Holding>> = HashMap::new();
        for (place, moving) in self.registered().filter(|_| !ids.is_empty()) {
            let table = &self.references.tables[place];
            let (key, column) = match moving.form {
                Form::Uuid => ("u.id", format!("t.{}", moving.column)),
                Form::Text => (
                    "unnest(ARRAY[u.id::text, upper(u.id::text)])",
                    format!("t.{}::text", moving.column),
                ),
            };
            let sql = format!(
                "SELECT m.id, count(*)
                   FROM (SELECT DISTINCT u.id, {key} AS key FROM unnest($1::uuid[]) AS u(id)) m JOIN {} t ON {column} = m.key
                  GROUP BY m.id",
                table.target()
            );
            let rows =
                pg::as_role(table.owner, || session.run(&sql, &[ids.to_vec().into()], Mode::Fresh));
            for row in 0..rows.len() {
                if let (Some(id), Some(rows)) = (rows.get(row, 1), rows.get::<i64>(row, 2)) {
                    let column = moving.column.clone();
                    let holding =
                        Holding { table: table.label.clone(), column, rows: rows as usize };
                    holdings.entry(id).or_default().push(holding);
                }
            }
        }
        holdings
    }

    fn loose(&self) -> impl Iterator<Item = (usize, &Moving)> {
        self.moving().flat_map(|place| {
            let moving = self.references.tables[place].moving.iter();
            moving.filter(|m| self.references.is_loose(m)).map(move |m| (place, m))
        })
    }
}
