//! What makes `app_users` fit: the SQL against a table or a column that is missing or of another kind.

use super::{one_line, read};
use crate::catalog::Auth;
use crate::catalog::tables::{APP_USERS, AUTH_USERS};
use crate::error::{Error, MADE_BY_AUTH};
use crate::pg::Session;
use crate::statements::quote;

/// How many rows tell what a column holds.
const MANY: i64 = 1000;

pub fn remedy(session: &Session, error: &Error) -> String {
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
         ORDER BY EXISTS (SELECT FROM pg_index i
                           WHERE i.indrelid = c.conrelid AND i.indisunique AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum) DESC,
                  a.attnotnull DESC, a.attnum LIMIT 1";
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
