//! The triggers on `auth.users`, and whatever else writes app users from there.

use super::{Report, read};
use crate::catalog::{Auth, House};
use crate::error::Error;
use crate::pg::Session;
use crate::signup;

/// The extension's triggers on `auth.users`, and its trigger function anywhere else.
pub fn triggers(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let auth = Auth::read(session)?;
    let (faults, remedy) = signup::triggers::faults(session, &auth);
    for fault in &faults {
        let foreign =
            fault.strip_prefix("auth.users has a trigger ").and_then(|rest| rest.split(' ').next());
        report.fail(
            format!("{fault}: sign-ups are not synced as they should be"),
            match foreign {
                Some(name) => {
                    format!("ALTER TRIGGER {name} ON auth.users RENAME TO {name}_old; {remedy}")
                }
                None => remedy.to_owned(),
            },
        );
    }
    let strays = read(session, STRAYS, &[auth.table.into()]);
    for row in 0..strays.len() {
        report.fail(
            strays.get::<String>(row, 1).unwrap_or_default(),
            strays.get::<String>(row, 2).unwrap_or_default(),
        );
    }
    if faults.is_empty() && strays.is_empty() {
        report.ok("attached to auth.users and enabled");
    }
    Ok(())
}

/// The extension's trigger function on another table, or under another name.
const STRAYS: &str = "
    SELECT format('trigger %s on %s calls the extension''s trigger function, which belongs to the triggers of auth.users that enable_sync() makes',
                  t.tgname, t.tgrelid::regclass),
           format('DROP TRIGGER %I ON %s;', t.tgname, t.tgrelid::regclass)
      FROM pg_trigger t
     WHERE t.tgfoid = 'onagui.sync_auth_user_to_app_users()'::regprocedure
       AND NOT t.tgisinternal AND t.tgparentid = 0
       AND (t.tgrelid <> $1
            OR t.tgname NOT IN ('trigger_sync_auth_user_to_app_users', 'trigger_sync_auth_user_changes',
                                'trigger_sync_auth_user_deletes', 'trigger_sync_auth_user_truncates'))
     ORDER BY 1";

/// Triggers of somebody else's that write app users too, the pattern this extension replaces, or what refers to them before
/// they are there.
pub fn others(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let auth = Auth::read(session)?;
    let rows = read(session, OTHERS, &[auth.table.into()]);
    report.warn_each(
        &rows,
        "nothing else on auth.users writes app users, or refers to them before they are there",
    );
    Ok(())
}

/// The bits of tgtype are those of src/include/catalog/pg_trigger.h. Triggers of rows fire before those of a statement, and
/// those of one kind in the order of their names.
const OTHERS: &str = "
    WITH other AS (
         SELECT t.tgname, p.oid::regprocedure AS called, p.prosrc,
                t.tgtype & 4 <> 0
                AND (t.tgtype & 2 <> 0 OR t.tgtype & 1 > o.tgtype & 1
                     OR t.tgtype & 1 = o.tgtype & 1 AND t.tgname < o.tgname) AS is_early
           FROM pg_trigger t
           JOIN pg_proc p ON p.oid = t.tgfoid
           LEFT JOIN pg_trigger o ON o.tgrelid = t.tgrelid AND o.tgname = 'trigger_sync_auth_user_to_app_users'
          WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgenabled <> 'D'
            AND p.oid <> 'onagui.sync_auth_user_to_app_users()'::regprocedure)
    SELECT format('trigger %s on auth.users calls %s, which seems to write app_users as well', other.tgname, other.called),
           format(E'DROP TRIGGER %I ON auth.users;\n-- or, as the function''s owner: DROP FUNCTION %s CASCADE;', other.tgname, other.called)
      FROM other
     WHERE other.prosrc ~* '[[:<:]]app_users[[:>:]]'
    UNION ALL
    SELECT format('trigger %s on auth.users calls %s, which seems to write %s: its foreign key %s wants the app user''s row, which is made after that, so that sign-ups fail',
                  other.tgname, other.called, c.conrelid::regclass, c.conname),
           format('ALTER TABLE %s ALTER CONSTRAINT %I DEFERRABLE INITIALLY DEFERRED;', c.conrelid::regclass, c.conname)
      FROM other
      JOIN pg_namespace n ON n.nspname = 'onagui'
      JOIN pg_class app ON app.relnamespace = n.oid AND app.relname = 'app_users'
      JOIN pg_constraint c ON c.contype = 'f' AND c.confrelid = app.oid AND c.conrelid <> app.oid
           AND c.conparentid = 0 AND NOT c.condeferred
      JOIN pg_class child ON child.oid = c.conrelid
     WHERE other.is_early
       AND other.prosrc ~* ('[[:<:]]' || regexp_replace(child.relname, '[^[:alnum:]_]', '.', 'g') || '[[:>:]]')
     ORDER BY 1";
