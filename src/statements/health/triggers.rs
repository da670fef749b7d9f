//! The triggers on `auth.users`, and whatever else writes app users from there.

use super::{Report, read};
use crate::catalog::{Auth, House};
use crate::error::Error;
use crate::pg::Session;
use crate::signup;

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

/// Triggers of somebody else's that write app users too: the pattern this extension replaces.
pub fn others(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let auth = Auth::read(session)?;
    let rows = read(
        session,
        "SELECT format('trigger %s on auth.users calls %s, which seems to write app_users as well', t.tgname, p.oid::regprocedure),
                format('DROP TRIGGER %I ON auth.users;', t.tgname)
           FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
          WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgenabled <> 'D'
            AND p.oid <> 'onagui.sync_auth_user_to_app_users()'::regprocedure
            AND p.prosrc ~* '[[:<:]]app_users[[:>:]]'
          ORDER BY t.tgname",
        &[auth.table.into()],
    );
    report.warn_each(&rows, "nothing else on auth.users writes app users");
    Ok(())
}
