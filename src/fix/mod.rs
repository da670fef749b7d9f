//! The doors of the repair: one user, some, or all; a person's decision; taking it back.

mod batch;
mod decided;
mod emails;
mod link;
mod outcome;
mod registry;
mod rehearsal;
mod renewal;
mod repair;
mod undo;

pub use batch::fix_all_user_ids;
pub use link::Linker;
pub use registry::{
    prune_audit, register_reference, unregister_reference, unregister_reference_by_name,
};
pub use undo::{take_back, undo_fix};

use crate::catalog::House;
use crate::error::{Error, plain};
use crate::pg::{self, Arg, Call, JsonbText, Reply, RowWriter};
use crate::statements::candidates::Order;
use crate::statements::merge::OnConflict;
use onagui_decide::repair::{Action, Status};
use outcome::Outcome;
use pgrx::Uuid;
use repair::Repair;
use serde_json::json;
use std::collections::HashSet;

/// How many users are looked up, fixed and answered together: bounds memory, and is what one statement records.
const CHUNK: usize = 1_000;

fn policy(call: &Call, place: usize) -> Result<OnConflict, Error> {
    let value: Option<String> = call.arg(place);
    match value.as_deref() {
        Some("error") => Ok(OnConflict::Error),
        Some("keep_auth") => Ok(OnConflict::KeepAuth),
        Some("keep_app") => Ok(OnConflict::KeepApp),
        None => Err(Error::NullArgument { name: "p_on_conflict" }),
        Some(other) => Err(Error::BadArgument {
            name: "p_on_conflict",
            value: format!("{other:?}"),
            wanted: "'error', 'keep_auth' or 'keep_app'",
        }),
    }
}

fn limit(call: &Call, place: usize) -> Result<Option<usize>, Error> {
    match call.arg::<i64>(place) {
        Some(n) if n < 0 => Err(Error::BadArgument {
            name: "p_limit",
            value: n.to_string(),
            wanted: "NULL for no limit, or a number that is not negative",
        }),
        n => Ok(n.map(|n| usize::try_from(n).unwrap_or(usize::MAX))),
    }
}

fn actor() -> String {
    pg::role_name(pg::current_role())
}

fn put(writer: &RowWriter, outcome: Outcome) {
    let details = JsonbText(outcome.told(false));
    writer.put(&[
        Arg::of(outcome.email),
        outcome.action.name().into(),
        outcome.outcome.into(),
        Arg::of(outcome.auth_user_id),
        Arg::of(outcome.old_app_user_id),
        Arg::of(outcome.new_app_user_id),
        Arg::of(Some(i64::try_from(outcome.rows_changed).unwrap_or(i64::MAX))),
        details.into(),
        Arg::of(outcome.audit_id),
    ]);
}

/// `onagui.fix_user_ids(p_emails, p_apply, p_on_conflict, p_limit)`.
pub fn fix_user_ids(call: &Call) -> Result<Reply, Error> {
    let emails: Option<Vec<Option<String>>> = call.arg(0);
    let apply = call.arg::<bool>(1).ok_or(Error::NullArgument { name: "p_apply" })?;
    let policy = policy(call, 2)?;
    let limit = limit(call, 3)?;
    let house = House::find()?;
    let writer = call.rows();
    let everybody = emails.is_none() && limit.is_none();
    let repair = Repair { everybody, ..Repair::start(house, apply, policy, actor())? };
    match emails {
        Some(emails) => {
            let emails: Vec<String> = emails.into_iter().flatten().collect();
            let mut todo = Vec::new();
            for email in &emails {
                let found = repair.candidates(email);
                if found.is_empty() {
                    todo.push(Err(email.clone()));
                }
                todo.extend(found.into_iter().map(Ok));
            }
            // Each once, and those about whom there is nothing to do last: a limit is for the others.
            let (mut seen, mut unknown) = (HashSet::new(), HashSet::new());
            todo.retain(|found| match found {
                Ok(candidate) => seen.insert(candidate.pair()),
                Err(email) => unknown.insert(email.clone()),
            });
            todo.sort_by_key(|found| {
                found.as_ref().is_ok_and(|candidate| candidate.status.action() == Action::None)
            });
            todo.truncate(limit.unwrap_or(usize::MAX));
            let unknown: Vec<&String> = todo.iter().filter_map(|t| t.as_ref().err()).collect();
            for email in unknown {
                put(&writer, Outcome::unknown(email));
            }
            for outcome in repair.run(todo.into_iter().flatten().collect())? {
                put(&writer, outcome);
            }
        }
        None => {
            let list = repair.list(Order::Ids, limit);
            loop {
                let todo = list.next(CHUNK);
                if todo.is_empty() {
                    break;
                }
                for outcome in repair.run(todo)? {
                    put(&writer, outcome);
                }
                pg::check_interrupts();
            }
        }
    }
    Ok(Reply::Null)
}

