//! `onagui.enable_sync()` and `onagui.disable_sync()`.

use crate::catalog::tables::AUTH_USERS;
use crate::catalog::{Auth, House};
use crate::error::Error;
use crate::pg::{self, Call, Lockwait, Mode, Reply, Session, connect, subtransaction};
use crate::settings;
use onagui_decide::failure::LOCK_NOT_AVAILABLE;
use pgrx::pg_sys::Oid;

struct Wanted {
    name: &'static str,
    definition: String,
    /// The columns that its UPDATEs are followed of.
    columns: Vec<String>,
}

/// The triggers on `auth.users`. For rows that arrive through logical replication all of them must be row triggers,
/// since that fires no others; statement triggers with a transition table are the cheaper ones.
fn wanted(auth: &Auth, always: bool) -> Vec<Wanted> {
    let level = if always { "ROW" } else { "STATEMENT" };
    let followed: Vec<String> = ["deleted_at", "email", "email_confirmed_at", "id"]
        .into_iter()
        .filter(|column| auth.has(column))
        .map(str::to_owned)
        .collect();
    let differs: Vec<String> =
        followed.iter().map(|c| format!("OLD.{c} IS DISTINCT FROM NEW.{c}")).collect();
    // The column list is looked at before WHEN is so much as parsed: other UPDATEs cost next to nothing.
    vec![
        Wanted {
            name: "trigger_sync_auth_user_to_app_users",
            definition: format!(
                "AFTER INSERT ON auth.users REFERENCING NEW TABLE AS new_users FOR EACH {level}"
            ),
            columns: Vec::new(),
        },
        Wanted {
            name: "trigger_sync_auth_user_changes",
            definition: format!(
                "AFTER UPDATE OF {} ON auth.users FOR EACH ROW WHEN ({})",
                followed.join(", "),
                differs.join(" OR ")
            ),
            columns: followed,
        },
        Wanted {
            name: "trigger_sync_auth_user_deletes",
            definition: format!(
                "AFTER DELETE ON auth.users REFERENCING OLD TABLE AS old_users FOR EACH {level}"
            ),
            columns: Vec::new(),
        },
        Wanted {
            name: "trigger_sync_auth_user_truncates",
            definition: "BEFORE TRUNCATE ON auth.users FOR EACH STATEMENT".into(),
            columns: Vec::new(),
        },
    ]
}

/// Gives roles of the REST interface their rights where they have been created since CREATE EXTENSION.
const API_ROLES: &str = include_str!("../../sql/install/95_api_roles.sql");

/// Keeps the name of the extension's schema from being given to another one, whose functions the triggers would call. Only a
/// superuser can.
fn hold_schema(session: &Session, house: House) -> Result<(), Error> {
    let hold = if pg::is_superuser(house.owner.0) { "FOR SHARE OF n" } else { "" };
    let sql = format!(
        "SELECT n.nspname FROM pg_namespace n JOIN pg_extension e ON e.extnamespace = n.oid
          WHERE e.extname = 'onagui_sync' AND n.nspname = 'onagui' {hold}"
    );
    match session.run(&sql, &[], Mode::Fresh).is_empty() {
        true => Err(Error::NotWhole),
        false => Ok(()),
    }
}

const MAPPING_TRIGGER: &str = "
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'onagui.sync_column'::regclass
                                            AND tgname = 'sync_column_changed' AND tgenabled <> 'A') THEN
            ALTER TABLE onagui.sync_column ENABLE ALWAYS TRIGGER sync_column_changed;
        END IF;
    END $$";

