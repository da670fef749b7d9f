//! The door of the triggers on `auth.users`: a sign-up, a confirmation, a changed e-mail, a deletion.
//!
//! A sign-up is never blocked. The row is inserted optimistically, in one subtransaction for the whole statement. Only
//! when that fails is the reason looked for, row by row.

mod arrival;
pub mod triggers;

use crate::catalog::{Auth, House};
use crate::error::{Error, Failure};
use crate::pg::{
    self, Call, Lockwait, Mode, Reply, RowSet, TriggerCall, TriggerEvent, connect, subtransaction,
};
use crate::settings;
use crate::statements::audit::{self, Entry};
use crate::statements::signup::{self as statements, Gone, Target};
use onagui_decide::failure::{meets_every_row, must_pass_on};

/// The trigger function `onagui.sync_auth_user_to_app_users()`.
pub fn auth_user_changed(call: &Call) -> Result<Reply, Error> {
    let trigger = TriggerCall::of(call)?;
    if Auth::find() != Some(trigger.table()) {
        return Err(Error::WrongTable {
            table: pg::table_name(trigger.table()),
        });
    }
    let event = trigger.event()?;
    let house = match House::find() {
        Ok(house) => house,
        Err(error) => {
            // Nowhere to record it, and no reason to block a sign-up.
            pg::warn(error.into());
            return Ok(Reply::Done);
        }
    };
    let actor = pg::role_name(pg::current_role());
    let _lockwait = Lockwait::at_most(settings::lock_timeout());
    match event {
        TriggerEvent::Insert { new } => {
            if settings::enabled() {
                signed_up(house, &new, &actor)?;
            }
        }
        TriggerEvent::Update { old, new } => changed(house, &old, &new, &actor)?,
        TriggerEvent::Delete { old } => deleted(house, Gone::Rows(&old), &actor)?,
        TriggerEvent::Truncate => deleted(house, Gone::Everybody, &actor)?,
        TriggerEvent::AlreadySeen => {}
    }
    Ok(Reply::Done)
}

fn signed_up(house: House, new: &RowSet, actor: &str) -> Result<(), Error> {
    // Tables that were altered between the look at them and the statement are looked at once more.
    for attempt in 0.. {
        let known = Target::get(house);
        let target = match known {
            Ok(target) => target,
            Err(error) => return record_all(house, new, &error.into(), actor),
        };
        return match subtransaction(|| Ok(target.insert(new))) {
            Ok(made) if made as usize == new.len() => {
                if settings::audit_signups() {
                    statements::record_signups(house, new, actor);
                }
                Ok(())
            }
            Ok(_) => arrival::settle(&target, new, actor),
            Err(failure) if must_pass_on(&failure.sqlstate) => Err(failure.into()),
            Err(_) if target.is_stale() && attempt < 2 => continue,
            Err(failure) if meets_every_row(&failure.sqlstate) => {
                record_all(house, new, &failure, actor)
            }
            Err(_) => arrival::settle(&target, new, actor),
        };
    }
    Ok(())
}

fn changed(house: House, old: &RowSet, new: &RowSet, actor: &str) -> Result<(), Error> {
    let target = match Target::get(house) {
        Ok(target) => target,
        Err(error) if settings::enabled() => return record_all(house, new, &error.into(), actor),
        Err(_) => return Ok(()),
    };
    let outcome = subtransaction(|| Ok(target.change(old, new)));
    let change = match outcome {
        Ok(change) => change,
        Err(failure) => return record_all(house, new, &failure, actor),
    };
    let id = statements::who(house, new).first().map(|(id, _)| *id);
    if id != Some(change.old_id) || change.soft_deleted {
        deleted(
            house,
            Gone::One(change.old_id, change.old_email.clone()),
            actor,
        )?;
    }
    if settings::enabled() {
        arrival::follow(&target, new, &change, actor)
    } else {
        Ok(())
    }
}

/// Remembers the ids, also while syncing is off: the rule of identity hangs on it.
fn deleted(house: House, gone: Gone, actor: &str) -> Result<(), Error> {
    match subtransaction(|| {
        statements::remember(house, gone, actor);
        Ok(())
    }) {
        Ok(()) => Ok(()),
        Err(failure) => give_up(
            house,
            vec![Entry::new("failure", "failed", actor)],
            &failure,
        ),
    }
}

