//! Making rows under usernames that are free, and without the values that do not fit.

use super::arrival::{DISCARDED, Visit};
use super::halving::{Failed, do_for_most};
use crate::error::{Error, Failure};
use crate::pg::{RowSet, subtransaction};
use crate::settings;
use crate::statements::audit::{self, Entry};
use onagui_decide::failure::{is_about_values, must_pass_on};
use onagui_decide::names;
use onagui_decide::signup::Decision;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};

/// From how many rows with the same fault on subtransactions are saved.
const MANY: usize = 64;

impl Visit<'_> {
    /// Makes the rows of `places`.
    pub(super) fn create(&self, places: &[usize]) -> Result<(), Error> {
        // Users without an e-mail all fail where the column wants one; the others shall not be searched for them.
        let (with, without): (Vec<usize>, Vec<usize>) =
            places.iter().partition(|place| self.arrivals[**place].email.is_some());
        for places in [with, without] {
            if places.is_empty() {
                continue;
            }
            let names = self.free_usernames(&places)?;
            let failed = do_for_most(&self.rows(&places), &places, &|rows, places| {
                let names: Vec<_> = places.iter().map(|place| names[*place].clone()).collect();
                self.make(rows, places, &names, &[], None)
            })?;
            self.create_less(failed)?;
        }
        Ok(())
    }

    fn make(
        &self,
        rows: &RowSet,
        places: &[usize],
        names: &[Option<String>],
        left_out: &[&str],
        failure: Option<&Failure>,
    ) -> Result<(), Error> {
        self.target.insert_as(rows, names, left_out)?;
        let entries: Vec<Entry> = places
            .iter()
            .zip(names)
            .filter_map(|(place, name)| self.created(*place, name.as_deref(), left_out, failure))
            .collect();
        audit::record_signup(self.target.house, entries);
        Ok(())
    }

    /// The entry for a row that was made with less than the sign-up brought, or for a plain one where those are wanted.
    fn created(
        &self,
        place: usize,
        username: Option<&str>,
        left_out: &[&str],
        failure: Option<&Failure>,
    ) -> Option<Entry> {
        let arrival = &self.arrivals[place];
        let mut cut: Vec<&str> = arrival.cut.iter().map(String::as_str).collect();
        let longest = self.target.longest_username();
        if arrival.username.as_ref().is_some_and(|name| name.chars().count() > longest) {
            cut.push("username");
        }
        cut.retain(|column| !left_out.contains(column));
        let plain = cut.is_empty() && left_out.is_empty();
        if plain && !settings::audit_signups() {
            return None;
        }
        let mut details = json!({});
        if !plain {
            details = json!({ "cut": cut, "left_out": left_out, "username": username });
        }
        if let Some(failure) = failure.filter(|_| !left_out.is_empty()) {
            details["error"] = failure.to_json();
        }
        Some(Entry {
            new_app_user_id: Some(arrival.id),
            details: details.to_string(),
            ..self.entry(place, "signup", "done")
        })
    }

    /// The username for each of `places`, by place: the first candidate that nobody has, among the rows of this
    /// statement either.
    fn free_usernames(&self, places: &[usize]) -> Result<Vec<Option<String>>, Error> {
        let mut names = vec![None; self.arrivals.len()];
        let wanted: Vec<(usize, [String; 3])> =
            places.iter().filter_map(|place| Some((*place, self.candidates(*place)?))).collect();
        let all: Vec<String> = wanted.iter().flat_map(|(_, names)| names.clone()).collect();
        // A look-up that fails is no failure of the row's: the statement that makes it will tell.
        let taken = match subtransaction(|| Ok(self.target.taken_usernames(&all))) {
            Ok(taken) => taken,
            Err(failure) if must_pass_on(&failure.sqlstate) => return Err(failure.into()),
            Err(_) => Vec::new(),
        };
        let folds = self.target.folds_usernames();
        let unique = self.target.app.username_is_unique.is_some();
        let mut used = HashSet::new();
        for (i, (place, candidates)) in wanted.into_iter().enumerate() {
            for (j, name) in candidates.into_iter().enumerate() {
                let compared = if folds { name.to_lowercase() } else { name.clone() };
                let is_taken = taken.get(3 * i + j).copied().unwrap_or_default();
                if j == 2 || !(is_taken || unique && used.contains(&compared)) {
                    used.insert(compared);
                    names[place] = Some(name);
                    break;
                }
            }
        }
        Ok(names)
    }

    fn candidates(&self, place: usize) -> Option<[String; 3]> {
        let arrival = &self.arrivals[place];
        let name = self.target.username().and(arrival.username.as_ref())?;
        Some(names::candidates(name, arrival.id.as_bytes(), self.target.longest_username()))
    }

    /// Makes the rows that failed with another username or without the values that do not fit.
    fn create_less(&self, failed: Vec<Failed>) -> Result<(), Error> {
        let mut causes: BTreeMap<Cause, Vec<Failed>> = BTreeMap::new();
        let is_new = |_, now| matches!(now, Decision::Create);
        let failed = self.decide_anew(failed, "23505", is_new)?;
        for (place, failure) in self.decide_anew(failed, DISCARDED, is_new)? {
            causes.entry(Cause::of(&failure)).or_default().push((place, failure));
        }
        let mut hopeless = Vec::new();
        for failed in causes.into_values() {
            let failure = &failed[0].1;
            let lessen = is_about_values(&failure.sqlstate) && !self.is_wanting(failure);
            let places: Vec<usize> = failed.iter().map(|(place, _)| *place).collect();
            if lessen {
                let names = self.free_usernames(&places)?;
                let cautious = places.len() > MANY;
                self.lessen(&self.rows(&places), &failed, &names, cautious, &mut hopeless)?;
            } else {
                hopeless.extend(failed);
            }
        }
        self.fail(hopeless)
    }

    /// A column that no sign-up fills wants a value: leaving others out does not help.
    fn is_wanting(&self, failure: &Failure) -> bool {
        failure.sqlstate == "23502"
            && failure.column.as_ref().is_some_and(|c| self.target.optional().all(|o| o != c))
    }

    /// Tries one variant of the rows after another for all of `failed`, which have failed alike, then for each half.
    fn lessen(
        &self,
        rows: &RowSet,
        failed: &[Failed],
        names: &[Option<String>],
        cautious: bool,
        hopeless: &mut Vec<Failed>,
    ) -> Result<(), Error> {
        let places: Vec<usize> = failed.iter().map(|(place, _)| *place).collect();
        let failure = &failed[0].1;
        let optional: Vec<&str> = self.target.optional().collect();
        let mut variants: Vec<(usize, Vec<&str>)> = Vec::new();
        if failure.sqlstate == "23505" && self.target.username().is_some() {
            variants.extend([(1, Vec::new()), (2, Vec::new())]);
        }
        variants.extend(optional.iter().map(|column| (0, vec![*column])));
        if places.len() == 1 {
            variants.push((0, optional.clone()));
        }
        let make = |candidate: usize, left_out: &[&str], keep: bool| {
            let names: Vec<Option<String>> = places
                .iter()
                .map(|place| match candidate {
                    _ if left_out.contains(&"username") => None,
                    0 => names[*place].clone(),
                    n => self.candidates(*place).map(|names| names[n].clone()),
                })
                .collect();
            let made = subtransaction(|| {
                self.make(rows, &places, &names, left_out, Some(failure))?;
                if keep { Ok(()) } else { Err(Error::Rehearsed) }
            });
            match made {
                Ok(()) => Ok(true),
                Err(failure) if failure.is_rehearsal => Ok(true),
                Err(failure) if must_pass_on(&failure.sqlstate) => Err(Error::from(failure)),
                Err(_) => Ok(false),
            }
        };
        // Of very many not each is tried in each way: those that cannot be made with the least are found first.
        let possible = !cautious || make(0, &optional, false)?;
        for (candidate, left_out) in variants {
            if (possible || candidate > 0) && make(candidate, &left_out, true)? {
                return Ok(());
            }
        }
        if failed.len() == 1 {
            hopeless.extend_from_slice(failed);
            return Ok(());
        }
        let middle = failed.len() / 2;
        for half in [0..middle, middle..failed.len()] {
            let part = rows.part(&half.clone().collect::<Vec<_>>());
            self.lessen(&part, &failed[half], names, cautious, hopeless)?;
        }
        Ok(())
    }
}

/// What rows that failed alike have in common.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Cause {
    sqlstate: String,
    what: Option<String>,
}

impl Cause {
    fn of(failure: &Failure) -> Self {
        Cause {
            sqlstate: failure.sqlstate.clone(),
            what: failure.constraint.clone().or(failure.column.clone()),
        }
    }
}
