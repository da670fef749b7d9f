//! Version, tables, columns, mapping, and the index for the look-up by e-mail.

use super::{Report, count, literal, one_line, read};
use crate::catalog::tables::{APP_USERS, AUTH_USERS};
use crate::catalog::{App, Auth, Column, House, Way, Ways};
use crate::error::{Error, Failure, GIVE_IDS, MADE_BY_AUTH};
use crate::pg::{Mode, Session};
use crate::statements::mapping::{self, Source};
use crate::statements::quote;

/// Whether library and SQL are of the same version.
pub fn version(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let library = env!("CARGO_PKG_VERSION");
    let rows = read(
        session,
        "SELECT extversion, string_to_array(extversion, '.')::int[] < string_to_array($1, '.')::int[]
           FROM pg_extension WHERE extname = 'onagui_sync'",
        &[library.into()],
    );
    let sql: String = rows.one().unwrap_or_default();
    let detail = format!("the library is {library}, the SQL is {sql}");
    if sql == library {
        report.ok(format!("library and SQL are both {library}"));
    } else if rows.get(0, 2) == Some(true) {
        report.fail(detail, format!("ALTER EXTENSION onagui_sync UPDATE TO {};", literal(library)));
    } else {
        report.fail(
            detail,
            format!(
                "-- Open a new session: this one goes on with the older library. If a new one says the same, \
                 install the files of {sql}."
            ),
        );
    }
    Ok(())
}

/// Whether both tables are there, and a sign-up can make a row.
pub fn tables(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let auth = Auth::read(session).map_err(|error| misfit(session, report, error)).ok();
    let app = App::read(session).map_err(|error| misfit(session, report, error)).ok();
    let mut fits = auth.is_some() && app.is_some();
    let Some(app) = app else { return Ok(()) };
    if !id_is_unique(session, &app) {
        fits = false;
        // A key of a table with partitions has all of their columns in it.
        let remedy = match app.only {
            "" => "-- Partition onagui.app_users by id, or keep ids unique in the application.",
            _ if ids_repeat(session) => {
                "-- Some rows have the same id. Once each has its own: ALTER TABLE onagui.app_users ADD UNIQUE (id);\n\
                 SELECT id, count(*) FROM onagui.app_users WHERE id IS NOT NULL GROUP BY id HAVING count(*) > 1;"
            }
            _ => "ALTER TABLE onagui.app_users ADD UNIQUE (id);",
        };
        let detail = "onagui.app_users.id is neither primary key nor unique";
        match app.only {
            // Users are synced even so.
            "" => report.warn(detail, remedy),
            _ => report.fail(detail, remedy),
        }
    }
    if let Some(rows) = some(session, "row", &without_id(&app)) {
        fits = false;
        report.warn(
            format!("onagui.app_users has {rows} without an id, to which no sign-up can be linked"),
            GIVE_IDS,
        );
    }
    for column in app.columns.iter().filter(|c| is_written_always(c) && !c.writable) {
        fits = false;
        let name = quote(&column.name);
        report.fail(
            format!("onagui.app_users.{name} is generated: no sign-up can write it"),
            format!("ALTER TABLE onagui.app_users ALTER COLUMN {name} DROP EXPRESSION;"),
        );
    }
    let Some(auth) = auth else { return Ok(()) };
    let mapped = mapping::read(session, &auth, &app);
    let makers = read(session, MAKERS, &[app.table.into()]).one::<String>();
    for column in &app.columns {
        if is_in_the_way(column) && mapped.iter().all(|m| m.name != column.name) {
            fits = false;
            let name = quote(&column.name);
            let detail = format!(
                "onagui.app_users.{name} is NOT NULL, has no default, and nothing is mapped to it: no sign-up can make a row"
            );
            let others = format!(
                "\n-- or, where auth knows it of each new user: INSERT INTO onagui.sync_column VALUES ({}, 'app_meta', '...');\
                 \n-- or, where one value suits every new user: ALTER TABLE onagui.app_users ALTER COLUMN {} SET DEFAULT ...;",
                one_line(&literal(&column.name)),
                one_line(&name)
            );
            let drop = drop_not_null(session, &app, &column.name);
            match &makers {
                None => report.fail(detail, drop + &others),
                Some(makers) => report.warn(
                    format!("{detail}, unless a trigger sets it ({makers})"),
                    format!("-- If none does: {}{others}", one_line(&drop)),
                ),
            }
        }
    }
    if let Some(users) = some(session, "user", &shut_out(&auth, &app)) {
        fits = false;
        report.warn(
            format!(
                "auth.users has {users} without an e-mail who cannot have an app user: onagui.app_users.email is NOT NULL"
            ),
            format!(
                "{} -- who signs up by phone or anonymously has no e-mail; then fix_user_ids() makes their rows",
                drop_not_null(session, &app, "email")
            ),
        );
    }
    if fits {
        report.ok("auth.users and onagui.app_users have what is needed");
    }
    Ok(())
}

