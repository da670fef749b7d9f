//! The statements of a sign-up, prepared once per backend and definition of the tables.

use super::facts::Arrival;
use super::mapping::{self, Mapped};
use super::{email_key, offer_new};
use crate::catalog::{App, Auth, Deferrable, Fold, House};
use crate::error::Error;
use crate::pg::{self, Kept, Loader, Mode, Plan, RowSet, Rows, Session, connect, subtransaction};
use onagui_decide::failure::must_pass_on;
use onagui_decide::names;
use onagui_decide::signup::LinkPolicy;
use pgrx::Uuid;
use std::cell::OnceCell;
use std::collections::HashSet;
use std::rc::Rc;

/// The two tables and the statements for them.
pub struct Target {
    version: u64,
    pub house: House,
    pub auth: Auth,
    pub app: App,
    pub(super) mapped: Vec<Mapped>,
    /// Kept for the single sign-up only: how several rows are best joined depends on how many they are.
    insert_one: OnceCell<Plan>,
    loader: OnceCell<Option<Loader>>,
    pub(super) facts_one: OnceCell<Plan>,
    pub(super) in_step: OnceCell<Plan>,
    /// What may be deferred stands in other tables too.
    pub(super) deferrable: Kept<Vec<Deferrable>>,
    /// Of the catalog, when this was read.
    catalog: u64,
}

thread_local! {
    static TARGET: Kept<Target> = const { Kept::new() };
}

/// A source for FROM: `new_users n` with the username that each is to have; over ids and names as `$1` and `$2`.
pub(super) const UNDER_NAMES: &str = "new_users n
             JOIN unnest($1::uuid[], $2::text[]) AS w(id, username) ON w.id = n.id";

/// How often tables that change meanwhile are looked at again.
const LOOKS: usize = 2;

impl Target {
    /// The tables as they are now. Fails where one is missing or does not fit.
    pub fn get(house: House) -> Result<Rc<Target>, Error> {
        let version = pg::watched_version();
        let (auth, app) = (Auth::find(), App::find());
        let fits = |target: &Target| {
            target.house.owner == house.owner
                && Some(target.auth.table) == auth
                && Some(target.app.table) == app
        };
        // Tables that are altered at this moment may well make the look at them fail: then once more.
        let learn = || {
            let read =
                || pg::as_role(house.owner, || connect(|session| Self::read(session, house)));
            let mut looks = 0..LOOKS;
            loop {
                let (version, is_last) = (pg::watched_version(), looks.next().is_none());
                match subtransaction(read) {
                    Err(failure)
                        if !is_last
                            && !must_pass_on(&failure.sqlstate)
                            && version != pg::watched_version() => {}
                    looked => return looked.map_err(Error::from),
                }
            }
        };
        TARGET.with(|kept| kept.get(version, fits, |_| true, learn))
    }

    fn read(session: &Session, house: House) -> Result<Self, Error> {
        let catalog = pg::catalog_version();
        let version = pg::watched_version();
        let auth = Auth::read(session)?;
        let app = App::read(session)?;
        let mapped = mapping::read(session, &auth, &app);
        Ok(Target {
            version,
            house,
            auth,
            app,
            mapped,
            insert_one: OnceCell::new(),
            loader: OnceCell::new(),
            facts_one: OnceCell::new(),
            in_step: OnceCell::new(),
            deferrable: Kept::new(),
            catalog,
        })
    }

    /// Whether the tables may have changed since this was read, or what may be deferred.
    pub fn is_stale(&self) -> bool {
        self.version != pg::watched_version() || self.deferrable.is_stale(pg::rules_version())
    }

    /// The same after a failure, which may come of what is not watched, being nobody's table: a type, function or sequence that
    /// a default names was renamed, the tables changed hands.
    pub fn is_outdated(&self, sqlstate: &str) -> bool {
        let of_names = sqlstate.starts_with("42") || sqlstate == "22P02";
        if of_names && !self.is_stale() && pg::catalog_version() != self.catalog {
            pg::look_anew();
        }
        self.is_stale()
    }

    /// The username, where it is text: only then it can be given another ending.
    pub fn username(&self) -> Option<&Mapped> {
        self.mapped.iter().find(|m| m.name == "username" && m.is_string)
    }

    /// Whether a column is mapped from what users cannot write.
    pub fn is_auths_to_say(&self, column: &str) -> bool {
        self.mapped.iter().any(|m| m.name == column && m.is_auths)
    }

    /// How many characters a username may have.
    pub fn longest_username(&self) -> usize {
        self.username().and_then(|u| u.longest).unwrap_or(names::LONGEST_NAME)
    }

