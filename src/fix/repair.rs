//! Repairing one user: rehearsed or done, each in a subtransaction of their own.

use super::emails;
use super::outcome::Outcome;
use super::rehearsal::unsettled;
use crate::catalog::House;
use crate::error::{Decision, Error};
use crate::pg::{self, Mode, Raw, Session, connect, subtransaction};
use crate::statements::audit::{self, Entry};
use crate::statements::candidates::{Candidate, Finder, List, Order, Pair};
use crate::statements::creation::Foreseen;
use crate::statements::done::{Done, Step};
use crate::statements::merge::{self, Merge, OnConflict, Rekeyed};
use crate::statements::rekey::{Collision, Foreseer, Holding, Mover};
use crate::statements::rows;
use crate::statements::signup::Target;
use crate::statements::status::{ANOTHERS_ROW, ROW_WITHOUT_ID};
use onagui_decide::failure::{LOCK_NOT_AVAILABLE, must_pass_on};
use onagui_decide::repair::{Action, Status};
use pgrx::Uuid;
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// A call that repairs: what it found of the tables, and how it was asked to go about it.
pub struct Repair {
    pub(super) finder: RefCell<Rc<Finder>>,
    pub(super) mover: RefCell<Rc<Mover>>,
    pub(super) foreseer: RefCell<Option<Rc<Foreseer>>>,
    pub apply: bool,
    /// Nobody alters what refers to the users any more, or that does not matter.
    pub waited: Cell<bool>,
    pub policy: OnConflict,
    pub actor: String,
    /// What [`pg::completions`] were when the users were looked at.
    pub surveyed_at: Cell<u64>,
    /// Everybody is to be repaired, a few at a time: some may be brought forward.
    pub everybody: bool,
    /// Where `everybody`: whose turn need not, or must not, come again. Of those that are done, the ones brought forward.
    pub seen: RefCell<HashSet<Pair>>,
    /// App users who are to give up their e-mails, in a rehearsal.
    pub free: RefCell<HashSet<Uuid>>,
    /// How many turns there were in which e-mails were changed.
    pub turns: Cell<usize>,
    /// By auth user, who was merged into them before, in a rehearsal.
    pub merged: RefCell<HashMap<Uuid, Vec<Uuid>>>,
    /// Auth users of whom it was looked up, in a rehearsal, what will come of making their rows.
    pub foreseen: RefCell<HashMap<Uuid, Foreseen>>,
    /// Where the ids of auth users without a row stand already.
    pub(super) holdings: RefCell<HashMap<Uuid, Vec<Holding>>>,
}

/// So few users are re-keyed one by one.
const FEW: usize = 4;

impl Repair {
    pub fn start(
        house: House,
        apply: bool,
        policy: OnConflict,
        actor: String,
    ) -> Result<Self, Error> {
        let surveyed_at = Cell::new(pg::completions());
        let finder = Finder::get(house)?;
        let mover = Mover::get(house, &finder.target.app)?;
        Ok(Repair {
            finder: RefCell::new(finder),
            mover: RefCell::new(mover),
            foreseer: RefCell::default(),
            apply,
            waited: Cell::new(apply),
            policy,
            actor,
            surveyed_at,
            everybody: false,
            seen: RefCell::default(),
            free: RefCell::default(),
            turns: Cell::default(),
            merged: RefCell::default(),
            foreseen: RefCell::default(),
            holdings: RefCell::default(),
        })
    }

    pub fn finder(&self) -> Rc<Finder> {
        self.finder.borrow().clone()
    }

    pub fn target(&self) -> Rc<Target> {
        self.finder().target.clone()
    }

    /// What refers to the users.
    pub fn mover(&self) -> Rc<Mover> {
        self.mover.borrow().clone()
    }

    /// Looks up what moving users would break.
    pub(super) fn foreseer(&self) -> Rc<Foreseer> {
        let mover = self.mover();
        let mut kept = self.foreseer.borrow_mut();
        let fits = kept.take().filter(|foreseer| Rc::ptr_eq(&foreseer.mover, &mover));
        kept.insert(fits.unwrap_or_else(|| Rc::new(Foreseer::new(mover)))).clone()
    }

    /// The same once users are locked, when it cannot change any more ([`Mover::hold`]).
    pub fn hold(&self, session: &Session) -> Result<Rc<Mover>, Error> {
        let held = self.mover().hold(session, &self.target().app)?;
        self.mover.replace(held.clone());
        Ok(held)
    }

    pub fn mode(&self) -> Mode {
        if self.apply { Mode::Fresh } else { Mode::Read }
    }

    /// Everybody with this e-mail on either side.
    pub fn candidates(&self, email: &str) -> Vec<Candidate> {
        self.looking(|| self.finder().find(vec![email.to_owned()], self.mode()))
    }

