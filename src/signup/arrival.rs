//! What is done for each auth user of a statement whose rows could not simply be inserted.

use super::halving::{Act, Failed, do_for_most};
use super::proof::{self, Proof};
use super::{Attempt, Change, Occasion, give_up};
use crate::error::{Error, Failure};
use crate::fix::Linker;
use crate::pg::{RowSet, subtransaction};
use crate::settings;
use crate::statements::audit::{self, Entry};
use crate::statements::facts::Arrival;
use crate::statements::people::AT_ONCE;
use crate::statements::refresh::Refreshed;
use crate::statements::signup::{Target, all_written};
use onagui_decide::failure::{is_about_values, must_pass_on};
use onagui_decide::signup::{Decision, decide};
use pgrx::Uuid;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};

/// The app user to link is not there any more, or has another e-mail.
const GONE: &str = "P0002";

/// Rows were not written, without an error: they may be gone, or have come, or have been kept back by a trigger.
pub(super) const DISCARDED: &str = "09000";

/// Handles each of `new` by what is found in `app_users`.
pub fn settle(target: &Target, new: &RowSet, occasion: &Occasion) -> Result<(), Error> {
    let identified = identified(target, new, occasion)?;
    let new = identified.as_ref().unwrap_or(new);
    if new.len() <= AT_ONCE {
        return settle_chunk(target, new, occasion);
    }
    let places: Vec<usize> = (0..new.len()).collect();
    for chunk in places.chunks(AT_ONCE) {
        settle_chunk(target, &new.part(chunk), occasion)?;
    }
    Ok(())
}

/// Where `auth.users.id` may be NULL: those of `new` who have an id, the others having been recorded. None where all have.
fn identified(target: &Target, new: &RowSet, occasion: &Occasion) -> Result<Option<RowSet>, Error> {
    if target.auth.column("id").is_some_and(|id| id.not_null) {
        return Ok(None);
    }
    let mut has_id = Vec::with_capacity(new.len());
    new.people(AT_ONCE, |people| has_id.extend(people.iter().map(|person| person.id.is_some())));
    let (with, without): (Vec<usize>, Vec<usize>) =
        (0..new.len()).partition(|place| has_id[*place]);
    if without.is_empty() {
        return Ok(None);
    }
    super::record_all(target.house, &new.part(&without), &Error::NoAuthId.into(), &occasion.actor)?;
    Ok(Some(new.part(&with)))
}

fn settle_chunk(target: &Target, new: &RowSet, occasion: &Occasion) -> Result<(), Error> {
    let mut later = settle_first(target, new, occasion)?;
    while let Some(rows) = later {
        later = settle_first(target, &rows, occasion)?;
    }
    Ok(())
}

/// Handles of those with one e-mail the first; answers the others.
fn settle_first(
    target: &Target,
    new: &RowSet,
    occasion: &Occasion,
) -> Result<Option<RowSet>, Error> {
    let facts = |rows: &RowSet| subtransaction(|| occasion.facts(target, rows));
    let arrivals = match facts(new) {
        Ok(arrivals) => arrivals,
        Err(failure) => {
            occasion.may_pass_now(target, &failure)?;
            // A value that cannot be read is one row's fault, what fails without a row is nobody's.
            let may_be_one_rows = new.len() > 1 && !must_pass_on(&failure.sqlstate);
            let is_one_rows = may_be_one_rows
                && match facts(&new.part(&[])) {
                    Err(again) if must_pass_on(&again.sqlstate) => return Err(again.into()),
                    again => again.is_ok(),
                };
            if !is_one_rows {
                super::record_all(target.house, new, &failure, &occasion.actor)?;
                return Ok(None);
            }
            let middle = new.len() / 2;
            for half in [0..middle, middle..new.len()] {
                settle_chunk(target, &new.part(&half.collect::<Vec<_>>()), occasion)?;
            }
            return Ok(None);
        }
    };
    let visit = Visit { target, new, arrivals: &arrivals, occasion };
    let (mut create, mut refresh, mut fill, mut later) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut link = BTreeMap::new();
    let mut entries = Vec::new();
    let mut keys = HashSet::new();
    for (place, arrival) in arrivals.iter().enumerate() {
        let decision = decide(&arrival.facts, settings::link_policy());
        if matches!(decision, Decision::Create | Decision::Link(_))
            && arrival.key.iter().any(|key| !keys.insert(key))
        {
            // The second of two with one e-mail finds the first one's row when its turn comes.
            later.push(place);
            continue;
        }
        match decision {
            Decision::Nothing => {}
            Decision::Create => create.push(place),
            Decision::Refresh { take_email: true } => refresh.push(place),
            Decision::Refresh { take_email: false } => {
                fill.push(place);
                if settings::audit_signups() {
                    entries.push(visit.own(place, "signup"));
                }
            }
            Decision::Link(app_user) => {
                link.insert(place, app_user);
            }
            Decision::Pending(app_user) => entries.push(visit.pending(place, app_user)),
            Decision::Conflict(conflict) => {
                if arrival.facts.own.is_some() {
                    fill.push(place);
                }
                entries.push(visit.conflict(place, conflict.reason()));
            }
        }
    }
    visit.record(&entries)?;
    visit.create(&create)?;
    visit.take_emails(&refresh)?;
    visit.fill(&fill)?;
    visit.link(&link)?;
    Ok((!later.is_empty()).then(|| visit.rows(&later)))
}

