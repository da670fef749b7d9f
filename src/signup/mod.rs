//! The door of the triggers on `auth.users`: a sign-up, a confirmation, a changed e-mail, a deletion.
//!
//! A sign-up is never blocked. The row is inserted optimistically, in one subtransaction for the whole statement. Only
//! when that fails is the reason looked for, row by row.

mod arrival;
mod create;
mod halving;
mod proof;
pub mod triggers;

use crate::catalog::{App, Auth, House};
use crate::error::{Error, Failure};
use crate::fix::take_back;
use crate::pg::{
    self, Call, Lockwait, Mode, Person, Reply, RowSet, Seen, TriggerCall, TriggerEvent, connect,
    subtransaction,
};
use crate::settings;
use crate::statements::audit::{self, Entry};
use crate::statements::people::{self, AT_ONCE};
use crate::statements::signup::Target;
use onagui_decide::failure::{DEADLOCK, LOCK_NOT_AVAILABLE, must_pass_on, not_about_the_row};
use pgrx::Uuid;
use proof::Proof;
use std::cell::{Cell, LazyCell};
use std::thread::sleep;
use std::time::Duration;

/// A statement of Auth's, and how often what is done about it may still begin anew.
struct Occasion {
    /// The caller's name, for the audit log: looked up only where there is something to record.
    actor: LazyCell<String>,
    left: Cell<usize>,
    again: Cell<bool>,
    proof: Cell<Proof>,
    /// What was confirmed in this transaction before was another e-mail than the one that comes.
    was_of_another: Cell<bool>,
}

