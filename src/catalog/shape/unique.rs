//! Unique indexes and exclusion constraints.

use crate::pg::{Mode, Session};
use pgrx::pg_sys::Oid;

/// A part of an index key, over the table's column names.
#[derive(Debug)]
pub struct KeyPart {
    pub expression: String,
    /// What makes two values collide, `OPERATOR(…)`.
    operator: String,
    /// ` COLLATE …`, or nothing.
    collation: String,
    /// Of an enum: an operator of all enums, which a cast of the application's own can make ambiguous.
    is_enum: bool,
}

impl KeyPart {
    /// SQL: whether two values collide.
    pub fn collide(&self, one: &str, other: &str) -> String {
        match self.is_enum {
            // Arrays are compared as their elements are by default, NULLs too.
            true => format!(
                "({one} IS NOT NULL AND {other} IS NOT NULL AND ARRAY[{one}] OPERATOR(pg_catalog.=) ARRAY[{other}])"
            ),
            false => format!("{one} {} {other}{}", self.operator, self.collation),
        }
    }
}

/// A unique index or an exclusion constraint.
#[derive(Debug)]
pub struct Uniqueness {
    /// The constraint's name, the index's where there is no constraint.
    pub name: String,
    pub parts: Vec<KeyPart>,
    pub predicate: Option<String>,
    pub nulls_collide: bool,
    /// Equal keys can be found by sorting or hashing.
    pub joinable: bool,
    /// The quoted columns that keys and predicate are made of, and the partition's bounds where it stands on one.
    pub(super) uses: Vec<String>,
    /// Those of them that the key itself is made of, as far as is known.
    pub(super) keys: Vec<String>,
    /// Where it stands on a partition alone: the condition, over the table's column names, that a row lies in there.
    pub partition: Option<String>,
}