/// Handles the changed e-mail, confirmation or restoration of the one user in `new`.
pub fn follow(
    target: &Target,
    new: &RowSet,
    change: &Change,
    occasion: &Occasion,
) -> Result<(), Error> {
    if identified(target, new, occasion)?.is_some() {
        return Ok(());
    }
    let arrivals = match subtransaction(|| occasion.facts(target, new)) {
        Ok(arrivals) => arrivals,
        Err(failure) => {
            occasion.may_pass_now(target, &failure)?;
            return super::record_all(target.house, new, &failure, &occasion.actor);
        }
    };
    let Some(arrival) = arrivals.first() else {
        return Ok(());
    };
    if arrival.facts.own.is_none() {
        return super::signed_up(target.house, new, occasion);
    }
    let visit = Visit { target, new, arrivals: &arrivals, occasion };
    match decide(&arrival.facts, settings::link_policy()) {
        Decision::Refresh { take_email: true } if change.email_changed || !arrival.same_key => {
            let take = |new: &RowSet, places: &[usize]| {
                visit.took_email(new, places, target.refresh(new, true, false)?)
            };
            visit.update(&[0], &take, None)
        }
        Decision::Conflict(conflict) if change.email_changed => {
            visit.record(&[visit.conflict(0, conflict.reason())])
        }
        _ => Ok(()),
    }
}

impl Occasion {
    /// What is known of each of `new`. An e-mail whose confirmation is another one's counts as not confirmed.
    fn facts(&self, target: &Target, new: &RowSet) -> Result<Vec<Arrival>, Error> {
        match self.proof.get() {
            Proof::Given => target.facts(new),
            Proof::AsRecorded => target.facts_as_recorded(new),
            Proof::Lacking => {
                let mut arrivals = target.facts(new)?;
                if target.auth.has("email_confirmed_at") {
                    target.mistrust(arrivals.iter_mut().collect())?;
                }
                Ok(arrivals)
            }
        }
    }
}

/// The auth users of one statement, or of a part of it, and what is known of them.
pub(super) struct Visit<'a> {
    pub target: &'a Target,
    pub new: &'a RowSet,
    pub arrivals: &'a [Arrival],
    pub occasion: &'a Occasion,
}

