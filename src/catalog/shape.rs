//! A table's columns, and every unique index and exclusion constraint on it.

use crate::pg::{Mode, Session};
use pgrx::pg_sys::Oid;

#[derive(Debug)]
pub struct ShapeColumn {
    pub name: String,
    pub quoted: String,
    pub kind: String,
    /// The type that a domain is made of, without any limit of length or precision: a cast to it runs no CHECK, and cuts
    /// nothing.
    pub base: String,
    /// There is such a limit: a cast to `kind` cuts or rounds what does not fit.
    pub is_limited: bool,
    pub is_domain: bool,
    pub not_null: bool,
    /// Nobody can tell beforehand what a row has there that is made without a value: a sequence's number, for instance.
    pub is_open: bool,
    /// The expression of a generated column, over the table's column names.
    pub generated: Option<String>,
    /// The expression of any other column's default.
    pub default: Option<String>,
}

/// A part of an index key, over the table's column names.
#[derive(Debug)]
pub struct KeyPart {
    pub expression: String,
    /// What makes two values collide, `OPERATOR(…)`.
    pub operator: String,
    /// ` COLLATE …`, or nothing.
    pub collation: String,
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
    uses: Vec<String>,
    /// Where it stands on a partition alone: the condition, over the table's column names, that a row lies in there.
    pub partition: Option<String>,
}

/// What the server asks of each row that is written: a CHECK, or that some partition takes it.
#[derive(Debug)]
pub struct Check {
    /// The constraint's name; None for the partitions.
    pub name: Option<String>,
    /// Over the table's column names; a row is refused where it is false, of the partitions also where it is NULL.
    pub condition: String,
    /// The quoted columns it is made of; none where that cannot be told.
    uses: Vec<String>,
    /// Rows may break it as they are, which any change of them shows.
    is_untested: bool,
    /// As with [`Uniqueness::partition`].
    pub partition: Option<String>,
}

impl Uniqueness {
    /// Whether the (quoted) column is part of it.
    pub fn concerns(&self, column: &str) -> bool {
        self.uses.iter().any(|used| used == column)
    }
}

#[derive(Debug)]
pub struct Shape {
    pub columns: Vec<ShapeColumn>,
    /// Quoted columns of the primary key; empty where there is none.
    pub primary_key: Vec<String>,
    pub unique: Vec<Uniqueness>,
    pub checks: Vec<Check>,
}

const COLUMNS: &str = "
    SELECT a.attname::text, quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),
           CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END,
           a.attnum = ANY (pk.indkey),
           kinds.base, kinds.limited, kinds.domain, a.attnotnull,
           a.attidentity <> '' OR a.attgenerated = '' AND EXISTS (
               SELECT FROM regexp_matches(concat(d.adbin, kinds.defaults), ':(?:op)?funcid ([0-9]+)', 'g') AS f(id)
                 JOIN pg_proc p ON p.oid = f.id[1]::oid
                WHERE p.provolatile = 'v'),
           CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END
      FROM pg_attribute a
      CROSS JOIN LATERAL (
            WITH RECURSIVE kind(id, typmod, depth, value) AS (
                SELECT a.atttypid, a.atttypmod, 0, NULL::text COLLATE \"C\"
                UNION ALL
                SELECT t.typbasetype, t.typtypmod, k.depth + 1, t.typdefaultbin::text COLLATE \"C\"
                  FROM kind k JOIN pg_type t ON t.oid = k.id AND t.typtype = 'd')
            SELECT bool_or(k.typmod >= 0) AS limited, max(k.depth) > 0 AS domain, string_agg(k.value, '') AS defaults,
                   (array_agg(format_type(k.id, -1) ORDER BY k.depth DESC))[1] AS base
              FROM kind k) kinds
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      LEFT JOIN pg_index pk ON pk.indrelid = a.attrelid AND pk.indisprimary
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum";

