//! The extension's own tables, `auth.users` and `onagui.app_users` as they are now.

use super::code::{read_changes_rows, read_runs_code};
use crate::error::Error;
use crate::pg::{self, Guarded, Mode, Session};
use pgrx::pg_sys::Oid;

/// The extension's own tables, and the role that owns them.
#[derive(Clone, Copy)]
pub struct House {
    pub owner: Guarded,
}

impl House {
    pub fn find() -> Result<Self, Error> {
        let log = pg::table_named(c"onagui", c"sync_audit_log").ok_or(Error::NotWhole)?;
        Ok(House { owner: Guarded(pg::owner_of(log).ok_or(Error::NotWhole)?) })
    }
}

/// A column, as far as writing to it goes.
#[derive(Clone)]
pub struct Column {
    pub name: String,
    /// The type as SQL writes it, modifier included.
    pub kind: String,
    /// The type below any domain: its name, with the schema where it is neither the server's nor citext.
    pub base: String,
    pub base_oid: Oid,
    /// It is a string type, which only a superuser can have made.
    pub is_string: bool,
    /// Nobody but a superuser can have made the type, so no cast from it runs anybody else's code.
    pub is_trusted: bool,
    /// The most characters a string column takes, where it says so.
    pub longest: Option<usize>,
    pub default: Option<String>,
    pub not_null: bool,
    /// False for generated columns and identity columns GENERATED ALWAYS.
    pub writable: bool,
    pub collation: Collation,
}

/// How a column compares texts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Collation {
    /// As the database does, or the type has none.
    Default,
    Other,
    /// Texts that differ may be equal.
    Nondeterministic,
}

impl Column {
    pub fn is_json(&self) -> bool {
        self.base == "jsonb" || self.base == "json"
    }
}

/// `auth.users`.
pub struct Auth {
    pub table: Oid,
    pub owner: Oid,
    pub columns: Vec<Column>,
}

/// How a unique index on the username compares.
#[derive(Clone)]
pub enum Fold {
    /// With this operator, `OPERATOR(schema.=)`.
    Column { operator: String },
    /// By `lower(username)`.
    Lower,
}

/// `onagui.app_users`.
pub struct App {
    pub table: Oid,
    pub owner: Oid,
    pub columns: Vec<Column>,
    /// A unique index makes a second row with the same e-mail impossible.
    pub email_is_unique: bool,
    pub username_is_unique: Option<Fold>,
    /// `ONLY` for an ordinary table, so that inheritance children are left out; nothing for a partitioned one.
    pub only: &'static str,
    /// An INSERT may run code that is not the server's own.
    pub runs_code: bool,
    /// A BEFORE trigger may change the row that is inserted.
    pub changes_rows: bool,
    /// What stands for the e-mail of those who have none, where the column must have one.
    pub default_email: Option<String>,
}

pub const AUTH_USERS: &str = "auth.users";
pub const APP_USERS: &str = "onagui.app_users";

/// Keeps both tables, where they are there, from being dropped, renamed or altered until the transaction ends. Whoever does so is
/// waited for, and what is learnt afterwards is of the tables that are read then.
pub fn hold() {
    for (schema, name) in [(c"auth", c"users"), (c"onagui", c"app_users")] {
        pg::lock_named(schema, name);
    }
}

impl Auth {
    pub fn find() -> Option<Oid> {
        pg::table_named(c"auth", c"users")
    }

    pub fn read(session: &Session) -> Result<Self, Error> {
        let table = Self::find().ok_or(Error::TableMissing { table: AUTH_USERS })?;
        // Nothing is looked up below it: the users of partitions would be unknown, and their app rows anybody's to link.
        match relkind(session, table).as_str() {
            "r" => {}
            "" => return Err(Error::NotInSnapshot { table: AUTH_USERS }),
            kind => return Err(Error::AuthNotOrdinary { kind: kind_name(kind) }),
        }
        let columns = read_columns(session, table);
        check_columns(AUTH_USERS, &columns)?;
        let owner = pg::owner_of(table).ok_or(Error::TableMissing { table: AUTH_USERS })?;
        Ok(Auth { table, owner, columns })
    }

