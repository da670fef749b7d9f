//! A table's columns, and every unique index and exclusion constraint on it.

mod checks;
mod unique;

pub use checks::Check;
pub use unique::Uniqueness;

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
    pub base_oid: Oid,
    /// The same with the limit, where there is one.
    limited: String,
    /// There is such a limit: a cast to `kind` cuts or rounds what does not fit.
    pub is_limited: bool,
    pub is_domain: bool,
    /// A cast to text makes something else of a value than its type writes.
    has_own_text: bool,
    /// A cast from text makes something else of a text than its type reads.
    has_own_value: bool,
    pub not_null: bool,
    /// Nobody can tell beforehand what a row has there that is made without a value: a sequence's number, for instance.
    pub is_open: bool,
    /// The expression of a generated column, over the table's column names.
    pub generated: Option<String>,
    /// The quoted columns it is made of.
    pub made_of: Vec<String>,
    /// The expression of any other column's default, or of its domain's.
    pub default: Option<String>,
}

impl ShapeColumn {
    /// SQL: a generated column as the server assigns it.
    pub fn computed(&self) -> Option<String> {
        let expression = self.generated.as_ref()?;
        let kind = if self.is_cut() { &self.base } else { &self.kind };
        Some(format!(", ({expression})::{kind} AS {}", self.quoted))
    }

    /// A cast to `kind` cuts, or fills up, what the server does not assign.
    fn is_cut(&self) -> bool {
        let base = self.base.as_str();
        self.is_limited
            && matches!(base, "character varying" | "bpchar" | "\"bit\"" | "bit varying")
    }

    fn text(&self, alias: &str) -> String {
        self.as_text(&format!("{alias}.{}", self.quoted))
    }

    /// SQL: `value`, an expression of its type, as that writes it.
    pub fn as_text(&self, value: &str) -> String {
        match self.has_own_text {
            // IS NULL is also true of a row of NULLs.
            true => format!("CASE num_nulls({value}) WHEN 0 THEN format('%s', {value}) END"),
            false => format!("{value}::text"),
        }
    }

    /// SQL: the column's value, as its type reads it from `text`, an expression.
    pub fn of_text(&self, text: &str) -> String {
        self.read(text, &self.kind)
    }

    /// The same of its base.
    pub fn base_of_text(&self, text: &str) -> String {
        self.read(text, &self.base)
    }

