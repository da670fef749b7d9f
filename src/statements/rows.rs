//! Single rows: where they lie, what they hold, what has become of them.
//!
//! An address holds as long as the row is locked. Values travel as text, in the form that `pg::with_stable_text` fixes.

use super::changes::TableChanges;
use super::done::{Done, Moved, MovedRow};
use super::fields::Fields;
use crate::catalog::references::Table;
use crate::catalog::shape::Shape;
use crate::pg::{self, Mode, Rows, Session};
use pgrx::pg_sys::Oid;
use pgrx::{JsonB, Uuid};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;

/// Where a row lies in its table: block and line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ctid {
    block: u32,
    line: u16,
}

impl Ctid {
    /// As the server writes it: `(block,line)`.
    fn parse(text: &str) -> Option<Self> {
        let (block, line) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
        Some(Ctid { block: block.parse().ok()?, line: line.parse().ok()? })
    }
}

impl fmt::Display for Ctid {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "({},{})", self.block, self.line)
    }
}

/// Where a row lies: the oid of its table (its partition's, where there are any) and its ctid.
pub type Address = (u32, Ctid);

/// The address in two columns of a row, the oid and the ctid's text, from `column` on.
pub fn address(rows: &Rows, row: usize, column: usize) -> Option<Address> {
    let ctid = rows.get::<String>(row, column + 1)?;
    Some((rows.get::<Oid>(row, column)?.to_u32(), Ctid::parse(&ctid)?))
}

/// A value as text; None is NULL.
pub type Text = Option<String>;

/// Addresses as the two arrays that a statement takes.
pub fn addresses(rows: impl Iterator<Item = Address>) -> (Vec<Oid>, Vec<String>) {
    rows.map(|(table, row)| (Oid::from(table), row.to_string())).unzip()
}

/// Names the rows of `changes` by where they lie now, after `moved` (from where, to where) and after whatever triggers of the
/// application have done to them.
pub fn find_again(
    session: &Session,
    changes: &mut [TableChanges],
    moved: &HashMap<Address, Address>,
) {
    for c in changes {
        let updated = c.updated.values_mut().flatten().map(|u| &mut u.address);
        let mut all: Vec<&mut Address> = c.deleted.iter_mut().chain(updated).collect();
        for address in &mut all {
            while let Some(now) = moved.get(*address) {
                **address = *now;
            }
        }
        follow(session, c.of.table, &mut all);
    }
}

/// Names rows by where they lie after whatever triggers of the application have done to them; answers the places of those
/// that lie elsewhere.
pub fn follow(session: &Session, table: &Table, rows: &mut [&mut Address]) -> Vec<usize> {
    let (tables, places) = addresses(rows.iter().map(|address| **address));
    let sql = format!(
        "SELECT x.place, k.relowner
           FROM unnest($1::oid[], $2::text[]) WITH ORDINALITY AS x(at, address, place)
           JOIN pg_class k ON k.oid = x.at
           LEFT JOIN {} t ON t.tableoid = x.at AND t.ctid = x.address::tid
          WHERE t.ctid IS NULL",
        table.target()
    );
    let astray: Vec<(i64, Oid)> = pg::as_role(table.owner, || {
        let rows = session.run(&sql, &[tables.into(), places.into()], Mode::Fresh);
        (0..rows.len()).filter_map(|row| Some((rows.get(row, 1)?, rows.get(row, 2)?))).collect()
    });
    let mut moved = Vec::with_capacity(astray.len());
    for (place, owner) in astray {
        let place = place as usize - 1;
        let address = &mut *rows[place];
        let latest = pg::as_role(owner, || {
            let args = [Oid::from(address.0).into(), address.1.to_string().into()];
            let sql = "SELECT currtid2($1::regclass::text, $2::tid)::text";
            session.run(sql, &args, Mode::Fresh).one::<String>()
        });
        address.1 = latest.and_then(|ctid| Ctid::parse(&ctid)).unwrap_or(address.1);
        moved.push(place);
    }
    moved
}

/// Where the app user `id` lies.
pub fn address_of(session: &Session, table: &Table, id: Uuid) -> Option<Address> {
    pg::as_role(table.owner, || {
        let sql =
            format!("SELECT t.tableoid, t.ctid::text FROM {} t WHERE t.id = $1", table.target());
        let rows = session.run(&sql, &[id.into()], Mode::Fresh);
        if rows.is_empty() { None } else { address(&rows, 0, 1) }
    })
}

/// The app user `id` as a whole row.
pub fn whole_row(session: &Session, table: &Table, shape: &Shape, id: Uuid) -> Option<Value> {
    let sql = format!("SELECT {} FROM {} t WHERE t.id = $1", shape.image(), table.target());
    pg::with_stable_text(|| {
        pg::as_role(table.owner, || {
            session.run(&sql, &[id.into()], Mode::Fresh).one::<JsonB>().map(|row| row.0)
        })
    })
}

/// What changed in the app user `id` since it was `before`; None where nothing did.
pub fn difference(
    session: &Session,
    table: &Table,
    shape: &Shape,
    id: Uuid,
    before: &Value,
) -> Option<Done> {
    let now = whole_row(session, table, shape, id)?;
    let changed: Vec<_> = shape
        .columns
        .iter()
        .filter(|c| c.generated.is_none() && before[&c.name] != now[&c.name])
        .collect();
    if changed.is_empty() {
        return None;
    }
    let text = |row: &Value, name: &str| row[name].as_str().map(str::to_owned);
    let sql = format!(
        "SELECT {}, md5({}::text) FROM {} t WHERE t.id = $1",
        shape.key_image(),
        shape.image(),
        table.target()
    );
    let (key, md5) = pg::with_stable_text(|| {
        pg::as_role(table.owner, || {
            let rows = session.run(&sql, &[id.into()], Mode::Fresh);
            (rows.get(0, 1), rows.get(0, 2).unwrap_or_default())
        })
    });
    let row = MovedRow {
        key,
        before: changed.iter().map(|c| text(before, &c.name)).collect(),
        after: changed.iter().map(|c| text(&now, &c.name)).collect(),
        md5,
        set_by_triggers: Fields::default(),
        overruled: Vec::new(),
        number: None,
        origin: None,
        was: None,
        now: None,
    };
    Some(Done {
        moved: vec![Moved {
            columns: changed.iter().map(|c| c.quoted.clone()).collect(),
            rows: vec![row],
        }],
        ..Done::to(table, shape)
    })
}
