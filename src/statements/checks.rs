//! Which rows the server would not take, once they have changed: for a CHECK, or for want of a partition.

use super::plan::Plan;
use super::rekey::Collision;
use crate::catalog::references::Table;
use crate::catalog::shape::{Check, Shape, ShapeColumn};
use crate::error::Error;
use crate::pg::{self, Arg, Mode, Session};
use std::collections::BTreeSet;

/// Fails where any was found; `on_the_way`: in what is only a step.
pub fn fail(broken: Vec<Collision>, on_the_way: bool) -> Result<(), Error> {
    match broken.is_empty() {
        true => Ok(()),
        false => Err(Error::Violates { what: Collision::in_words(&broken), on_the_way }),
    }
}

/// What rows would break whose columns `changed` are new. `moved` is a query over `args` for those rows as they will be
/// (see [`super::collisions`]). Fails as the server does where a domain does not take a value, or nothing can be generated.
pub fn broken(
    session: &Session,
    (table, shape): (&Table, &Shape),
    changed: &[String],
    (moved, args): (&str, &[Arg]),
    mode: Mode,
) -> Vec<Collision> {
    let counts = count_sql(shape, changed, moved)
        .and_then(|sql| pg::as_role(table.owner, || session.run(&sql, args, mode).one()));
    told((table, shape), changed, counts)
}

/// A query for what [`told`] tells; None where nothing can break.
pub fn count_sql(shape: &Shape, changed: &[String], moved: &str) -> Option<String> {
    let count = |check: &Check| format!("count(*) FILTER (WHERE {})", breaks(check));
    let counts: Vec<String> = shape.checks_of(changed).map(count).collect();
    let may_raise = |column: &ShapeColumn| {
        column.is_domain && changed.contains(&column.quoted)
            || shape.is_computed_anew(column, |name| changed.contains(name))
    };
    (!counts.is_empty() || shape.columns.iter().any(may_raise)).then(|| {
        format!(
            "WITH moved AS MATERIALIZED ({moved}) SELECT ARRAY[{}]::bigint[] FROM moved",
            counts.join(", ")
        )
    })
}

/// How many rows would break which check.
pub fn told(
    (table, shape): (&Table, &Shape),
    changed: &[String],
    counts: Option<Vec<i64>>,
) -> Vec<Collision> {
    let all = shape.checks_of(changed).zip(counts.unwrap_or_default());
    let broken = all.filter(|(_, rows)| *rows > 0);
    broken.map(|(check, rows)| found(table, check, rows as u64)).collect()
}

/// The condition that a row, under the table's column names, breaks it.
pub fn breaks(Check { name, condition, partition, .. }: &Check) -> String {
    match (name, partition) {
        (None, _) => format!("({condition}) IS NOT TRUE"),
        (_, None) => format!("({condition}) IS FALSE"),
        (_, Some(bounds)) => format!("({bounds}) AND ({condition}) IS FALSE"),
    }
}

/// A single row, or many, that break it.
pub fn found(table: &Table, check: &Check, rows: u64) -> Collision {
    Collision {
        table: table.label.clone(),
        constraint: check.name.clone().unwrap_or_else(|| "no partition takes it".into()),
        rows,
    }
}

impl Plan<'_> {
    /// What the rows that change would break, those that come back to what they are with the last of several steps among them.
    pub fn broken(&self) -> Vec<Collision> {
        let places: BTreeSet<usize> = self.rows.keys().map(|row| row.0).collect();
        let of_place = |place: usize| {
            let columns: BTreeSet<&String> =
                self.of_table(place).flat_map(|(_, known)| known.after.names()).collect();
            let mut rows = self.changing(place).map(|(row, _)| row).peekable();
            if rows.peek().is_none() {
                return Vec::new();
            }
            let changed: Vec<String> = columns.into_iter().cloned().collect();
            let (query, images) = self.image(place, rows);
            let of = (&self.mover.references.tables[place], self.shape(place));
            let moved = (query.as_str(), &[images.into()][..]);
            broken(self.session, of, &changed, moved, self.mode)
        };
        places.into_iter().flat_map(of_place).collect()
    }
}
