//! Every error a person can cause: SQLSTATE, message, DETAIL and HINT. The only place that words them.

/// An error as the server reports it.
#[derive(Clone, Debug, Default)]
pub struct Failure {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
}

impl Failure {
    /// No error of the server's has this code.
    const REHEARSAL: &str = "OS000";

    /// Whether this is the end of a rehearsal and not an error.
    pub fn is_rehearsal(&self) -> bool {
        self.sqlstate == Self::REHEARSAL
    }

    /// For the audit log and for `details.error`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "sqlstate": self.sqlstate,
            "message": self.message,
            "detail": self.detail,
            "hint": self.hint,
        })
    }
}

#[derive(Debug)]
pub enum Error {
    NotATrigger,
    NotAfter,
    NotForEachRow,
    NoTransitionTable,
    WrongTable {
        table: String,
    },
    TableMissing {
        table: &'static str,
    },
    ColumnMissing {
        table: &'static str,
        column: &'static str,
    },
    ColumnUnfit {
        table: &'static str,
        column: &'static str,
        found: String,
        wanted: &'static str,
    },
    NotATable {
        table: &'static str,
        kind: &'static str,
    },
    NotWhole,
    /// A trigger or rule of the application kept rows from being written, without an error.
    RowsDiscarded {
        wanted: u64,
        written: u64,
    },
    MayNotCreate {
        role: String,
    },
    TriggerNameTaken {
        name: &'static str,
    },
    UnknownStatus {
        found: String,
    },
    NegativeLimit {
        limit: i64,
    },
    /// Ends a subtransaction whose work was only tried.
    Rehearsed,
    /// An error that was caught and is passed on as it came.
    Raised(Box<Failure>),
}

impl From<Box<Failure>> for Error {
    fn from(failure: Box<Failure>) -> Self {
        Error::Raised(failure)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (sqlstate, message, detail, hint): (&str, String, String, String) = match error {
            Error::Raised(failure) => return *failure,
            Error::NotATrigger => (
                "39P01",
                "sync_auth_user_to_app_users() was not called by a trigger".into(),
                "It was called as an ordinary function.".into(),
                "SELECT onagui.enable_sync(); attaches it to auth.users.".into(),
            ),
            Error::NotAfter => (
                "39P01",
                "sync_auth_user_to_app_users() must be fired AFTER the change".into(),
                "The trigger is a BEFORE or INSTEAD OF trigger.".into(),
                "Drop the trigger, then SELECT onagui.enable_sync(); attaches the right ones.".into(),
            ),
            Error::NotForEachRow => (
                "39P01",
                "sync_auth_user_to_app_users() must be fired for each row on UPDATE".into(),
                "The trigger is a FOR EACH STATEMENT trigger.".into(),
                "Drop the trigger, then SELECT onagui.enable_sync(); attaches the right ones.".into(),
            ),
            Error::NoTransitionTable => (
                "39P01",
                "sync_auth_user_to_app_users() needs a transition table".into(),
                "The statement trigger has no REFERENCING clause.".into(),
                "Drop the trigger, then SELECT onagui.enable_sync(); attaches the right ones.".into(),
            ),
            Error::WrongTable { table } => (
                "39P01",
                "sync_auth_user_to_app_users() belongs on auth.users only".into(),
                format!("It was fired by a trigger on {table}."),
                "Drop that trigger. SELECT onagui.enable_sync(); attaches the right ones to auth.users."
                    .into(),
            ),
            Error::TableMissing { table } => (
                "42P01",
                format!("table {table} does not exist"),
                format!("onagui_sync works on auth.users and onagui.app_users; {table} was not found."),
                if table == "onagui.app_users" {
                    "Create it in a migration of your own, or call SELECT onagui.create_app_users();"
                        .into()
                } else {
                    "Supabase Auth creates it; start the Auth server once, or create it, then SELECT onagui.enable_sync();"
                        .into()
                },
            ),
            Error::ColumnMissing { table, column } => (
                "42703",
                format!("table {table} has no column {column}"),
                format!("onagui_sync needs {table} to have the columns id uuid and email."),
                format!("ALTER TABLE {table} ADD COLUMN {column} …;"),
            ),
            Error::ColumnUnfit { table, column, found, wanted } => (
                "42804",
                format!("column {column} of {table} has a type onagui_sync cannot use"),
                format!("It is {found}; it must be {wanted}."),
                format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE …;"),
            ),
            Error::NotATable { table, kind } => (
                "42P01",
                format!("{table} is not a table"),
                format!("It is a {kind}; onagui_sync writes to ordinary and partitioned tables only."),
                "Rename it and create a table of that name.".into(),
            ),
            Error::TriggerNameTaken { name } => (
                "42710",
                format!("auth.users has a trigger {name} that is not the extension's"),
                "It calls another function than onagui.sync_auth_user_to_app_users().".into(),
                format!("ALTER TRIGGER {name} ON auth.users RENAME TO …; then call enable_sync() again."),
            ),
            Error::RowsDiscarded { wanted, written } => (
                "09000",
                "a trigger or rule on onagui.app_users discarded the row".into(),
                format!("{written} of {wanted} rows were written."),
                "A BEFORE trigger must return the row: RETURN NEW.".into(),
            ),
            Error::MayNotCreate { role } => (
                "42501",
                "permission denied to create a table in schema onagui".into(),
                format!("Role {role} lacks CREATE on the schema."),
                format!("GRANT CREATE ON SCHEMA onagui TO {role}; as the schema's owner."),
            ),
            Error::UnknownStatus { found } => (
                "22023",
                format!("{found} is not a status"),
                format!("p_status holds {found}."),
                "A status is SYNCED, EMAIL_MISMATCH, MISMATCHED, DUPLICATE, MISSING_IN_APP_USERS, MISSING_IN_AUTH, \
                 PENDING or CONFLICT, for example p_status => ARRAY['MISMATCHED', 'DUPLICATE']."
                    .into(),
            ),
            Error::NegativeLimit { limit } => (
                "22023",
                "p_limit must not be negative".into(),
                format!("p_limit is {limit}."),
                "Leave p_limit out, or NULL, for all rows.".into(),
            ),
            Error::Rehearsed => (Failure::REHEARSAL, "rehearsed".into(), String::new(), String::new()),
            Error::NotWhole => (
                "42P01",
                "onagui_sync is not whole: its table onagui.sync_audit_log was not found".into(),
                "The extension's schema or table has been renamed.".into(),
                "Rename it back: ALTER SCHEMA … RENAME TO onagui;".into(),
            ),
        };
        Failure {
            sqlstate: sqlstate.into(),
            message,
            detail: Some(detail),
            hint: Some(hint),
            ..Failure::default()
        }
    }
}
