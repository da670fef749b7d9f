//! Writing `onagui.sync_audit_log`.

use crate::catalog::House;
use crate::error::Failure;
use crate::pg::{self, Mode, connect};
use pgrx::{JsonB, Uuid};
use serde::Serialize;
use serde_json::{Value, json};

/// An entry of the audit log. What is None is NULL there.
#[derive(Clone, Serialize)]
pub struct Entry {
    pub action: &'static str,
    pub outcome: &'static str,
    #[serde(serialize_with = "uuid_text")]
    pub auth_user_id: Option<Uuid>,
    #[serde(serialize_with = "uuid_text")]
    pub old_app_user_id: Option<Uuid>,
    #[serde(serialize_with = "uuid_text")]
    pub new_app_user_id: Option<Uuid>,
    pub email: Option<String>,
    pub rows_changed: u64,
    pub details: Value,
    pub actor: String,
}

fn uuid_text<S: serde::Serializer>(id: &Option<Uuid>, to: S) -> Result<S::Ok, S::Error> {
    id.map(|id| id.to_string()).serialize(to)
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
            details: json!({}),
            actor: actor.to_owned(),
        }
    }

    pub fn failure(failure: &Failure, actor: &str) -> Self {
        Entry {
            details: json!({ "error": failure.to_json() }),
            ..Entry::new("failure", "failed", actor)
        }
    }
}

/// A pending link or a conflict that is recorded already, for the same user and for the same reason, is not recorded
/// again: attempts that repeat do not pile up. Where `$2`, a failure is recorded once a transaction.
const RECORD: &str = "
    INSERT INTO onagui.sync_audit_log (action, outcome, auth_user_id, old_app_user_id, new_app_user_id, email,
                                       rows_changed, details, actor)
    SELECT e.action, e.outcome, e.auth_user_id, e.old_app_user_id, e.new_app_user_id, e.email,
           e.rows_changed, e.details, e.actor
      FROM jsonb_array_elements($1) WITH ORDINALITY AS x(entry, place)
      CROSS JOIN LATERAL jsonb_to_record(x.entry) AS e(action text, outcome text, auth_user_id uuid,
           old_app_user_id uuid, new_app_user_id uuid, email text, rows_changed bigint, details jsonb, actor text)
     WHERE NOT (e.action IN ('pending', 'conflict') OR e.action = 'failure' AND $2)
        OR NOT EXISTS (SELECT FROM onagui.sync_audit_log l
                        WHERE l.auth_user_id = e.auth_user_id AND l.action = e.action
                          AND l.email IS NOT DISTINCT FROM e.email
                          AND l.old_app_user_id IS NOT DISTINCT FROM e.old_app_user_id
                          AND l.details = e.details
                          AND (e.action <> 'failure' OR l.occurred_at = now()))
     ORDER BY x.place
    RETURNING audit_id";

/// Writes `entries` and returns the ids of those that were new.
pub fn record(house: House, entries: &[Entry]) -> Vec<i64> {
    write(house, entries, false)
}

/// The same for a sign-up: the Auth server inserts a user and confirms it in one transaction, which may fail twice alike.
pub fn record_signup(house: House, entries: &[Entry]) {
    write(house, entries, true);
}

fn write(house: House, entries: &[Entry], failures_once: bool) -> Vec<i64> {
    if entries.is_empty() {
        return Vec::new();
    }
    let json = JsonB(serde_json::to_value(entries).unwrap_or_default());
    pg::as_role(house.owner, || {
        connect(|session| {
            session.run(RECORD, &[json.into(), failures_once.into()], Mode::Fresh).column()
        })
    })
}

/// Writes `entries` and answers the number of each; None where it was there already.
pub fn record_each(house: House, entries: &[Entry]) -> Vec<Option<i64>> {
    let repeats = |entry: &Entry| matches!(entry.action, "pending" | "conflict");
    let (again, once): (Vec<Entry>, Vec<Entry>) = entries.iter().cloned().partition(repeats);
    record(house, &again);
    let mut ids = record(house, &once).into_iter();
    entries.iter().map(|entry| if repeats(entry) { None } else { ids.next() }).collect()
}