/// Triggers that may fill in a new row. The bits of tgtype are those of src/include/catalog/pg_trigger.h.
const MAKERS: &str = "
    SELECT string_agg(t.tgname, ', ' ORDER BY t.tgname) FROM pg_trigger t
     WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 7 = 7";

fn drop_not_null(session: &Session, app: &App, column: &str) -> String {
    let name = quote(column);
    let drop = format!("ALTER TABLE onagui.app_users ALTER COLUMN {name} DROP NOT NULL;");
    let is_in_key = read(
        session,
        "SELECT EXISTS (
            SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
             WHERE i.indrelid = $1 AND (i.indisprimary OR i.indisreplident) AND a.attname = $2)",
        &[app.table.into(), column.into()],
    );
    match is_in_key.one() {
        Some(true) => one_line(&format!(
            "-- {name} is of the primary key, or of the replica identity. Once that is another: {drop}"
        )),
        _ => drop,
    }
}

fn is_in_the_way(column: &Column) -> bool {
    column.not_null && column.default.is_none() && column.writable && !is_written_always(column)
}

fn is_written_always(column: &Column) -> bool {
    matches!(column.name.as_str(), "id" | "email")
}

/// Tells what is wrong with a table, and the SQL against it.
fn misfit(session: &Session, report: &mut Report, error: Error) {
    let remedy = remedy(session, &error);
    let is_missing = matches!(error, Error::TableMissing { .. } | Error::ColumnMissing { .. });
    let Failure { message, detail, .. } = error.into();
    match detail {
        Some(detail) if !is_missing => report.fail(format!("{message}. {detail}"), remedy),
        _ => report.fail(message, remedy),
    }
}

fn remedy(session: &Session, error: &Error) -> String {
    match error {
        Error::TableMissing { table } if *table == APP_USERS => {
            "-- Where there is a table of users already, it can become this one (README). Else:\n\
             SELECT onagui.create_app_users();"
                .into()
        }
        Error::TableMissing { .. } => {
            "-- Start the Auth server once, it makes the table. Then: SELECT onagui.enable_sync();"
                .into()
        }
        Error::NotATable { table, kind } => match *kind {
            // To put it away is to put away the users, who are somewhere behind it.
            "view" | "materialized view" | "foreign table" => format!(
                "-- The table with the users is to be here (README: where there is a table of users already). To begin with an \
                 empty one, in which the application sees nobody: ALTER {} {table} RENAME TO app_users_old; SELECT \
                 onagui.create_app_users();",
                kind.to_uppercase()
            ),
            "sequence" => format!(
                "ALTER SEQUENCE {table} RENAME TO app_users_old; SELECT onagui.create_app_users();"
            ),
            _ => format!("-- Rename {table}, then: SELECT onagui.create_app_users();"),
        },
        Error::AuthNotOrdinary { .. } => {
            "-- Make it an ordinary table, as the Auth server does. Then: SELECT onagui.enable_sync();"
                .into()
        }
        Error::ColumnMissing { table, column } => match (*table, *column) {
            (AUTH_USERS, _) => format!("-- {MADE_BY_AUTH}"),
            (_, "id") => make_id(session),
            _ => make_email(session),
        },
        Error::ColumnUnfit { table, column, found, .. } => match (*table, *column) {
            (AUTH_USERS, _) => format!("-- {MADE_BY_AUTH}"),
            (_, "id") if !is_text(found) => format!(
                "-- {} cannot become uuid. Rename the column, then: {}",
                one_line(found),
                one_line(&make_id(session))
            ),
            (_, "id") => turn_id(session),
            _ => format!("ALTER TABLE {table} ALTER COLUMN email TYPE text USING email::text;"),
        },
        _ => String::new(),
    }
}

