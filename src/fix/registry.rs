//! `onagui.register_reference()`, `onagui.unregister_reference()` and `onagui.prune_audit()`.

use crate::catalog::House;
use crate::error::{Error, plain};
use crate::pg::{self, Call, Mode, Reply, Session, connect};
use crate::statements::quote;
use pgrx::pg_sys::Oid;

/// `onagui.register_reference(p_table regclass, p_column name)`.
pub fn register_reference(call: &Call) -> Result<Reply, Error> {
    let table: Oid = call.arg(0).ok_or(Error::NullArgument { name: "p_table" })?;
    let column: String = call.arg_name(1).ok_or(Error::NullArgument { name: "p_column" })?;
    let house = House::find()?;
    let label = pg::table_name(table);
    let caller = pg::current_role();
    pg::as_role(house.owner, || {
        connect(|session| {
            let rows = session.run(
                "SELECT c.relkind IN ('r', 'p'),
                        CASE WHEN a.attname IS NULL THEN NULL
                             ELSE t.oid IN ('uuid'::regtype, 'text'::regtype, 'varchar'::regtype) END,
                        format_type(a.atttypid, a.atttypmod),
                        n.nspname::text, c.relname::text,
                        c.oid IN (to_regclass('onagui.app_users'), to_regclass('auth.users')),
                        a.attname IS NULL
                        OR has_column_privilege($3, root.oid, a.attname, 'UPDATE') AND (NOT o.rolsuper OR who.rolsuper),
                        c.relpersistence = 't', a.attgenerated <> ''
                   FROM pg_class c
                   JOIN pg_namespace n ON n.oid = c.relnamespace
                   JOIN pg_class root ON root.oid = coalesce(pg_partition_root(c.oid), c.oid)
                   JOIN pg_roles o ON o.oid = root.relowner
                   JOIN pg_roles who ON who.oid = $3
                   LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $2 AND a.attnum > 0
                        AND NOT a.attisdropped
                   LEFT JOIN pg_type d ON d.oid = a.atttypid
                   LEFT JOIN pg_type t ON t.oid = CASE WHEN d.typtype = 'd' THEN d.typbasetype ELSE d.oid END
                  WHERE c.oid = $1",
                &[table.into(), column.clone().into(), caller.into()],
                Mode::Fresh,
            );
            let why = if rows.is_empty() || !rows.get(0, 1).unwrap_or(false) {
                Some("It is not an ordinary or partitioned table.".to_owned())
            } else if rows.get(0, 8).unwrap_or(true) {
                Some("It is a temporary table, which other sessions cannot write.".to_owned())
            } else {
                match rows.get::<bool>(0, 2) {
                    None => return Err(Error::NoSuchColumn { table: label.clone(), column }),
                    _ if rows.get(0, 9).unwrap_or_default() => {
                        Some("It is generated: it follows the columns it is made of.".to_owned())
                    }
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
            // Fixes write it as the owner of the table (of a partition: of the whole), and fire what others may have put on it.
            if why.is_none() && !rows.get(0, 7).unwrap_or(false) {
                return Err(Error::NotYoursToMove { table: label.clone(), column });
            }
            if let Some(why) = why {
                return Err(Error::NotAReference { table: label.clone(), column, why });
            }
            let (schema, name): (String, String) =
                (rows.get(0, 4).unwrap_or_default(), rows.get(0, 5).unwrap_or_default());
            let new = session
                .run(
                    "INSERT INTO onagui.sync_reference (table_schema, table_name, column_name)
                     VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                    &[schema.clone().into(), name.clone().into(), column.clone().into()],
                    Mode::Fresh,
                )
                .touched();
            if pg::is_superuser(caller) && knows_superusers(session) {
                session.run(
                    "UPDATE onagui.sync_reference SET by_superuser = true
                      WHERE table_schema = $1 AND table_name = $2 AND column_name = $3 AND NOT by_superuser",
                    &[schema.into(), name.into(), column.clone().into()],
                    Mode::Fresh,
                );
            }
            let label = format!("{label}.{}", quote(&column));
            Ok(Reply::of(plain(&if new == 0 {
                format!("OK: {label} was registered already")
            } else {
                format!("OK: {label} is registered; fixes move it along")
            })))
        })
    })
}

/// Whether the register says who was a superuser; that of version 0.1.0 does not.
fn knows_superusers(session: &Session) -> bool {
    let sql = "SELECT count(*) FROM pg_attribute
                WHERE attrelid = 'onagui.sync_reference'::regclass AND attname = 'by_superuser'";
    session.run(sql, &[], Mode::Fresh).one() == Some(1i64)
}

/// `onagui.unregister_reference(p_table regclass, p_column name)`. What is not registered is no error.
pub fn unregister_reference(call: &Call) -> Result<Reply, Error> {
    let table: Oid = call.arg(0).ok_or(Error::NullArgument { name: "p_table" })?;
    let column: String = call.arg_name(1).ok_or(Error::NullArgument { name: "p_column" })?;
    let caller = pg::current_role();
    let house = House::find()?;
    pg::as_role(house.owner, || {
        connect(|session| {
            let named = session.run(
                "SELECT n.nspname::text, c.relname::text
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
                &[table.into()],
                Mode::Fresh,
            );
            if named.is_empty() {
                let label = format!("{}.{}", pg::table_name(table), quote(&column));
                return Ok(Reply::of(plain(&format!("OK: {label} was not registered"))));
            }
            let place = Place {
                schema: named.get(0, 1).unwrap_or_default(),
                table: named.get(0, 2).unwrap_or_default(),
                column,
            };
            place.forget(session, caller)
        })
    })
}

/// `onagui.unregister_reference(p_schema name, p_table name, p_column name)`: also where the table is gone.
pub fn unregister_reference_by_name(call: &Call) -> Result<Reply, Error> {
    let name = |place, name| call.arg_name(place).ok_or(Error::NullArgument { name });
    let place = Place {
        schema: name(0, "p_schema")?,
        table: name(1, "p_table")?,
        column: name(2, "p_column")?,
    };
    let caller = pg::current_role();
    let house = House::find()?;
    pg::as_role(house.owner, || connect(|session| place.forget(session, caller)))
}

/// A column as the registry names it.
struct Place {
    schema: String,
    table: String,
    column: String,
}

impl Place {
    fn forget(self, session: &Session, caller: Oid) -> Result<Reply, Error> {
        let Place { schema, table, column } = self;
        let label = format!("{}.{}", quote(&schema), quote(&table));
        // Without it fixes leave the column behind: that is for whoever could have registered it to decide.
        let theirs = session.run(
            "SELECT has_column_privilege($4, c.oid, a.attnum, 'UPDATE')
                    OR has_column_privilege($4, coalesce(pg_partition_root(c.oid), c.oid), a.attname, 'UPDATE')
               FROM pg_class c
               JOIN pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $3 AND a.attnum > 0 AND NOT a.attisdropped
              WHERE n.nspname = $1 AND c.relname = $2",
            &[schema.clone().into(), table.clone().into(), column.clone().into(), caller.into()],
            Mode::Fresh,
        );
        if theirs.one() == Some(false) {
            return Err(Error::NotYoursToMove { table: label, column });
        }
        // A foreign key needs no entry here, and is followed without.
        let key: Option<String> = session
            .run(
                "SELECT min(k.conname::text)
                   FROM pg_constraint k
                   JOIN pg_class c ON c.oid = k.conrelid
                   JOIN pg_namespace n ON n.oid = c.relnamespace
                   JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (k.conkey)
                   JOIN pg_class app ON app.oid = k.confrelid AND app.relname = 'app_users'
                   JOIN pg_namespace o ON o.oid = app.relnamespace AND o.nspname = 'onagui'
                  WHERE k.contype = 'f' AND n.nspname = $1 AND c.relname = $2 AND a.attname = $3",
                &[schema.clone().into(), table.clone().into(), column.clone().into()],
                Mode::Fresh,
            )
            .one();
        let gone = session
            .run(
                "DELETE FROM onagui.sync_reference
                  WHERE table_schema = $1 AND table_name = $2 AND column_name = $3",
                &[schema.into(), table.into(), column.clone().into()],
                Mode::Fresh,
            )
            .touched();
        let label = format!("{label}.{}", quote(&column));
        Ok(Reply::of(plain(&match (gone, key) {
            (0, _) => format!("OK: {label} was not registered"),
            (_, None) => format!("OK: {label} is not registered any more; fixes leave it alone"),
            (_, Some(key)) => format!(
                "OK: {label} is not registered any more; fixes go on following its foreign key {}",
                quote(&key)
            ),
        })))
    }
}

/// `onagui.prune_audit(p_older_than interval)`: answers how many entries it removed. Known ids stay.
pub fn prune_audit(call: &Call) -> Result<Reply, Error> {
    let age: pgrx::datum::Interval =
        call.arg(0).ok_or(Error::NullArgument { name: "p_older_than" })?;
    let house = House::find()?;
    pg::as_role(house.owner, || {
        connect(|session| {
            // Before the first year that the server knows of there is nothing.
            let rows = session.run(
                "SELECT $1 < interval '0' OR $1 > interval '5000 years', $1::text",
                &[age.into()],
                Mode::Fresh,
            );
            if rows.get(0, 1).unwrap_or(false) {
                return Err(Error::BadArgument {
                    name: "p_older_than",
                    value: rows.get(0, 2).unwrap_or_default(),
                    wanted: "an interval from 0 to 5000 years, such as '90 days'",
                });
            }
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
