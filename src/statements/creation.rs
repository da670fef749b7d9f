//! What would keep auth users' rows from being made, as far as the catalog and the data tell.

use super::mapping::Mapped;
use super::rekey::{Collision, unquoted};
use super::rows::Text;
use super::signup::Target;
use super::{checks, collisions, elements, offer_new};
use crate::catalog::code::read_precedes_keys;
use crate::catalog::references::{ForeignKey, Table};
use crate::catalog::shape::{Check, Shape, ShapeColumn, Uniqueness};
use crate::error::Error;
use crate::pg::{self, Json, Mode, Session, connect};
use onagui_decide::repair::Action;
use pgrx::Uuid;
use std::collections::HashMap;

/// The row that a sign-up would make.
struct New<'t> {
    table: &'t Table,
    shape: &'t Shape,
    /// A query over `new_users n` for it, under the table's column names, with the auth user's id in `"#id"`.
    rows: String,
    /// Quoted columns of which nobody can tell what they will be.
    open: Vec<String>,
}

impl Target {
    /// Of the auth users with these ids, those whose rows could not be made, and why. `table` and `shape` are those of
    /// `app_users`. Where a BEFORE trigger may change a new row, nobody is named.
    pub fn hindrances(
        &self,
        (table, shape): (&Table, &Shape),
        ids: &[Uuid],
    ) -> HashMap<Uuid, Error> {
        if self.app.changes_rows {
            return HashMap::new();
        }
        let new = self.new_row(table, shape);
        connect(|session| {
            let users = self.auth_users(session, ids, Mode::Read);
            let mut keys = ForeignKey::all_of(session, table.oid, Mode::Read);
            if !keys.is_empty() && read_precedes_keys(session, table.oid) {
                keys.clear();
            }
            pg::as_role(self.app.owner, || {
                connect(|session| {
                    offer_new(session, &users);
                    let rows = session.run(&self.look_sql(&new), &[], Mode::Read);
                    let mut found: HashMap<Uuid, Error> = HashMap::new();
                    for row in 0..rows.len() {
                        let answers =
                            |column| rows.get::<Vec<bool>>(row, column).unwrap_or_default();
                        let why = new.hindrance(&answers(2), &answers(3), &answers(4), self);
                        found.extend(rows.get::<Uuid>(row, 1).zip(why));
                    }
                    for unique in new.unique(self) {
                        let sql = collisions::taken(table, unique, &new.rows);
                        for id in session.run(&sql, &[], Mode::Read).column::<Uuid>() {
                            found.entry(id).or_insert_with(|| new.collides(unique));
                        }
                    }
                    for (key, parent) in &keys {
                        for id in new.refer_to_nobody(session, key, parent) {
                            found.entry(id).or_insert_with(|| new.refers_to_nobody(key));
                        }
                    }
                    found
                })
            })
        })
    }

    fn new_row<'t>(&self, table: &'t Table, shape: &'t Shape) -> New<'t> {
        let mut open = Vec::new();
        let mut written = Vec::new();
        for column in shape.columns.iter().filter(|c| c.generated.is_none()) {
            let default = self.app.column(&column.name).and_then(|c| c.default.as_deref());
            let value = match (column.name.as_str(), self.mapped_to(&column.name)) {
                ("id" | "email", _) => format!("n.{}", column.quoted),
                _ if column.is_open => {
                    written.push(unknown(column));
                    open.push(column.quoted.clone());
                    continue;
                }
                (_, Some(mapped)) => mapped.value(),
                (_, None) => default.unwrap_or("NULL").to_owned(),
            };
            written.push(format!("({value})::{} AS {}", column.kind, column.quoted));
        }
        let mut computed = Vec::new();
        for column in shape.columns.iter().filter(|c| c.generated.is_some()) {
            if shape.is_computed_anew(column, |name| open.contains(name)) {
                computed.push(format!(", {}", unknown(column)));
                open.push(column.quoted.clone());
            } else {
                computed.extend(column.computed());
            }
        }
        let raw: Vec<String> = self
            .limited(shape)
            .into_iter()
            .enumerate()
            .map(|(i, (_, text))| format!(", ({text}) AS \"#raw {i}\""))
            .collect();
        let rows = format!(
            "SELECT *{} FROM (SELECT n.id AS \"#id\", {}{} FROM new_users n) AS image",
            computed.concat(),
            written.join(", "),
            raw.concat()
        );
        New { table, shape, rows, open }
    }

    fn mapped_to(&self, column: &str) -> Option<&Mapped> {
        self.mapped.iter().find(|m| m.name == column)
    }

    /// The columns that take texts of some length only, quoted, and what is assigned to them.
    fn limited<'t>(&self, shape: &'t Shape) -> Vec<(&'t str, String)> {
        let limited = shape.columns.iter().filter(|c| c.is_limited && !c.is_open);
        let text = |name: &str| match (name, self.mapped_to(name)) {
            ("email", _) => Some("n.email::text".to_owned()),
            (_, Some(mapped)) if mapped.is_string => Some(format!("({})::text", mapped.value())),
            _ => None,
        };
        limited.filter_map(|c| Some((c.quoted.as_str(), text(&c.name)?))).collect()
    }

    /// By auth user: which columns have no value though they must, which checks are broken, and what does not fit.
    fn look_sql(&self, new: &New) -> String {
        let nulls = new.demanded().map(|column| format!("num_nulls({column}) = 1"));
        let breaks = new.checks().map(checks::breaks);
        let limited = self.limited(new.shape);
        let cut = limited
            .iter()
            .enumerate()
            .filter_map(|(i, (column, _))| new.shape.overflow(column, &format!("\"#raw {i}\"")));
        let array = |all: Vec<String>| format!("ARRAY[{}]::bool[]", all.join(", "));
        format!(
            "WITH new AS MATERIALIZED ({}) SELECT \"#id\", {}, {}, {} FROM new",
            new.rows,
            array(nulls.collect()),
            array(breaks.collect()),
            array(cut.collect()),
        )
    }
}