    /// The e-mail of the row `row` as text that compares as the database does: two tables with collations of their own
    /// could not be compared.
    pub fn email(&self, row: &str) -> String {
        email_text(row, self.has_own_collation())
    }

    /// The e-mail has a collation of its own, by which it need not compare as other texts do.
    pub fn has_own_collation(&self) -> bool {
        self.column("email").is_some_and(|c| c.collation != Collation::Default)
    }

    pub fn has(&self, column: &str) -> bool {
        self.column(column).is_some()
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }
}

impl App {
    pub fn find() -> Option<Oid> {
        pg::table_named(c"onagui", c"app_users")
    }

    pub fn read(session: &Session) -> Result<Self, Error> {
        let table = Self::find().ok_or(Error::TableMissing { table: APP_USERS })?;
        let owner = pg::owner_of(table).ok_or(Error::TableMissing { table: APP_USERS })?;
        let (only, columns) = Self::check(session)?;
        let mut app = App {
            table,
            owner,
            columns,
            email_is_unique: false,
            username_is_unique: read_username_index(session, table),
            only,
            runs_code: read_runs_code(session, table),
            changes_rows: read_changes_rows(session, table),
            default_email: None,
        };
        app.default_email = read_default_email(session, &app);
        app.email_is_unique = read_email_is_unique(session, table, app.has_loose_collation());
        Ok(app)
    }

    /// Fails where `onagui.app_users` is nothing to write users to.
    pub fn check(session: &Session) -> Result<(&'static str, Vec<Column>), Error> {
        let table = Self::find().ok_or(Error::TableMissing { table: APP_USERS })?;
        let kind = relkind(session, table);
        let only = match kind.as_str() {
            "r" => "ONLY ",
            "p" => "",
            "" => return Err(Error::NotInSnapshot { table: APP_USERS }),
            _ => {
                return Err(Error::NotATable { table: APP_USERS, kind: kind_name(&kind) });
            }
        };
        let columns = read_columns(session, table);
        check_columns(APP_USERS, &columns)?;
        Ok((only, columns))
    }

    /// The e-mail of the row `row` as text that compares letter for letter: addresses that differ by more than case are
    /// two people's, whatever the application's collation makes of them.
    pub fn email(&self, row: &str) -> String {
        email_text(row, self.has_loose_collation())
    }

    /// No row can be made for who has no e-mail, unless a BEFORE trigger gives them one.
    pub fn demands_email(&self) -> bool {
        let not_null = self.column("email").is_some_and(|c| c.not_null);
        not_null && self.default_email.is_none() && !self.changes_rows
    }

    /// To the e-mail's collation texts that differ may be equal.
    pub fn has_loose_collation(&self) -> bool {
        self.column("email").is_some_and(|c| c.collation == Collation::Nondeterministic)
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }
}

fn email_text(row: &str, as_default: bool) -> String {
    match as_default {
        true => format!("({row}.email::text COLLATE pg_catalog.\"default\")"),
        false => format!("{row}.email::text"),
    }
}

/// Whether an index's expression is the look-up key of an e-mail.
pub fn is_email_key(expression: &str, as_default: bool) -> bool {
    let email = expression.strip_prefix("lower(btrim(").and_then(|rest| rest.strip_suffix("))"));
    let email = match as_default {
        true => email.and_then(|email| email.strip_suffix(" COLLATE \"default\"")),
        false => email,
    };
    matches!(email, Some("email" | "email::text"))
}

/// Empty where this transaction does not see the table.
fn relkind(session: &Session, table: Oid) -> String {
    session
        .run("SELECT relkind::text FROM pg_class WHERE oid = $1", &[table.into()], Mode::Fresh)
        .one()
        .unwrap_or_default()
}

