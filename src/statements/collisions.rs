//! Which rows would collide in a unique index or an exclusion constraint, once others have changed.
//!
//! The changed rows are a query, `moved`: the rows as they will be, under the table's own column names, with their
//! address in `"#table"` and `"#row"`. Index expressions and predicates are evaluated over it as the server prints
//! them, so that any kind of index is foreseen exactly.

use super::elements;
use super::rows::Address;
use crate::catalog::references::Table;
use crate::catalog::shape::{Shape, ShapeColumn, Uniqueness};
use serde::Serialize;
use std::collections::BTreeSet;

/// The rows that `from` (`FROM … t …`) selects, as they will be: `value` answers what a column becomes, None where it
/// stays. Generated columns are computed anew where the server does that.
pub fn moved(shape: &Shape, from: &str, value: impl Fn(&ShapeColumn) -> Option<String>) -> String {
    let changes = |name: &String| shape.column(name).is_some_and(|c| value(c).is_some());
    let (anew, others): (Vec<&ShapeColumn>, Vec<&ShapeColumn>) =
        shape.columns.iter().partition(|c| shape.is_computed_anew(c, changes));
    let written: Vec<String> = others
        .into_iter()
        .map(|c| match value(c).filter(|_| c.generated.is_none()) {
            Some(value) => format!("({value})::{} AS {}", c.kind, c.quoted),
            None => format!("t.{}", c.quoted),
        })
        .collect();
    let generated: Vec<String> = anew.into_iter().filter_map(|c| c.computed()).collect();
    let inner = format!(
        "SELECT t.tableoid AS \"#table\", t.ctid AS \"#row\", t.tableoid, {} {from}",
        written.join(", ")
    );
    if generated.is_empty() {
        return inner;
    }
    format!("SELECT *{} FROM ({inner}) AS image", generated.concat())
}

/// A row as [`images`] takes it: its address and new values.
#[derive(Serialize)]
pub struct Image<V> {
    t: String,
    r: String,
    v: V,
}

impl<V> Image<V> {
    pub fn new(at: Address, values: V) -> Self {
        Image { t: at.0.to_string(), r: at.1.to_string(), v: values }
    }
}

/// A query over `$1`, an array of `count` [`Image`]s with new values by column, for those rows as they will be.
pub fn images(table: &Table, shape: &Shape, columns: &BTreeSet<&String>, count: usize) -> String {
    let source = format!(
        "FROM {} AS x JOIN {} t
           ON t.tableoid = (x.r ->> 't')::oid AND t.ctid = (x.r ->> 'r')::tid",
        elements("$1", count),
        table.target()
    );
    moved(shape, &source, |column| {
        columns.contains(&column.quoted).then(|| {
            let name = pgrx::spi::quote_literal(&column.quoted);
            let value = column.of_text(&format!("x.r -> 'v' ->> {name}"));
            format!("CASE WHEN x.r -> 'v' ? {name} THEN {value} ELSE t.{} END", column.quoted)
        })
    })
}

/// What makes two keys `m` and `o` of an index collide, the parts of a key, and which rows are in the index.
struct Key<'u> {
    equal: String,
    parts: String,
    predicate: &'u str,
    within: &'u str,
}

fn key(unique: &Uniqueness) -> Key<'_> {
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
            let equal = part.collide(&o, &m);
            if unique.nulls_collide {
                format!("({equal} OR num_nulls({o}, {m}) = 2)")
            } else {
                equal
            }
        })
        .collect();
    Key {
        equal: equal.join(" AND "),
        parts: keys.join(", "),
        predicate: unique.predicate.as_deref().unwrap_or("true"),
        // Changed rows may come to lie in another partition.
        within: unique.partition.as_deref().unwrap_or("true"),
    }
}

/// Whether the row `o` is not moved: looked up in a hash table, which a join would not be for as few as are guessed.
const STAYS: &str =
    "(o.\"#table\", o.\"#row\") NOT IN (SELECT x.\"#table\", x.\"#row\" FROM moved x)";

/// The `"#id"` of each row of `new`, a query for rows that are not there yet, whose key a row of the table has.
pub fn taken(table: &Table, unique: &Uniqueness, new: &str) -> String {
    let Key { equal, parts, predicate, within } = key(unique);
    format!(
        "SELECT DISTINCT m.\"#id\"
           FROM (SELECT \"#id\", {parts} FROM ({new}) n WHERE ({predicate}) AND ({within}) OFFSET 0) m
           JOIN (SELECT {parts} FROM {target} t WHERE ({predicate}) AND ({within})) o ON {equal}",
        target = table.target(),
    )
}

/// Pairs of a moved row and another one that is moved too, whose key it takes: their addresses.
pub fn takes(table: &Table, unique: &Uniqueness, moved: &str) -> String {
    let Key { equal, parts, predicate, within } = key(unique);
    format!(
        "WITH moved AS MATERIALIZED ({moved}),
              m AS MATERIALIZED (SELECT \"#table\", \"#row\", {parts} FROM moved WHERE ({predicate}) AND ({within}))
         SELECT m.\"#table\"::oid, m.\"#row\"::text, o.\"#table\"::oid, o.\"#row\"::text
           FROM m JOIN (SELECT t.tableoid AS \"#table\", t.ctid AS \"#row\", {parts}
                          FROM {target} t WHERE ({predicate}) AND ({within})) o ON {equal}
          WHERE NOT {STAYS} AND (m.\"#table\", m.\"#row\") <> (o.\"#table\", o.\"#row\")",
        target = table.target(),
    )
}

/// Pairs of a moved row and a row it would collide with: their addresses, and whether the other one is moved too.
/// `gone` is a condition over the alias `t` for rows that will not be there any more.
pub fn pairs(table: &Table, unique: &Uniqueness, moved: &str, gone: &str) -> String {
    let Key { equal, parts: keys, predicate, within } = key(unique);
    format!(
        "WITH moved AS MATERIALIZED ({moved}),
              m AS MATERIALIZED (SELECT \"#table\", \"#row\", {keys} FROM moved WHERE ({predicate}) AND ({within}))
         SELECT m.\"#table\"::oid, m.\"#row\"::text, o.\"#table\"::oid, o.\"#row\"::text, false
           FROM m JOIN (SELECT t.tableoid AS \"#table\", t.ctid AS \"#row\", {keys}
                          FROM {target} t WHERE ({predicate}) AND ({within}) AND NOT ({gone})) o ON {equal}
          WHERE {STAYS}
         UNION ALL
         SELECT p.a::oid, p.b::text, p.c::oid, p.d::text, true
           FROM (SELECT m.\"#table\", m.\"#row\", o.\"#table\", o.\"#row\"
                   FROM m {join} m o ON {equal} OFFSET 0) AS p(a, b, c, d)
          WHERE (p.a, p.b) < (p.c, p.d)
         ORDER BY 1, 2, 3, 4",
        // Nobody knows beforehand how many rows are moved. A FULL JOIN is never done by comparing each with each.
        join = if unique.joinable && !unique.nulls_collide { "FULL JOIN" } else { "JOIN" },
        target = table.target(),
    )
}