/// `onagui.enable_sync(p_always)`. Attaches what is not attached as wanted, and leaves the rest alone: a call that changes
/// nothing takes no lock.
pub fn enable(call: &Call) -> Result<Reply, Error> {
    let wanted_always = call.arg::<bool>(0);
    let house = House::find()?;
    may_attach()?;
    pg::as_role(house.owner, || {
        connect(|session| {
            let auth = Auth::read(session)?;
            session.run(API_ROLES, &[], Mode::Fresh);
            // A restore with --disable-triggers enables it again, but not ALWAYS.
            session.run(MAPPING_TRIGGER, &[], Mode::Fresh);
            let (mut always, mut unlike) = unlike(session, &auth, wanted_always)?;
            let mut _lockwait = None;
            if !unlike.is_empty() {
                // Whoever changes its rights is waited for before sign-ups have to wait for this.
                hold_schema(session, house)?;
                // As long as it is locked, whatever else is waited for.
                _lockwait = Some(Lockwait::at_most(settings::lock_timeout()));
                let to_drop =
                    |unlike: &[(Wanted, bool)]| unlike.iter().any(|(_, is_there)| *is_there);
                let drops = to_drop(&unlike);
                lock(session, drops)?;
                // Another session may have been about it.
                (always, unlike) = self::unlike(session, &auth, wanted_always)?;
                if !drops && to_drop(&unlike) {
                    lock(session, true)?;
                }
            }
            let changed = unlike.len();
            for (trigger, is_there) in unlike {
                if is_there {
                    drop_trigger(session, trigger.name);
                }
                for sql in [
                    format!(
                        "CREATE TRIGGER {} {} EXECUTE FUNCTION onagui.sync_auth_user_to_app_users()",
                        trigger.name, trigger.definition
                    ),
                    // So that DROP EXTENSION takes the triggers along without CASCADE.
                    format!(
                        "ALTER TRIGGER {} ON auth.users DEPENDS ON EXTENSION onagui_sync",
                        trigger.name
                    ),
                ] {
                    session.run(&sql, &[], Mode::Fresh);
                }
                if always {
                    let sql =
                        format!("ALTER TABLE auth.users ENABLE ALWAYS TRIGGER {}", trigger.name);
                    session.run(&sql, &[], Mode::Fresh);
                }
            }
            Ok(Reply::of(match changed {
                0 => "OK: sync was enabled already, nothing was changed",
                _ if always => "OK: sync is enabled, for replicated rows too",
                _ => "OK: sync is enabled",
            }))
        })
    })
}

/// Whether the triggers are to fire for replicated rows too, and those that are not there as they should be, with whether they are
/// there at all.
fn unlike(
    session: &Session,
    auth: &Auth,
    wanted_always: Option<bool>,
) -> Result<(bool, Vec<(Wanted, bool)>), Error> {
    let always = wanted_always.unwrap_or_else(|| is_always(session, auth));
    let state = if always { "A" } else { "O" };
    let mut unlike = Vec::new();
    for trigger in wanted(auth, always) {
        let found = find(session, auth.table, trigger.name);
        if found.as_ref().is_some_and(|found| !found.ours) {
            return Err(Error::TriggerNameTaken { name: trigger.name });
        }
        let is_there = found.is_some();
        let is_like = found.is_some_and(|found| {
            found.state == state
                && found.level == level(&trigger.definition)
                && found.columns == trigger.columns
        });
        unlike.extend((!is_like).then_some((trigger, is_there)));
    }
    Ok((always, unlike))
}

/// As CREATE TRIGGER and DROP TRIGGER do, but at once for all of them.
fn lock(session: &Session, to_drop: bool) -> Result<(), Error> {
    let mode = if to_drop { "ACCESS EXCLUSIVE" } else { "SHARE ROW EXCLUSIVE" };
    let sql = format!("LOCK TABLE ONLY auth.users IN {mode} MODE");
    subtransaction(|| {
        session.run(&sql, &[], Mode::Fresh);
        Ok(())
    })
    .map_err(|failure| match failure.sqlstate.as_str() {
        LOCK_NOT_AVAILABLE => Error::AuthUsersBusy,
        _ => failure.into(),
    })
}

/// CREATE EXTENSION asks the same where there is auth.users already: whoever attaches the triggers, and maps columns, sees all
/// of it.
fn may_attach() -> Result<(), Error> {
    let Some(auth) = Auth::find() else {
        return Ok(());
    };
    let caller = pg::current_role();
    let may = connect(|session| {
        session
            .run_kept(
                "SELECT r.rolsuper OR r.rolbypassrls
                        OR pg_catalog.has_table_privilege(r.oid, $2, 'SELECT')
                           AND pg_catalog.has_table_privilege(r.oid, $2, 'TRIGGER')
                   FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) $1",
                &[caller.into(), auth.into()],
                Mode::Fresh,
            )
            .one::<bool>()
    });
    match may {
        Some(true) => Ok(()),
        _ => Err(Error::MayNotAttach { role: pg::role_name(caller) }),
    }
}