/// SQL: a column of which nobody can tell what it will be. No domain is asked for NULL.
fn unknown(column: &ShapeColumn) -> String {
    format!("NULL::{} AS {}", column.base, column.quoted)
}

impl New<'_> {
    /// Quoted columns that must have a value.
    fn demanded(&self) -> impl Iterator<Item = &str> {
        let columns = self.shape.columns.iter().map(|c| (c.not_null, c.quoted.as_str()));
        columns
            .filter(|(not_null, name)| *not_null && !self.open.iter().any(|o| o == name))
            .map(|c| c.1)
    }

    fn checks(&self) -> impl Iterator<Item = &Check> {
        self.shape.asked_of_new(&self.open).0
    }

    /// A username that is taken gets another ending.
    fn unique(&self, target: &Target) -> impl Iterator<Item = &Uniqueness> {
        let is_username =
            |unique: &Uniqueness| target.username().is_some() && unique.concerns("username");
        self.shape.asked_of_new(&self.open).1.filter(move |unique| !is_username(unique))
    }

    fn hindrance(
        &self,
        is_null: &[bool],
        is_broken: &[bool],
        is_cut: &[bool],
        target: &Target,
    ) -> Option<Error> {
        let missing = self.demanded().zip(is_null).filter(|(_, is_null)| **is_null);
        let columns: Vec<String> = missing.map(|(column, _)| unquoted(column)).collect();
        let table = || self.table.label.clone();
        if !columns.is_empty() {
            return Some(Error::ValuesMissing { table: table(), columns });
        }
        let limited = target.limited(self.shape);
        if let Some(((column, _), _)) = limited.iter().zip(is_cut).find(|(_, cut)| **cut) {
            let kind = self.shape.column(column).map_or(String::new(), |c| c.kind.clone());
            return Some(Error::DoesNotFit { table: table(), column: (*column).to_owned(), kind });
        }
        let broken = self.checks().zip(is_broken).filter(|(_, broken)| **broken);
        let broken = broken.map(|(check, _)| checks::found(self.table, check, 1)).collect();
        checks::fail(broken, false).err()
    }

    /// The auth users whose rows would refer to nobody through a foreign key, as far as that can be told beforehand.
    fn refer_to_nobody(&self, session: &Session, key: &ForeignKey, parent: &Table) -> Vec<Uuid> {
        let is_open = |column: &String| self.open.contains(column);
        let of_itself = parent.oid == self.table.oid;
        let unclear = key.columns.iter().any(is_open) || of_itself && key.keys.iter().any(is_open);
        if !key.enforced || key.period || key.bounds.is_some() || unclear {
            return Vec::new();
        }
        let equal = |key_of: &str, column: &dyn Fn(usize) -> String| -> String {
            let part = |(i, k)| key.equal(i, &format!("{key_of}.{k}"), &column(i));
            key.keys.iter().enumerate().map(part).collect::<Vec<_>>().join(" AND ")
        };
        // A row may refer to itself.
        let others = match of_itself {
            true => format!("({}) IS NOT TRUE", equal("n", &|i| format!("n.{}", key.columns[i]))),
            false => "true".into(),
        };
        let nulls = key.columns.iter().map(|c| format!("n.{c}")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT \"#id\", {} FROM ({}) n
              WHERE num_nulls({nulls}) {} AND {others}",
            self.shape.texts("n", key.columns.iter().map(String::as_str)),
            self.rows,
            if key.full { format!("< {}", key.columns.len()) } else { "= 0".into() },
        );
        let rows = pg::with_stable_text(|| session.run(&sql, &[], Mode::Read));
        let ids: Vec<Uuid> = rows.column();
        let values: Vec<Vec<Text>> =
            (0..rows.len()).map(|row| rows.get(row, 2).unwrap_or_default()).collect();
        if ids.is_empty() {
            return ids;
        }
        let held = |i: usize| self.shape.base_of_text(&key.columns[i], &format!("x.r ->> {i}"));
        let within = key.parents_within("t").unwrap_or("true".into());
        let sql = format!(
            "SELECT x.place FROM {} AS x
              WHERE NOT EXISTS (SELECT FROM {} t WHERE {} AND {within})",
            elements("$1"),
            parent.target(),
            equal("t", &held)
        );
        let orphans: Vec<i64> = pg::with_stable_text(|| {
            pg::as_role(parent.owner, || {
                session.run(&sql, &[Json::of(&values).into()], Mode::Read).column()
            })
        });
        orphans.into_iter().map(|place| ids[place as usize - 1]).collect()
    }

    fn refers_to_nobody(&self, key: &ForeignKey) -> Error {
        Error::RefersToNobody {
            table: self.table.label.clone(),
            columns: key.columns.iter().map(|c| unquoted(c)).collect(),
            constraint: key.name.clone(),
        }
    }

    fn collides(&self, unique: &Uniqueness) -> Error {
        let (table, constraint) = (self.table.label.clone(), unique.name.clone());
        let what = Collision::in_words(&[Collision { table, constraint, rows: 1 }]);
        Error::Collides { what, action: Action::Create }
    }
}