fn kind_name(relkind: &str) -> &'static str {
    match relkind {
        "p" => "partitioned table",
        "v" => "view",
        "m" => "materialized view",
        "f" => "foreign table",
        "S" => "sequence",
        "c" => "composite type",
        _ => "relation of another kind",
    }
}

const COLUMNS: &str = "
    SELECT a.attname::text,
           pg_catalog.format_type(a.atttypid, a.atttypmod),
           base.name,
           base.is_string,
           CASE WHEN base.name IN ('varchar', 'bpchar') AND base.modifier > 4 THEN base.modifier - 4
                WHEN base.name = 'name' THEN 63 END,
           CASE WHEN a.attidentity = 'd'
                THEN pg_catalog.format('nextval(%L::regclass)',
                     pg_catalog.pg_get_serial_sequence(a.attrelid::pg_catalog.regclass::text, a.attname))
                WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(coalesce(d.adbin, own.typdefaultbin), 0) END,
           a.attnotnull,
           a.attgenerated = '' AND a.attidentity <> 'a',
           base.oid,
           base.is_trusted,
           CASE WHEN a.attcollation IN (0, 'pg_catalog.default'::pg_catalog.regcollation) THEN 'default'
                WHEN (SELECT c.collisdeterministic FROM pg_catalog.pg_collation c WHERE c.oid = a.attcollation) THEN 'other'
                ELSE 'nondeterministic' END
      FROM pg_catalog.pg_attribute a
      -- A domain's default is its own: CREATE DOMAIN has copied that of the domain below.
      JOIN pg_catalog.pg_type own ON own.oid = a.atttypid
      LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      CROSS JOIN LATERAL (
            WITH RECURSIVE below(oid, modifier) AS (
                SELECT a.atttypid, a.atttypmod
                UNION ALL
                SELECT t.typbasetype, CASE WHEN t.typtypmod <> -1 THEN t.typtypmod ELSE below.modifier END
                  FROM below JOIN pg_catalog.pg_type t ON t.oid = below.oid
                 WHERE t.typtype = 'd'
            )
            SELECT CASE WHEN t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace
                             OR t.typname = 'citext' AND t.typtype = 'b' AND t.typcategory = 'S'
                        THEN t.typname::text
                        ELSE pg_catalog.format_type(t.oid, NULL) END AS name,
                   t.oid, below.modifier,
                   t.typtype = 'b' AND t.typcategory = 'S' AS is_string,
                   t.typtype = 'b' AND (t.typelem = 0 OR t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace)
                   AS is_trusted
              FROM below JOIN pg_catalog.pg_type t ON t.oid = below.oid
             WHERE t.typtype <> 'd') base
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum";

fn read_columns(session: &Session, table: Oid) -> Vec<Column> {
    let rows = session.run(COLUMNS, &[table.into()], Mode::Fresh);
    (0..rows.len())
        .map(|row| Column {
            name: rows.get(row, 1).unwrap_or_default(),
            kind: rows.get(row, 2).unwrap_or_default(),
            base: rows.get(row, 3).unwrap_or_default(),
            is_string: rows.get(row, 4).unwrap_or_default(),
            longest: rows.get::<i32>(row, 5).map(|n| n as usize),
            default: rows.get(row, 6),
            not_null: rows.get(row, 7).unwrap_or_default(),
            writable: rows.get(row, 8).unwrap_or_default(),
            base_oid: rows.get(row, 9).unwrap_or(pgrx::pg_sys::InvalidOid),
            is_trusted: rows.get(row, 10).unwrap_or_default(),
            collation: match rows.get::<String>(row, 11).as_deref() {
                Some("nondeterministic") => Collation::Nondeterministic,
                Some("other") => Collation::Other,
                _ => Collation::Default,
            },
        })
        .collect()
}