/// A text id that holds uuids becomes one. What the server does not let follow is for a person, and so are ids of another kind.
fn turn_id(session: &Session) -> String {
    let sql = "SELECT EXISTS (SELECT FROM onagui.app_users a
                               WHERE a.id::text !~* '^[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}$')";
    if read(session, sql, &[]).one() == Some(true) {
        return format!(
            "-- Not all ids are uuids. Rename the column, then: {}",
            one_line(&make_id(session))
        );
    }
    let sql = "SELECT pg_get_expr(d.adbin, d.adrelid),
                      (SELECT string_agg(DISTINCT pg_describe_object(p.classid, p.objid, p.objsubid), ', ')
                         FROM pg_depend p
                        WHERE p.refclassid = 'pg_class'::regclass AND p.refobjid = a.attrelid AND p.refobjsubid = a.attnum
                          AND CASE p.classid
                                   -- Keys and indexes of the plain column follow.
                                   WHEN 'pg_constraint'::regclass THEN EXISTS (
                                        SELECT FROM pg_constraint k WHERE k.oid = p.objid AND k.contype NOT IN ('p', 'u', 'n'))
                                   WHEN 'pg_class'::regclass THEN EXISTS (
                                        SELECT FROM pg_index i JOIN pg_opclass o ON o.oid = ANY (i.indclass)
                                         WHERE i.indexrelid = p.objid
                                           AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL OR NOT o.opcdefault))
                                   WHEN 'pg_attrdef'::regclass THEN p.objid IS DISTINCT FROM d.oid
                                   ELSE true END)
                 FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                WHERE a.attrelid = 'onagui.app_users'::regclass AND a.attname = 'id'";
    let found = read(session, sql, &[]);
    let (default, hanging): (Option<String>, Option<String>) = (found.get(0, 1), found.get(0, 2));
    let turn = "ALTER COLUMN id TYPE uuid USING id::text::uuid";
    let turn = match default {
        None => format!("ALTER TABLE {APP_USERS} {turn};"),
        Some(default) if default.contains("uuid") => format!(
            "ALTER TABLE {APP_USERS} ALTER COLUMN id DROP DEFAULT, {turn}, ALTER COLUMN id SET DEFAULT gen_random_uuid();"
        ),
        Some(_) => format!("ALTER TABLE {APP_USERS} ALTER COLUMN id DROP DEFAULT, {turn};"),
    };
    match hanging {
        None => turn,
        Some(what) => one_line(&format!(
            "-- In one transaction drop {what}; then {turn} the same for the columns that refer to it; and make anew what was dropped."
        )),
    }
}

/// A column by which the rows are auth's users already, or else a key of the application's own under another name, is the id.
/// Where there is none each row gets one: nobody can be linked to a row without.
fn make_id(session: &Session) -> String {
    if let Some(column) = auths_id(session) {
        return rename(&column, "id");
    }
    // What is unique but not the primary key may be a secret, or somebody else's id.
    let key = read(
        session,
        "SELECT k.name
           FROM (SELECT a.attname::text AS name, bool_or(i.indisprimary) AS is_primary
                   FROM pg_index i
                   JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                  WHERE i.indrelid = 'onagui.app_users'::regclass AND i.indisunique AND i.indisvalid AND i.indimmediate
                    AND i.indpred IS NULL AND i.indnkeyatts = 1 AND a.attnotnull AND a.atttypid = 'uuid'::regtype
                  GROUP BY a.attname) k
          WHERE k.is_primary OR k.name ~* '^(app[-_ ]?)?(users?[-_ ]?)?u{0,2}id$'
          ORDER BY k.is_primary DESC LIMIT 1",
        &[],
    );
    if let Some(key) = key.one::<String>() {
        return rename(&key, "id");
    }
    let is_partitioned =
        "SELECT c.relkind = 'p' FROM pg_class c WHERE c.oid = 'onagui.app_users'::regclass";
    let unique = match read(session, is_partitioned, &[]).one() {
        Some(true) => "",
        _ => " UNIQUE",
    };
    format!(
        "ALTER TABLE {APP_USERS} ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid(){unique};"
    )
}