/// `onagui.disable_sync()`. Drops whatever triggers of `auth.users` call the extension's function, under any name.
pub fn disable(_: &Call) -> Result<Reply, Error> {
    let house = House::find()?;
    let auth = Auth::find().ok_or(Error::TableMissing { table: AUTH_USERS })?;
    pg::as_role(house.owner, || {
        connect(|session| {
            let find = || -> Vec<String> {
                session
                    .run(
                        "SELECT quote_ident(tgname) FROM pg_trigger
                          WHERE tgrelid = $1 AND NOT tgisinternal
                            AND tgfoid = 'onagui.sync_auth_user_to_app_users()'::regprocedure",
                        &[auth.into()],
                        Mode::Fresh,
                    )
                    .column()
            };
            let mut ours = find();
            let _lockwait = Lockwait::at_most(settings::lock_timeout());
            if !ours.is_empty() {
                lock(session, true)?;
                ours = find();
            }
            for name in &ours {
                drop_trigger(session, name);
            }
            Ok(Reply::of(if ours.is_empty() {
                "OK: sync was disabled already, nothing was changed"
            } else {
                "OK: sync is disabled; sign-ups go on without rows in onagui.app_users"
            }))
        })
    })
}

struct Found {
    ours: bool,
    state: String,
    level: &'static str,
    columns: Vec<String>,
}

fn find(session: &Session, table: Oid, name: &str) -> Option<Found> {
    let rows = session.run(
        "SELECT tgfoid = 'onagui.sync_auth_user_to_app_users()'::regprocedure, tgenabled::text, tgtype & 1 = 1,
                ARRAY(SELECT attname::text FROM pg_attribute
                       WHERE attrelid = tgrelid AND attnum = ANY (tgattr::int2[]) ORDER BY attname)
           FROM pg_trigger WHERE tgrelid = $1 AND tgname = $2 AND NOT tgisinternal",
        &[table.into(), name.into()],
        Mode::Fresh,
    );
    (!rows.is_empty()).then(|| Found {
        ours: rows.get(0, 1).unwrap_or_default(),
        state: rows.get(0, 2).unwrap_or_default(),
        level: if rows.get(0, 3).unwrap_or_default() { "ROW" } else { "STATEMENT" },
        columns: rows.get(0, 4).unwrap_or_default(),
    })
}

fn level(definition: &str) -> &'static str {
    if definition.contains("FOR EACH ROW") { "ROW" } else { "STATEMENT" }
}

/// `name` is quoted where it must be.
fn drop_trigger(session: &Session, name: &str) {
    session.run(&format!("DROP TRIGGER {name} ON auth.users"), &[], Mode::Fresh);
}

/// Whether the triggers are attached for replicated rows too: whoever attached one of them so wants them so.
fn is_always(session: &Session, auth: &Auth) -> bool {
    wanted(auth, false).iter().any(|trigger| {
        find(session, auth.table, trigger.name)
            .is_some_and(|found| found.ours && found.state == "A")
    })
}

/// What is wrong with the triggers, in words, and the call that puts it right; for `onagui.sync_health()`.
pub fn faults(session: &Session, auth: &Auth) -> (Vec<String>, &'static str) {
    let found = |name: &str| find(session, auth.table, name);
    let always = is_always(session, auth);
    let state = if always { "A" } else { "O" };
    let mut faults = Vec::new();
    for trigger in wanted(auth, always) {
        let name = trigger.name;
        match found(name) {
            None => faults.push(format!("trigger {name} on auth.users is missing")),
            Some(found) if !found.ours => {
                faults.push(format!("auth.users has a trigger {name} that is not the extension's"));
            }
            Some(found) if found.state == "D" => {
                faults.push(format!("trigger {name} on auth.users is disabled"));
            }
            Some(found) if found.state != state => faults.push(format!(
                "trigger {name} on auth.users does not fire for the same rows as the others"
            )),
            Some(found)
                if found.level != level(&trigger.definition)
                    || found.columns != trigger.columns =>
            {
                faults
                    .push(format!("trigger {name} on auth.users is not as enable_sync() makes it"));
            }
            Some(_) => {}
        }
    }
    (
        faults,
        if always {
            "SELECT onagui.enable_sync(p_always => true);"
        } else {
            "SELECT onagui.enable_sync();"
        },
    )
}
