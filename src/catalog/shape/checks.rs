//! What rows are checked for.

use super::ShapeColumn;
use crate::pg::{Mode, Session};
use pgrx::pg_sys::Oid;

/// What the server asks of each row that is written: a CHECK, that some partition takes it, or what only generated columns, or
/// rows as they are, can break.
#[derive(Debug)]
pub struct Check {
    /// The constraint's name, or what is asked where it has none; None for the partitions.
    pub name: Option<String>,
    /// Over the table's column names; a row is refused where it is false, of the partitions also where it is NULL.
    pub condition: String,
    /// The quoted columns it is made of; none where that cannot be told.
    pub(super) uses: Vec<String>,
    /// Rows may break it as they are, which any change of them shows.
    pub(super) is_untested: bool,
    /// As with [`Uniqueness::partition`].
    pub partition: Option<String>,
}

/// CHECKs of the table, those that only its partitions have, and the partitions' bounds; likewise with NOT NULL. Those with a
/// volatile function are left out: to try them could do anything. So are those with a stable one of the application's own, which
/// may read tables that are others by then, and those of the whole row, which has no type here. OFFSET 0 has each table looked up
/// by index: the planner takes a tree to be of a thousand tables, and would read the whole catalog.
const CHECKS: &str = "
    WITH tree AS (SELECT t.relid::oid AS id, t.isleaf FROM pg_partition_tree($1::oid::regclass) t),
         deciding AS (
            SELECT array_agg(DISTINCT quote_ident(a.attname)) AS columns
              FROM tree
             CROSS JOIN LATERAL (
                   SELECT a.attname
                     FROM pg_partitioned_table k JOIN pg_attribute a ON a.attrelid = k.partrelid AND a.attnum > 0
                    WHERE k.partrelid = tree.id
                      AND (a.attnum = ANY (k.partattrs) OR 0 = ANY (k.partattrs)) OFFSET 0) a) -- 0: an expression
    SELECT c.conname::text COLLATE \"C\", pg_get_expr(c.conbin, c.conrelid),
           ARRAY(SELECT quote_ident(a.attname) FROM pg_attribute a
                  WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey))
               || CASE WHEN c.conrelid <> $1 THEN deciding.columns END,
           NOT c.convalidated,
           CASE WHEN c.conrelid <> $1 THEN pg_get_partition_constraintdef(c.conrelid) END
      FROM (SELECT $1 UNION SELECT id FROM tree) AS x(id)
     CROSS JOIN LATERAL (SELECT c.* FROM pg_constraint c WHERE c.conrelid = x.id AND c.contype = 'c' OFFSET 0) c
     CROSS JOIN deciding
     WHERE coalesce(0 <> ALL (c.conkey), true)
       AND (to_jsonb(c) ->> 'conenforced')::boolean IS NOT FALSE -- from PostgreSQL 18 on
       AND (c.conrelid = $1 OR c.coninhcount = 0)
       AND NOT EXISTS (SELECT FROM regexp_matches(c.conbin::text, ':(?:op)?funcid ([0-9]+)', 'g') AS f(id)
                         JOIN pg_proc p ON p.oid = f.id[1]::oid
                        WHERE p.provolatile = 'v' OR p.provolatile = 's' AND p.oid >= 16384)
    UNION ALL
    SELECT NULL, coalesce(bounds.condition, 'false'), deciding.columns, false, NULL
      FROM pg_partitioned_table t
      CROSS JOIN deciding
      CROSS JOIN LATERAL (
            SELECT string_agg('(' || coalesce(pg_get_partition_constraintdef(tree.id), 'true') || ')', ' OR ') AS condition
              FROM tree WHERE tree.isleaf AND tree.id <> $1) bounds
     WHERE t.partrelid = $1
    UNION ALL
    SELECT coalesce(n.conname, 'NOT NULL of ' || a.attname), format('num_nulls(%I) = 0', a.attname), -- a row of NULLs is no NULL
           ARRAY[quote_ident(a.attname)] || CASE WHEN a.attrelid <> $1 THEN deciding.columns END,
           NOT coalesce(n.convalidated, true),
           CASE WHEN a.attrelid <> $1 THEN pg_get_partition_constraintdef(a.attrelid) END
      FROM (SELECT $1 UNION SELECT id FROM tree WHERE isleaf) AS x(id)
     CROSS JOIN LATERAL (SELECT a.* FROM pg_attribute a
                          WHERE a.attrelid = x.id AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull OFFSET 0) a
     CROSS JOIN deciding
      -- From PostgreSQL 18 on.
      LEFT JOIN LATERAL (SELECT n.conname, n.convalidated FROM pg_constraint n
                          WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND n.conkey = ARRAY[a.attnum] OFFSET 0) n ON true
     WHERE a.attrelid = $1 AND (a.attgenerated <> '' OR NOT n.convalidated)
        OR EXISTS (SELECT FROM pg_attribute whole
                    WHERE whole.attrelid = $1 AND whole.attname = a.attname AND NOT whole.attnotnull)
     ORDER BY 1 NULLS FIRST";

pub(super) fn read_checks(session: &Session, table: Oid) -> Vec<Check> {
    let rows = session.run_kept(CHECKS, &[table.into()], Mode::Fresh);
    let each = (0..rows.len()).filter_map(|row| {
        Some(Check {
            name: rows.get(row, 1),
            condition: rows.get(row, 2)?,
            uses: rows.get(row, 3).unwrap_or_default(),
            is_untested: rows.get(row, 4).unwrap_or(true),
            partition: rows.get(row, 5),
        })
    });
    each.collect()
}

/// That a generated column's value, as [`ShapeColumn::computed`] has it, is assigned as it is: but for blanks, which are cut off
/// silently. What its domain asks comes after that, and raises.
pub(super) fn length(column: &ShapeColumn) -> Option<Check> {
    let ShapeColumn { name, quoted, kind, limited, .. } = column;
    (column.generated.is_some() && column.is_cut()).then(|| Check {
        name: Some(format!("{limited} of {name}")),
        condition: format!(
            "CASE WHEN rtrim({quoted}::{limited}::text, ' ') IS NOT DISTINCT FROM rtrim({quoted}::text, ' ')
                  THEN num_nonnulls({quoted}::{kind}) >= 0 ELSE false END"
        ),
        uses: vec![quoted.clone()],
        is_untested: false,
        partition: None,
    })
}
