//! How a user is found by e-mail: which index serves `lower(btrim(email))`.

use super::tables::is_email_key;
use super::{App, Auth, Column};
use crate::pg::{Mode, Session};
use pgrx::pg_sys::Oid;

/// The way to a table's rows with a given e-mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// An index on the very expression.
    Key,
    /// An index on `lower(email)`, where the column says how long an e-mail can be: padded ones stand in two ranges.
    Lower { longest: usize },
    /// The same, but behind `instance_id`, as the Auth server makes it.
    InstanceLower { longest: usize },
    /// No index: the whole table is read.
    Scan,
}

#[derive(Clone, Copy)]
pub struct Ways {
    pub auth: Way,
    pub app: Way,
}

/// Longer than any e-mail is allowed to be; the ranges must not grow without bound.
const LONGEST: usize = 1_000;

impl Ways {
    pub fn read(session: &Session, auth: &Auth, app: &App) -> Self {
        Ways {
            auth: way(session, auth.table, &auth.columns, auth.has_own_collation()),
            app: way(session, app.table, &app.columns, app.has_loose_collation()),
        }
    }
}

/// `as_default`: e-mails are compared by another collation than the column's, which an index must have as well.
fn way(session: &Session, table: Oid, columns: &[Column], as_default: bool) -> Way {
    let rows = session.run(
        "SELECT pg_catalog.pg_get_indexdef(i.indexrelid, 1, true),
                CASE WHEN i.indnkeyatts > 1 THEN pg_catalog.pg_get_indexdef(i.indexrelid, 2, true) END
           FROM pg_catalog.pg_index i
           JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
           JOIN pg_catalog.pg_am m ON m.oid = c.relam
          WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
            AND NOT EXISTS (SELECT FROM pg_catalog.unnest(i.indclass) o
                              JOIN pg_catalog.pg_opclass p ON p.oid = o
                             WHERE NOT p.opcdefault)",
        &[table.into()],
        Mode::Fresh,
    );
    let longest = columns
        .iter()
        .find(|c| c.name == "email" && c.base != "citext")
        .and_then(|c| c.longest)
        .filter(|longest| *longest <= LONGEST);
    let has_instance = columns.iter().any(|c| c.name == "instance_id" && c.base == "uuid");
    let mut best = Way::Scan;
    for row in 0..rows.len() {
        let first: String = rows.get(row, 1).unwrap_or_default();
        let second: Option<String> = rows.get(row, 2);
        if is_email_key(&first, as_default) {
            return Way::Key;
        }
        let is_lower = |s: &str| !as_default && (s == "lower(email)" || s == "lower(email::text)");
        match (first.as_str(), second.as_deref(), longest) {
            (first, _, Some(longest)) if is_lower(first) => best = Way::Lower { longest },
            ("instance_id", Some(second), Some(longest))
                if is_lower(second) && has_instance && best == Way::Scan =>
            {
                best = Way::InstanceLower { longest };
            }
            _ => {}
        }
    }
    best
}
