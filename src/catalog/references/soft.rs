//! Registered soft references.

use super::Form;
use crate::pg::{Mode, Session};
use pgrx::pg_sys::Oid;
use serde::{Deserialize, Serialize};

/// A table is written as its owner, with what others may have been allowed to put on it: that of a superuser only if a superuser has
/// registered it, whoever has made a table of that name since. (Version 0.1.0 has no `by_superuser`.)
const SOFT: &str = "
    SELECT root.oid, quote_ident(a.attname), t.typcategory = 'S',
           a.attgenerated <> '', c.oid, a.attnum::int, c.oid::regclass::text, a.attname::text
      FROM onagui.sync_reference r
      JOIN pg_namespace n ON n.nspname = r.table_schema
      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = r.table_name AND c.relkind IN ('r', 'p')
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = r.column_name AND NOT a.attisdropped
      JOIN pg_type t ON t.oid = a.atttypid
      JOIN pg_class root ON root.oid = coalesce(pg_partition_root(c.oid), c.oid)
      JOIN pg_roles o ON o.oid = root.relowner
     WHERE NOT o.rolsuper OR coalesce((to_jsonb(r) ->> 'by_superuser')::boolean, true)
     ORDER BY 1, 2";

/// A registered soft reference, as the catalog has it now.
#[derive(Clone, PartialEq)]
pub struct Soft {
    pub(super) table: Oid,
    /// Quoted.
    pub(super) column: String,
    pub(super) form: Form,
    pub(super) generated: bool,
    /// As it was registered: of a partition, not of the table it is part of.
    pub place: SoftPlace,
}

/// Where a registered reference is, by name and by number: either may be another after a while.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct SoftPlace {
    pub table: String,
    pub column: String,
    pub oid: u32,
    pub attnum: i32,
}

impl Soft {
    /// What is registered, as far as it is there.
    pub fn read(session: &Session, mode: Mode) -> Vec<Self> {
        let rows = session.run_kept(SOFT, &[], mode);
        (0..rows.len())
            .filter_map(|row| {
                let is_text = rows.get::<bool>(row, 3)?;
                Some(Soft {
                    table: rows.get(row, 1)?,
                    column: rows.get(row, 2)?,
                    form: if is_text { Form::Text } else { Form::Uuid },
                    generated: rows.get(row, 4)?,
                    place: SoftPlace {
                        oid: rows.get::<Oid>(row, 5)?.to_u32(),
                        attnum: rows.get(row, 6)?,
                        table: rows.get(row, 7)?,
                        column: rows.get(row, 8)?,
                    },
                })
            })
            .collect()
    }
}