    fn read(&self, text: &str, kind: &str) -> String {
        match self.has_own_value {
            // What makes records of jsonb has the type's input function read it.
            true => {
                format!(
                    "(SELECT v FROM jsonb_to_record(jsonb_build_object('v', {text})) AS r(v {kind}))"
                )
            }
            false => format!("({text})::{kind}"),
        }
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
           a.attnum = ANY ((pk.indkey::int2[])[0:pk.indnkeyatts - 1]),
           kinds.base, kinds.limited, kinds.domain, a.attnotnull,
           a.attidentity <> '' OR a.attgenerated = '' AND EXISTS (
               SELECT FROM regexp_matches(coalesce(d.adbin, t.typdefaultbin)::text, ':(?:op)?funcid ([0-9]+)', 'g') AS f(id)
                 JOIN pg_proc p ON p.oid = f.id[1]::oid
                WHERE p.provolatile = 'v'),
           -- A default names no column; with the table told, the server would look at all of its columns each time.
           CASE WHEN a.attgenerated = '' THEN pg_get_expr(coalesce(d.adbin, t.typdefaultbin), 0) END,
           -- A cast of the application's own; and bpchar without a length, which the server's cast bereaves of blanks.
           kinds.id = 'bpchar'::regtype AND NOT kinds.limited
               OR EXISTS (SELECT FROM pg_cast
                           WHERE castsource = kinds.id AND casttarget = 'text'::regtype AND oid >= 16384),
           kinds.id,
           -- A cast of the application's own; and the server's to regclass, which knows no number of a table that is gone.
           EXISTS (SELECT FROM pg_cast
                    WHERE castsource = 'text'::regtype AND casttarget = kinds.id AND castmethod = 'f'
                      AND (oid >= 16384 OR casttarget = 'regclass'::regtype)),
           format_type(kinds.id, kinds.typmod),
           ARRAY(SELECT quote_ident(s.attname)
                   FROM pg_depend p JOIN pg_attribute s ON s.attrelid = p.refobjid AND s.attnum = p.refobjsubid
                  WHERE a.attgenerated <> '' AND p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
                    AND p.refclassid = 'pg_class'::regclass AND p.refobjid = a.attrelid AND s.attnum <> a.attnum)
      FROM pg_attribute a
      JOIN pg_type t ON t.oid = a.atttypid
      CROSS JOIN LATERAL (
            WITH RECURSIVE kind(id, typmod, depth) AS (
                SELECT a.atttypid, a.atttypmod, 0
                UNION ALL
                SELECT t.typbasetype, t.typtypmod, k.depth + 1
                  FROM kind k JOIN pg_type t ON t.oid = k.id AND t.typtype = 'd')
            SELECT bool_or(k.typmod >= 0) AS limited, max(k.typmod) AS typmod, max(k.depth) > 0 AS domain,
                   (array_agg(format_type(k.id, -1) ORDER BY k.depth DESC))[1] AS base,
                   (array_agg(k.id ORDER BY k.depth DESC))[1] AS id
              FROM kind k) kinds
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      LEFT JOIN pg_index pk ON pk.indrelid = a.attrelid AND pk.indisprimary AND pk.indisvalid
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum";

impl Shape {
    pub fn read(session: &Session, table: Oid) -> Self {
        let rows = session.run_kept(COLUMNS, &[table.into()], Mode::Fresh);
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
                has_own_text: rows.get(row, 12).unwrap_or_default(),
                base_oid: rows.get(row, 13).unwrap_or(Oid::INVALID),
                has_own_value: rows.get(row, 14).unwrap_or_default(),
                limited: rows.get(row, 15).unwrap_or_default(),
                made_of: rows.get(row, 16).unwrap_or_default(),
            });
        }
        let unique = unique::read_unique(session, table);
        let mut checks = checks::read_checks(session, table);
        checks.extend(columns.iter().filter_map(checks::length));
        Shape { columns, primary_key, unique, checks }
    }

    /// SQL: whether two values of a column of the primary key are the same.
    pub fn same(&self, quoted: &str, one: &str, other: &str) -> String {
        let mut parts = self.unique.first().into_iter().flat_map(|primary| &primary.parts);
        match parts.find(|part| part.expression == quoted) {
            Some(part) => part.collide(one, other),
            None => format!("{one} OPERATOR(pg_catalog.=) {other}"),
        }
    }

    /// SQL: whether `value`, an expression for a text, does not fit into the column; None where anything does.
    pub fn overflow(&self, quoted: &str, value: &str) -> Option<String> {
        let column = self.column(quoted).filter(|c| c.is_limited)?;
        let base = &column.base;
        let text = |read: String| match base.as_str() {
            "numeric" => format!("trim_scale({read}::numeric)::text"),
            _ => format!("{read}::{base}::text"),
        };
        let (cut, whole) = (text(column.of_text(value)), text(column.base_of_text(value)));
        Some(format!("{cut} IS DISTINCT FROM {whole}"))
    }

    /// The type below any domain.
    pub fn kind_of(&self, quoted: &str) -> Option<Oid> {
        self.column(quoted).map(|column| column.base_oid)
    }

    /// SQL: a column's value as it is read from `text`, an expression, to be compared by somebody else than its table's owner,
    /// whose domain may run their code.
    pub fn base_of_text(&self, quoted: &str, text: &str) -> String {
        self.column(quoted).map_or_else(|| text.to_owned(), |column| column.base_of_text(text))
    }

    /// SQL: a column (quoted) over an alias as its type writes it.
    pub fn text(&self, alias: &str, quoted: &str) -> String {
        let column = self.column(quoted);
        column.map_or_else(|| format!("{alias}.{quoted}::text"), |column| column.text(alias))
    }

    /// The same of many, as an array.
    pub fn texts<'c>(&self, alias: &str, columns: impl Iterator<Item = &'c str>) -> String {
        let list: Vec<String> = columns.map(|column| self.text(alias, column)).collect();
        format!("ARRAY[{}]::text[]", list.join(", "))
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

    /// Whether the key of an index is made of any of these (quoted) columns.
    pub fn is_keyed_by(&self, unique: &Uniqueness, columns: &[String]) -> bool {
        self.depends_on(&unique.keys, columns)
    }

    /// What a change of these (quoted) columns may break.
    pub fn checks_of<'a>(&'a self, changed: &'a [String]) -> impl Iterator<Item = &'a Check> {
        self.checks.iter().filter(|check| {
            check.is_untested || check.uses.is_empty() || self.depends_on(&check.uses, changed)
        })
    }

    /// Whether the server computes a column anew, being generated, where those (quoted) change of which `changes` is true: it
    /// is made of them, or they decide in which partition a row lies.
    pub fn is_computed_anew(
        &self,
        column: &ShapeColumn,
        changes: impl Fn(&String) -> bool,
    ) -> bool {
        let deciding = self.checks.iter().filter(|check| check.name.is_none());
        let mut columns = deciding.flat_map(|check| &check.uses).chain(&column.made_of);
        column.generated.is_some() && columns.any(changes)
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
                || self
                    .column(used)
                    .is_some_and(|c| self.is_computed_anew(c, |name| changed.contains(name)))
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
            let value = c.text("t");
            match c.default.as_ref().filter(|_| !c.is_open) {
                Some(default) => {
                    let kind = &c.kind;
                    let default = c.as_text(&format!("({default})::{kind}"));
                    format!(" AND ({value} IS NULL OR {value} = {default})")
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
    let (names, values): (Vec<String>, Vec<String>) =
        columns.map(|c| (pgrx::spi::quote_literal(&c.name), c.text("t"))).unzip();
    format!(
        "jsonb_object(ARRAY[{}]::text[], ARRAY[{}]::text[])",
        names.join(", "),
        values.join(", ")
    )
}
