//! Foreign keys as the catalog has them.

use super::{Bounds, ForeignKey, Write};
use crate::pg::{Mode, Session};
use pgrx::pg_sys::Oid;

pub(super) struct RawKey {
    pub child: Oid,
    pub parent: Oid,
    /// By column: whether it is a text.
    pub text: Vec<bool>,
    /// Quoted columns that decide whether a row lies in the partition where the key stands; none where it stands on a
    /// whole table.
    pub deciding: Vec<String>,
    /// The key, with no places of tables yet.
    pub key: ForeignKey,
}

/// Every foreign key of the database that is not a partition's copy of its parent's. The root of a partition tree
/// stands for all of it. So it does for a key of one partition by columns that decide in which a row lies: rows come to lie
/// where it holds, or where it does not.
const KEYS: &str = "
    SELECT coalesce(pg_partition_root(c.conrelid), c.conrelid)::oid,
           CASE WHEN of_partition.moves THEN pg_partition_root(c.conrelid)::oid ELSE c.conrelid END,
           coalesce(pg_partition_root(c.confrelid), c.confrelid)::oid,
           columns.names, keys.names, keys.operators, keys.collations, keys.strays, keys.casts, keys.zoned,
           c.convalidated AND NOT of_partition.moves,
           columns.nullable, columns.generated, columns.text,
           c.conname::text, enforced AND (c.confupdtype <> 'a' OR c.confdeltype <> 'a'), keys.generated,
           c.confmatchtype = 'f', enforced, period,
           of_partition.deciding,
           CASE WHEN of_partition.deciding <> '{}' THEN coalesce(pg_get_partition_constraintdef(c.conrelid), 'true') END,
           ARRAY(SELECT t.relid::oid FROM pg_partition_tree(c.conrelid) t WHERE of_partition.deciding <> '{}'),
           CASE WHEN pg_partition_root(c.confrelid) <> c.confrelid
                THEN coalesce(pg_get_partition_constraintdef(c.confrelid), 'true') END,
           ARRAY(SELECT t.relid::oid FROM pg_partition_tree(c.confrelid) t WHERE pg_partition_root(c.confrelid) <> c.confrelid),
           c.confupdtype IN ('a', 'c'),
           CASE WHEN pg_partition_root(c.confrelid) <> c.confrelid
                THEN (SELECT string_agg(format('\"#table\" = %s AND (%s)', t.relid::oid,
                                               coalesce(pg_get_partition_constraintdef(t.relid), 'true')), ' OR ')
                        FROM pg_partition_tree(c.confrelid) t WHERE t.isleaf AND t.level > 0) END,
           keys.key_collations,
           CASE WHEN enforced THEN c.confupdtype::text END, CASE WHEN enforced THEN c.confdeltype::text END
      FROM pg_constraint c
      -- From PostgreSQL 18 on.
      CROSS JOIN LATERAL (
            SELECT (to_jsonb(c) ->> 'conenforced')::boolean IS NOT FALSE AS enforced,
                   (to_jsonb(c) ->> 'conperiod')::boolean IS TRUE AS period) newer
      CROSS JOIN LATERAL (
            SELECT array_agg(quote_ident(a.attname) ORDER BY k.place) AS names,
                   array_agg(NOT a.attnotnull ORDER BY k.place) AS nullable,
                   array_agg(a.attgenerated <> '' ORDER BY k.place) AS generated,
                   array_agg(t.typcategory = 'S' ORDER BY k.place) AS text
              FROM unnest(c.conkey) WITH ORDINALITY AS k(attnum, place)
              JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
              JOIN pg_type t ON t.oid = a.atttypid) columns
      CROSS JOIN LATERAL (
            SELECT array_agg(quote_ident(a.attname) ORDER BY k.place) AS names,
                   -- As ri_GenerateQual() of src/backend/utils/adt/ri_triggers.c writes it, which casts where types differ.
                   array_agg(concat(CASE WHEN a.atttypid <> p.oprleft AND l.typtype <> 'p' THEN '::' || format_type(p.oprleft, -1) END,
                                    format(' OPERATOR(%I.%s) ', o.nspname, p.oprname)) ORDER BY k.place) AS operators,
                   array_agg(CASE WHEN own.atttypid <> p.oprright AND r.typtype <> 'p' THEN '::' || format_type(p.oprright, -1)
                                  ELSE '' END ORDER BY k.place) AS casts,
                   array_agg(CASE WHEN a.attcollation <> own.attcollation
                                  THEN (SELECT format(' COLLATE %I.%I', n.nspname, theirs.collname)
                                          FROM pg_namespace n WHERE n.oid = theirs.collnamespace)
                                  ELSE '' END ORDER BY k.place) AS collations,
                   array_agg(CASE WHEN theirs.oid IS NOT NULL
                                  THEN (SELECT format(' COLLATE %I.%I', n.nspname, theirs.collname)
                                          FROM pg_namespace n WHERE n.oid = theirs.collnamespace)
                                  ELSE '' END ORDER BY k.place) AS key_collations,
                   coalesce(bool_or(a.attcollation <> own.attcollation AND theirs.collisdeterministic
                                    AND NOT ours.collisdeterministic), false) AS strays,
                   bool_or(f.provolatile <> 'i') AS zoned,
                   bool_or(a.attgenerated <> '') AS generated
              FROM unnest(c.confkey, c.conkey, c.conpfeqop) WITH ORDINALITY AS k(attnum, own, operator, place)
              JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum
              JOIN pg_attribute own ON own.attrelid = c.conrelid AND own.attnum = k.own
              LEFT JOIN pg_collation theirs ON theirs.oid = a.attcollation
              LEFT JOIN pg_collation ours ON ours.oid = own.attcollation
              JOIN pg_operator p ON p.oid = k.operator
              JOIN pg_proc f ON f.oid = p.oprcode
              JOIN pg_type l ON l.oid = p.oprleft
              JOIN pg_type r ON r.oid = p.oprright
              JOIN pg_namespace o ON o.oid = p.oprnamespace) keys
      CROSS JOIN LATERAL (
            SELECT decide.columns AS deciding, decide.columns && columns.names AS moves
              FROM (SELECT coalesce(array_agg(quote_ident(a.attname)), '{}') AS columns
                      FROM pg_partition_ancestors(c.conrelid) x
                      JOIN pg_partitioned_table p ON p.partrelid = x.relid
                      JOIN pg_attribute a ON a.attrelid = x.relid AND a.attnum > 0
                           AND (a.attnum = ANY (p.partattrs) OR 0 = ANY (p.partattrs)) -- 0: an expression
                     WHERE pg_partition_root(c.conrelid) <> c.conrelid) decide) of_partition
     WHERE c.contype = 'f' AND c.conparentid = 0";