/// Indexes of the table, and those of its partitions that are no part of one of the table's.
const UNIQUE: &str = "
    SELECT coalesce(con.conname, ic.relname)::text COLLATE \"C\",
           parts.expressions, parts.operators, parts.collations,
           pg_get_expr(i.indpred, i.indrelid),
           i.indnullsnotdistinct,
           uses.columns,
           CASE WHEN i.indrelid <> $1 THEN pg_get_partition_constraintdef(i.indrelid) END,
           con.conexclop IS NULL AND parts.joinable
      FROM pg_index i
      JOIN pg_class ic ON ic.oid = i.indexrelid
      LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid AND con.contype IN ('p', 'u', 'x')
      CROSS JOIN LATERAL (
            SELECT array_agg(pg_get_indexdef(i.indexrelid, k, false) ORDER BY k) AS expressions,
                   array_agg(format('OPERATOR(%I.%s)', o.nspname, p.oprname) ORDER BY k) AS operators,
                   array_agg(coalesce(' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(col.collname), '') ORDER BY k) AS collations,
                   bool_and(p.oprcanmerge OR p.oprcanhash) AS joinable
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
     WHERE (i.indisunique OR i.indisexclusion) AND i.indislive
       AND (i.indrelid = $1
            OR i.indrelid IN (SELECT t.relid FROM pg_partition_tree($1::oid::regclass) t WHERE t.relid <> $1)
               AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid))
     ORDER BY i.indisprimary DESC, 1";

/// CHECKs of the table, those that only its partitions have, and the partitions' bounds. Those with a volatile function
/// are left out: to try them could do anything. So are those of the whole row, which has no type here.
const CHECKS: &str = "
    SELECT c.conname::text COLLATE \"C\", pg_get_expr(c.conbin, c.conrelid),
           ARRAY(SELECT quote_ident(a.attname) FROM pg_attribute a
                  WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)),
           NOT c.convalidated,
           CASE WHEN c.conrelid <> $1 THEN pg_get_partition_constraintdef(c.conrelid) END
      FROM pg_constraint c
     WHERE c.contype = 'c' AND coalesce(0 <> ALL (c.conkey), true)
       AND (to_jsonb(c) ->> 'conenforced')::boolean IS NOT FALSE -- from PostgreSQL 18 on
       AND (c.conrelid = $1
            OR c.coninhcount = 0 AND c.conrelid IN (SELECT t.relid FROM pg_partition_tree($1::oid::regclass) t))
       AND NOT EXISTS (SELECT FROM regexp_matches(c.conbin::text, ':(?:op)?funcid ([0-9]+)', 'g') AS f(id)
                         JOIN pg_proc p ON p.oid = f.id[1]::oid
                        WHERE p.provolatile = 'v')
    UNION ALL
    SELECT NULL, coalesce(bounds.condition, 'false'), bounds.uses, false, NULL
      FROM pg_partitioned_table t
      CROSS JOIN LATERAL (
            SELECT string_agg('(' || coalesce(pg_get_partition_constraintdef(p.relid), 'true') || ')', ' OR ')
                       FILTER (WHERE p.isleaf AND p.relid <> $1) AS condition,
                   ARRAY(SELECT DISTINCT quote_ident(a.attname)
                           FROM pg_partition_tree($1::oid::regclass) x
                           JOIN pg_partitioned_table k ON k.partrelid = x.relid
                           JOIN pg_attribute a ON a.attrelid = x.relid AND a.attnum > 0
                                AND (a.attnum = ANY (k.partattrs) OR 0 = ANY (k.partattrs))) AS uses -- 0: an expression
              FROM pg_partition_tree($1::oid::regclass) p) bounds
     WHERE t.partrelid = $1
     ORDER BY 1 NULLS FIRST";

impl Shape {
    pub fn read(session: &Session, table: Oid, mode: Mode) -> Self {
        let rows = session.run(COLUMNS, &[table.into()], mode);
        let mut columns = Vec::with_capacity(rows.len());
        let mut primary_key = Vec::new();
        for row in 0..rows.len() {
            let quoted: String = rows.get(row, 2).unwrap_or_default();
            if rows.get::<bool>(row, 5).unwrap_or_default() {
                primary_key.push(quoted.clone());
            }
            columns.push(ShapeColumn {
                name: rows.get(row, 1).unwrap_or_default(),
                quoted,
                kind: rows.get(row, 3).unwrap_or_default(),
                generated: rows.get(row, 4),
                base: rows.get(row, 6).unwrap_or_default(),
                is_limited: rows.get(row, 7).unwrap_or_default(),
                is_domain: rows.get(row, 8).unwrap_or_default(),
                not_null: rows.get(row, 9).unwrap_or_default(),
                is_open: rows.get(row, 10).unwrap_or(true),
                default: rows.get(row, 11),
            });
        }
        let unique = read_unique(session, table, mode);
        Shape { columns, primary_key, unique, checks: read_checks(session, table, mode) }
    }

    /// The operator by which two values of a column of the primary key are the same.
    pub fn equality(&self, quoted: &str) -> &str {
        let mut parts = self.unique.first().into_iter().flat_map(|primary| &primary.parts);
        let part = parts.find(|part| part.expression == quoted);
        part.map_or("OPERATOR(pg_catalog.=)", |part| part.operator.as_str())
    }

    /// SQL: whether `value`, an expression for a text, does not fit into the column; None where anything does.
    pub fn overflow(&self, quoted: &str, value: &str) -> Option<String> {
        let ShapeColumn { kind, base, .. } = self.column(quoted).filter(|c| c.is_limited)?;
        let text = |kind: &str| match base.as_str() {
            "numeric" => format!("trim_scale({value}::{kind}::numeric)::text"),
            _ => format!("{value}::{kind}::{base}::text"),
        };
        Some(format!("{} IS DISTINCT FROM {}", text(kind), text(base)))
    }

    /// The type to compare a column's values by as somebody else than its table's owner, whose domain may run their code.
    pub fn base(&self, quoted: &str) -> &str {
        self.column(quoted).map_or("text", |column| column.base.as_str())
    }

    pub fn column(&self, quoted: &str) -> Option<&ShapeColumn> {
        self.columns.iter().find(|c| c.quoted == quoted)
    }

    /// The indexes that a change of these (quoted) columns can collide in.
    pub fn touched_by<'a>(&'a self, changed: &'a [String]) -> impl Iterator<Item = &'a Uniqueness> {
        self.unique.iter().filter(|unique| self.is_touched_by(unique, changed))
    }

    /// Whether a change of these (quoted) columns can collide in an index. A generated column may change with any.
    pub fn is_touched_by(&self, unique: &Uniqueness, changed: &[String]) -> bool {
        self.depends_on(&unique.uses, changed)
    }

    /// What a change of these (quoted) columns may break.
    pub fn checks_of<'a>(&'a self, changed: &'a [String]) -> impl Iterator<Item = &'a Check> {
        self.checks.iter().filter(|check| {
            check.is_untested || check.uses.is_empty() || self.depends_on(&check.uses, changed)
        })
    }

    /// What a row that is made may break, or collide in, as far as that does not hang on columns of which nobody can tell what
    /// they will be.
    pub fn asked_of_new<'a>(
        &'a self,
        open: &'a [String],
    ) -> (impl Iterator<Item = &'a Check>, impl Iterator<Item = &'a Uniqueness>) {
        let is_clear = |uses: &[String]| match uses {
            [] => open.is_empty(),
            uses => !uses.iter().any(|used| open.contains(used)),
        };
        (
            self.checks.iter().filter(move |check| is_clear(&check.uses)),
            self.unique.iter().filter(move |unique| is_clear(&unique.uses)),
        )
    }

    fn depends_on(&self, uses: &[String], changed: &[String]) -> bool {
        uses.iter().any(|used| {
            changed.contains(used)
                || self.column(used).is_some_and(|column| column.generated.is_some())
        })
    }

    /// A row as one jsonb object of texts, from which every value can be made again; over the alias `t`.
    pub fn image(&self) -> String {
        image_of(self.columns.iter())
    }

    /// The same of the columns of these names only.
    pub fn image_over(&self, names: &[&str]) -> String {
        image_of(self.columns.iter().filter(|c| names.contains(&c.name.as_str())))
    }

    /// SQL: whether a row has in all columns but those of these names what it would have if nobody had ever given them a value;
    /// over the alias `t`.
    pub fn untouched_but(&self, names: &[&str]) -> String {
        let others = self.columns.iter().filter(|c| !names.contains(&c.name.as_str()));
        let conditions = others.filter(|c| c.generated.is_none()).map(|c| {
            let value = format!("t.{}::text", c.quoted);
            match c.default.as_ref().filter(|_| !c.is_open) {
                Some(default) => {
                    let kind = &c.kind;
                    format!(" AND ({value} IS NULL OR {value} = ({default})::{kind}::text)")
                }
                None => format!(" AND {value} IS NULL"),
            }
        });
        format!("true{}", conditions.collect::<String>())
    }

    /// The primary key of a row in the same form, NULL where there is none.
    pub fn key_image(&self) -> String {
        if self.primary_key.is_empty() {
            return "NULL::jsonb".into();
        }
        image_of(self.columns.iter().filter(|c| self.primary_key.contains(&c.quoted)))
    }
}