    /// Those whom a fix can help who hold the e-mail that one of `waiting` is to get, and whoever they wait for in turn:
    /// in which batch they are listed must not matter. None where only those named are to be repaired.
    pub fn bring_forward(&self, waiting: &[Candidate]) -> Vec<Candidate> {
        let mut found = Vec::new();
        let wanted = |of: &[Candidate]| -> Vec<String> {
            let waiting = of.iter().filter(|c| c.status == Status::EmailMismatch);
            waiting.filter_map(|c| c.auth_email.clone()).collect()
        };
        let mut emails = if self.everybody { wanted(waiting) } else { Vec::new() };
        while !emails.is_empty() {
            pg::check_interrupts();
            let mut next = self.finder().find(emails, self.mode());
            next.retain(|c| c.status.is_fixable() && self.seen.borrow_mut().insert(c.pair()));
            emails = wanted(&next);
            found.extend(next);
        }
        found
    }

    /// Those whom a fix can help.
    pub fn list(&self, order: Order, most: Option<usize>) -> List {
        self.looking(|| self.finder().list(order, most, self.mode()))
    }

    /// Repairs each of `todo`, and records what was done in one statement.
    pub fn run(&self, todo: Vec<Candidate>) -> Result<Vec<Outcome>, Error> {
        self.wait_for_tables(&todo)?;
        // Each of the many switches of role below finds the path pinned already.
        self.looking(|| pg::with_pinned_path(|| self.run_each(todo)))
    }

    fn run_each(&self, mut todo: Vec<Candidate>) -> Result<Vec<Outcome>, Error> {
        todo.retain(|candidate| !self.seen.borrow().contains(&candidate.pair()));
        let may_hold = |c: &&Candidate| {
            self.everybody && matches!(c.status, Status::EmailMismatch | Status::Duplicate)
        };
        let holders: Vec<Pair> = todo.iter().filter(may_hold).map(Candidate::pair).collect();
        self.seen.borrow_mut().extend(&holders);
        let (emails, others): (Vec<_>, Vec<_>) =
            todo.into_iter().partition(|c| c.status == Status::EmailMismatch);
        let (moving, others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|c| c.status == Status::Mismatched);
        let mut outcomes = Vec::with_capacity(emails.len() + moving.len() + others.len());
        if self.apply && self.mover().moves_many() {
            self.rekey_all(&moving, &mut outcomes)?;
        } else {
            self.settle_each(&moving, &mut outcomes)?;
        }
        let new = others.iter().filter(|c| c.status.action() == Action::Create);
        let new: Vec<Uuid> = new.filter_map(|c| c.auth_user_id).collect();
        match self.apply {
            true => self.note_holdings(&new)?,
            false => self.foresee(&new)?,
        }
        self.settle_each(&others, &mut outcomes)?;
        emails::exchange(self, emails, &mut outcomes)?;
        if self.everybody && self.apply {
            let mut seen = self.seen.borrow_mut();
            holders.iter().for_each(|pair| _ = seen.remove(pair));
            seen.extend(outcomes.iter().filter(|o| o.outcome != "done").map(Outcome::pair));
        }
        // Those about whom there was nothing to do come last.
        outcomes.sort_by_key(|outcome| outcome.action == Action::None);
        self.record(&mut outcomes);
        Ok(outcomes)
    }

    /// Notes where the ids of those stand already who are to get a row.
    fn note_holdings(&self, ids: &[Uuid]) -> Result<(), Error> {
        let look = || Ok(connect(|session| self.mover().holdings(session, ids)));
        match subtransaction(look) {
            Ok(holdings) => self.holdings.borrow_mut().extend(holdings),
            Err(failure) if must_pass_on(&failure.sqlstate) => return Err(failure.into()),
            // Then the undo of such a row is refused as long as anything holds the id.
            Err(_) => {}
        }
        Ok(())
    }

    pub fn settle_each(
        &self,
        todo: &[Candidate],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), Error> {
        for candidate in todo {
            pg::check_interrupts();
            outcomes.push(self.settle(candidate, candidate.status.action(), true)?);
        }
        Ok(())
    }

