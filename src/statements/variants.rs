//! What a row is written with where not all that its auth user brings fits.

use super::facts::Arrival;
use super::signup::{Target, all_written};
use crate::error::{Error, Failure};
use crate::pg::{Mode, connect, subtransaction};
use onagui_decide::failure::{is_about_values, must_pass_on};
use onagui_decide::names;
use pgrx::Uuid;
use serde_json::{Value, json};
use std::collections::HashSet;

/// What is taken of the values that an auth user brings. Those that are too long are cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variant {
    /// Which of the candidates for the username; 0: the first one that is free.
    candidate: usize,
    pub left_out: Vec<String>,
}

impl Variant {
    pub fn without(left_out: Vec<String>) -> Self {
        Variant { candidate: 0, left_out }
    }

    /// The username is another one than what is free as far as anybody can tell.
    pub fn is_renamed(&self) -> bool {
        self.candidate > 0
    }
}

impl Target {
    /// The columns that may be left out of a row when their value does not fit.
    pub fn optional(&self) -> impl Iterator<Item = &str> {
        self.mapped.iter().filter(|m| m.is_optional).map(|m| m.name.as_str())
    }

    /// The row with nothing but what it must have, and what is `given`.
    pub fn least(&self, given: &[&str]) -> Variant {
        let rest = self.optional().filter(|column| !given.contains(column));
        Variant::without(rest.map(str::to_owned).collect())
    }

    /// What is tried for a row that has failed, in this order, before the least. Columns that are `given` keep their values.
    pub fn variants(&self, failure: &Failure, given: &[&str]) -> Vec<Variant> {
        let mut variants = Vec::new();
        let another_may_do =
            self.username().is_some_and(|username| match failure.sqlstate.as_str() {
                "23505" => true,
                // One that must be there is too short, say.
                "23514" => !username.is_optional,
                _ => false,
            });
        if another_may_do && !given.contains(&"username") {
            variants.extend([1, 2].map(|candidate| Variant { candidate, left_out: Vec::new() }));
        }
        let columns = self.least(given).left_out.into_iter();
        variants.extend(columns.map(|column| Variant::without(vec![column])));
        variants
    }

    /// The same, and the least at last.
    pub fn variants_and_least(&self, failure: &Failure, given: &[&str]) -> Vec<Variant> {
        let mut variants = self.variants(failure, given);
        variants.push(self.least(given));
        variants
    }

    /// Whether a row that has failed may do with less.
    pub fn may_do_with_less(&self, failure: &Failure) -> bool {
        // A column that no sign-up fills wants a value: leaving others out does not help.
        let is_wanting = failure.sqlstate == "23502"
            && failure.column.as_ref().is_some_and(|c| self.optional().all(|o| o != c));
        is_about_values(&failure.sqlstate) && !is_wanting
    }

    /// Does `act` with all values; where that fails, with what `less` names for the failure, one after the other.
    /// Answers with which it was done, and why not with all.
    pub fn do_with_most(
        &self,
        act: impl Fn(&Variant) -> Result<(), Error>,
        less: impl Fn(&Failure) -> Vec<Variant>,
    ) -> Result<(Variant, Option<Box<Failure>>), Box<Failure>> {
        let all = Variant::default();
        let failure = match subtransaction(|| act(&all)) {
            Ok(()) => return Ok((all, None)),
            Err(failure) if !self.may_do_with_less(&failure) => return Err(failure),
            Err(failure) => failure,
        };
        for variant in less(&failure) {
            match subtransaction(|| act(&variant)) {
                Ok(()) => return Ok((variant, Some(failure))),
                Err(failure) if must_pass_on(&failure.sqlstate) => return Err(failure),
                Err(_) => {}
            }
        }
        Err(failure)
    }