fn image_of<'a>(columns: impl Iterator<Item = &'a ShapeColumn>) -> String {
    let (names, values): (Vec<String>, Vec<String>) = columns
        .map(|c| (pgrx::spi::quote_literal(&c.name), format!("t.{}::text", c.quoted)))
        .unzip();
    format!(
        "jsonb_object(ARRAY[{}]::text[], ARRAY[{}]::text[])",
        names.join(", "),
        values.join(", ")
    )
}

fn read_unique(session: &Session, table: Oid, mode: Mode) -> Vec<Uniqueness> {
    let rows = session.run(UNIQUE, &[table.into()], mode);
    (0..rows.len())
        .map(|row| {
            let texts = |column| rows.get::<Vec<String>>(row, column).unwrap_or_default();
            let parts = texts(2)
                .into_iter()
                .zip(texts(3))
                .zip(texts(4))
                .map(|((expression, operator), collation)| KeyPart {
                    expression,
                    operator,
                    collation,
                })
                .collect();
            Uniqueness {
                name: rows.get(row, 1).unwrap_or_default(),
                parts,
                predicate: rows.get(row, 5),
                nulls_collide: rows.get(row, 6).unwrap_or_default(),
                uses: texts(7),
                partition: rows.get(row, 8),
                joinable: rows.get(row, 9).unwrap_or_default(),
            }
        })
        .collect()
}

fn read_checks(session: &Session, table: Oid, mode: Mode) -> Vec<Check> {
    let rows = session.run(CHECKS, &[table.into()], mode);
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
