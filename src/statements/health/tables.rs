//! Version, tables, columns, mapping, and the index for the look-up by e-mail.

use super::remedies::remedy;
use super::{Report, count, literal, one_line, read};
use crate::catalog::{App, Auth, Column, House, Way, Ways};
use crate::error::{Error, Failure, GIVE_IDS};
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
    if !id_is_unique(session, &app, true) {
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
        match app.only.is_empty() && id_is_unique(session, &app, false) {
            // Users are synced even so.
            true => report.warn(
                "onagui.app_users.id is unique only together with other columns: nothing else keeps a second row with an id out",
                remedy,
            ),
            false => report.fail("onagui.app_users.id is neither primary key nor unique", remedy),
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
    for Required { column, is_lacking } in required(session, &auth, &app) {
        let Some(users) = some(session, "user", &Some(shut_out(&auth, &app, &is_lacking))) else {
            continue;
        };
        fits = false;
        let drop = drop_not_null(session, &app, &column);
        let column = quote(&column);
        let (what, who) = match column.as_str() {
            "email" => {
                ("an e-mail".to_owned(), "who signs up by phone or anonymously has no e-mail")
            }
            _ => (format!("a value for {column}"), "or SET DEFAULT ..."),
        };
        report.warn(
            format!(
                "auth.users has {users} without {what} who cannot have an app user: onagui.app_users.{column} is NOT NULL"
            ),
            format!("{drop} -- {who}; then fix_user_ids() makes their rows"),
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

/// A column that a new app user must have a value for.
pub struct Required {
    pub column: String,
    /// A condition on the row `n` of `auth.users`: there is no value in it.
    pub is_lacking: String,
}

/// The columns for which an auth user may lack the value, unless a BEFORE trigger gives them one. Only such whose source cannot
/// fail are looked at.
pub fn required(session: &Session, auth: &Auth, app: &App) -> Vec<Required> {
    let mut all = Vec::new();
    if app.demands_email() {
        all.push(Required { column: "email".into(), is_lacking: "n.email IS NULL".into() });
    }
    if app.changes_rows {
        return all;
    }
    let mapped = mapping::read(session, auth, app).into_iter();
    all.extend(
        mapped
            .filter(|m| !m.is_optional && m.is_string && m.name != "email")
            .map(|m| Required { is_lacking: format!("{} IS NULL", m.source()), column: m.name }),
    );
    all
}

/// Auth users for whom `is_lacking` holds, and who have no app row: no fix makes one.
pub fn shut_out(auth: &Auth, app: &App, is_lacking: &str) -> String {
    let is_deleted = if auth.has("deleted_at") { "n.deleted_at IS NOT NULL" } else { "false" };
    format!(
        "ONLY auth.users n WHERE ({is_lacking}) AND n.id IS NOT NULL AND NOT {is_deleted}
             AND NOT EXISTS (SELECT FROM {}onagui.app_users p WHERE p.id = n.id)",
        app.only
    )
}

/// Whether any of the values is missing.
pub fn any_is_lacking(required: &[Required]) -> Option<String> {
    let all: Vec<String> = required.iter().map(|r| format!("({})", r.is_lacking)).collect();
    (!all.is_empty()).then(|| all.join(" OR "))
}

/// Whether a key is of the id, `alone` or with others.
fn id_is_unique(session: &Session, app: &App, alone: bool) -> bool {
    read(
        session,
        "SELECT EXISTS (
            SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'id'
             WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
               AND CASE WHEN $2 THEN i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
                        ELSE a.attnum = ANY ((i.indkey::int2[])[0 : i.indnkeyatts - 1]) END)",
        &[app.table.into(), alone.into()],
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