    /// Whether usernames that differ only in case count as the same.
    pub fn folds_usernames(&self) -> bool {
        matches!(self.app.username_is_unique, Some(Fold::Lower))
            || self.app.column("username").is_some_and(|c| c.base == "citext")
    }

    /// Inserts a row for each of `new` that nobody stands in the way of, as the owner of `app_users`.
    /// Returns how many were made. Fails where a trigger gave one of them another id.
    pub fn insert(&self, new: &RowSet) -> Result<u64, Error> {
        let deferrable = self.deferrable();
        let waits = deferrable.iter().any(|c| !c.inbound || self.may_be_written_beside(c));
        let quick = || self.loader.get_or_init(|| self.quick_insert(new)).as_ref();
        if let Some(quick) = (!waits).then(quick).flatten() {
            let insert = || quick.insert(new);
            let made = match self.app.runs_code {
                true => pg::as_role(self.app.owner, insert),
                false => pg::as_role_without_code(self.app.owner, insert),
            };
            if let Some(made) = made {
                return Ok(made);
            }
        }
        self.write_new(|session| {
            offer_new(session, new);
            let rows = self.run(session, new, &self.insert_one, |many| self.insert_sql(many));
            self.made(&rows, new)
        })?
    }

    /// A BEFORE trigger may change what is written, the id too.
    fn returning(&self) -> &'static str {
        if self.app.changes_rows { " RETURNING id" } else { "" }
    }

    fn made(&self, rows: &Rows, new: &RowSet) -> Result<u64, Error> {
        if self.app.changes_rows {
            let wanted: HashSet<[u8; 16]> =
                ids(new).iter().flatten().map(|id| *id.as_bytes()).collect();
            let made = rows.column::<Uuid>();
            if made.len() != rows.len() || made.iter().any(|id| !wanted.contains(id.as_bytes())) {
                return Err(Error::IdChanged);
            }
        }
        Ok(rows.touched())
    }

    fn quick_insert(&self, new: &RowSet) -> Option<Loader> {
        pg::as_role(self.app.owner, || {
            connect(|session| {
                offer_new(session, new);
                let plan =
                    self.insert_one.get_or_init(|| session.prepare(&self.insert_sql(false), &[]));
                session.loader(plan, self.app.table, self.app.runs_code, self.version)
            })
        })
    }

    pub(super) fn run(
        &self,
        session: &Session,
        new: &RowSet,
        one: &OnceCell<Plan>,
        sql: impl Fn(bool) -> String,
    ) -> Rows {
        if new.len() > 1 {
            return session.run(&sql(true), &[], Mode::Fresh);
        }
        let plan = one.get_or_init(|| session.prepare(&sql(false), &[]));
        session.execute(plan, &[], Mode::Fresh)
    }

    /// The optimistic statement.
    fn insert_sql(&self, many: bool) -> String {
        let columns: Vec<&str> = self.mapped.iter().map(|m| m.column.as_str()).collect();
        let values: Vec<String> = self.mapped.iter().map(Mapped::value).collect();
        let mut sql = self.insert_head(&columns, &values, "new_users n");
        sql.push_str(&format!(" WHERE NOT ({}) AND {}", self.deleted("n"), self.email_is_free()));
        if many && !self.app.email_is_unique {
            sql.push_str(&format!(
                " AND NOT EXISTS (SELECT FROM new_users o WHERE {} = nullif({}, '') AND o.id < n.id)",
                email_key(&self.auth.email("o")),
                email_key(&self.auth.email("n")),
            ));
        }
        sql.push_str(self.returning());
        sql
    }

    /// The condition that no app user has the e-mail of `n`. Where no unique index stands in the way of a second row with
    /// the same e-mail, the statement that inserts it must look.
    fn email_is_free(&self) -> String {
        if self.app.email_is_unique {
            return "true".into();
        }
        format!(
            "NOT EXISTS (SELECT FROM {}onagui.app_users a WHERE {} = nullif({}, ''))",
            self.app.only,
            email_key(&self.app.email("a")),
            email_key(&self.auth.email("n")),
        )
    }

    fn insert_head(&self, columns: &[&str], values: &[String], from: &str) -> String {
        let list = |fixed: &str, rest: &[&str]| {
            std::iter::once(fixed).chain(rest.iter().copied()).collect::<Vec<_>>().join(", ")
        };
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        format!(
            "INSERT INTO onagui.app_users ({}) SELECT {} FROM {from}",
            list("id, email", columns),
            list(&format!("n.id, {}", self.new_email()), &values),
        )
    }

    /// The e-mail of a new row, over `n`: where auth has none and the column must have one, the column's default.
    pub(super) fn new_email(&self) -> String {
        match &self.app.default_email {
            Some(default) => format!("coalesce({}, ({default})::text)", self.auth.email("n")),
            None => "n.email".into(),
        }
    }

    /// Whether the row `alias` of `auth.users` counts as absent.
    pub fn deleted(&self, alias: &str) -> String {
        if self.auth.has("deleted_at") {
            format!("{alias}.deleted_at IS NOT NULL")
        } else {
            "false".into()
        }
    }

    pub(super) fn confirmed(&self, alias: &str) -> String {
        if self.auth.has("email_confirmed_at") {
            format!("{alias}.email_confirmed_at IS NOT NULL")
        } else {
            "true".into()
        }
    }

    /// Whether the e-mail of the row `alias` counts as confirmed, as the settings are now.
    pub fn confirmed_now(&self, alias: &str) -> String {
        if crate::settings::link_policy() == LinkPolicy::Always {
            "true".into()
        } else {
            self.confirmed(alias)
        }
    }

    pub(super) fn auth_users(&self, session: &Session, ids: &[Uuid], mode: Mode) -> RowSet {
        pg::as_role(self.auth.owner, || {
            let sql = "SELECT u FROM ONLY auth.users u WHERE u.id = ANY ($1)";
            RowSet::of_rows(&session.run(sql, &[ids.to_vec().into()], mode), self.auth.table)
        })
    }

    /// Whether the auth user `id` is there, and in `app_users` neither their row nor one with their e-mail.
    pub fn is_missing(&self, id: Uuid) -> Result<bool, Error> {
        connect(|session| {
            let arrivals = self.facts(&self.auth_users(session, &[id], Mode::Fresh))?;
            Ok(arrivals.iter().any(|Arrival { facts, .. }| {
                !facts.deleted
                    && facts.own.is_none()
                    && facts.namesakes.is_empty()
                    && !facts.nameless
            }))
        })
    }

    /// The value of a new row under the username `w.username`, cut.
    pub(super) fn value_as(&self, m: &Mapped) -> String {
        match self.username().is_some_and(|username| username.name == m.name) {
            true => m.or_default("w.username"),
            false => m.value_cut(),
        }
    }

    /// Inserts a row for each of `new` under the given usernames, one for each; without the columns in `left_out`.
    /// Values that are too long are cut. Fails where not every row is made.
    pub fn insert_as(
        &self,
        new: &RowSet,
        usernames: &[Option<String>],
        left_out: &[String],
    ) -> Result<(), Error> {
        let taken: Vec<&Mapped> =
            self.mapped.iter().filter(|m| !left_out.contains(&m.name)).collect();
        let columns: Vec<&str> = taken.iter().map(|m| m.column.as_str()).collect();
        let values: Vec<String> = taken.iter().map(|m| self.value_as(m)).collect();
        let head = self.insert_head(&columns, &values, UNDER_NAMES);
        let sql = format!("{head} WHERE {}{}", self.email_is_free(), self.returning());
        let made = self.write_new(|session| {
            offer_new(session, new);
            let args = [ids(new).into(), usernames.to_vec().into()];
            self.made(&session.run(&sql, &args, Mode::Fresh), new)
        })??;
        all_written(made, new)
    }

    /// The condition, over the alias `a`, that an app user has the username `name`, a text; as the unique index on the
    /// username compares. None where there is no such index.
    pub fn same_username(&self, name: &str) -> Option<String> {
        let kind = self.app.column("username").map_or("text", |c| c.kind.as_str());
        Some(match self.app.username_is_unique.as_ref()? {
            Fold::Column { operator } => format!("a.username {operator} {name}::{kind}"),
            Fold::Lower => format!("lower(a.username::text) = lower({name})"),
        })
    }

    /// Which of `names` another app user has, by the unique index on the username; empty where there is none.
    pub fn taken_usernames(&self, names: &[String]) -> Vec<bool> {
        let Some(equal) = self.same_username("c.name") else {
            return vec![false; names.len()];
        };
        let sql = format!(
            "SELECT EXISTS (SELECT FROM {}onagui.app_users a WHERE {equal})
               FROM unnest($1::text[]) WITH ORDINALITY AS c(name, place) ORDER BY c.place",
            self.app.only
        );
        pg::as_role(self.app.owner, || {
            connect(|session| session.run(&sql, &[names.to_vec().into()], Mode::Fresh).column())
        })
    }
}

fn ids(new: &RowSet) -> Vec<Option<Uuid>> {
    let mut ids = Vec::with_capacity(new.len());
    new.people(usize::MAX, |people| ids.extend(people.iter().map(|person| person.id)));
    ids
}

/// Fails where a trigger of the application has kept rows from being written.
pub fn all_written(written: u64, new: &RowSet) -> Result<(), Error> {
    if written as usize == new.len() {
        return Ok(());
    }
    Err(Error::RowsDiscarded { wanted: new.len() as u64, written })
}
