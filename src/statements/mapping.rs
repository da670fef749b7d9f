//! Where the columns of `onagui.app_users` come from: the built-in mapping and the rows of `onagui.sync_column`.

use super::{has_cast, quote};
use crate::catalog::{App, Auth, Column};
use crate::pg::{self, Mode, Session};

/// A column of `app_users` that is filled from the auth user.
pub struct Mapped {
    pub name: String,
    pub column: String,
    /// The source, over the alias `n` of a row of `auth.users`; text where the column is of a string type.
    source: String,
    pub is_string: bool,
    /// It comes from what users cannot write, as a row of `onagui.sync_column` says.
    pub is_auths: bool,
    kind: String,
    default: Option<String>,
    /// The most characters the column takes.
    pub longest: Option<usize>,
    /// A row can be made without a value for it.
    pub is_optional: bool,
}

impl Mapped {
    /// The value for a new row: the source, or the column's default where it is NULL.
    pub fn value(&self) -> String {
        self.or_default(&self.source)
    }

    /// The same, cut to what the column takes.
    pub fn value_cut(&self) -> String {
        match self.longest {
            Some(longest) => self.or_default(&format!("left({}, {longest})", self.source)),
            None => self.value(),
        }
    }

    /// The value as the source gives it, NULL included, cut to what the column takes.
    pub fn source_cut(&self) -> String {
        match self.longest {
            Some(longest) => format!("left({}, {longest})", self.source),
            None => self.source.clone(),
        }
    }

    /// Whether the source is longer than the column takes.
    pub fn is_cut(&self) -> Option<String> {
        self.longest.map(|longest| format!("length({}) > {longest}", self.source))
    }

    /// The source, for the look-up of names.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// `source` as this column takes it: cast where no assignment would do.
    pub fn or_default(&self, source: &str) -> String {
        match (&self.default, self.is_string) {
            (Some(default), true) => format!("coalesce({source}, ({default})::text)"),
            (Some(default), false) => format!("coalesce({source}, ({default})::{})", self.kind),
            (None, _) => source.to_owned(),
        }
    }
}

/// The column of `auth.users` that holds what users say of themselves.
const USERS_OWN: &str = "raw_user_meta_data";

/// A row of `onagui.sync_column`.
pub struct Source {
    pub app_column: String,
    pub source: String,
    pub key: Option<String>,
}

/// The rows of `onagui.sync_column`.
pub fn of_application(session: &Session, mode: Mode) -> Vec<Source> {
    let rows = session.run(
        "SELECT app_column, source, key FROM onagui.sync_column ORDER BY app_column",
        &[],
        mode,
    );
    let source = |row: usize| Source {
        app_column: rows.get(row, 1).unwrap_or_default(),
        source: rows.get(row, 2).unwrap_or_default(),
        key: rows.get(row, 3),
    };
    (0..rows.len()).map(source).collect()
}

/// The mapped columns that both tables have.
pub fn read(session: &Session, auth: &Auth, app: &App) -> Vec<Mapped> {
    // From now on its changes are heard of.
    let _ = pg::table_named(c"onagui", c"sync_column");
    let own = of_application(session, Mode::Fresh);
    let sources = Sources { session, auth };
    let built_in = ["username", "full_name", "metadata", "phone", "created_at", "updated_at"]
        .into_iter()
        .filter(|name| own.iter().all(|o| o.app_column != *name))
        .filter_map(|name| mapped(app, name, |column| sources.built_in(column)));
    let configured = own.iter().filter_map(|o| {
        let source = |column: &_| sources.configured(column, &o.source, o.key.as_deref());
        let is_users = match o.source.as_str() {
            "column" => o.key.as_deref() == Some(USERS_OWN),
            source => source == "user_meta",
        };
        Some(Mapped { is_auths: !is_users, ..mapped(app, &o.app_column, source)? })
    });
    built_in.chain(configured).collect()
}

fn mapped(app: &App, name: &str, source: impl Fn(&Column) -> Option<String>) -> Option<Mapped> {
    let column = app.column(name).filter(|c| c.writable)?;
    Some(Mapped {
        name: name.to_owned(),
        column: quote(name),
        source: source(column)?,
        is_string: column.is_string,
        is_auths: false,
        kind: column.kind.clone(),
        default: column.default.clone(),
        longest: column.longest.filter(|_| column.is_string),
        is_optional: !column.not_null || column.default.is_some(),
    })
}

/// Where a column's value comes from, as an expression over the alias `n` of a row of `auth.users`.
struct Sources<'a> {
    session: &'a Session,
    auth: &'a Auth,
}

impl Sources<'_> {
    fn built_in(&self, column: &Column) -> Option<String> {
        let user_meta = self.object(USERS_OWN);
        let meta = |key: &str| user_meta.as_ref().map(|o| format!("nullif({o} ->> '{key}', '')"));
        match column.name.as_str() {
            "username" => {
                let email = self.text("email")?;
                let local_part = format!("nullif(split_part({email}, '@', 1), '')");
                let text = match meta("username") {
                    Some(username) => format!("coalesce({username}, {local_part})"),
                    None => local_part,
                };
                Some(of_text(column, &text))
            }
            "full_name" => {
                let text = format!("coalesce({}, {})", meta("full_name")?, meta("name")?);
                Some(of_text(column, &text))
            }
            "metadata" => self.column(column, USERS_OWN),
            name => self.column(column, name),
        }
    }

    fn configured(&self, column: &Column, source: &str, key: Option<&str>) -> Option<String> {
        let name = match source {
            "column" => return self.column(column, key?),
            "user_meta" => USERS_OWN,
            _ => "raw_app_meta_data",
        };
        let Some(key) = key else {
            return self.column(column, name);
        };
        let object = self.object(name)?;
        let key = pgrx::spi::quote_literal(key);
        if column.is_json() {
            // What JSON says is null is absent.
            return Some(format!("(nullif({object} -> {key}, 'null'))::{}", column.kind));
        }
        Some(of_text(column, &format!("{object} ->> {key}")))
    }

    /// A column of `auth.users` as jsonb, where it has a type that can be trusted to be JSON.
    fn object(&self, name: &str) -> Option<String> {
        match self.auth.column(name)?.base.as_str() {
            "jsonb" => Some(format!("n.{name}")),
            "json" => Some(format!("n.{name}::jsonb")),
            _ => None,
        }
    }

    /// A column of `auth.users` as text. A cast from a type of somebody's own could run their code as another role, the
    /// type's output function cannot.
    fn text(&self, name: &str) -> Option<String> {
        let column = self.auth.column(name)?;
        let name = quote(name);
        Some(if column.is_trusted {
            format!("n.{name}::text")
        } else {
            format!("nullif(format('%s', n.{name}), '')")
        })
    }

    /// A column of `auth.users` as `column` takes it: by the cast there is, else by way of text.
    fn column(&self, column: &Column, name: &str) -> Option<String> {
        let source = self.auth.column(name)?;
        let direct = source.is_trusted
            && (source.base_oid == column.base_oid
                || has_cast(self.session, source.base_oid, column.base_oid, Mode::Fresh));
        if direct && !column.is_string {
            return Some(format!("n.{}::{}", quote(name), column.kind));
        }
        Some(of_text(column, &self.text(name)?))
    }
}

/// A string column takes text by assignment, which refuses what is too long; any other type reads it.
fn of_text(column: &Column, text: &str) -> String {
    if column.is_string {
        format!("({text})::text")
    } else if column.is_json() {
        format!("to_{}({text})", column.base)
    } else {
        format!("({text})::{}", column.kind)
    }
}
