//! Where the columns of `onagui.app_users` come from: the built-in mapping and the rows of `onagui.sync_column`.

use super::quote;
use crate::catalog::{App, Auth, Column};
use crate::pg::{Mode, Session};

/// A column of `app_users` that is filled from the auth user.
pub struct Mapped {
    pub name: String,
    pub column: String,
    /// The source, over the alias `n` of a row of `auth.users`; text where the column is of a string type.
    source: String,
    is_string: bool,
    kind: String,
    default: Option<String>,
    /// The most characters the column takes.
    pub longest: Option<usize>,
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
        self.longest
            .map(|longest| format!("length({}) > {longest}", self.source))
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

struct Source {
    app_column: String,
    source: String,
    key: Option<String>,
}

/// The mapped columns that both tables have.
pub fn read(session: &Session, auth: &Auth, app: &App) -> Vec<Mapped> {
    let rows = session.run(
        "SELECT app_column, source, key FROM onagui.sync_column ORDER BY app_column",
        &[],
        Mode::Fresh,
    );
    let own: Vec<Source> = (0..rows.len())
        .map(|row| Source {
            app_column: rows.get(row, 1).unwrap_or_default(),
            source: rows.get(row, 2).unwrap_or_default(),
            key: rows.get(row, 3),
        })
        .collect();
    let built_in = [
        "username",
        "full_name",
        "metadata",
        "phone",
        "created_at",
        "updated_at",
    ]
    .into_iter()
    .filter(|name| own.iter().all(|o| o.app_column != *name))
    .filter_map(|name| mapped(app, name, |column| built_in_source(auth, column)));
    let configured = own.iter().filter_map(|o| {
        mapped(app, &o.app_column, |column| {
            configured_source(auth, column, &o.source, o.key.as_deref())
        })
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
        kind: column.kind.clone(),
        default: column.default.clone(),
        longest: column.longest.filter(|_| column.is_string),
    })
}

fn built_in_source(auth: &Auth, column: &Column) -> Option<String> {
    let meta = |key: &str| {
        auth.has("raw_user_meta_data")
            .then(|| format!("nullif(n.raw_user_meta_data::jsonb ->> '{key}', '')"))
    };
    match column.name.as_str() {
        "username" => {
            let local_part = "nullif(split_part(n.email::text, '@', 1), '')".to_owned();
            let text = match meta("username") {
                Some(username) => format!("coalesce({username}, {local_part})"),
                None => local_part,
            };
            Some(fit(column, text))
        }
        "full_name" => {
            let text = format!("coalesce({}, {})", meta("full_name")?, meta("name")?);
            Some(fit(column, text))
        }
        "metadata" => from_column(auth, column, "raw_user_meta_data"),
        name => from_column(auth, column, name),
    }
}

fn configured_source(
    auth: &Auth,
    column: &Column,
    source: &str,
    key: Option<&str>,
) -> Option<String> {
    let object = match source {
        "column" => return from_column(auth, column, key?),
        "user_meta" => "raw_user_meta_data",
        _ => "raw_app_meta_data",
    };
    let Some(key) = key else {
        return from_column(auth, column, object);
    };
    if !auth.has(object) {
        return None;
    }
    let key = pgrx::spi::quote_literal(key);
    if column.is_json() {
        return Some(format!("(n.{object}::jsonb -> {key})::{}", column.kind));
    }
    Some(fit(column, format!("n.{object}::jsonb ->> {key}")))
}

fn from_column(auth: &Auth, column: &Column, name: &str) -> Option<String> {
    auth.has(name)
        .then(|| fit(column, format!("n.{}", quote(name))))
}

/// A string column takes text by assignment, which refuses what is too long; any other type needs a cast.
fn fit(column: &Column, expression: String) -> String {
    if column.is_string {
        format!("({expression})::text")
    } else {
        format!("({expression})::{}", column.kind)
    }
}
