//! Writing `onagui.sync_audit_log`.

use super::done::Step;
use crate::catalog::House;
use crate::error::{Error, Failure};
use crate::pg::{self, Arg, JsonbText, Mode, Session, connect};
use pgrx::Uuid;
use std::io;

/// An entry of the audit log. What is None is NULL there.
#[derive(Clone)]
pub struct Entry {
    pub action: &'static str,
    pub outcome: &'static str,
    pub auth_user_id: Option<Uuid>,
    pub old_app_user_id: Option<Uuid>,
    pub new_app_user_id: Option<Uuid>,
    pub email: Option<String>,
    pub rows_changed: u64,
    /// A JSON object.
    pub details: String,
    pub actor: String,
}

impl Entry {
    pub fn new(action: &'static str, outcome: &'static str, actor: &str) -> Self {
        Entry {
            action,
            outcome,
            auth_user_id: None,
            old_app_user_id: None,
            new_app_user_id: None,
            email: None,
            rows_changed: 0,
            details: "{}".into(),
            actor: actor.to_owned(),
        }
    }

    pub fn failure(failure: &Failure, actor: &str) -> Self {
        Entry {
            details: failure.as_details().to_string(),
            ..Entry::new("failure", "failed", actor)
        }
    }
}

/// What is recorded already, for the same user and for the same reason, is not recorded again where its action is one of
/// `$10`: attempts that repeat do not pile up. (An error's DETAIL may hold the whole row, with the time; its context, where the
/// row was to lie.) A failure is recorded once a transaction.
const RECORD: &str = "
    INSERT INTO onagui.sync_audit_log (action, outcome, auth_user_id, old_app_user_id, new_app_user_id, email,
                                       rows_changed, details, actor)
    SELECT e.action, e.outcome, e.auth_user_id, e.old_app_user_id, e.new_app_user_id, e.email,
           e.rows_changed, e.details, e.actor
      FROM unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::bigint[], $8::jsonb[],
                  $9::text[]) WITH ORDINALITY
           AS e(action, outcome, auth_user_id, old_app_user_id, new_app_user_id, email, rows_changed, details, actor,
                place)
     WHERE NOT e.action = ANY ($10)
        OR NOT EXISTS (SELECT FROM onagui.sync_audit_log l
                        WHERE l.auth_user_id = e.auth_user_id AND l.action = e.action
                          AND l.email IS NOT DISTINCT FROM e.email
                          AND l.old_app_user_id IS NOT DISTINCT FROM e.old_app_user_id
                          AND l.details - 'context' #- '{error,detail}' = e.details - 'context' #- '{error,detail}'
                          AND (e.action <> 'failure' OR l.occurred_at = now()))
     ORDER BY e.place
    RETURNING audit_id";

/// Whether the numbers that come next are taken: entries may have been restored, or replicated, without their sequence.
const LAGS: &str = "
    SELECT (SELECT max(l.audit_id) FROM onagui.sync_audit_log l) >= s.last_value + s.is_called::int
      FROM onagui.sync_audit_log_audit_id_seq s";

/// Goes on after the last entry. One session at a time: it looks again once it is the only one.
const CATCH_UP: &str = "
    SELECT setval('onagui.sync_audit_log_audit_id_seq', (SELECT max(l.audit_id) FROM onagui.sync_audit_log l))";

fn catch_up(session: &Session) {
    // Nobody but the owner can take it, and keep others waiting; and VACUUM, which takes it too, is over at once with so few rows.
    const LOCK: &str = "LOCK TABLE onagui.sync_reference IN SHARE UPDATE EXCLUSIVE MODE";
    let lags = || session.run_kept_by_key(LAGS, &[], Mode::Fresh).one() == Some(true);
    if lags() {
        session.run(LOCK, &[], Mode::Fresh);
        if lags() {
            session.run_by_key(CATCH_UP, &[], Mode::Fresh);
        }
    }
}

/// Actions of which an entry is not repeated, whoever writes it: nothing was done.
const ONCE: [&str; 2] = ["pending", "conflict"];

/// Writes `entries` and returns the ids of those that were new.
pub fn record(house: House, entries: Vec<Entry>) -> Vec<i64> {
    write(house, entries, &ONCE)
}