    /// Re-keys `todo` together in one subtransaction. Where that fails, each half of them: one bad user costs only
    /// themselves, and the many others next to nothing.
    fn rekey_all(&self, todo: &[Candidate], outcomes: &mut Vec<Outcome>) -> Result<(), Error> {
        if todo.len() < FEW {
            return self.settle_each(todo, outcomes);
        }
        pg::check_interrupts();
        match subtransaction(|| pg::connect(|session| self.rekey_together(session, todo))) {
            Ok(Some(done)) => {
                outcomes.extend(done);
                Ok(())
            }
            Ok(None) => self.settle_each(todo, outcomes),
            Err(failure) if must_pass_on(&failure.sqlstate) && failure.sqlstate != "40001" => {
                Err(failure.into())
            }
            // Whoever holds the lock would be waited for in every half.
            Err(failure) if failure.sqlstate == LOCK_NOT_AVAILABLE => {
                self.settle_each(todo, outcomes)
            }
            Err(_) => {
                self.renew()?;
                let (one, other) = todo.split_at(todo.len() / 2);
                self.rekey_all(one, outcomes)?;
                self.rekey_all(other, outcomes)
            }
        }
    }

    /// None where some of `todo` must be looked at one by one.
    fn rekey_together(
        &self,
        session: &Session,
        todo: &[Candidate],
    ) -> Result<Option<Vec<Outcome>>, Error> {
        let pairs: Vec<(Uuid, Uuid)> =
            todo.iter().map(|c| Ok((c.app()?, c.auth()?))).collect::<Result<_, Error>>()?;
        let auth: Vec<Uuid> = pairs.iter().map(|(_, auth)| *auth).collect();
        let still = self.finder().lock(session, todo, self.surveyed_at.get());
        let mover = self.hold(session)?;
        if !mover.moves_many() || mover.holds_any(session, &auth) {
            return Ok(None);
        }
        let users: Vec<_> =
            pairs.iter().zip(&still).filter(|(_, s)| **s).map(|(p, _)| *p).collect();
        let mut moved = mover.rekey_all(session, &users)?.into_iter();
        let outcomes = todo.iter().zip(still).zip(pairs).map(|((candidate, still), (_, to))| {
            match still.then(|| moved.next()).flatten() {
                Some(moved) => Self::rekeyed(candidate, to, Rekeyed::plainly(&mover, moved)),
                None => Outcome::overtaken(candidate),
            }
        });
        Ok(Some(outcomes.collect()))
    }

    fn rekeyed(candidate: &Candidate, to: Uuid, done: Rekeyed) -> Outcome {
        let mut row = Outcome::of(candidate, Action::Rekey, "done").moves(done.moved);
        row.new_app_user_id = Some(to);
        row.undo = Some(vec![done.step]);
        row
    }

    /// One user. `checked`: the status must still be the same once the rows are locked.
    pub(super) fn settle(
        &self,
        candidate: &Candidate,
        action: Action,
        checked: bool,
    ) -> Result<Outcome, Error> {
        match action {
            Action::None | Action::Refuse => return Ok(Self::leave(candidate, action)),
            _ => {}
        }
        if !self.apply {
            let rehearse = || {
                pg::rehearsal(|| pg::connect(|session| self.rehearse(session, candidate, action)))
            };
            return match self.once_more(rehearse) {
                Err(failure) if must_pass_on(&failure.sqlstate) => Err(failure.into()),
                Err(failure) => Ok(Outcome::failed(candidate, action, failure)),
                outcome => outcome.map_err(Error::from),
            };
        }
        let attempt = || {
            subtransaction(|| {
                pg::connect(|session| {
                    let still =
                        self.finder().lock(session, &[candidate], self.surveyed_at.get()) == [true];
                    // What a person has decided must still be possible, and be the same thing to do.
                    let still = match checked {
                        true => still,
                        false => {
                            let (app, auth) = (candidate.app()?, candidate.auth()?);
                            let now = self.finder().decided(session, app, auth, Mode::Fresh)?;
                            now.status == candidate.status
                        }
                    };
                    if !still {
                        return Ok(None);
                    }
                    self.hold(session)?;
                    match action {
                        Action::Rekey => self.rekey(session, candidate),
                        Action::Merge => self.merge(session, candidate),
                        _ => self.create(session, candidate),
                    }
                    .map(Some)
                })
            })
        };
        match self.once_more(|| self.mover().at_once_or_in_order(attempt)) {
            Ok(Some(outcome)) => Ok(outcome),
            Ok(None) => Ok(Outcome::overtaken(candidate)),
            Err(failure) if must_pass_on(&failure.sqlstate) && failure.sqlstate != "40001" => {
                Err(failure.into())
            }
            // There was no row to lock: somebody may have made one.
            Err(_) if action == Action::Create && self.is_overtaken(candidate)? => {
                Ok(Outcome::overtaken(candidate))
            }
            Err(failure) => self.explain(candidate, action, failure),
        }
    }

    fn is_overtaken(&self, candidate: &Candidate) -> Result<bool, Error> {
        let id = candidate.auth()?;
        match subtransaction(|| self.target().is_missing(id)) {
            Err(failure) if must_pass_on(&failure.sqlstate) => Err(failure.into()),
            looked => Ok(looked.is_ok_and(|is_missing| !is_missing)),
        }
    }

