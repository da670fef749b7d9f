//! Which rows would collide in a unique index or an exclusion constraint, once others have changed.
//!
//! The changed rows are a query, `moved`: the rows as they will be, under the table's own column names, with their
//! address in `"#table"` and `"#row"`. Index expressions and predicates are evaluated over it as the server prints
//! them, so that any kind of index is foreseen exactly.

use crate::catalog::references::Table;
use crate::catalog::shape::{Shape, ShapeColumn, Uniqueness};

/// The rows that `from` (`FROM … t …`) selects, as they will be: `value` answers what a column becomes, None where it
/// stays. Generated columns are computed anew.
pub fn moved(shape: &Shape, from: &str, value: impl Fn(&ShapeColumn) -> Option<String>) -> String {
    let written: Vec<String> = shape
        .columns
        .iter()
        .filter(|c| c.generated.is_none())
        .map(|c| match value(c) {
            Some(value) => format!("({value})::{} AS {}", c.kind, c.quoted),
            None => format!("t.{}", c.quoted),
        })
        .collect();
    let generated: Vec<String> = shape
        .columns
        .iter()
        .filter_map(|c| Some(format!(", ({}) AS {}", c.generated.as_ref()?, c.quoted)))
        .collect();
    let inner = format!(
        "SELECT t.tableoid AS \"#table\", t.ctid AS \"#row\", {} {from}",
        written.join(", ")
    );
    if generated.is_empty() {
        return inner;
    }
    format!("SELECT *{} FROM ({inner}) AS image", generated.concat())
}

/// Pairs of a moved row and a row it would collide with: their addresses, and whether the other one is moved too.
/// `gone` is a condition over the alias `t` for rows that will not be there any more.
pub fn pairs(table: &Table, unique: &Uniqueness, moved: &str, gone: &str) -> String {
    let keys: Vec<String> = unique
        .parts
        .iter()
        .enumerate()
        .map(|(i, p)| format!("({}) AS \"#{i}\"", p.expression))
        .collect();
    let equal: Vec<String> = unique
        .parts
        .iter()
        .enumerate()
        .map(|(i, part)| {
            let (m, o) = (format!("m.\"#{i}\""), format!("o.\"#{i}\""));
            let equal = format!("{o} {} {m}{}", part.operator, part.collation);
            if unique.nulls_collide {
                format!("({equal} OR {o} IS NULL AND {m} IS NULL)")
            } else {
                equal
            }
        })
        .collect();
    let equal = equal.join(" AND ");
    let keys = keys.join(", ");
    let predicate = unique.predicate.as_deref().unwrap_or("true");
    // Changed rows may come to lie in another partition.
    let within = unique.partition.as_deref().unwrap_or("true");
    format!(
        "WITH moved AS MATERIALIZED ({moved}),
              m AS MATERIALIZED (SELECT \"#table\", \"#row\", {keys} FROM moved WHERE ({predicate}) AND ({within}))
         SELECT m.\"#table\"::oid, m.\"#row\"::text, o.\"#table\"::oid, o.\"#row\"::text, false
           FROM m JOIN (SELECT t.tableoid AS \"#table\", t.ctid AS \"#row\", {keys}
                          FROM {target} t WHERE ({predicate}) AND ({within}) AND NOT ({gone})) o ON {equal}
          WHERE NOT EXISTS (SELECT FROM moved x WHERE x.\"#table\" = o.\"#table\" AND x.\"#row\" = o.\"#row\")
         UNION ALL
         SELECT m.\"#table\"::oid, m.\"#row\"::text, o.\"#table\"::oid, o.\"#row\"::text, true
           FROM m JOIN m o ON {equal} AND (m.\"#table\", m.\"#row\") < (o.\"#table\", o.\"#row\")
         ORDER BY 1, 2, 3, 4",
        target = table.target(),
    )
}