impl RawKey {
    pub fn to_key(&self, child: usize, parent: usize) -> ForeignKey {
        ForeignKey { child, parent, ..self.key.clone() }
    }
}

pub(super) fn read_keys(session: &Session, mode: Mode) -> Vec<RawKey> {
    let rows = session.run(KEYS, &[], mode);
    let action = |row: usize, column: usize, cascade: Write| {
        let action: String = rows.get(row, column)?;
        match action.as_str() {
            "c" => Some(cascade),
            // SET NULL, SET DEFAULT.
            "n" | "d" => Some(Write::Update),
            _ => None,
        }
    };
    let bounds = |row: usize, condition: usize, partitions: usize| {
        let below: Vec<Oid> = rows.get(row, partitions)?;
        let partitions = below.iter().map(|oid| oid.to_u32()).collect();
        Some(Bounds { condition: rows.get(row, condition)?, partitions })
    };
    (0..rows.len())
        .filter_map(|row| {
            let child: Oid = rows.get(row, 1)?;
            let child_at: Oid = rows.get(row, 2)?;
            let stands_at = bounds(row, 22, 23);
            let below = || stands_at.as_ref().map(|at| at.partitions.clone()).unwrap_or_default();
            Some(RawKey {
                child,
                parent: rows.get(row, 3)?,
                text: rows.get(row, 14)?,
                deciding: rows.get(row, 21)?,
                key: ForeignKey {
                    child: 0,
                    parent: 0,
                    columns: rows.get(row, 4)?,
                    keys: rows.get(row, 5)?,
                    operators: rows.get(row, 6)?,
                    collations: rows.get(row, 7)?,
                    casts: rows.get(row, 9)?,
                    strays: rows.get(row, 8)?,
                    zoned: rows.get(row, 10)?,
                    validated: rows.get(row, 11)?,
                    nullable: rows.get(row, 12)?,
                    generated: rows.get(row, 13)?,
                    name: rows.get(row, 15)?,
                    acts: rows.get(row, 16)?,
                    on_update: action(row, 29, Write::Update),
                    on_delete: action(row, 30, Write::Delete),
                    update_follows: rows.get(row, 26)?,
                    full: rows.get(row, 18)?,
                    to_generated: rows.get(row, 17)?,
                    enforced: rows.get(row, 19)?,
                    period: rows.get(row, 20)?,
                    partitions: (child_at != child).then(below),
                    bounds: stands_at,
                    parents_at: bounds(row, 24, 25),
                    parent_stays: rows.get(row, 27),
                    key_collations: rows.get(row, 28)?,
                },
            })
        })
        .collect()
}
