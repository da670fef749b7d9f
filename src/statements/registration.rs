//! The statements of a registration. Each table is read and written as its owner.

use super::signup::Target;
use super::{email_key, has_cast};
use crate::catalog::House;
use crate::error::Error;
use crate::pg::{self, Arg, Mode, RowSet, connect};
use onagui_decide::registration::Wanted;
use pgrx::Uuid;
use pgrx::pg_sys::{JSONBOID, Oid};

/// Whether the role has installed the extension, or was itself given what only the installer gets: pg_upgrade and the
/// restore of a dump make somebody else the extension's owner.
pub fn is_installer(house: House, role: Oid) -> bool {
    pg::as_role(house.owner, || {
        connect(|session| {
            session
                .run(
                    // By the catalog: the schema may be closed to whom the server looks names up for.
                    "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'onagui_sync' AND extowner = $1)
                         OR EXISTS (SELECT FROM pg_extension e
                                      JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
                                           AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
                                      JOIN pg_proc p ON p.oid = d.objid
                                     CROSS JOIN LATERAL aclexplode(p.proacl) a
                                     WHERE e.extname = 'onagui_sync' AND p.proname = 'enable_sync' AND a.grantee = $1)",
                    &[role.into()],
                    Mode::Fresh,
                )
                .one()
        })
    })
    .unwrap_or(false)
}

/// The auth user with this id and e-mail, as the sign-up's trigger would get them.
pub fn auth_user(target: &Target, id: Uuid, email: &str) -> Result<RowSet, Error> {
    let table = target.auth.table;
    let sql = format!(
        "SELECT u, coalesce({} = nullif({}, ''), false)
           FROM ONLY auth.users u WHERE u.id = $1 AND NOT ({})",
        email_key(&target.auth.email("u")),
        email_key("$2"),
        target.deleted("u"),
    );
    pg::as_role(target.auth.owner, || {
        connect(|session| {
            let rows = session.run(&sql, &[id.into(), email.into()], Mode::Fresh);
            if rows.is_empty() {
                return Err(Error::NotAnAuthUser);
            }
            if !rows.get(0, 2).unwrap_or(false) {
                return Err(Error::NotTheirEmail);
            }
            Ok(RowSet::of_rows(&rows, table))
        })
    })
}

/// Sets username and metadata to what the body says, where it says so and the table has columns that take them. Answers whether that was
/// done: a trigger of the application may hold the row back. A row that has it all is left alone, so that a second call
/// fires no trigger.
pub fn set_as_given(target: &Target, id: Uuid, wanted: &Wanted) -> bool {
    let mut args: Vec<Arg> = vec![id.into()];
    let (mut sets, mut differences) = (Vec::new(), Vec::new());
    for (name, given) in [("username", &wanted.username), ("metadata", &wanted.metadata)] {
        let column = target.app.column(name).filter(|c| c.writable);
        // As at a sign-up: nothing is mapped to what it cannot become.
        let column = column.filter(|c| {
            name != "metadata"
                || c.is_string
                || c.base_oid == JSONBOID
                || pg::as_role(target.house.owner, || {
                    connect(|session| has_cast(session, JSONBOID, c.base_oid, Mode::Fresh))
                })
        });
        let (Some(column), Some(given)) = (column, given) else {
            continue;
        };
        args.push(given.as_str().into());
        let place = format!("${}", args.len());
        let value = match (name == "metadata", column.is_string) {
            (false, true) => place,
            (false, false) => format!("{place}::{}", column.kind),
            (true, true) => format!("{place}::jsonb::text"),
            (true, false) => format!("{place}::jsonb::{}", column.kind),
        };
        differences.push(format!("a.{name}::text IS DISTINCT FROM ({value})::text"));
        sets.push(format!("{name} = {value}"));
    }
    if sets.is_empty() {
        return true;
    }
    let table = format!("{}onagui.app_users a", target.app.only);
    let differs = format!("SELECT {} FROM {table} WHERE a.id = $1", differences.join(" OR "));
    let update = format!("UPDATE {table} SET {} WHERE a.id = $1", sets.join(", "));
    target.write(|session| {
        !session.run(&differs, &args, Mode::Fresh).one().unwrap_or(true)
            || session.run(&update, &args, Mode::Fresh).touched() == 1
    })
}

/// The app user's row as JSON text.
pub fn app_user(target: &Target, id: Uuid) -> Option<String> {
    let sql = format!(
        "SELECT to_jsonb(a)::text FROM {}onagui.app_users a WHERE a.id = $1",
        target.app.only
    );
    pg::as_role(target.app.owner, || {
        connect(|session| session.run(&sql, &[id.into()], Mode::Fresh).one())
    })
}

/// Whether another app user has this username, as the unique index on it compares.
pub fn has_username(target: &Target, username: &str, id: Uuid) -> bool {
    let Some(equal) = target.same_username("$1") else {
        return false;
    };
    let sql = format!(
        "SELECT EXISTS (SELECT FROM {}onagui.app_users a WHERE {equal} AND a.id <> $2)",
        target.app.only
    );
    pg::as_role(target.app.owner, || {
        connect(|session| {
            session.run(&sql, &[username.into(), id.into()], Mode::Fresh).one().unwrap_or_default()
        })
    })
}

/// Whether an index on app_users, by its name, is made of the username.
pub fn is_of_username(target: &Target, index: &str) -> bool {
    let sql = "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                                WHERE i.indrelid = $1 AND c.relname = $2 AND strpos(pg_get_indexdef(c.oid), 'username') > 0)";
    pg::as_role(target.house.owner, || {
        connect(|session| {
            let args = [target.app.table.into(), index.into()];
            session.run(sql, &args, Mode::Fresh).one().unwrap_or_default()
        })
    })
}

/// The answer of a call. `user` is JSON already.
pub fn answer(action: &str, user: &str) -> String {
    let message = match action {
        "created" => "User created successfully",
        "updated" => "User updated successfully",
        "linked" => "User linked successfully",
        _ => "User will be linked once the e-mail is confirmed",
    };
    format!(
        r#"{{"success": true, "message": "{message}", "data": {{"action": "{action}", "user": {user}}}}}"#
    )
}