/// Indexes of the table, and those of its partitions that are no part of one of the table's. An index that is not ready is not
/// kept up; one of a whole partitioned table is not valid as long as partitions lack theirs. OFFSET 0: as with CHECKs.
const UNIQUE: &str = "
    SELECT coalesce(con.conname, ic.relname)::text COLLATE \"C\",
           parts.expressions, parts.operators, parts.collations,
           pg_get_expr(i.indpred, i.indrelid),
           i.indnullsnotdistinct,
           uses.columns,
           CASE WHEN i.indrelid <> $1 THEN pg_get_partition_constraintdef(i.indrelid) END,
           con.conexclop IS NULL AND parts.joinable, parts.enums,
           keys.columns
      FROM (SELECT $1 UNION SELECT t.relid FROM pg_partition_tree($1::oid::regclass) t) AS x(id)
      CROSS JOIN LATERAL (SELECT i.* FROM pg_index i WHERE i.indrelid = x.id OFFSET 0) i
      CROSS JOIN LATERAL (SELECT c.relname, c.relkind FROM pg_class c WHERE c.oid = i.indexrelid OFFSET 0) ic
      LEFT JOIN LATERAL (SELECT c.conname, c.conexclop FROM pg_constraint c
                          WHERE c.conrelid = i.indrelid AND c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x') OFFSET 0) con ON true
      CROSS JOIN LATERAL (
            SELECT array_agg(pg_get_indexdef(i.indexrelid, k, false) ORDER BY k) AS expressions,
                   array_agg(format('OPERATOR(%I.%s)', o.nspname, p.oprname) ORDER BY k) AS operators,
                   array_agg(coalesce(' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(col.collname), '') ORDER BY k) AS collations,
                   bool_and(p.oprcanmerge OR p.oprcanhash) AS joinable,
                   array_agg(p.oprleft = 'anyenum'::regtype AND p.oprname = '=' ORDER BY k) AS enums
              FROM generate_series(1, i.indnkeyatts) AS k
              JOIN pg_opclass oc ON oc.oid = i.indclass[k - 1]
              LEFT JOIN pg_amop am ON am.amopfamily = oc.opcfamily AND am.amopstrategy = 3
                   AND am.amoplefttype = oc.opcintype AND am.amoprighttype = oc.opcintype
                   AND con.conexclop IS NULL
              JOIN pg_operator p ON p.oid = coalesce(con.conexclop[k], am.amopopr)
              JOIN pg_namespace o ON o.oid = p.oprnamespace
              LEFT JOIN pg_collation col ON col.oid = i.indcollation[k - 1]
              LEFT JOIN pg_namespace cn ON cn.oid = col.collnamespace) parts
      CROSS JOIN LATERAL (
            SELECT array_agg(DISTINCT quote_ident(a.attname)) AS columns
              FROM pg_attribute a
             WHERE a.attrelid = i.indrelid AND a.attnum > 0
               AND (a.attnum = ANY (i.indkey)
                    OR i.indrelid <> $1
                       AND EXISTS (SELECT FROM pg_partition_ancestors(i.indrelid::regclass) x
                                     JOIN pg_partitioned_table p ON p.partrelid = x.relid
                                     JOIN pg_attribute k ON k.attrelid = x.relid
                                          AND (k.attnum = ANY (p.partattrs) OR 0 = ANY (p.partattrs)) -- 0: an expression
                                    WHERE k.attname = a.attname)
                    OR EXISTS (SELECT FROM pg_depend d
                                WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                                  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
                                  AND d.refobjsubid = a.attnum))) uses
      -- What an expression is made of is not told apart from what the predicate is.
      CROSS JOIN LATERAL (
            SELECT array_agg(DISTINCT quote_ident(a.attname)) AS columns
              FROM pg_attribute a
             CROSS JOIN (SELECT (i.indkey::int2[])[0 : i.indnkeyatts - 1], (i.indkey::int2[])[i.indnkeyatts : ]) AS k(key, included)
             WHERE a.attrelid = i.indrelid AND a.attnum > 0
               AND (a.attnum = ANY (k.key)
                    OR 0 = ANY (k.key) AND NOT a.attnum = ANY (k.included)
                       AND EXISTS (SELECT FROM pg_depend d
                                    WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                                      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
                                      AND d.refobjsubid = a.attnum))) keys
     WHERE (i.indisunique OR i.indisexclusion) AND i.indislive AND i.indisready AND (i.indisvalid OR ic.relkind <> 'I')
       AND (i.indrelid = $1
            OR NOT EXISTS (SELECT FROM (SELECT h.inhparent FROM pg_inherits h WHERE h.inhrelid = i.indexrelid OFFSET 0) h
                              JOIN pg_index whole ON whole.indexrelid = h.inhparent
                             WHERE whole.indisvalid))
     ORDER BY i.indisprimary DESC, 1";

pub(super) fn read_unique(session: &Session, table: Oid) -> Vec<Uniqueness> {
    let rows = session.run_kept(UNIQUE, &[table.into()], Mode::Fresh);
    (0..rows.len())
        .filter_map(|row| {
            let texts = |column| rows.get::<Vec<String>>(row, column).unwrap_or_default();
            // There are none of an index that was dropped since the snapshot was taken.
            let expressions: Vec<String> = rows.get(row, 2)?;
            let enums = rows.get::<Vec<bool>>(row, 10).unwrap_or_default();
            let parts = expressions
                .into_iter()
                .zip(texts(3))
                .zip(texts(4))
                .zip(enums)
                .map(|(((expression, operator), collation), is_enum)| KeyPart {
                    expression,
                    operator,
                    collation,
                    is_enum,
                })
                .collect();
            Some(Uniqueness {
                name: rows.get(row, 1).unwrap_or_default(),
                parts,
                predicate: rows.get(row, 5),
                nulls_collide: rows.get(row, 6).unwrap_or_default(),
                uses: texts(7),
                partition: rows.get(row, 8),
                joinable: rows.get(row, 9).unwrap_or_default(),
                keys: texts(11),
            })
        })
        .collect()
}
