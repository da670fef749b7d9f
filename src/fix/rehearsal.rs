//! Rehearsing what a fix would do with one user.

use super::outcome::Outcome;
use super::repair::Repair;
use crate::error::{Error, Failure};
use crate::pg::{self, Mode, Session};
use crate::statements::candidates::Candidate;
use crate::statements::checks;
use crate::statements::creation::{Foreseen, Hindrance};
use crate::statements::merge::Merge;
use crate::statements::rekey::Collision;
use onagui_decide::failure::must_pass_on;
use onagui_decide::repair::Action;
use pgrx::Uuid;
use serde_json::json;
use std::collections::HashMap;

/// With so many of the spare app users that are merged into one before another, at most, it is looked at together.
const MOST_BEFORE: usize = 20;

/// Of how many users it is looked up together what keeps their rows from being made.
const AT_ONCE: usize = 1000;

impl Repair {
    /// A rehearsal of users with whom rows would move waits beforehand for whoever alters the tables of these.
    pub(super) fn wait_for_tables(&self, todo: &[Candidate]) -> Result<(), Error> {
        let moves = |c: &Candidate| matches!(c.status.action(), Action::Rekey | Action::Merge);
        if !todo.iter().any(moves) || self.waited.replace(true) {
            return Ok(());
        }
        let wait = || {
            self.mover().references.tables.iter().for_each(|table| pg::lock_for_reading(table.oid));
            Ok(())
        };
        match pg::subtransaction(wait) {
            Err(failure) if failure.sqlstate.starts_with("57") => Err(failure.into()),
            // What is not to be had, or too much, those of whom it keeps a look say.
            _ => self.renew().map(|_| ()),
        }
    }

    /// A rehearsal looks at what a statement would see that began now, if it had to wait for the tables.
    pub(super) fn looking<R>(&self, f: impl FnOnce() -> R) -> R {
        if self.apply { f() } else { pg::as_after_waiting(f) }
    }

    /// What `action` would do with one user, and what stands in the way: a read.
    pub(super) fn rehearse(
        &self,
        session: &Session,
        candidate: &Candidate,
        action: Action,
    ) -> Result<Outcome, Error> {
        let mut row = Outcome::of(candidate, action, "planned");
        row.new_app_user_id = candidate.auth_user_id;
        let pair = || Ok::<_, Error>((candidate.app()?, candidate.auth()?));
        let mover = self.mover();
        let mut matters = false;
        let (referring, collisions, unsettled) = match action {
            Action::Rekey if self.is_plain(session, candidate)? => {
                let (app, auth) = pair()?;
                let foreseer = self.foreseer();
                let collisions = foreseer.collisions(session, app, auth, Mode::Read);
                let unsettled = (!collisions.is_empty()).then(|| collides(&collisions, action));
                if unsettled.is_none()
                    && let Err(error) =
                        checks::fail(foreseer.broken(session, app, auth, Mode::Read), false)
                {
                    return Ok(refused(candidate, action, error));
                }
                let referring = mover.count(session, app, Mode::Read);
                (referring, collisions, unsettled)
            }
            Action::Rekey | Action::Merge => {
                let (app, auth) = pair()?;
                let plan = if action == Action::Merge {
                    let before = self.merged.borrow().get(&auth).cloned().unwrap_or_default();
                    Merge::rehearse(session, &mover, &before, app, auth, self.policy)
                } else {
                    Merge::plan_rekey(session, &mover, app, auth, &[], Mode::Read)
                };
                match plan {
                    Ok(merge) => {
                        matters = merge.matters();
                        row = row.merges(&merge.own);
                        let unsettled = merge.unsettled.then(|| unsettled(&merge, action));
                        (merge.referring(), merge.collisions, unsettled)
                    }
                    Err(error) => return Ok(refused(candidate, action, error)),
                }
            }
            _ => {
                return match self.foreseen(session, candidate.auth()?)? {
                    Ok(details) => Ok(Outcome { details, ..row }),
                    Err(Hindrance { failure, is_raised: true }) => Err(failure.into()),
                    Err(Hindrance { failure, .. }) => {
                        Ok(refused(candidate, action, failure.into()))
                    }
                };
            }
        };
        row = row.moves(referring);
        if !collisions.is_empty() {
            row.details["conflicts"] = Collision::to_json(&collisions);
        }
        if let Some(error) = unsettled {
            row.outcome = "refused";
            row.new_app_user_id = row.old_app_user_id;
            row.details["reason"] = json!("rows would collide");
            row = row.refused_for(error);
        } else if action == Action::Merge && !self.apply && matters {
            let (app, auth) = pair()?;
            let mut merged = self.merged.borrow_mut();
            let before = merged.entry(auth).or_default();
            before.push(app);
            before.drain(..before.len().saturating_sub(MOST_BEFORE));
        }
        Ok(row)
    }

