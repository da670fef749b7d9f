//! Whether values go into columns as what they are, and keys mean what they do elsewhere. One that is cut or rounded might be
//! somebody else's.

use super::changes::{TableChanges, Written};
use super::rekey::Mover;
use super::rows::Text;
use crate::catalog::references::ForeignKey;
use crate::catalog::shape::ShapeColumn;
use crate::error::Error;
use crate::pg::{self, Json, Mode, Session};

/// Fails where a value would be cut or rounded: it might be somebody else's then.
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

/// Types whose values are written alike.
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
    let shapes = [key.parent, key.child].map(|of| mover.shape(session, of, mode));
    let (Some(theirs), Some(ours)) = (shapes[0].column(k), shapes[1].column(c)) else {
        return Ok(value.to_owned());
    };
    let are = |kinds: &[&str]| [theirs, ours].iter().all(|c| kinds.contains(&c.base.as_str()));
    if theirs.base == ours.base || are(&INTEGERS) {
        return Ok(value.to_owned());
    }
    let table = &mover.references.tables[key.child];
    let found = pg::with_stable_text(|| {
        pg::as_role(table.owner, || {
            let sql =
                "SELECT EXISTS (SELECT FROM pg_cast WHERE castsource = $1 AND casttarget = $2)";
            let kinds = [theirs.base_oid.into(), ours.base_oid.into()];
            let has_cast = session.run(sql, &kinds, mode).one().unwrap_or_default();
            let through = |c: &ShapeColumn| format!("::{}", c.base);
            let through = if has_cast { through(theirs) } else { String::new() };
            let sql = format!(
                "SELECT {} FROM (SELECT $1{through}::{} AS c, $1::{} AS k) v WHERE {}",
                ours.as_text("v.c"),
                ours.base,
                theirs.base,
                key.equal(place, "v.k", "v.c")
            );
            session.run(&sql, &[value.to_owned().into()], mode).one::<String>()
        })
    });
    found.ok_or_else(|| Error::DoesNotFit {
        table: table.label.clone(),
        column: c.clone(),
        kind: ours.kind.clone(),
    })
}

/// How many rows refer through the key to others than those with these values, and would be taken for theirs when they go
/// ([`ForeignKey::strays`]).
pub fn strays(
    session: &Session,
    mover: &Mover,
    key: &ForeignKey,
    values: &[&Vec<Text>],
    mode: Mode,
) -> usize {
    if !key.strays || !key.enforced || values.is_empty() {
        return 0;
    }
    let (shape, child) =
        (mover.shape(session, key.parent, mode), &mover.references.tables[key.child]);
    let all = |equal: &dyn Fn(usize, &str, &str) -> String| {
        let part = |i: usize| {
            let theirs = format!("(x.r ->> {i})::{}", shape.base(&key.keys[i]));
            equal(i, &theirs, &format!("t.{}", key.columns[i]))
        };
        (0..key.keys.len()).map(part).collect::<Vec<_>>().join(" AND ")
    };
    let sql = format!(
        "SELECT count(*) FROM jsonb_array_elements($1) AS x(r) JOIN {} t ON {} AND NOT ({})",
        child.target(),
        all(&|i, k, c| key.equal_as_it_goes(i, k, c)),
        all(&|i, k, c| key.equal(i, k, c))
    );
    let args = [Json::of(&values).into()];
    let rows = pg::with_stable_text(|| {
        pg::as_role(child.owner, || session.run(&sql, &args, mode).one::<i64>())
    });
    rows.unwrap_or_default() as usize
}