    /// Makes the row of the auth user `id`: as at a sign-up, but an error is raised. A username that is `given` is set as it
    /// is. Answers what an entry tells of it.
    pub fn create_one(&self, id: Uuid, given: Option<&str>) -> Result<Value, Error> {
        // The rows live as long as the connection.
        connect(|session| {
            let gone = || Error::AuthUserGone { id: id.to_string() };
            let new = self.auth_users(session, &[id], Mode::Fresh);
            if new.len() == 0 {
                return Err(gone());
            }
            let given = given.filter(|_| self.username().is_some());
            if given.is_none() {
                match subtransaction(|| all_written(self.insert(&new)?, &new)) {
                    Ok(()) => return Ok(json!({})),
                    Err(failure) if !self.may_do_with_less(&failure) => return Err(failure.into()),
                    Err(_) => {}
                }
            }
            let mut arrival = self.facts(&new)?.into_iter().next().ok_or_else(gone)?;
            let free = match given {
                Some(name) => arrival.username.insert(name.to_owned()).clone().into(),
                None => self.free_usernames(&[&arrival])?.remove(0),
            };
            let fixed: &[&str] = if given.is_some() { &["username"] } else { &[] };
            let name = |variant: &Variant| self.username_for(&arrival, &free, variant);
            let (variant, failure) = self.do_with_most(
                |variant| self.insert_as(&new, &[name(variant)], &variant.left_out),
                |failure| self.variants_and_least(failure, fixed),
            )?;
            let told = self.told(&arrival, name(&variant).as_deref(), &variant, failure.as_deref());
            Ok(told.unwrap_or_else(|| json!({})))
        })
    }

    /// What an entry tells of a row that was made with less than its auth user brings, because of `failure`; None where it has
    /// it all.
    pub fn told(
        &self,
        arrival: &Arrival,
        username: Option<&str>,
        Variant { left_out, .. }: &Variant,
        failure: Option<&Failure>,
    ) -> Option<Value> {
        let mut cut: Vec<&str> = arrival.cut.iter().map(String::as_str).collect();
        let longest = self.longest_username();
        if arrival.username.as_ref().is_some_and(|name| name.chars().count() > longest) {
            cut.push("username");
        }
        cut.retain(|column| !left_out.iter().any(|out| out == column));
        if cut.is_empty() && left_out.is_empty() {
            return None;
        }
        let mut told = json!({ "cut": cut, "left_out": left_out, "username": username });
        if let Some(failure) = failure.filter(|_| !left_out.is_empty()) {
            failure.note_in(&mut told);
        }
        Some(told)
    }

    /// The username of each of `arrivals`: the first candidate that nobody has, among these either.
    pub fn free_usernames(&self, arrivals: &[&Arrival]) -> Result<Vec<Option<String>>, Error> {
        let mut names = vec![None; arrivals.len()];
        let candidates = arrivals.iter().map(|arrival| self.candidates(arrival)).enumerate();
        let wanted: Vec<(usize, [String; 3])> =
            candidates.filter_map(|(i, names)| Some((i, names?))).collect();
        let all: Vec<String> = wanted.iter().flat_map(|(_, names)| names.clone()).collect();
        // A look-up that fails is no failure of the row's: the statement that makes it will tell.
        let taken = match subtransaction(|| Ok(self.taken_usernames(&all))) {
            Ok(taken) => taken,
            Err(failure) if must_pass_on(&failure.sqlstate) => return Err(failure.into()),
            Err(_) => Vec::new(),
        };
        let folds = self.folds_usernames();
        let unique = self.app.username_is_unique.is_some();
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

    fn candidates(&self, arrival: &Arrival) -> Option<[String; 3]> {
        let name = self.username().and(arrival.username.as_ref())?;
        Some(names::candidates(name, arrival.id.as_bytes(), self.longest_username()))
    }

    /// The username that a variant takes, where `free` is the one that is free.
    pub fn username_for(
        &self,
        arrival: &Arrival,
        free: &Option<String>,
        variant: &Variant,
    ) -> Option<String> {
        match variant.candidate {
            _ if variant.left_out.iter().any(|column| column == "username") => None,
            0 => free.clone(),
            n => self.candidates(arrival).map(|names| names[n].clone()),
        }
    }
}