/// `onagui.fix_user_id(p_app_user_id, p_auth_user_id, p_apply, p_on_conflict)`: a person's decision.
pub fn fix_user_id(call: &Call) -> Result<Reply, Error> {
    let app: Uuid = call.arg(0).ok_or(Error::NullArgument { name: "p_app_user_id" })?;
    let auth: Uuid = call.arg(1).ok_or(Error::NullArgument { name: "p_auth_user_id" })?;
    let apply = call.arg::<bool>(2).ok_or(Error::NullArgument { name: "p_apply" })?;
    let policy = policy(call, 3)?;
    let writer = call.rows();
    let repair = Repair::start(House::find()?, apply, policy, actor())?;
    let candidate = repair.decided(app, auth)?;
    for outcome in repair.run_decided(candidate)? {
        put(&writer, outcome);
    }
    Ok(Reply::Null)
}

/// `onagui.fix_user_id_mismatch(p_email, p_use_auth_id)`: one user, one line.
pub fn fix_user_id_mismatch(call: &Call) -> Result<Reply, Error> {
    let email: String = call.arg(0).ok_or(Error::NullArgument { name: "p_email" })?;
    let apply = call.arg::<bool>(1).ok_or(Error::NullArgument { name: "p_use_auth_id" })?;
    let repair = Repair::start(House::find()?, apply, OnConflict::Error, actor())?;
    let found = repair.candidates(&email);
    if found.is_empty() {
        return Err(Error::UnknownEmail { email });
    }
    if found.iter().all(|c| c.status == Status::MissingInAuth) {
        return Err(Error::OnlyAnAppUser { email });
    }
    let mut lines = Vec::new();
    for outcome in repair.run(found)? {
        if let Some(failure) = outcome.failure {
            return Err(Error::Raised(failure));
        }
        lines.push(line(&outcome));
    }
    // What was done says more than that the rest is in order.
    lines.sort_by_key(|line| line.starts_with("OK:"));
    lines.truncate(lines.iter().filter(|line| !line.starts_with("OK:")).count().max(1));
    Ok(Reply::of(lines.join("; ")))
}

fn rows_that_refer(rows: u64) -> String {
    match rows {
        1 => "1 row that refers".to_owned(),
        n => format!("{n} rows that refer"),
    }
}

/// What becomes of the leaving user's own fields, in words.
fn own_fields(outcome: &Outcome) -> String {
    let named = |name: &str, what: &str| {
        let columns = outcome.details[name].as_array()?;
        let columns: Vec<&str> = columns.iter().filter_map(|column| column.as_str()).collect();
        Some(format!("; {what}: {}", columns.join(", ")))
    };
    let words = [named("taken_over", "taken over"), named("given_up", "given up")];
    words.into_iter().flatten().collect()
}

fn line(outcome: &Outcome) -> String {
    let text = |id: Option<Uuid>| id.map_or("none".into(), |id| id.to_string());
    let email = outcome.email.clone().unwrap_or_else(|| text(outcome.auth_user_id));
    let rows = rows_that_refer(outcome.rows_changed);
    let (old, new) = (text(outcome.old_app_user_id), text(outcome.auth_user_id));
    let undo = outcome.audit_id.map_or(String::new(), |id| format!("; audit_id {id}"));
    let own = own_fields(outcome);
    let before = outcome.details["before"].as_str().unwrap_or("none");
    let line = match (outcome.outcome, outcome.action) {
        ("planned", Action::Rekey) => {
            format!("MANUAL: {email}: change app user {old} to {new}, with {rows} to it")
        }
        ("planned", Action::Merge) => {
            format!("MANUAL: {email}: merge app user {old} into {new}, with {rows} to it{own}")
        }
        ("planned", Action::Create) => format!("MANUAL: {email}: create app user {new}"),
        ("planned", _) => {
            format!("MANUAL: {email}: give app user {new} this e-mail, in place of {before}")
        }
        ("done", Action::Rekey) => {
            format!("FIXED: {email}: app user {old} is now {new}, with {rows} to it{undo}")
        }
        ("done", Action::Merge) => {
            format!("MERGED: {email}: app user {old} into {new}, with {rows} to it{own}{undo}")
        }
        ("done", Action::Create) => format!("CREATED: {email}: app user {new}{undo}"),
        ("done", _) => {
            format!("FIXED: {email}: app user {new} has auth's e-mail, in place of {before}{undo}")
        }
        _ => {
            let reason = outcome.details["reason"].as_str().unwrap_or("both sides agree");
            format!("OK: {email}: {reason}")
        }
    };
    plain(&line)
}

impl Outcome {
    fn unknown(email: &str) -> Self {
        let failure = Error::UnknownEmail { email: email.to_owned() };
        let mut outcome = Outcome::new(Action::Refuse, "refused");
        outcome.email = Some(email.to_owned());
        outcome.details = json!({ "reason": "nobody has this e-mail" });
        outcome.refused_for(failure)
    }
}