/// The column that refers to auth's users, or in which most rows have the id of one.
fn auths_id(session: &Session) -> Option<String> {
    const REFERRING: &str = "
        SELECT a.attname::text
          FROM pg_constraint c
          JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
          JOIN pg_attribute k ON k.attrelid = c.confrelid AND k.attnum = c.confkey[1] AND k.attname = 'id'
         WHERE c.contype = 'f' AND c.conrelid = 'onagui.app_users'::regclass AND cardinality(c.conkey) = 1
           AND c.confrelid = $1 AND a.attname <> 'id'
         ORDER BY a.attnotnull DESC, a.attnum LIMIT 1";
    const UUIDS: &str = "
        SELECT a.attname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
         WHERE a.attrelid = 'onagui.app_users'::regclass AND a.attnum > 0 AND NOT a.attisdropped
           AND (a.atttypid = 'uuid'::regtype OR t.typcategory = 'S') AND a.attname <> 'id'
         ORDER BY a.attnum";
    let auth = Auth::find()?;
    if let Some(column) = read(session, REFERRING, &[auth.into()]).one() {
        return Some(column);
    }
    let holds_ids = |column: &String| {
        let sql = format!(
            "SELECT count(u.id) * 2 > count(*)
               FROM (SELECT CASE WHEN a.{column}::text ~* '^[0-9a-f]{{8}}(-?[0-9a-f]{{4}}){{3}}-?[0-9a-f]{{12}}$'
                                 THEN a.{column}::text::uuid END AS id
                       FROM onagui.app_users a WHERE a.{column} IS NOT NULL LIMIT {MANY}) held
               LEFT JOIN ONLY auth.users u ON u.id = held.id",
            column = quote(column)
        );
        read(session, &sql, &[]).one() == Some(true)
    };
    read(session, UUIDS, &[]).column::<String>().into_iter().find(holds_ids)
}

fn make_email(session: &Session) -> String {
    let email = read(
        session,
        "SELECT e.name
           FROM (SELECT a.attname::text AS name, count(*) OVER () AS emails
                   FROM pg_attribute a
                   JOIN pg_type t ON t.oid = a.atttypid AND t.typcategory = 'S'
                  WHERE a.attrelid = 'onagui.app_users'::regclass AND a.attnum > 0 AND NOT a.attisdropped
                    AND a.attgenerated = ''
                    AND a.attname ~* '^(user[-_ ]?)?(e[-_ ]?)?mail([-_ ]?addr(ess)?)?$') e
          WHERE e.emails = 1",
        &[],
    );
    match email.one::<String>() {
        Some(email) => rename(&email, "email"),
        None => {
            const MAYBE: &str = "
                SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
                  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid AND t.typcategory = 'S'
                 WHERE a.attrelid = 'onagui.app_users'::regclass AND a.attnum > 0 AND NOT a.attisdropped
                   AND a.attname ~* 'mail|login'";
            let add = format!("ALTER TABLE {APP_USERS} ADD COLUMN email text;");
            match read(session, MAYBE, &[]).one::<String>() {
                None => add,
                // Without the e-mails they have, everybody would get a second row.
                Some(columns) => one_line(&format!(
                    "-- Is it one of {columns}? Then: ALTER TABLE {APP_USERS} RENAME COLUMN ... TO email; If none is: {add}"
                )),
            }
        }
    }
}

fn rename(column: &str, to: &str) -> String {
    let column = quote(column);
    format!(
        "ALTER TABLE {APP_USERS} RENAME COLUMN {column} TO {to}; -- the application's queries must follow"
    )
}

/// Whether texts of this type may hold uuids.
fn is_text(kind: &str) -> bool {
    kind == "text" || kind.starts_with("character") || kind.ends_with("citext")
}

fn ids_repeat(session: &Session) -> bool {
    let sql = "SELECT EXISTS (SELECT FROM ONLY onagui.app_users a WHERE a.id IS NOT NULL GROUP BY a.id HAVING count(*) > 1)";
    read(session, sql, &[]).one().unwrap_or_default()
}

/// The rows of `from`, counted in words; None where there are none. More than tell how it stands are not waited for.
fn some(session: &Session, one: &str, from: &Option<String>) -> Option<String> {
    let sql = format!("SELECT count(*) FROM (SELECT FROM {} LIMIT {MANY} + 1) s", from.as_ref()?);
    match read(session, &sql, &[]).one().unwrap_or_default() {
        0 => None,
        n if n > MANY => Some(format!("more than {}", count(MANY, one))),
        n => Some(count(n, one)),
    }
}

const MANY: i64 = 1000;

/// App users whose id is missing, where it may be.
fn without_id(app: &App) -> Option<String> {
    app.column("id").filter(|c| !c.not_null && c.writable)?;
    Some(format!("{}onagui.app_users a WHERE a.id IS NULL", app.only))
}