impl Visit<'_> {
    pub(super) fn rows(&self, places: &[usize]) -> RowSet {
        self.new.part(places)
    }

    pub(super) fn entry(&self, place: usize, action: &'static str, outcome: &'static str) -> Entry {
        Entry {
            auth_user_id: Some(self.arrivals[place].id),
            email: self.arrivals[place].email.clone(),
            ..Entry::new(action, outcome, &self.occasion.actor)
        }
    }

    /// An entry about the row with the user's own id.
    fn own(&self, place: usize, action: &'static str) -> Entry {
        let id = Some(self.arrivals[place].id);
        Entry { old_app_user_id: id, new_app_user_id: id, ..self.entry(place, action, "done") }
    }

    fn pending(&self, place: usize, app_user: Uuid) -> Entry {
        Entry {
            old_app_user_id: Some(app_user),
            details: json!({ "reason": self.arrivals[place].why_pending() }).to_string(),
            ..self.entry(place, "pending", "planned")
        }
    }

    fn conflict(&self, place: usize, reason: &str) -> Entry {
        let others = self.arrivals[place].facts.namesakes.iter();
        let mut others: Vec<String> = others.map(|other| other.id.to_string()).collect();
        // An entry that is repeated must be the same.
        others.sort();
        let mut details = json!({ "reason": reason, "app_users": others });
        self.arrivals[place].tell_if_unproven(&mut details);
        Entry { details: details.to_string(), ..self.entry(place, "conflict", "refused") }
    }

    fn record(&self, entries: &[Entry]) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        subtransaction(|| {
            match self.occasion.proof.get() {
                // Since when is of concern.
                Proof::Lacking => audit::record_anew(self.target.house, entries.to_vec()),
                _ => audit::record_signup(self.target.house, entries.to_vec()),
            }
            Ok(())
        })
        .or_else(|failure| give_up(&failure, Attempt::SignUp(whom(entries)), || ()))
    }

    /// Records those that failed; one WARNING for all that failed with the same message. Or lets everything begin anew: what
    /// was done until then is found done.
    pub(super) fn fail(&self, failed: Vec<Failed>) -> Result<(), Error> {
        for (_, failure) in &failed {
            self.occasion.may_pass_now(self.target, failure)?;
        }
        let mut alike: BTreeMap<(String, String), Vec<Failed>> = BTreeMap::new();
        for (place, failure) in failed {
            let what = (failure.sqlstate.clone(), failure.message.clone());
            alike.entry(what).or_default().push((place, failure));
        }
        for failed in alike.into_values() {
            let entries: Vec<Entry> = failed
                .iter()
                .map(|(place, failure)| Entry {
                    details: failure.as_details().to_string(),
                    ..self.entry(*place, "failure", "failed")
                })
                .collect();
            let first = &failed[0].1;
            let one = Failure {
                detail: first.detail.clone().filter(|_| failed.len() == 1),
                ..Failure::clone(first)
            };
            give_up(&one, Attempt::SignUp(whom(&entries)), || {
                audit::record_signup(self.target.house, entries);
            })?;
        }
        Ok(())
    }

    /// Takes the e-mails over, and fills what is empty.
    fn take_emails(&self, places: &[usize]) -> Result<(), Error> {
        let take = |new: &RowSet, places: &[usize]| {
            self.took_email(new, places, self.target.refresh(new, true, true)?)
        };
        let take_less = |new: &RowSet, places: &[usize]| {
            self.took_email(new, places, self.target.refresh_less(new, true)?)
        };
        self.update(places, &take, Some(&take_less))
    }

    fn took_email(
        &self,
        new: &RowSet,
        places: &[usize],
        Refreshed { written, details }: Refreshed,
    ) -> Result<(), Error> {
        all_written(written, new)?;
        let entry = |place: &usize| {
            let mut details = details.clone();
            self.arrivals[*place].tell_if_unproven(&mut details);
            Entry { details: details.to_string(), ..self.own(*place, "update_email") }
        };
        let entries: Vec<Entry> = places.iter().map(entry).collect();
        audit::record_signup(self.target.house, entries);
        Ok(())
    }

    /// Fills what is empty. What could not be is no failure of the sign-up, but recorded.
    fn fill(&self, places: &[usize]) -> Result<(), Error> {
        // Else somebody else could link a row that needs no filling before anybody sees whose it is.
        let hold = |new: &RowSet| self.target.hold_own(new);
        let fill = |new: &RowSet, _: &[usize]| {
            hold(new)?;
            self.target.refresh(new, false, true)?;
            Ok(())
        };
        let fill_less = |new: &RowSet, places: &[usize]| {
            hold(new)?;
            let details = self.target.refresh_less(new, false)?.details;
            if details != json!({}) {
                let entry = Entry { details: details.to_string(), ..self.own(places[0], "signup") };
                audit::record_signup(self.target.house, vec![entry]);
            }
            Ok(())
        };
        self.update(places, &fill, Some(&fill_less))
    }

    /// Re-keys app users to the auth users at these places, with all that refers to them.
    fn link(&self, app_users: &BTreeMap<usize, Uuid>) -> Result<(), Error> {
        let places: Vec<usize> = app_users.keys().copied().collect();
        if places.is_empty() {
            return Ok(());
        }
        let failed = do_for_most(&self.rows(&places), &places, &|new, places| {
            let linker = Linker::start(self.target)?;
            let policy = settings::link_policy();
            let mut entries = Vec::new();
            for (i, place) in places.iter().enumerate() {
                let (from, to) = (app_users[place], self.arrivals[*place].id);
                let one = new.part(&[i]);
                let is_still_so = || {
                    let now = self.target.facts_again(&one, &self.arrivals[*place])?;
                    Ok(now.iter().all(|a| decide(&a.facts, policy) == Decision::Link(from)))
                };
                let moved = linker.link(
                    (from, to),
                    self.arrivals[*place].email.clone(),
                    is_still_so,
                    || self.target.refresh_one(&one, true),
                )?;
                // An e-mail that comes in the same transaction is another one.
                proof::note(to);
                entries.push(Entry {
                    old_app_user_id: Some(from),
                    new_app_user_id: Some(to),
                    rows_changed: moved.rows,
                    details: moved.details.to_string(),
                    ..self.entry(*place, "link", "done")
                });
            }
            audit::record_signup(self.target.house, entries);
            Ok(())
        })?;
        let is_same = |place: usize, now| now == Decision::Link(app_users[&place]);
        self.fail(self.decide_anew(failed, GONE, is_same)?)
    }

    /// Where somebody else was faster, so that a row now stands in the way or is gone: of those that failed with
    /// `sqlstate`, each for which the decision is not the same any more is handled by what it is now. Returns the others.
    pub(super) fn decide_anew(
        &self,
        mut failed: Vec<Failed>,
        sqlstate: &str,
        is_same: impl Fn(usize, Decision<Uuid>) -> bool,
    ) -> Result<Vec<Failed>, Error> {
        let places: Vec<usize> = failed
            .iter()
            .filter(|(_, failure)| failure.sqlstate == sqlstate)
            .map(|(place, _)| *place)
            .collect();
        if places.is_empty() {
            return Ok(failed);
        }
        let rows = self.rows(&places);
        let now = match subtransaction(|| self.occasion.facts(self.target, &rows)) {
            Ok(now) => now,
            Err(failure) if must_pass_on(&failure.sqlstate) => return Err(failure.into()),
            Err(_) => return Ok(failed),
        };
        let policy = settings::link_policy();
        let late: Vec<usize> = (0..now.len())
            .filter(|i| !is_same(places[*i], decide(&now[*i].facts, policy)))
            .collect();
        if !late.is_empty() {
            failed.retain(|(place, _)| late.iter().all(|i| places[*i] != *place));
            settle_chunk(self.target, &rows.part(&late), self.occasion)?;
        }
        Ok(failed)
    }

    /// Does `act` with the users' own rows for as many of `places` as possible, and `less` with each row of which not all values
    /// fit; what fails is recorded. Whose row is gone by then is treated as one who signs up.
    fn update(&self, places: &[usize], act: Act, less: Option<Act>) -> Result<(), Error> {
        if places.is_empty() {
            return Ok(());
        }
        let mut failed = do_for_most(&self.rows(places), places, act)?;
        if let Some(less) = less {
            for (place, failure) in std::mem::take(&mut failed) {
                match is_about_values(&failure.sqlstate) {
                    true => failed.extend(do_for_most(&self.rows(&[place]), &[place], less)?),
                    false => failed.push((place, failure)),
                }
            }
        }
        let has_own = |_, now| {
            matches!(now, Decision::Refresh { .. } | Decision::Conflict(_) | Decision::Nothing)
        };
        let failed = self.decide_anew(failed, GONE, has_own)?;
        self.fail(self.decide_anew(failed, DISCARDED, has_own)?)
    }
}

fn whom(entries: &[Entry]) -> String {
    match entries {
        [Entry { auth_user_id: Some(id), .. }] => format!("auth user {id}"),
        many => format!("{} auth users", many.len()),
    }
}