/// Only base types can be trusted with a comparison that runs with the extension's rights: nobody but a superuser can
/// create one. A cast from a type of somebody's own could run their code.
fn check_columns(table: &'static str, columns: &[Column]) -> Result<(), Error> {
    let find = |column: &'static str| {
        columns.iter().find(|c| c.name == column).ok_or(Error::ColumnMissing { table, column })
    };
    let id = find("id")?;
    if id.base != "uuid" {
        let found = id.kind.clone();
        return Err(Error::ColumnUnfit { table, column: "id", found, wanted: "uuid" });
    }
    let email = find("email")?;
    if !email.is_string {
        let found = email.kind.clone();
        return Err(Error::ColumnUnfit {
            table,
            column: "email",
            found,
            wanted: "text, varchar or citext",
        });
    }
    Ok(())
}

/// Whether a unique index on the look-up key makes a second row with the same e-mail impossible.
fn read_email_is_unique(session: &Session, table: Oid, as_default: bool) -> bool {
    session
        .run(
            "SELECT pg_catalog.pg_get_indexdef(i.indexrelid, 1, true)
               FROM pg_catalog.pg_index i
              WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indisready
                AND i.indpred IS NULL AND i.indnkeyatts = 1",
            &[table.into()],
            Mode::Fresh,
        )
        .column::<String>()
        .iter()
        .any(|expression| is_email_key(expression, as_default))
}

/// None where only one user could have it: the same for everybody, in a unique index of e-mails alone that takes it in.
fn read_default_email(session: &Session, app: &App) -> Option<String> {
    // A default that is made, by whatever is called, is told by a parenthesis that belongs to no literal and no type.
    const IS_ONE_USERS: &str = "
        SELECT regexp_replace(regexp_replace($2, '''[^'']*''', '', 'g'), '::[a-z\" ]+([(][0-9, ]+[)])?', '', 'g') !~ '[(]'
               AND EXISTS (
                   SELECT FROM pg_catalog.pg_index i
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'email'
                    CROSS JOIN LATERAL (
                          SELECT bool_or(d.refobjsubid = a.attnum) AS email, bool_or(d.refobjsubid <> a.attnum) AS others
                            FROM pg_catalog.pg_depend d
                           WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = i.indexrelid
                             AND d.refclassid = d.classid AND d.refobjid = i.indrelid AND d.refobjsubid <> 0) made_of
                    WHERE i.indrelid = $1 AND i.indisunique AND i.indnkeyatts = 1
                      AND (i.indkey[0] = a.attnum
                           OR i.indkey[0] = 0 AND made_of.email AND (i.indpred IS NOT NULL OR NOT made_of.others))
                      AND coalesce(pg_catalog.pg_get_expr(i.indpred, i.indrelid) !~ '[[:<:]]email[[:>:]]', true))";
    let default = app.column("email").filter(|c| c.not_null)?.default.clone()?;
    let args = [app.table.into(), default.clone().into()];
    let is_one_users = session.run(IS_ONE_USERS, &args, Mode::Fresh).one() == Some(true);
    (!is_one_users).then_some(default)
}

fn read_username_index(session: &Session, table: Oid) -> Option<Fold> {
    let rows = session.run(
        "SELECT i.indkey[0] <> 0,
                pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname)
           FROM pg_catalog.pg_index i
           JOIN pg_catalog.pg_opclass c ON c.oid = i.indclass[0]
           JOIN pg_catalog.pg_amop p ON p.amopfamily = c.opcfamily AND p.amopstrategy = 3
                AND p.amoplefttype = c.opcintype AND p.amoprighttype = c.opcintype
           JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr
           JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
          WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 1
            AND pg_catalog.pg_get_indexdef(i.indexrelid, 1, true)
                IN ('username', 'lower(username)', 'lower(username::text)')
          ORDER BY i.indkey[0] <> 0 LIMIT 1",
        &[table.into()],
        Mode::Fresh,
    );
    if rows.is_empty() {
        return None;
    }
    if rows.get(0, 1).unwrap_or_default() {
        rows.get(0, 2).map(|operator| Fold::Column { operator })
    } else {
        Some(Fold::Lower)
    }
}