    /// What stood in the way. A collision is looked up again, for its details.
    pub(super) fn explain(
        &self,
        candidate: &Candidate,
        action: Action,
        failure: Box<Failure>,
    ) -> Result<Outcome, Error> {
        if !may_be_foreseen(&failure) {
            return Ok(Outcome::failed(candidate, action, failure));
        }
        let rehearse =
            || pg::rehearsal(|| pg::connect(|session| self.rehearse(session, candidate, action)));
        match pg::with_own_changes(rehearse) {
            Ok(outcome) if outcome.outcome == "refused" => Ok(outcome),
            Err(failure) if must_pass_on(&failure.sqlstate) => Err(failure.into()),
            _ => Ok(Outcome::failed(candidate, action, failure)),
        }
    }

    /// What would come of making the auth user's row.
    fn foreseen(&self, session: &Session, id: Uuid) -> Result<Foreseen, Error> {
        if let Some(known) = self.foreseen.borrow_mut().remove(&id) {
            return Ok(known);
        }
        Ok(self.creations(session, &[id])?.remove(&id).unwrap_or_else(|| Ok(json!({}))))
    }

    fn creations(&self, session: &Session, ids: &[Uuid]) -> Result<HashMap<Uuid, Foreseen>, Error> {
        let mover = self.mover();
        let shape = mover.shape(session, 0);
        self.target().foresee(session, (&mover.references.tables[0], shape), ids)
    }

    /// Looks for what would come of making the rows of these users, many at a time. Where that fails, it will for one of
    /// them, whose turn comes.
    pub(super) fn foresee(&self, ids: &[Uuid]) -> Result<(), Error> {
        for some in ids.chunks(AT_ONCE) {
            pg::check_interrupts();
            match pg::rehearsal(|| pg::connect(|session| self.creations(session, some))) {
                Ok(found) => self.foreseen.borrow_mut().extend(found),
                Err(failure) if must_pass_on(&failure.sqlstate) => return Err(failure.into()),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Whether a re-key is one statement for each table, and need not be planned row by row.
    fn is_plain(&self, session: &Session, candidate: &Candidate) -> Result<bool, Error> {
        let mover = self.mover();
        let held = mover.held(session, candidate.auth()?, Mode::Read);
        Ok(held.is_empty() && !mover.references.by_rows && !mover.is_barred())
    }
}

/// Whether it is of the kind that a rehearsal looks for.
pub(super) fn may_be_foreseen(failure: &Failure) -> bool {
    matches!(
        failure.sqlstate.as_str(),
        "0A000" | "22001" | "22026" | "23502" | "23503" | "23505" | "23514" | "23P01" | "55000"
    )
}

/// What stands in the way is foreseen.
pub(super) fn refused(candidate: &Candidate, action: Action, error: Error) -> Outcome {
    let row = Outcome::failed(candidate, action, Box::new(error.into()));
    Outcome { outcome: "refused", ..row }
}

/// Why a merge cannot be done as planned.
pub(super) fn unsettled(merge: &Merge, action: Action) -> Error {
    match merge.stuck.is_empty() {
        true => collides(&merge.collisions, action),
        // Whosever rows are to stay.
        false => Error::CollidesWithOthers { what: format!("{}.", merge.stuck.join("; ")) },
    }
}

pub(super) fn collides(collisions: &[Collision], action: Action) -> Error {
    Error::Collides { what: Collision::in_words(collisions), action }
}