/// Auth users whose rows no fix makes, for want of the e-mail that app users must have.
pub fn shut_out(auth: &Auth, app: &App) -> Option<String> {
    if !app.demands_email() {
        return None;
    }
    let is_deleted = if auth.has("deleted_at") { "u.deleted_at IS NOT NULL" } else { "false" };
    Some(format!(
        "ONLY auth.users u WHERE u.email IS NULL AND u.id IS NOT NULL AND NOT {is_deleted}
             AND NOT EXISTS (SELECT FROM {}onagui.app_users p WHERE p.id = u.id)",
        app.only
    ))
}

fn id_is_unique(session: &Session, app: &App) -> bool {
    read(
        session,
        "SELECT EXISTS (
            SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'id'
             WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
               AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)",
        &[app.table.into()],
    )
    .one()
    .unwrap_or_default()
}

/// Rows of `onagui.sync_column` that come to nothing.
pub fn mapping(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let auth = Auth::read(session)?;
    let app = App::read(session)?;
    let mut fits = true;
    for Source { app_column, source, key } in mapping::of_application(session, Mode::Read) {
        let from = match source.as_str() {
            "column" => key.unwrap_or_default(),
            "user_meta" => "raw_user_meta_data".to_owned(),
            _ => "raw_app_meta_data".to_owned(),
        };
        let column = app.column(&app_column);
        let fault = if column.is_none() {
            format!("onagui.app_users has no column {app_column}")
        } else if !auth.has(&from) {
            format!("auth.users has no column {from}, from which {app_column} is to be filled")
        } else if column.is_some_and(|c| !c.writable) {
            format!("onagui.app_users.{app_column} is generated and cannot be filled")
        } else {
            continue;
        };
        fits = false;
        report.warn(
            format!("a row of onagui.sync_column has no effect: {fault}"),
            format!("DELETE FROM onagui.sync_column WHERE app_column = {};", literal(&app_column)),
        );
    }
    if fits {
        report.ok("every row of onagui.sync_column has an effect");
    }
    Ok(())
}

/// The index that finds a user by e-mail, on either side.
pub fn email_index(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let auth = Auth::read(session)?;
    let app = App::read(session)?;
    let ways = Ways::read(session, &auth, &app);
    let key = |columns: &[Column], as_default: bool| {
        let is_text = columns.iter().any(|c| c.name == "email" && c.base == "text");
        let cast = if is_text { "" } else { "::text" };
        let collation = if as_default { " COLLATE \"default\"" } else { "" };
        format!("lower(btrim(email{cast}{collation}))")
    };
    if ways.app == Way::Key {
        report.ok("onagui.app_users has an index on the e-mail");
    } else {
        let key = key(&app.columns, app.has_loose_collation());
        let drop = invalid_indexes(session, &app, &key);
        // A table with partitions takes neither CONCURRENTLY nor a unique index without its partition key.
        let create = match app.only {
            "" => "CREATE INDEX".to_owned(),
            _ if emails_repeat(session, &app) => "CREATE INDEX CONCURRENTLY".to_owned(),
            _ => "CREATE UNIQUE INDEX CONCURRENTLY".to_owned(),
        };
        report.warn(
            "onagui.app_users has no index on the e-mail as it is looked up: each look-up reads the whole table",
            format!("{drop}{create} ON onagui.app_users ({key});"),
        );
    }
    if ways.auth == Way::Scan {
        report.warn(
            "auth.users has no index by which an e-mail can be looked up, neither the Auth server's on (instance_id, \
             lower(email)) nor another",
            format!("CREATE INDEX CONCURRENTLY ON auth.users ({});", key(&auth.columns, auth.has_own_collation())),
        );
    } else {
        report.ok("auth.users has an index on the e-mail");
    }
    Ok(())
}

/// What a CREATE INDEX CONCURRENTLY that failed has left.
fn invalid_indexes(session: &Session, app: &App, key: &str) -> String {
    read(
        session,
        "SELECT coalesce(string_agg(format('DROP INDEX %s; ', i.indexrelid::regclass), ''), '')
           FROM pg_index i
          WHERE i.indrelid = $1 AND NOT i.indisvalid AND pg_get_indexdef(i.indexrelid, 1, true) = $2",
        &[app.table.into(), key.into()],
    )
    .one()
    .unwrap_or_default()
}

fn emails_repeat(session: &Session, app: &App) -> bool {
    let key = crate::statements::email_key(&app.email("a"));
    let sql = format!(
        "SELECT EXISTS (SELECT FROM {}onagui.app_users a WHERE a.email IS NOT NULL GROUP BY {key} HAVING count(*) > 1)",
        app.only
    );
    read(session, &sql, &[]).one().unwrap_or_default()
}
