//! `onagui.sync_user_registration()`: a client's own call, in place of a REST function with full rights.
//!
//! Who calls comes from the role in force and from the token's claims as PostgREST sets them, never from the body.

use crate::catalog::House;
use crate::catalog::tables::APP_USERS;
use crate::error::{Error, Failure};
use crate::fix::Linker;
use crate::pg::{self, Call, Reply, RowSet, subtransaction};
use crate::settings;
use crate::statements::audit::{self, Entry};
use crate::statements::facts::Arrival;
use crate::statements::registration as statements;
use crate::statements::signup::{Target, all_written};
use onagui_decide::failure::{DEADLOCK, must_pass_on};
use onagui_decide::names::LONGEST_NAME;
use onagui_decide::registration::{self, Body, Caller, Role, Wanted, Wrong};
use onagui_decide::signup::{Decision, decide};
use pgrx::Uuid;
use serde_json::json;

/// How often somebody else may be faster before the call gives up.
const ATTEMPTS: usize = 5;

/// Bytes in a page of the server: no value that fills less of it is too large for every index.
const PAGE: usize = 8192;

pub fn sync_user_registration(call: &Call) -> Result<Reply, Error> {
    let house = House::find()?;
    let role = pg::current_role();
    let caller = registration::caller(rights_of(role, house));
    let token = match caller {
        Caller::Operator => None,
        Caller::User => Some(own_id().ok_or(Error::NoToken)?),
    };
    let text = call.arg_json(0).unwrap_or_else(|| "null".into());
    let body = Body::parse(&text).map_err(Error::BadBody)?;
    let id = body.user_id().map_err(Error::BadBody)?;
    if token.is_some_and(|token| token != id) {
        return Err(Error::NotOneself);
    }
    let wanted = body.wanted().map_err(Error::BadBody)?;
    let registration = Registration {
        house,
        is_users: caller == Caller::User,
        id: Uuid::from_bytes(id),
        wanted,
        actor: pg::role_name(role),
    };
    match registration.run() {
        Ok(answer) => Ok(Reply::json(answer)),
        Err(error) if caller == Caller::User => Err(discreet(error)),
        Err(error) => Err(error),
    }
}

fn rights_of(role: pgrx::pg_sys::Oid, house: House) -> Role {
    let named = |name| pg::role_named(name);
    let inherits = |name| named(name).is_some_and(|other| pg::has_rights_of(role, other));
    let is_superuser = pg::is_superuser(role);
    // Whatever has been granted to these.
    let is_client = [c"anon", c"authenticated"].into_iter().any(|name| named(name) == Some(role));
    Role {
        is_superuser,
        is_installer: house.owner == role || !is_client && statements::is_installer(house, role),
        is_service_role: named(c"service_role") == Some(role),
        is_authenticated: inherits(c"authenticated"),
        inherits_service_role: inherits(c"service_role"),
    }
}

fn own_id() -> Option<[u8; 16]> {
    registration::subject(&pg::setting(c"request.jwt.claims")?)
}

/// What went wrong on the application's side may quote rows that the caller may not read. The caller learns that it did,
/// and the server's log learns why.
fn discreet(error: Error) -> Error {
    let Error::Raised(failure) = error else {
        return error;
    };
    // The server's own, unless code of the application was running, whose words and statements these may be.
    let passes_on = must_pass_on(&failure.sqlstate) || failure.sqlstate.starts_with("25");
    if passes_on && failure.context.is_none() {
        return Error::Raised(failure);
    }
    let refused = Error::AppRefused {
        sqlstate: failure.sqlstate.clone(),
        constraint: failure.constraint.clone(),
    };
    pg::log(Failure {
        message: format!(
            "sync_user_registration() could not write the app user: {}",
            failure.message
        ),
        ..*failure
    });
    refused
}

#[derive(Clone)]
struct Registration {
    house: House,
    /// Not an operator's call for whomever they like.
    is_users: bool,
    id: Uuid,
    wanted: Wanted,
    actor: String,
}

/// What one look at the tables led to.
enum Outcome {
    Done(&'static str, String),
    Refused(Error),
    /// Somebody else has changed what was looked at.
    Overtaken,
}

impl Registration {
    fn run(&self) -> Result<String, Error> {
        let mut last = Error::ChangedMeanwhile { table: APP_USERS.into() };
        for _ in 0..ATTEMPTS {
            let target = Target::get(self.house)?;
            let new = statements::auth_user(&target, self.id, &self.wanted.email)?;
            let allowed = self.allowed(&target);
            allowed.check_username(&target)?;
            let mut decided = None;
            match subtransaction(|| allowed.attempt(&target, &new, &mut decided)) {
                Ok(Outcome::Done(action, user)) => return Ok(statements::answer(action, &user)),
                Ok(Outcome::Refused(error)) => return Err(error),
                Ok(Outcome::Overtaken) => {}
                Err(failure) => {
                    last = Error::Raised(allowed.may_try_again(&target, &new, decided, failure)?)
                }
            }
            pg::check_interrupts();
        }
        Err(last)
    }

    /// The same without what users have no say in: what is mapped from where they cannot write.
    fn allowed(&self, target: &Target) -> Self {
        let mut allowed = self.clone();
        if self.is_users {
            allowed.wanted.username.take_if(|_| target.is_auths_to_say("username"));
            allowed.wanted.metadata.take_if(|_| target.is_auths_to_say("metadata"));
        }
        allowed
    }

    /// A username as given is set as given, or not at all.
    fn check_username(&self, target: &Target) -> Result<(), Error> {
        let longest = target.app.column("username").and_then(|c| c.longest);
        match (&self.wanted.username, longest) {
            (Some(name), Some(longest)) if name.chars().count() > longest => {
                Err(Error::BadBody(Wrong::TooLong { key: "username", longest }))
            }
            _ => Ok(()),
        }
    }

