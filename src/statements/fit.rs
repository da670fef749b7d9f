//! Whether values go into columns as what they are, and keys mean what they do elsewhere. One that is cut or rounded might be
//! somebody else's.

use super::changes::{TableChanges, Written};
use super::rekey::Mover;
use super::rows::{Address, Text, addresses};
use super::{elements, has_cast};
use crate::catalog::references::ForeignKey;
use crate::catalog::shape::ShapeColumn;
use crate::error::Error;
use crate::pg::{self, Json, Mode, Session};
use onagui_decide::failure::must_pass_on;

/// Fails where a value that `changes` write would be cut or rounded.
pub fn check(session: &Session, changes: &[TableChanges], mode: Mode) -> Result<(), Error> {
    for c in changes {
        for (columns, updates) in &c.updated {
            for (i, column) in columns.iter().enumerate() {
                let values: Vec<Text> = updates.iter().map(|u| u.after[i].clone()).collect();
                c.of.check_fit(session, column, values, mode)?;
            }
        }
    }
    Ok(())
}

impl Written<'_> {
    /// The same for new values of a column (quoted).
    pub fn check_fit(
        &self,
        session: &Session,
        column: &str,
        values: Vec<Text>,
        mode: Mode,
    ) -> Result<(), Error> {
        let Some(overflow) = self.shape.overflow(column, "v.value") else {
            return Ok(());
        };
        let sql =
            format!("SELECT EXISTS (SELECT FROM unnest($1::text[]) AS v(value) WHERE {overflow})");
        let overflows = pg::with_stable_text(|| {
            pg::as_role(self.table.owner, || session.run(&sql, &[values.into()], mode).one())
        });
        match overflows {
            Some(false) => Ok(()),
            _ => Err(Error::DoesNotFit {
                table: self.table.label.clone(),
                column: column.to_owned(),
                kind: self.shape.column(column).map_or(String::new(), |c| c.kind.clone()),
            }),
        }
    }
}

/// Types whose values are written alike, each with room for those before it.
const INTEGERS: [&str; 3] = ["smallint", "integer", "bigint"];

/// What a column must be for a row to refer by it to one whose key's part `place` is `value`: the same, unless the types
/// differ. Fails where the column's type has nothing that equals it.
pub fn as_referring(
    session: &Session,
    mover: &Mover,
    (key, place): (&ForeignKey, usize),
    value: &str,
    mode: Mode,
) -> Result<String, Error> {
    let (k, c) = (&key.keys[place], &key.columns[place]);
    let shapes = [key.parent, key.child].map(|of| mover.shape(session, of));
    let (Some(theirs), Some(ours)) = (shapes[0].column(k), shapes[1].column(c)) else {
        return Ok(value.to_owned());
    };
    let size = |c: &ShapeColumn| INTEGERS.iter().position(|kind| *kind == c.base);
    let has_room =
        matches!((size(theirs), size(ours)), (Some(theirs), Some(ours)) if theirs < ours);
    if theirs.base == ours.base || has_room {
        return Ok(value.to_owned());
    }
    let table = &mover.references.tables[key.child];
    let look = || {
        pg::as_role(table.owner, || {
            let k = theirs.base_of_text("$1");
            let c = match has_cast(session, theirs.base_oid, ours.base_oid, mode) {
                true => format!("{k}::{}", ours.base),
                false => ours.base_of_text("$1"),
            };
            let sql = format!(
                "SELECT {} FROM (SELECT {c} AS c, {k} AS k) v WHERE {}",
                ours.as_text("v.c"),
                key.equal(place, "v.k", "v.c")
            );
            session.run(&sql, &[value.to_owned().into()], mode).one::<String>()
        })
    };
    let found = match pg::subtransaction(|| Ok(pg::with_stable_text(look))) {
        // Out of range, or no number.
        Err(failure) if matches!(failure.sqlstate.as_str(), "22003" | "0A000") => None,
        // A plan that fails is given up, or refused; who cancels wants neither.
        Err(failure) if must_pass_on(&failure.sqlstate) => pg::go_on(failure),
        looked => looked?,
    };
    found.ok_or_else(|| Error::DoesNotFit {
        table: table.label.clone(),
        column: c.clone(),
        kind: ours.kind.clone(),
    })
}