    fn leave(candidate: &Candidate, action: Action) -> Outcome {
        let reason = candidate.detail.clone().unwrap_or_else(|| "both sides agree".into());
        let email = candidate.email.clone().unwrap_or_default();
        let outcome = if action == Action::None { "unchanged" } else { "refused" };
        let mut row = Outcome::of(candidate, action, outcome);
        row.details = json!({ "reason": reason });
        match candidate.status {
            Status::Pending => row.refused_for(Error::Unconfirmed { email }),
            Status::Conflict => {
                let decision = match reason.as_str() {
                    ANOTHERS_ROW => Decision::AnothersRow,
                    ROW_WITHOUT_ID => Decision::NoId,
                    _ => Decision::WhoIsWho,
                };
                row.refused_for(Error::Conflict { email, reason, decision })
            }
            _ => row,
        }
    }

    fn rekey(&self, session: &Session, candidate: &Candidate) -> Result<Outcome, Error> {
        let (from, to) = (candidate.app()?, candidate.auth()?);
        let done = merge::rekey(session, &self.mover(), from, to, &[])?;
        audit::fits(std::slice::from_ref(&done.step))?;
        Ok(Self::rekeyed(candidate, to, done))
    }

    fn merge(&self, session: &Session, candidate: &Candidate) -> Result<Outcome, Error> {
        let (from, to) = (candidate.app()?, candidate.auth()?);
        let mover = self.mover();
        let merge = Merge::plan(session, &mover, from, to, self.policy, Mode::Fresh)?;
        if merge.unsettled {
            return Err(unsettled(&merge, Action::Merge));
        }
        let mut row = Outcome::of(candidate, Action::Merge, "done")
            .moves(merge.referring())
            .merges(&merge.own);
        row.new_app_user_id = Some(to);
        if !merge.collisions.is_empty() {
            row.details["conflicts"] = Collision::to_json(&merge.collisions);
        }
        let undo: Vec<Step> = merge.carry_out()?.into_iter().map(Step::Changes).collect();
        audit::fits(&undo)?;
        row.undo = Some(undo);
        Ok(row)
    }

    fn create(&self, session: &Session, candidate: &Candidate) -> Result<Outcome, Error> {
        let id = candidate.auth()?;
        let details = self.target().create_one(id, None)?;
        let mover = self.mover();
        let shape = mover.shape(session, 0);
        let table = &mover.references.tables[0];
        let row_image = rows::whole_row(session, table, shape, id)
            .ok_or_else(|| Error::HeldBack { table: table.label.clone() })?;
        let mut row = Outcome::of(candidate, Action::Create, "done");
        row.new_app_user_id = Some(id);
        row.details = details;
        let made = Done {
            table: table.label.clone(),
            added: vec![Raw::of(&row_image)],
            held: self.holdings.borrow_mut().remove(&id).unwrap_or_default(),
            ..Done::default()
        };
        row.undo = Some(vec![Step::Changes(vec![made])]);
        Ok(row)
    }

    /// Writes what was done into the audit log, in one statement, and notes the entries' numbers: in the order in which it
    /// was done, so that it can be taken back from the last one on.
    pub(super) fn record(&self, outcomes: &mut [Outcome]) {
        if !self.apply {
            return;
        }
        let mut places = Vec::new();
        let mut entries = Vec::new();
        let mut all: Vec<(usize, &mut Outcome)> = outcomes.iter_mut().enumerate().collect();
        all.sort_by_key(|(_, row)| row.turn);
        for (place, row) in all {
            let action = match row.outcome {
                "done" => row.action.name(),
                "failed" => "failure",
                "refused" => "conflict",
                _ => continue,
            };
            let details = row.told(row.outcome == "done");
            row.undo = None;
            places.push(place);
            entries.push(Entry {
                auth_user_id: row.auth_user_id,
                old_app_user_id: row.old_app_user_id,
                new_app_user_id: row.new_app_user_id,
                email: row.email.clone(),
                rows_changed: row.rows_changed,
                details,
                ..Entry::new(action, row.outcome, &self.actor)
            });
        }
        let ids = audit::record_each(self.target().house, entries);
        for (place, id) in places.into_iter().zip(ids) {
            outcomes[place].audit_id = id;
        }
    }
}

impl Candidate {
    pub(super) fn app(&self) -> Result<Uuid, Error> {
        self.app_user_id.ok_or_else(|| Error::AppUserGone { id: "NULL".into() })
    }

    pub(super) fn auth(&self) -> Result<Uuid, Error> {
        self.auth_user_id.ok_or_else(|| Error::AuthUserGone { id: "NULL".into() })
    }
}