    fn attempt(
        &self,
        target: &Target,
        new: &RowSet,
        decided: &mut Option<Decision<Uuid>>,
    ) -> Result<Outcome, Error> {
        let Some(arrival) = target.facts_as_recorded(new)?.into_iter().next() else {
            return Ok(Outcome::Overtaken);
        };
        let decision = decide(&arrival.facts, settings::link_policy());
        let action = match decided.insert(decision).clone() {
            Decision::Nothing => return Ok(Outcome::Refused(Error::NotAnAuthUser)),
            Decision::Create => {
                let details = target.create_one(self.id, self.wanted.username.as_deref())?;
                if settings::audit_signups() || details != json!({}) {
                    self.record(self.done(&arrival, "signup", None, 0, details));
                }
                "created"
            }
            Decision::Refresh { take_email } => {
                let refreshed = target.refresh_one(new, take_email)?;
                if take_email {
                    all_written(refreshed.written, new)?;
                    self.record(self.done(
                        &arrival,
                        "update_email",
                        Some(self.id),
                        0,
                        refreshed.details,
                    ));
                } else if refreshed.details != json!({}) {
                    let entry = self.done(&arrival, "signup", Some(self.id), 0, refreshed.details);
                    audit::record_once(self.house, entry);
                }
                "updated"
            }
            Decision::Link(app_user) => {
                let is_still_so = || {
                    let policy = settings::link_policy();
                    let link = Decision::Link(app_user);
                    let now = target.facts_as_recorded(new)?;
                    Ok(now.iter().all(|now| decide(&now.facts, policy) == link))
                };
                let linked = Linker::start(target)?.link(
                    (app_user, self.id),
                    arrival.email.clone(),
                    is_still_so,
                    || {
                        let refreshed = target.refresh_one(new, true)?;
                        // What the link's entry tells of, it can take back.
                        statements::set_as_given(target, self.id, &self.wanted);
                        Ok(refreshed)
                    },
                )?;
                let (rows, details) = (linked.rows, linked.details);
                self.record(self.done(&arrival, "link", Some(app_user), rows, details));
                "linked"
            }
            Decision::Pending(app_user) => {
                self.record_pending(&arrival, app_user);
                return Ok(Outcome::Done("pending", "null".into()));
            }
            Decision::Conflict(conflict) => {
                return Ok(Outcome::Refused(Error::RegistrationConflict {
                    reason: conflict.reason(),
                }));
            }
        };
        let is_set = statements::set_as_given(target, self.id, &self.wanted);
        match statements::app_user(target, self.id) {
            Some(user) if is_set => Ok(Outcome::Done(action, user)),
            Some(_) => Err(Error::HeldBack { table: APP_USERS.into() }),
            None => Ok(Outcome::Overtaken),
        }
    }

    /// Fails where another attempt would meet the same error.
    fn may_try_again(
        &self,
        target: &Target,
        new: &RowSet,
        decided: Option<Decision<Uuid>>,
        failure: Box<Failure>,
    ) -> Result<Box<Failure>, Error> {
        let length = self.wanted.username.as_ref().map_or(0, |name| name.chars().count());
        match failure.sqlstate.as_str() {
            // A row stands in the way, or is gone: that somebody else was faster, the next look tells.
            "23505" | "09000" => {
                let now = subtransaction(|| target.facts_as_recorded(new))?.into_iter().next();
                let now = now.map(|arrival| decide(&arrival.facts, settings::link_policy()));
                if now != decided || target.is_stale() {
                    return Ok(failure);
                }
                if let Some(username) = &self.wanted.username
                    && failure.sqlstate == "23505"
                    && statements::has_username(target, username, self.id)
                {
                    return Err(Error::UsernameTaken { username: registration::shown(username) });
                }
            }
            // Of values that are not long none fills an index's entry. Where one alone is larger than a page, no index is named.
            "54000"
                if length > LONGEST_NAME
                    && match &failure.constraint {
                        Some(index) => statements::is_of_username(target, index),
                        None => self.wanted.username.as_ref().is_some_and(|n| n.len() > PAGE),
                    } =>
            {
                let key = "username";
                return Err(Error::BadBody(Wrong::TooLongForIndex { key, length }));
            }
            // The row to be linked is not there any more, or not the same.
            "P0002" => return Ok(failure),
            _ if pg::is_overtaken(&failure) => return Ok(failure),
            DEADLOCK => return Ok(failure),
            code if !must_pass_on(code) && target.is_outdated(code) => return Ok(failure),
            _ => {}
        }
        Err(Error::Raised(failure))
    }

    fn entry(&self, arrival: &Arrival, action: &'static str, outcome: &'static str) -> Entry {
        Entry {
            auth_user_id: Some(self.id),
            email: arrival.email.clone(),
            ..Entry::new(action, outcome, &self.actor)
        }
    }

    fn done(
        &self,
        arrival: &Arrival,
        action: &'static str,
        before: Option<Uuid>,
        rows: u64,
        details: serde_json::Value,
    ) -> Entry {
        Entry {
            old_app_user_id: before,
            new_app_user_id: Some(self.id),
            rows_changed: rows,
            details: details.to_string(),
            ..self.entry(arrival, action, "done")
        }
    }

    fn record(&self, entry: Entry) {
        audit::record(self.house, vec![entry]);
    }

    fn record_pending(&self, arrival: &Arrival, app_user: Uuid) {
        let entry = Entry {
            old_app_user_id: Some(app_user),
            details: json!({ "reason": arrival.why_pending() }).to_string(),
            ..self.entry(arrival, "pending", "planned")
        };
        self.record(entry);
    }
}
