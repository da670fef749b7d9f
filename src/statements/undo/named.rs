//! What the audit log names, as it is now: tables, columns and registered references, which may have been renamed, copied or given away.

use crate::catalog::House;
use crate::catalog::references::{SoftPlace, Table};
use crate::catalog::shape::Shape;
use crate::catalog::tables::APP_USERS;
use crate::pg::{self, Arg, Mode, Session};
use crate::statements::done::Done;
use crate::statements::rekey::Mover;
use pgrx::Uuid;
use pgrx::pg_sys::Oid;

/// Looked up in the catalog: to_regclass() asks for a right on the schema.
const TABLE_NAMED: &str = "
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND format('%I.%I', n.nspname, c.relname) = $1";

/// The same by its number, if that has the columns which the log knows.
const TABLE_NUMBERED: &str = "
    SELECT c.oid FROM pg_class c
     WHERE c.relkind IN ('r', 'p') AND c.oid = $1
       AND $2 <@ ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)";

/// A table the audit log names, as it is now.
pub struct Resolved {
    pub(super) table: Table,
    pub(super) shape: Shape,
}

/// The tables of `done`, in its order. Adds to `why` those that are not there any more, and those of which nobody can say which
/// table they are: it may have been renamed and a copy of it made under its name. A table is written as its owner, a superuser's only
/// where a superuser calls, or where it refers to users still, by what only a superuser could have made so.
pub fn resolve(
    session: &Session,
    mover: &Mover,
    done: &[Done],
    why: &mut Vec<String>,
) -> Vec<Resolved> {
    let find = |sql, args: &[Arg]| {
        let read = |oid| {
            let table = Table::read(session, oid, Mode::Fresh)?;
            Some(Resolved { table, shape: Shape::read(session, oid) })
        };
        pg::as_role(mover.house.owner, || {
            session.run(sql, args, Mode::Fresh).one::<Oid>().and_then(read)
        })
    };
    let is_anothers = |table: &Table| {
        let refers = mover.references.tables.iter().any(|other| other.oid == table.oid);
        !refers && pg::is_superuser(table.owner) && !pg::is_superuser(pg::current_role())
    };
    let mut tables = Vec::with_capacity(done.len());
    for d in done {
        // The users' table is whatever has its name.
        let number = d.oid.filter(|_| d.table != APP_USERS && d.database == pg::database());
        let of_number = number.and_then(|oid| {
            find(TABLE_NUMBERED, &[Oid::from(oid).into(), d.columns.clone().into()])
        });
        let is_same = of_number.as_ref().is_some_and(|it| it.table.label == d.table);
        let of_name = if is_same { None } else { find(TABLE_NAMED, &[d.table.clone().into()]) };
        match (of_number, of_name) {
            (Some(it), Some(other)) if is_filled(session, &other.table) => {
                why.push(format!(
                    "{} is another table now, and the one it was is {}",
                    d.table, it.table.label
                ));
            }
            (Some(it), _) | (None, Some(it)) if is_anothers(&it.table) => why.push(format!(
                "{} is a superuser's, and does not refer to users any more: only a superuser may undo this",
                it.table.label
            )),
            (Some(it), _) | (None, Some(it)) => tables.push(it),
            (None, None) => why.push(format!("table {} is not there any more", d.table)),
        }
    }
    tables
}

fn is_filled(session: &Session, table: &Table) -> bool {
    let sql = format!("SELECT EXISTS (SELECT FROM {} t)", table.target());
    pg::as_role(table.owner, || session.run(&sql, &[], Mode::Fresh).one().unwrap_or(true))
}

/// Whether rows of a table hold the id in a column, both as the audit log names them. What is gone holds nothing, and what is
/// generated follows by itself.
pub fn holds(session: &Session, house: House, table: &str, column: &str, id: Uuid) -> bool {
    let found = pg::as_role(house.owner, || {
        let args = [table.to_owned().into()];
        let oid = session.run(TABLE_NAMED, &args, Mode::Fresh).one::<Oid>()?;
        let shape = Shape::read(session, oid);
        let column =
            shape.columns.into_iter().find(|c| c.name == column && c.generated.is_none())?;
        Some((Table::read(session, oid, Mode::Fresh)?, column.quoted))
    });
    found.is_some_and(|(table, column)| {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM {} t WHERE lower(t.{column}::text) = $1::text)",
            table.target()
        );
        let held = || session.run(&sql, &[id.to_string().into()], Mode::Fresh).one();
        pg::as_role(table.owner, held).unwrap_or(true)
    })
}

/// What a registered reference is called now: by its names, or where nothing has these, by its numbers, which do not outlive a
/// dump.
pub fn names_now(session: &Session, house: House, place: &SoftPlace) -> Option<(String, String)> {
    const NAMES: &str = "
        SELECT a.attrelid::regclass::text, a.attname::text
          FROM pg_attribute a
          JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE format('%I.%I', n.nspname, c.relname) = $1 AND a.attname = $2 AND NOT a.attisdropped
        UNION ALL
        SELECT a.attrelid::regclass::text, a.attname::text
          FROM pg_attribute a
         WHERE a.attrelid = $3 AND a.attnum = $4 AND NOT a.attisdropped
         LIMIT 1";
    let args = [
        place.table.clone().into(),
        place.column.clone().into(),
        Oid::from(place.oid).into(),
        place.attnum.into(),
    ];
    pg::as_role(house.owner, || {
        let rows = session.run(NAMES, &args, Mode::Fresh);
        if rows.is_empty() { None } else { Some((rows.get(0, 1)?, rows.get(0, 2)?)) }
    })
}