/// The same for a sign-up: the Auth server inserts a user and confirms it in one transaction, which may fail twice alike.
pub fn record_signup(house: House, entries: Vec<Entry>) {
    write(house, entries, &[ONCE[0], ONCE[1], "failure"]);
}

/// The same, where what is pending or in conflict is told of each time.
pub fn record_anew(house: House, entries: Vec<Entry>) {
    write(house, entries, &["failure"]);
}

/// The same for a user who may call as often as they like, each time with what does not fit.
pub fn record_once(house: House, entry: Entry) {
    let action = entry.action;
    write(house, vec![entry], &[action]);
}

fn write(house: House, mut entries: Vec<Entry>, once: &[&str]) -> Vec<i64> {
    if entries.is_empty() {
        return Vec::new();
    }
    fn each<T>(entries: &[Entry], field: impl Fn(&Entry) -> T) -> Arg
    where
        Vec<T>: Into<Arg>,
    {
        entries.iter().map(field).collect::<Vec<T>>().into()
    }
    let rows = |entry: &Entry| i64::try_from(entry.rows_changed).unwrap_or(i64::MAX);
    // They may be large.
    let details = entries.iter_mut().map(|e| JsonbText(std::mem::take(&mut e.details)));
    let details: Vec<JsonbText> = details.collect();
    pg::as_role(house.owner, || {
        connect(|session| {
            let args = [
                each(&entries, |entry| entry.action.to_owned()),
                each(&entries, |entry| entry.outcome.to_owned()),
                each(&entries, |entry| entry.auth_user_id),
                each(&entries, |entry| entry.old_app_user_id),
                each(&entries, |entry| entry.new_app_user_id),
                each(&entries, |entry| entry.email.clone()),
                each(&entries, rows),
                details.into(),
                each(&entries, |entry| entry.actor.clone()),
                once.iter().map(|action| (*action).to_owned()).collect::<Vec<String>>().into(),
            ];
            catch_up(session);
            session.run_kept_by_key(RECORD, &args, Mode::Fresh).column()
        })
    })
}

/// The entry that tells of the link of an auth user in this transaction, if there is one.
pub fn link_in_this_transaction(house: House, auth: Uuid) -> Option<i64> {
    let sql = "SELECT l.audit_id FROM onagui.sync_audit_log l
                WHERE l.auth_user_id = $1 AND l.action = 'link' AND l.outcome = 'done' AND l.occurred_at = now() AND l.undone_by IS NULL
                ORDER BY l.audit_id DESC LIMIT 1";
    pg::as_role(house.owner, || {
        connect(|session| session.run_by_key(sql, &[auth.into()], Mode::Fresh).one())
    })
}

/// So many bytes of details, or one entry, are written by one statement: no array of the server holds more than 1 GB.
const AT_ONCE: usize = 64 << 20;

/// What an entry may have to keep, in bytes of text: no jsonb holds 256 MB (JENTRY_OFFLENMASK in src/include/utils/jsonb.h), and
/// that of many rows with short values is half as long again as its text.
const MOST: usize = 160 << 20;

/// Fails where no entry could keep `undo`.
pub fn fits(undo: &[Step]) -> Result<(), Error> {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, undo) {
        Ok(()) if count.0 <= MOST => Ok(()),
        _ => Err(Error::TooMuchToKeep { megabytes: count.0 >> 20 }),
    }
}

/// Writes `entries` and answers the number of each; None where it was there already.
pub fn record_each(house: House, entries: Vec<Entry>) -> Vec<Option<i64>> {
    let repeats = |entry: &Entry| ONCE.contains(&entry.action);
    let again: Vec<bool> = entries.iter().map(repeats).collect();
    let (repeated, once): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(repeats);
    record(house, repeated);
    let mut ids = Vec::with_capacity(once.len());
    let mut rest = once;
    while !rest.is_empty() {
        let mut size = 0;
        let full = rest.iter().position(|entry| {
            size += entry.details.len();
            size > AT_ONCE
        });
        let later = rest.split_off(full.map_or(rest.len(), |place| place.max(1)));
        ids.extend(record(house, rest));
        rest = later;
    }
    let mut ids = ids.into_iter();
    again.into_iter().map(|again| if again { None } else { ids.next() }).collect()
}