/// The trigger function `onagui.sync_auth_user_to_app_users()`.
pub fn auth_user_changed(call: &Call) -> Result<Reply, Error> {
    let trigger = TriggerCall::of(call)?;
    if Auth::find() != Some(trigger.table()) {
        return Err(Error::WrongTable { table: pg::table_name(trigger.table()) });
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
    let occasion = Occasion::new();
    match event {
        TriggerEvent::Insert { new } => {
            if settings::enabled() {
                let _lockwait = Lockwait::at_most(settings::lock_timeout());
                occasion.go_through(|| signed_up(house, &new, &occasion))?;
            }
        }
        TriggerEvent::Update { old, new } => {
            occasion.weigh(&old, &new);
            occasion.go_through(|| changed(house, &old, &new, &occasion))?;
        }
        TriggerEvent::Delete { old } => forget(house, &occasion.actor, |remember| {
            old.people(AT_ONCE, remember);
            Ok(())
        })?,
        TriggerEvent::Truncate => {
            forget(house, &occasion.actor, |remember| people::everybody(remember))?
        }
        TriggerEvent::AlreadySeen => {}
    }
    Ok(Reply::Done)
}

/// How often what is done about a statement begins anew.
const AGAIN: usize = 3;

/// Whoever was let go by the end of a deadlock wakes up first: who begins anew at once takes the same lock before them.
const A_MOMENT: Duration = Duration::from_millis(20);

impl Occasion {
    fn new() -> Self {
        Occasion {
            actor: LazyCell::new(|| pg::role_name(pg::current_role())),
            left: Cell::new(AGAIN),
            again: Cell::new(false),
            proof: Cell::new(Proof::Given),
            was_of_another: Cell::new(false),
        }
    }

    /// Once for each UPDATE, however often what is done about it begins anew: it notes what the UPDATE confirms.
    fn weigh(&self, old: &RowSet, new: &RowSet) {
        if let (Some(before), Some(after)) = (old.first(), new.first()) {
            self.proof.set(Proof::of(&before, &after));
            self.was_of_another.set(proof::was_of_another(&before, &after));
            proof::note_if_confirmed(&before, &after);
        }
    }

    /// Does `f`, and again where what failed may well pass then: what it had done until then, it finds done. Rows that were overtaken
    /// ([`pg::is_overtaken`]) are followed so.
    fn go_through(&self, f: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
        loop {
            match f() {
                Err(Error::Raised(failure))
                    if self.again.take() || pg::is_overtaken(&failure) && self.begins_anew() =>
                {
                    if failure.sqlstate == DEADLOCK {
                        sleep(A_MOMENT);
                    }
                    pg::check_interrupts();
                }
                done => return done,
            }
        }
    }

    fn begins_anew(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    /// Fails, so that everything begins anew, where `failure` may come of tables that have been altered since the look at them, or
    /// was a deadlock: whoever stood in the way goes on, and is waited for the next time.
    fn may_pass_now(&self, target: &Target, failure: &Failure) -> Result<(), Error> {
        // Nobody waits for a lock more than once.
        let in_vain = failure.sqlstate == LOCK_NOT_AVAILABLE;
        let may_pass = failure.sqlstate == DEADLOCK || target.is_outdated(&failure.sqlstate);
        if !may_pass || in_vain || must_pass_on(&failure.sqlstate) || !self.begins_anew() {
            return Ok(());
        }
        self.again.set(true);
        Err(Error::Raised(Box::new(failure.clone())))
    }
}

fn signed_up(house: House, new: &RowSet, occasion: &Occasion) -> Result<(), Error> {
    if new.len() == 0 {
        return Ok(());
    }
    let target = match Target::get(house) {
        Ok(target) => target,
        Err(error) => return record_all(house, new, &error.into(), &occasion.actor),
    };
    let all = settings::audit_signups();
    let outcome = subtransaction(|| {
        let made = target.insert(new)? as usize;
        if (all || target.app.changes_rows) && made < new.len() {
            // Each row's entry tells what became of it, which is not known of rows made here. And a trigger that
            // discards a row may have put something elsewhere instead.
            return Err(Error::Rehearsed);
        }
        if all {
            people::record_signups(house, new, &occasion.actor);
        }
        Ok(made)
    });
    match outcome {
        Ok(made) if made == new.len() => Ok(()),
        Ok(_) => arrival::settle(&target, new, occasion),
        Err(failure) if must_pass_on(&failure.sqlstate) => Err(failure.into()),
        Err(failure) => {
            occasion.may_pass_now(&target, &failure)?;
            if new.len() == 1 && not_about_the_row(&failure.sqlstate) {
                return record_all(house, new, &failure, &occasion.actor);
            }
            spent(&failure);
            arrival::settle(&target, new, occasion)
        }
    }
}

fn changed(house: House, old: &RowSet, new: &RowSet, occasion: &Occasion) -> Result<(), Error> {
    let (Some(before), Some(after)) = (old.first(), new.first()) else {
        return Ok(());
    };
    let (was_deleted, is_deleted) = (before.is_deleted, after.is_deleted);
    let (before, after) = (before.person, after.person);
    let change = Change { email_changed: before.email != after.email };
    if before.id != after.id || is_deleted && !was_deleted {
        forget(house, &occasion.actor, |remember| {
            remember(vec![before]);
            Ok(())
        })?;
    }
    let _lockwait = Lockwait::at_most(settings::lock_timeout());
    if !settings::enabled() || is_deleted {
        return Ok(());
    }
    let target = match Target::get(house) {
        Ok(target) => target,
        Err(error) => return record_all(house, new, &error.into(), &occasion.actor),
    };
    // Nearly always: a confirmation of somebody whose row was made when they signed up.
    match subtransaction(|| Ok(target.is_in_step(&after))) {
        Ok(true) => Ok(()),
        Ok(false) => {
            if let Some(id) = after.id.filter(|_| occasion.was_of_another.get()) {
                unlink(&target, id, occasion)?;
            }
            arrival::follow(&target, new, &change, occasion)
        }
        Err(failure) if must_pass_on(&failure.sqlstate) => Err(failure.into()),
        Err(failure) => {
            occasion.may_pass_now(&target, &failure)?;
            record_all(house, new, &failure, &occasion.actor)
        }
    }
}

/// Takes back that the auth user was linked in this transaction: the confirmation was one of another e-mail than the one by which
/// they were.
///
/// Where that cannot be, the UPDATE fails, and with it the transaction that has linked them: it is an administrator's, no
/// sign-up, and would leave somebody's app user to somebody else.
fn unlink(target: &Target, id: Uuid, occasion: &Occasion) -> Result<(), Error> {
    let house = target.house;
    let undone = subtransaction(|| match audit::link_in_this_transaction(house, id) {
        Some(link) => take_back(house, link, &occasion.actor, Some(OF_ANOTHER)).map(|_| ()),
        None => Ok(()),
    });
    let Err(mut failure) = undone else {
        return Ok(());
    };
    if must_pass_on(&failure.sqlstate) {
        return Err(failure.into());
    }
    occasion.may_pass_now(target, &failure)?;
    failure.message = format!("{NOT_TAKEN_BACK}: {}", failure.message);
    failure.detail.get_or_insert_with(|| "The link was made in this transaction.".into());
    failure.hint = Some(
        "Nothing was changed. See to what stands in the way; or set the e-mail in one call, and confirm it in the next.".into(),
    );
    Err(Error::Raised(failure))
}

/// Why a link is taken back, for the audit log.
const OF_ANOTHER: &str = "another e-mail was confirmed than the one that had linked";

const NOT_TAKEN_BACK: &str = "the auth user was linked by an e-mail that is not the confirmed one, which cannot be taken back";

/// What an UPDATE of an auth user changed.
struct Change {
    email_changed: bool,
}

/// Remembers the ids of those that `gone` calls it with, also while syncing is off: the rule of identity hangs on it. So it
/// waits for a lock as long as the session itself would, and a deleted user is remembered whether or not that can be
/// recorded.
fn forget(
    house: House,
    actor: &str,
    gone: impl FnOnce(&mut dyn FnMut(Vec<Person>)) -> Result<(), Error>,
) -> Result<(), Error> {
    let note = |failure: &Failure| {
        audit::record_signup(house, vec![Entry::failure(failure, actor)]);
    };
    let record = |people| {
        let _lockwait = Lockwait::at_most(settings::lock_timeout());
        let recorded = subtransaction(|| {
            people::record_deletes(house, people, actor);
            Ok(())
        });
        recorded.or_else(|failure| give_up(&failure, Attempt::Delete, || note(&failure)))
    };
    let mut unrecorded = Ok(());
    let remembered = subtransaction(|| {
        gone(&mut |people| {
            let new = people::remember(house, people);
            if settings::enabled() && !new.is_empty() && unrecorded.is_ok() {
                unrecorded = record(new);
            }
        })
    });
    match remembered {
        Ok(()) => unrecorded,
        // The delete can be tried again; an id that was forgotten is lost.
        Err(failure) if failure.sqlstate == LOCK_NOT_AVAILABLE => Err(failure.into()),
        Err(failure) => give_up(&failure, Attempt::Delete, || note(&failure)),
    }
}

/// Records that none of `new` could be handled.
fn record_all(house: House, new: &RowSet, failure: &Failure, actor: &str) -> Result<(), Error> {
    let whom = match new.first() {
        Some(Seen { person: Person { id: Some(id), .. }, .. }) if new.len() == 1 => {
            format!("auth user {id}")
        }
        _ => format!("{} auth users", new.len()),
    };
    give_up(failure, Attempt::SignUp(whom), || people::record_failures(house, new, failure, actor))
}

/// After a wait for a lock that was in vain.
fn spent(failure: &Failure) {
    if failure.sqlstate == LOCK_NOT_AVAILABLE && settings::lock_timeout() > 0 {
        Lockwait::in_vain();
    }
}

/// What Auth was doing.
enum Attempt {
    /// For whom, in words.
    SignUp(String),
    Delete,
}

/// Lets the sign-up go on without its app side: the failure is recorded and raised as a WARNING. Or not, where it must
/// be passed on, or where the DBA wants it raised.
fn give_up(failure: &Failure, attempt: Attempt, record: impl FnOnce()) -> Result<(), Error> {
    if must_pass_on(&failure.sqlstate) || settings::raise_errors() {
        return Err(Error::Raised(Box::new(failure.clone())));
    }
    spent(failure);
    let unrecorded = subtransaction(|| {
        record();
        Ok(())
    })
    .err();
    if let Some(unrecorded) = &unrecorded
        && must_pass_on(&unrecorded.sqlstate)
    {
        return Err(Error::Raised(unrecorded.clone()));
    }
    let (what, attempt) = match attempt {
        Attempt::SignUp(whom) => (format!("write the app user of {whom}"), "sign-up"),
        Attempt::Delete => ("record which auth users were deleted".into(), "delete"),
    };
    pg::warn(Failure {
        sqlstate: failure.sqlstate.clone(),
        message: format!("onagui_sync could not {what}: {}", failure.message),
        detail: failure.detail.clone(),
        hint: Some(match unrecorded {
            None => {
                format!("The {attempt} goes on; the failure is recorded in onagui.sync_audit_log.")
            }
            Some(why) => {
                format!("The {attempt} goes on; the failure could not be recorded: {}", why.message)
            }
        }),
        context: failure.context.clone(),
        ..Failure::default()
    });
    Ok(())
}

/// The trigger function of `onagui.sync_column`.
pub fn mapping_changed(call: &Call) -> Result<Reply, Error> {
    pg::announce_change(TriggerCall::of(call)?.table());
    Ok(Reply::Done)
}

const CREATE_APP_USERS: [&str; 9] = [
    "CREATE TABLE onagui.app_users (
        id         uuid PRIMARY KEY,
        email      text,
        username   text UNIQUE,
        full_name  text,
        metadata   jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
        updated_at timestamptz NOT NULL DEFAULT pg_catalog.now())",
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

const EMAIL_INDEX: &std::ffi::CStr = c"app_users_email_key";

/// `onagui.create_app_users()`: with the caller's rights, and the caller owns what comes out.
pub fn create_app_users(_: &Call) -> Result<Reply, Error> {
    if App::find().is_some() {
        let house = House::find()?;
        pg::as_role(house.owner, || connect(App::check))?;
        return Ok(Reply::of("OK: onagui.app_users exists already, nothing was changed"));
    }
    let caller = pg::current_role();
    if !pg::may_create_in(c"onagui", caller) {
        return Err(Error::MayNotCreate { role: pg::role_name(caller) });
    }
    pg::as_role(caller, || {
        connect(|session| {
            for sql in CREATE_APP_USERS {
                session.run(sql, &[], Mode::Fresh);
            }
            // An older table that was renamed keeps the name of its index.
            let name = match pg::table_named(c"onagui", EMAIL_INDEX) {
                None => EMAIL_INDEX.to_str().unwrap_or_default(),
                Some(_) => "",
            };
            let sql =
                format!("CREATE UNIQUE INDEX {name} ON onagui.app_users (lower(btrim(email)))");
            session.run(&sql, &[], Mode::Fresh);
        })
    });
    Ok(Reply::of("CREATED: onagui.app_users"))
}
