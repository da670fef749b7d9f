//! `onagui.register_reference()` and `onagui.prune_audit()`.

use crate::catalog::House;
use crate::error::Error;
use crate::pg::{self, Call, Mode, Reply, connect};
use pgrx::pg_sys::Oid;

/// `onagui.register_reference(p_table regclass, p_column name)`.
pub fn register_reference(call: &Call) -> Result<Reply, Error> {
    let table: Oid = call.arg(0).ok_or(Error::NullArgument { name: "p_table" })?;
    let column: String = call.arg_name(1).ok_or(Error::NullArgument { name: "p_column" })?;
    let house = House::find()?;
    let label = pg::table_name(table);
    pg::as_role(house.owner, || {
        connect(|session| {
            let rows = session.run(
                "SELECT c.relkind IN ('r', 'p'),
                        CASE WHEN a.attname IS NULL THEN NULL
                             ELSE t.oid IN ('uuid'::regtype, 'text'::regtype, 'varchar'::regtype) END,
                        format_type(a.atttypid, a.atttypmod),
                        n.nspname::text, c.relname::text,
                        c.oid IN (to_regclass('onagui.app_users'), to_regclass('auth.users'))
                   FROM pg_class c
                   JOIN pg_namespace n ON n.oid = c.relnamespace
                   LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $2 AND a.attnum > 0
                        AND NOT a.attisdropped
                   LEFT JOIN pg_type d ON d.oid = a.atttypid
                   LEFT JOIN pg_type t ON t.oid = CASE WHEN d.typtype = 'd' THEN d.typbasetype ELSE d.oid END
                  WHERE c.oid = $1",
                &[table.into(), column.clone().into()],
                Mode::Fresh,
            );
            let why = if rows.is_empty() || !rows.get(0, 1).unwrap_or(false) {
                Some("It is not an ordinary or partitioned table.".to_owned())
            } else {
                match rows.get::<bool>(0, 2) {
                    None => Some("There is no such column.".to_owned()),
                    Some(false) => Some(format!(
                        "Its type is {}.",
                        rows.get::<String>(0, 3).unwrap_or_default()
                    )),
                    Some(true) if column == "id" && rows.get(0, 6).unwrap_or(false) => {
                        Some("It is the user's own id.".to_owned())
                    }
                    Some(true) => None,
                }
            };
            if let Some(why) = why {
                return Err(Error::NotAReference { table: label.clone(), column, why });
            }
            let (schema, name): (String, String) =
                (rows.get(0, 4).unwrap_or_default(), rows.get(0, 5).unwrap_or_default());
            let new = session
                .run(
                    "INSERT INTO onagui.sync_reference (table_schema, table_name, column_name)
                     VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                    &[schema.into(), name.into(), column.clone().into()],
                    Mode::Fresh,
                )
                .touched();
            Ok(Reply::of(if new == 0 {
                format!("OK: {label}.{column} was registered already")
            } else {
                format!("OK: {label}.{column} is registered; fixes move it along")
            }))
        })
    })
}

/// `onagui.prune_audit(p_older_than interval)`: answers how many entries it removed. Known ids stay.
pub fn prune_audit(call: &Call) -> Result<Reply, Error> {
    let age: pgrx::datum::Interval =
        call.arg(0).ok_or(Error::NullArgument { name: "p_older_than" })?;
    let house = House::find()?;
    pg::as_role(house.owner, || {
        connect(|session| {
            let rows =
                session.run("SELECT $1 < interval '0', $1::text", &[age.into()], Mode::Fresh);
            if rows.get(0, 1).unwrap_or(false) {
                return Err(Error::BadArgument {
                    name: "p_older_than",
                    value: rows.get(0, 2).unwrap_or_default(),
                    wanted: "an interval that is not negative, such as '90 days'",
                });
            }
            let age: pgrx::datum::Interval =
                call.arg(0).ok_or(Error::NullArgument { name: "p_older_than" })?;
            let removed = session
                .run(
                    "DELETE FROM onagui.sync_audit_log WHERE occurred_at < now() - $1",
                    &[age.into()],
                    Mode::Fresh,
                )
                .touched();
            Ok(Reply::of(i64::try_from(removed).unwrap_or(i64::MAX)))
        })
    })
}