/// Records that none of `new` could be handled.
fn record_all(house: House, new: &RowSet, failure: &Failure, actor: &str) -> Result<(), Error> {
    let entries = statements::who(house, new)
        .into_iter()
        .map(|(id, email)| Entry {
            auth_user_id: Some(id),
            email,
            ..Entry::new("failure", "failed", actor)
        })
        .collect();
    give_up(house, entries, failure)
}

/// Lets the sign-up go on without its app side: the failure is recorded and raised as a WARNING. Or not, where it must
/// be passed on, or where the DBA wants it raised.
fn give_up(house: House, mut entries: Vec<Entry>, failure: &Failure) -> Result<(), Error> {
    if must_pass_on(&failure.sqlstate) || settings::raise_errors() {
        return Err(Error::Raised(Box::new(failure.clone())));
    }
    for entry in &mut entries {
        entry.details = serde_json::json!({ "error": failure.to_json() });
    }
    let whom = match entries.as_slice() {
        [one] => format!(
            "auth user {}",
            one.auth_user_id.map_or("?".into(), |id| id.to_string())
        ),
        many => format!("{} auth users", many.len()),
    };
    let unrecorded = subtransaction(|| {
        audit::record(house, &entries);
        Ok(())
    })
    .err();
    if let Some(unrecorded) = &unrecorded
        && must_pass_on(&unrecorded.sqlstate)
    {
        return Err(Error::Raised(unrecorded.clone()));
    }
    pg::warn(Failure {
        sqlstate: failure.sqlstate.clone(),
        message: format!(
            "onagui_sync could not write the app user of {whom}: {}",
            failure.message
        ),
        detail: failure.detail.clone(),
        hint: Some(match unrecorded {
            None => "The sign-up goes on; the failure is recorded in onagui.sync_audit_log.".into(),
            Some(why) => format!(
                "The sign-up goes on; the failure could not be recorded: {}",
                why.message
            ),
        }),
        ..Failure::default()
    });
    Ok(())
}

/// The trigger function of `onagui.sync_column`.
pub fn mapping_changed(call: &Call) -> Result<Reply, Error> {
    pg::announce_change(TriggerCall::of(call)?.table());
    Ok(Reply::Done)
}

const CREATE_APP_USERS: [&str; 10] = [
    "CREATE TABLE onagui.app_users (
        id         uuid PRIMARY KEY,
        email      text,
        username   text CONSTRAINT app_users_username_key UNIQUE,
        full_name  text,
        metadata   jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
        updated_at timestamptz NOT NULL DEFAULT pg_catalog.now())",
    "CREATE UNIQUE INDEX app_users_email_key ON onagui.app_users (lower(btrim(email)))",
    // Without a policy only the owner and roles that bypass row security see anything: safe to expose.
    "ALTER TABLE onagui.app_users ENABLE ROW LEVEL SECURITY",
    "COMMENT ON TABLE onagui.app_users IS 'The application''s users; the id is the auth user''s'",
    "COMMENT ON COLUMN onagui.app_users.id IS 'auth.users.id of the same person'",
    "COMMENT ON COLUMN onagui.app_users.email IS 'Follows auth.users.email'",
    "COMMENT ON COLUMN onagui.app_users.username IS 'From the sign-up''s metadata, else the part of the e-mail before @'",
    "COMMENT ON COLUMN onagui.app_users.full_name IS 'From the sign-up''s metadata: full_name, else name'",
    "COMMENT ON COLUMN onagui.app_users.metadata IS 'What the client sent at sign-up (raw_user_meta_data)'",
    "COMMENT ON COLUMN onagui.app_users.created_at IS 'When the auth user was created'",
];

/// `onagui.create_app_users()`: with the caller's rights, and the caller owns what comes out.
pub fn create_app_users(_: &Call) -> Result<Reply, Error> {
    if crate::catalog::App::find().is_some() {
        return Ok(Reply::of(
            "OK: onagui.app_users exists already, nothing was changed",
        ));
    }
    pg::as_role(pg::current_role(), || {
        connect(|session| {
            for sql in CREATE_APP_USERS {
                session.run(sql, &[], Mode::Fresh);
            }
        })
    });
    Ok(Reply::of("CREATED: onagui.app_users"))
}
