//! Statements about auth users as such, whatever the tables look like: remembering ids, recording.

use super::audit;
use crate::catalog::tables::AUTH_USERS;
use crate::catalog::{Auth, House};
use crate::error::{Error, Failure};
use crate::pg::{self, Arg, Mode, Person, RowSet, connect};
use pgrx::Uuid;
use std::collections::HashSet;

/// How many people are handed to a statement at once: bounds the memory it takes.
pub const AT_ONCE: usize = 10_000;

/// The ids and e-mails of `people`, for a statement's arguments; whoever has no id is left out.
fn as_args(people: Vec<Person>) -> [Arg; 2] {
    let (ids, emails): (Vec<_>, Vec<_>) =
        people.into_iter().filter_map(|p| Some((p.id?, p.email))).unzip();
    [ids.into(), emails.into()]
}

/// Remembers ids that auth has given up; answers whose are new.
pub fn remember(house: House, mut gone: Vec<Person>) -> Vec<Person> {
    const REMEMBER: &str = "
        INSERT INTO onagui.sync_known_id (auth_user_id) SELECT * FROM unnest($1::uuid[])
        ON CONFLICT DO NOTHING RETURNING auth_user_id";
    let ids: Vec<Uuid> = gone.iter().filter_map(|person| person.id).collect();
    let new: Vec<Uuid> = pg::as_role(house.owner, || {
        connect(|session| session.run(REMEMBER, &[ids.into()], Mode::Fresh).column())
    });
    let mut new: HashSet<[u8; 16]> = new.iter().map(|id| *id.as_bytes()).collect();
    gone.retain(|person| person.id.is_some_and(|id| new.remove(id.as_bytes())));
    gone
}

/// Records that `gone` were deleted.
pub fn record_deletes(house: House, gone: Vec<Person>, actor: &str) {
    const RECORD: &str = "
        INSERT INTO onagui.sync_audit_log (action, outcome, auth_user_id, email, actor)
        SELECT 'delete', 'done', gone.id, gone.email, $3 FROM unnest($1::uuid[], $2::text[]) AS gone(id, email)";
    let [ids, emails] = as_args(gone);
    pg::as_role(house.owner, || {
        connect(|session| session.run(RECORD, &[ids, emails, actor.into()], Mode::Fresh));
    })
}

/// Calls `f` with all auth users that have an id, some at a time.
pub fn everybody(mut f: impl FnMut(Vec<Person>)) -> Result<(), Error> {
    let table = Auth::find().ok_or(Error::TableMissing { table: AUTH_USERS })?;
    let owner = pg::owner_of(table).ok_or(Error::TableMissing { table: AUTH_USERS })?;
    let sql = format!(
        "SELECT id, email::text FROM ONLY auth.users
          WHERE id IS NOT NULL AND ($1::uuid IS NULL OR id > $1) ORDER BY id LIMIT {AT_ONCE}"
    );
    let mut last = None;
    loop {
        let people: Vec<Person> = pg::as_role(owner, || {
            connect(|session| {
                let rows = session.run(&sql, &[Arg::of::<Uuid>(last)], Mode::Fresh);
                (0..rows.len())
                    .map(|row| Person { id: rows.get(row, 1), email: rows.get(row, 2) })
                    .collect()
            })
        });
        last = people.last().and_then(|person| person.id);
        if last.is_none() {
            return Ok(());
        }
        f(people);
    }
}

/// Records a plain sign-up of each of `new`, under `onagui_sync.audit = all`.
pub fn record_signups(house: House, new: &RowSet, actor: &str) {
    const RECORD: &str = "
        INSERT INTO onagui.sync_audit_log (action, outcome, auth_user_id, new_app_user_id, email, actor)
        SELECT 'signup', 'done', n.id, n.id, n.email, $3 FROM unnest($1::uuid[], $2::text[]) AS n(id, email)";
    new.people(AT_ONCE, |people| {
        let [ids, emails] = as_args(people);
        pg::as_role(house.owner, || {
            connect(|session| session.run(RECORD, &[ids, emails, actor.into()], Mode::Fresh));
        })
    });
}

/// Records for each of `new` that it could not be handled.
pub fn record_failures(house: House, new: &RowSet, failure: &Failure, actor: &str) {
    new.people(AT_ONCE, |people| {
        let entries: Vec<_> = people
            .into_iter()
            .map(|person| audit::Entry {
                auth_user_id: person.id,
                email: person.email,
                ..audit::Entry::failure(failure, actor)
            })
            .collect();
        audit::record_signup(house, entries);
    });
}