/// Whether a row that holds `held` refers to one whose key's part `place` is `is`: they may be written in different ways.
pub fn refers(
    session: &Session,
    mover: &Mover,
    (key, place): (&ForeignKey, usize),
    (is, held): (&str, &str),
    mode: Mode,
) -> bool {
    let [theirs, ours] = [key.parent, key.child].map(|of| mover.shape(session, of));
    let is_alike = theirs.kind_of(&key.keys[place]) == ours.kind_of(&key.columns[place]);
    if is_alike && is == held {
        return true;
    }
    let is_key = theirs.base_of_text(&key.keys[place], "$1");
    let held_by = ours.base_of_text(&key.columns[place], "$2");
    let sql = format!("SELECT {}", key.same_key(place, &is_key, &held_by));
    let args = [is.to_owned().into(), held.to_owned().into()];
    let owner = mover.references.tables[key.child].owner;
    let refers = || pg::as_role(owner, || session.run(&sql, &args, mode).one::<bool>());
    pg::with_stable_text(refers).unwrap_or_default()
}

/// Rows of a table as they will be: a query over `$1` (see [`super::collisions::images`]), that argument, and where the rows lie,
/// with those that will not be there any more.
pub struct Images {
    pub query: String,
    pub images: Json,
    pub known: Vec<Address>,
}

/// How many rows refer through the key to others in the end, and would be taken for those that refer to one of `gone`, keys that
/// nobody has any more ([`ForeignKey::strays`]).
pub fn strays(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    gone: &[&Vec<Text>],
    Images { query, images, known }: Images,
    mode: Mode,
) -> usize {
    let (shape, child) = (mover.shape(session, key.parent), &mover.references.tables[key.child]);
    let part = |i: usize| {
        let theirs = shape.base_of_text(&key.keys[i], &format!("x.r ->> {i}"));
        key.equal_as_it_goes(i, &theirs, &format!("c.{}", key.columns[i]))
    };
    let on: Vec<String> = (0..key.keys.len()).map(part).collect();
    let list = key.columns.join(", ");
    let sql = format!(
        "WITH c AS (SELECT {list} FROM ({query}) m
                    UNION ALL
                    SELECT {list} FROM {} t
                     WHERE (t.tableoid, t.ctid) NOT IN (SELECT k.at, k.r::tid FROM unnest($2::oid[], $3::text[]) AS k(at, r)))
         SELECT count(*) FROM {} AS x JOIN c ON {}",
        child.target(),
        elements("$4", gone.len()),
        on.join(" AND ")
    );
    let (tables, rows) = addresses(known.into_iter());
    let args = [images.into(), tables.into(), rows.into(), Json::of(&gone).into()];
    let rows = pg::with_stable_text(|| {
        pg::as_role(child.owner, || session.run(&sql, &args, mode).one::<i64>())
    });
    rows.unwrap_or_default() as usize
}

/// Fails where rows refer through a key whose two sides are compared by the time zone of whoever is asking: nobody can tell to
/// whom they refer.
pub fn has_no_zone(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    mode: Mode,
) -> Result<(), Error> {
    if !key.zoned || !key.enforced {
        return Ok(());
    }
    let child = &mover.references.tables[key.child];
    let columns: Vec<String> = key.columns.iter().map(|c| format!("t.{c}")).collect();
    let sql = format!(
        "SELECT EXISTS (SELECT FROM {} t WHERE num_nulls({}) = 0)",
        child.target(),
        columns.join(", ")
    );
    let refers = pg::as_role(child.owner, || session.run(&sql, &[], mode).one());
    if refers == Some(false) {
        return Ok(());
    }
    let column = &key.columns[0];
    let kind = mover.shape(session, key.child).column(column).map(|c| c.kind.clone());
    Err(Error::DoesNotFit {
        table: child.label.clone(),
        column: column.clone(),
        kind: kind.unwrap_or_default(),
    })
}
