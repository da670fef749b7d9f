//! What is done for each auth user of a statement whose rows could not simply be inserted.

use super::give_up;
use crate::error::{Error, Failure};
use crate::pg::{RowSet, subtransaction};
use crate::settings;
use crate::statements::audit::{self, Entry};
use crate::statements::signup::{Arrival, Change, Target};
use crate::statements::sync;
use onagui_decide::failure::{is_about_values, meets_every_row, must_pass_on};
use onagui_decide::names;
use onagui_decide::signup::{Decision, decide};
use pgrx::Uuid;
use serde_json::json;
use std::collections::HashSet;

/// How many rows are looked at together: bounds the memory a bulk load takes here.
const CHUNK: usize = 10_000;

/// Handles each of `new` by what is found in `app_users`.
pub fn settle(target: &Target, new: &RowSet, actor: &str) -> Result<(), Error> {
    if new.len() <= CHUNK {
        return settle_chunk(target, new, actor);
    }
    let places: Vec<usize> = (0..new.len()).collect();
    for chunk in places.chunks(CHUNK) {
        settle_chunk(target, &new.part(chunk), actor)?;
    }
    Ok(())
}

fn settle_chunk(target: &Target, new: &RowSet, actor: &str) -> Result<(), Error> {
    let arrivals = match subtransaction(|| Ok(target.facts(new))) {
        Ok(arrivals) => arrivals,
        Err(failure) => return super::record_all(target.house, new, &failure, actor),
    };
    let visit = Visit {
        target,
        new,
        arrivals: &arrivals,
        actor,
    };
    let (mut create, mut refresh, mut fill, mut link, mut later) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut entries = Vec::new();
    let mut keys = HashSet::new();
    for (place, arrival) in arrivals.iter().enumerate() {
        match decide(&arrival.facts, settings::link_policy()) {
            Decision::Nothing => {}
            // The second of two with one e-mail finds the first one's row when its turn comes.
            Decision::Create if arrival.key.iter().any(|key| !keys.insert(key)) => {
                later.push(place)
            }
            Decision::Create => create.push(place),
            Decision::Refresh { take_email: true } => refresh.push(place),
            Decision::Refresh { take_email: false } => fill.push(place),
            Decision::Link(app_user) => link.push((place, app_user)),
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
    visit.refresh(&refresh, true)?;
    visit.refresh(&fill, false)?;
    for (place, app_user) in link {
        visit.link(place, app_user)?;
    }
    for place in later {
        settle_chunk(target, &new.part(&[place]), actor)?;
    }
    Ok(())
}

/// Handles the changed e-mail, confirmation or restoration of the one user in `new`.
pub fn follow(target: &Target, new: &RowSet, change: &Change, actor: &str) -> Result<(), Error> {
    let arrivals = match subtransaction(|| Ok(target.facts(new))) {
        Ok(arrivals) => arrivals,
        Err(failure) => return super::record_all(target.house, new, &failure, actor),
    };
    let Some(arrival) = arrivals.first() else {
        return Ok(());
    };
    if arrival.facts.own.is_none() {
        return super::signed_up(target.house, new, actor);
    }
    let visit = Visit {
        target,
        new,
        arrivals: &arrivals,
        actor,
    };
    match decide(&arrival.facts, settings::link_policy()) {
        Decision::Refresh { take_email: true } if change.email_changed || !arrival.same_key => {
            visit.attempt(&[0], |new, _| {
                visit.take_email(new, false);
                Ok(())
            })
        }
        Decision::Conflict(conflict) if change.email_changed => {
            visit.record(&[visit.conflict(0, conflict.reason())])
        }
        _ => Ok(()),
    }
}

struct Visit<'a> {
    target: &'a Target,
    new: &'a RowSet,
    arrivals: &'a [Arrival],
    actor: &'a str,
}

impl Visit<'_> {
    fn entry(&self, place: usize, action: &'static str, outcome: &'static str) -> Entry {
        Entry {
            auth_user_id: Some(self.arrivals[place].id),
            email: self.arrivals[place].email.clone(),
            ..Entry::new(action, outcome, self.actor)
        }
    }

    fn pending(&self, place: usize, app_user: Uuid) -> Entry {
        Entry {
            old_app_user_id: Some(app_user),
            details: json!({ "reason": "the e-mail is not confirmed yet; its confirmation links the app user" }),
            ..self.entry(place, "pending", "planned")
        }
    }

    fn conflict(&self, place: usize, reason: &str) -> Entry {
        let others = self.arrivals[place].facts.namesakes.iter();
        let others: Vec<String> = others.map(|other| other.id.to_string()).collect();
        Entry {
            details: json!({ "reason": reason, "app_users": others }),
            ..self.entry(place, "conflict", "refused")
        }
    }

    fn record(&self, entries: &[Entry]) -> Result<(), Error> {
        subtransaction(|| {
            audit::record(self.target.house, entries);
            Ok(())
        })
        .or_else(|failure| give_up(self.target.house, Vec::new(), &failure))
    }

    /// Makes the rows of `places`.
    fn create(&self, places: &[usize]) -> Result<(), Error> {
        if places.is_empty() {
            return Ok(());
        }
        let names = self.free_usernames(places);
        let create = |new: &RowSet, places: &[usize]| {
            let names: Vec<Option<String>> = places.iter().map(|p| names[*p].clone()).collect();
            self.target.insert_as(new, &names, &[]);
            self.record_created(places, &names);
            Ok(())
        };
        for (place, failure) in self.settle_each(places, &create) {
            self.create_less(place, failure)?;
        }
        Ok(())
    }

    /// The username for each of `places`, by place: the first candidate that nobody has, among the rows of this
    /// statement either.
    fn free_usernames(&self, places: &[usize]) -> Vec<Option<String>> {
        let mut names = vec![None; self.arrivals.len()];
        let Some(username) = self.target.username() else {
            return names;
        };
        let longest = username.longest.unwrap_or(names::LONGEST_NAME);
        let mut wanted: Vec<(usize, [String; 3])> = Vec::new();
        for &place in places {
            let arrival = &self.arrivals[place];
            if let Some(name) = &arrival.username {
                wanted.push((
                    place,
                    names::candidates(name, arrival.id.as_bytes(), longest),
                ));
            }
        }
        let all: Vec<String> = wanted.iter().flat_map(|(_, names)| names.clone()).collect();
        let taken = self.target.taken_usernames(&all);
        let folds = self.target.folds_usernames();
        let mut used = HashSet::new();
        for (i, (place, candidates)) in wanted.into_iter().enumerate() {
            let last = candidates.len() - 1;
            for (j, name) in candidates.into_iter().enumerate() {
                let compared = if folds {
                    name.to_lowercase()
                } else {
                    name.clone()
                };
                let free = !taken.get(3 * i + j).copied().unwrap_or_default()
                    && !(self.target.app.username_is_unique.is_some() && used.contains(&compared));
                if free || j == last {
                    used.insert(compared);
                    names[place] = Some(name);
                    break;
                }
            }
        }
        names
    }

    /// Records rows that were made with less than the sign-up brought, and plain ones where those are wanted.
    fn record_created(&self, places: &[usize], names: &[Option<String>]) {
        let longest = self
            .target
            .username()
            .and_then(|u| u.longest)
            .unwrap_or(names::LONGEST_NAME);
        let entries: Vec<Entry> = places
            .iter()
            .zip(names)
            .filter_map(|(&place, name)| {
                let arrival = &self.arrivals[place];
                let mut cut = arrival.cut.clone();
                if arrival
                    .username
                    .as_ref()
                    .is_some_and(|name| name.chars().count() > longest)
                {
                    cut.push("username".into());
                }
                self.created(place, name.as_deref(), &cut, &[], None)
            })
            .collect();
        audit::record(self.target.house, &entries);
    }

    fn created(
        &self,
        place: usize,
        username: Option<&str>,
        cut: &[String],
        left_out: &[&str],
        failure: Option<&Failure>,
    ) -> Option<Entry> {
        let plain = cut.is_empty() && left_out.is_empty();
        if plain && !settings::audit_signups() {
            return None;
        }
        let mut details = json!({});
        if !plain {
            details = json!({ "cut": cut, "left_out": left_out, "username": username });
        }
        if let Some(failure) = failure {
            details["error"] = failure.to_json();
        }
        Some(Entry {
            new_app_user_id: Some(self.arrivals[place].id),
            details,
            ..self.entry(place, "signup", "done")
        })
    }

    /// Makes the row of `place`, which failed, with another username or without the values that do not fit.
    fn create_less(&self, place: usize, failure: Box<Failure>) -> Result<(), Error> {
        let new = self.new.part(&[place]);
        let arrival = &self.arrivals[place];
        if meets_every_row(&failure.sqlstate) {
            return self.fail(place, &failure);
        }
        if failure.sqlstate == "23505" {
            // Somebody was faster: look again at what there is now.
            let arrivals = match subtransaction(|| Ok(self.target.facts(&new))) {
                Ok(arrivals) => arrivals,
                Err(failure) => return self.fail(place, &failure),
            };
            if arrivals
                .iter()
                .any(|a| !matches!(decide(&a.facts, settings::link_policy()), Decision::Create))
            {
                return settle_chunk(self.target, &new, self.actor);
            }
        }
        if is_about_values(&failure.sqlstate) {
            let longest = self
                .target
                .username()
                .and_then(|u| u.longest)
                .unwrap_or(names::LONGEST_NAME);
            let candidates = arrival
                .username
                .as_ref()
                .map(|name| names::candidates(name, arrival.id.as_bytes(), longest));
            let wanted = self.free_usernames(&[place])[place].clone();
            let renamed = candidates
                .iter()
                .filter(|_| failure.sqlstate == "23505")
                .flatten()
                .skip(1)
                .map(|name| (Some(name.clone()), Vec::new()));
            let optional: Vec<&str> = self.target.optional().collect();
            let one_less = optional
                .iter()
                .map(|column| (wanted.clone(), vec![*column]));
            let bare = std::iter::once((None, optional.clone()));
            for (name, left_out) in renamed.chain(one_less).chain(bare) {
                let made = subtransaction(|| {
                    self.target
                        .insert_as(&new, std::slice::from_ref(&name), &left_out);
                    let entry = self.created(
                        place,
                        name.as_deref(),
                        &arrival.cut,
                        &left_out,
                        (!left_out.is_empty()).then_some(&*failure),
                    );
                    audit::record(self.target.house, entry.as_slice());
                    Ok(())
                });
                match made {
                    Ok(()) => return Ok(()),
                    Err(failure) if must_pass_on(&failure.sqlstate) => return Err(failure.into()),
                    Err(_) => {}
                }
            }
        }
        self.fail(place, &failure)
    }

    fn fail(&self, place: usize, failure: &Failure) -> Result<(), Error> {
        give_up(
            self.target.house,
            vec![self.entry(place, "failure", "failed")],
            failure,
        )
    }

    /// Brings the rows that have the ids of `places` up to date.
    fn refresh(&self, places: &[usize], take_email: bool) -> Result<(), Error> {
        if places.is_empty() {
            return Ok(());
        }
        self.attempt(places, |new, places| {
            if take_email {
                self.target.refresh(new, true, true);
                audit::record(self.target.house, &self.emails_taken(places));
            } else {
                self.target.refresh(new, false, true);
            }
            Ok(())
        })
    }

    fn take_email(&self, new: &RowSet, fill: bool) {
        self.target.refresh(new, true, fill);
        let places: Vec<usize> = (0..self.arrivals.len()).collect();
        audit::record(self.target.house, &self.emails_taken(&places));
    }

    fn emails_taken(&self, places: &[usize]) -> Vec<Entry> {
        places
            .iter()
            .map(|&place| {
                let id = Some(self.arrivals[place].id);
                Entry {
                    old_app_user_id: id,
                    new_app_user_id: id,
                    ..self.entry(place, "update_email", "done")
                }
            })
            .collect()
    }

    /// Re-keys `app_user` to the auth user at `place`, with all that refers to it.
    fn link(&self, place: usize, app_user: Uuid) -> Result<(), Error> {
        self.attempt(&[place], |new, _| {
            let moved = sync::rekey(self.target, app_user, self.arrivals[place].id)?;
            self.target.refresh(new, true, true);
            let entry = Entry {
                old_app_user_id: Some(app_user),
                new_app_user_id: Some(self.arrivals[place].id),
                rows_changed: moved.rows,
                details: moved.details,
                ..self.entry(place, "link", "done")
            };
            audit::record(self.target.house, &[entry]);
            Ok(())
        })
    }

    /// Does `act` for all of `places` at once, else for as many as possible; what fails is recorded.
    fn attempt(
        &self,
        places: &[usize],
        act: impl Fn(&RowSet, &[usize]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (place, failure) in self.settle_each(places, &act) {
            self.fail(place, &failure)?;
        }
        Ok(())
    }

    /// Does `act` for all of `places` in one subtransaction. If that fails, the places that make it fail are found by
    /// halving, in subtransactions that are rolled back, and all others are done in one. Returns those that failed.
    fn settle_each(
        &self,
        places: &[usize],
        act: &dyn Fn(&RowSet, &[usize]) -> Result<(), Error>,
    ) -> Vec<(usize, Box<Failure>)> {
        let attempt = |places: &[usize], keep: bool| {
            subtransaction(|| {
                if places.len() == self.new.len() {
                    act(self.new, places)?;
                } else {
                    act(&self.new.part(places), places)?;
                }
                if keep { Ok(()) } else { Err(Error::Rehearsed) }
            })
            .or_else(|failure| {
                if failure.is_rehearsal() {
                    Ok(())
                } else {
                    Err(failure)
                }
            })
        };
        let failure = match attempt(places, true) {
            Ok(()) => return Vec::new(),
            Err(failure) => failure,
        };
        let everybody = |failure: &Failure| {
            places
                .iter()
                .map(|p| (*p, Box::new(failure.clone())))
                .collect()
        };
        if places.len() == 1
            || must_pass_on(&failure.sqlstate)
            || meets_every_row(&failure.sqlstate)
        {
            return everybody(&failure);
        }
        let mut failed = Vec::new();
        find_failing(places, &|part| attempt(part, false).err(), &mut failed);
        let good: Vec<usize> = places
            .iter()
            .copied()
            .filter(|p| failed.iter().all(|(f, _)| f != p))
            .collect();
        if !good.is_empty()
            && let Err(failure) = attempt(&good, true)
        {
            // They fail only together; one by one each gets its own answer.
            let _ = failure;
            for place in good {
                if let Err(failure) = attempt(&[place], true) {
                    failed.push((place, failure));
                }
            }
        }
        failed
    }
}

/// Finds the members of `places`, which fail together, that fail alone.
fn find_failing(
    places: &[usize],
    rehearse: &dyn Fn(&[usize]) -> Option<Box<Failure>>,
    failed: &mut Vec<(usize, Box<Failure>)>,
) {
    let halves = places.split_at(places.len() / 2);
    for half in [halves.0, halves.1] {
        if half.is_empty() {
            continue;
        }
        if let Some(failure) = rehearse(half) {
            match half {
                [one] => failed.push((*one, failure)),
                several => find_failing(several, rehearse, failed),
            }
        }
    }
}
