//! Making rows under usernames that are free, and without the values that do not fit.

use super::arrival::{DISCARDED, Visit};
use super::halving::{Failed, do_for_most};
use crate::error::{Error, Failure};
use crate::pg::{RowSet, subtransaction};
use crate::settings;
use crate::statements::audit::{self, Entry};
use crate::statements::variants::Variant;
use onagui_decide::failure::must_pass_on;
use onagui_decide::signup::Decision;
use serde_json::json;
use std::collections::BTreeMap;

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
                self.make(rows, places, &names, &Variant::default(), None)
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
        variant: &Variant,
        failure: Option<&Failure>,
    ) -> Result<(), Error> {
        self.target.insert_as(rows, names, &variant.left_out)?;
        let entries: Vec<Entry> = places
            .iter()
            .zip(names)
            .filter_map(|(place, name)| self.created(*place, name.as_deref(), variant, failure))
            .collect();
        audit::record_signup(self.target.house, entries);
        Ok(())
    }

    /// The entry for a row that was made with less than the sign-up brought, or for a plain one where those are wanted.
    fn created(
        &self,
        place: usize,
        username: Option<&str>,
        variant: &Variant,
        failure: Option<&Failure>,
    ) -> Option<Entry> {
        let arrival = &self.arrivals[place];
        let told = self.target.told(arrival, username, variant, failure);
        if told.is_none() && !settings::audit_signups() {
            return None;
        }
        Some(Entry {
            new_app_user_id: Some(arrival.id),
            details: told.unwrap_or_else(|| json!({})).to_string(),
            ..self.entry(place, "signup", "done")
        })
    }

    /// The username for each of `places`, by place.
    fn free_usernames(&self, places: &[usize]) -> Result<Vec<Option<String>>, Error> {
        let mut names = vec![None; self.arrivals.len()];
        let arrivals: Vec<_> = places.iter().map(|place| &self.arrivals[*place]).collect();
        for (place, name) in places.iter().zip(self.target.free_usernames(&arrivals)?) {
            names[*place] = name;
        }
        Ok(names)
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
            let lessen = self.target.may_do_with_less(failure);
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
        let least = self.target.least(&[]);
        let variants = match places.len() {
            1 => self.target.variants_and_least(failure, &[]),
            _ => self.target.variants(failure, &[]),
        };
        let make = |variant: &Variant, keep: bool| {
            let name = |place: &usize| {
                self.target.username_for(&self.arrivals[*place], &names[*place], variant)
            };
            let names: Vec<Option<String>> = places.iter().map(name).collect();
            let made = subtransaction(|| {
                self.make(rows, &places, &names, variant, Some(failure))?;
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
        let possible = !cautious || make(&least, false)?;
        for variant in variants {
            if (possible || variant.is_renamed()) && make(&variant, true)? {
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
