//! Bringing rows of `app_users` up to date with their auth users.

use super::mapping::Mapped;
use super::offer_new;
use super::signup::Target;
use super::variants::Variant;
use crate::error::Error;
use crate::pg::{Arg, Mode, RowSet, subtransaction};
use onagui_decide::failure::{is_about_values, must_pass_on};
use pgrx::Uuid;
use serde_json::{Value, json};

/// What came of [`Target::refresh`].
pub struct Refreshed {
    /// How many rows were changed.
    pub written: u64,
    /// What an entry tells of columns that could not be filled.
    pub details: Value,
}

impl Target {
    /// Keeps the rows with the ids of `new` from being deleted or getting other ids. Fails (P0002) where one is not there.
    pub fn hold_own(&self, new: &RowSet) -> Result<(), Error> {
        let sql = format!(
            "SELECT n.id FROM new_users n JOIN {}onagui.app_users a ON a.id = n.id FOR KEY SHARE OF a",
            self.app.only
        );
        let held: Vec<Uuid> = self.write(|session| {
            offer_new(session, new);
            session.run(&sql, &[], Mode::Fresh).column()
        });
        match held.len() < new.len() {
            true => Err(Error::AppUserGone { id: "of the auth user".into() }),
            false => Ok(()),
        }
    }

    /// Gives the rows with the ids of `new` auth's e-mail where `take_email`, and fills their empty columns where `fill`.
    pub fn refresh(&self, new: &RowSet, take_email: bool, fill: bool) -> Result<Refreshed, Error> {
        let mut brought = 0;
        if take_email {
            let mut emails = Vec::new();
            new.people(new.len().max(1), |people| {
                let known = people.into_iter().filter(|p| p.email.is_some());
                emails.extend(known.filter_map(|p| Some((p.id?, p.email))));
            });
            let steps = self.bring_emails(&emails)?;
            brought = if steps.is_empty() { 0 } else { emails.len() as u64 };
        }
        let all = self.mapped.iter().filter(|_| fill).map(|m| (m, m.source_cut())).collect();
        let written = self.write_refresh(new, take_email, all, &[]).max(brought);
        Ok(Refreshed { written, details: json!({}) })
    }

    /// The same for a single row, of which all is filled that can be.
    pub fn refresh_one(&self, new: &RowSet, take_email: bool) -> Result<Refreshed, Error> {
        match subtransaction(|| self.refresh(new, take_email, true)) {
            Err(failure) if is_about_values(&failure.sqlstate) => {
                self.refresh_less(new, take_email)
            }
            refreshed => Ok(refreshed?),
        }
    }

    /// The same where not all can be: values are cut or left out as at a sign-up, in the end column by column.
    pub fn refresh_less(&self, new: &RowSet, take_email: bool) -> Result<Refreshed, Error> {
        let refreshed = self.refresh(new, take_email, false)?;
        let Some(arrival) = self.facts(new)?.into_iter().next() else {
            return Ok(refreshed);
        };
        let free = self.free_usernames(&[&arrival])?.remove(0);
        let fill = |variant: &Variant| {
            let name = self.username_for(&arrival, &free, variant);
            let is_username = |m: &Mapped| self.username().is_some_and(|u| u.name == m.name);
            let taken = self.mapped.iter().filter(|m| !variant.left_out.contains(&m.name));
            let source = |m: &Mapped| if is_username(m) { "$1".into() } else { m.source_cut() };
            let sources = taken.map(|m| (m, source(m))).collect();
            self.write_refresh(new, false, sources, &[Arg::of(name)]);
            Ok(())
        };
        let (left_out, failure) =
            match self.do_with_most(fill, |failure| self.variants(failure, &[])) {
                Ok((variant, failure)) => (variant.left_out, failure),
                Err(failure) if must_pass_on(&failure.sqlstate) => return Err(failure.into()),
                Err(failure) => (self.fill_each(fill)?, Some(failure)),
            };
        let mut details = json!({});
        if let Some(failure) = failure.filter(|_| !left_out.is_empty()) {
            details["left_out"] = json!(left_out);
            failure.note_in(&mut details);
        }
        Ok(Refreshed { details, ..refreshed })
    }

    /// Lets `fill` fill one column after the other. Answers which could not be.
    fn fill_each(
        &self,
        fill: impl Fn(&Variant) -> Result<(), Error>,
    ) -> Result<Vec<String>, Error> {
        let names = || self.mapped.iter().map(|m| m.name.clone());
        let mut left_out = Vec::new();
        for name in names() {
            let alone = Variant::without(names().filter(|other| *other != name).collect());
            match subtransaction(|| fill(&alone)) {
                Ok(()) => {}
                Err(failure) if must_pass_on(&failure.sqlstate) => return Err(failure.into()),
                Err(_) => left_out.push(name),
            }
        }
        Ok(left_out)
    }

    /// `fill`: the columns that are filled where they are empty, and from what; over `args`.
    fn write_refresh(
        &self,
        new: &RowSet,
        take_email: bool,
        fill: Vec<(&Mapped, String)>,
        args: &[Arg],
    ) -> u64 {
        let mut assignments = Vec::new();
        let mut differences = Vec::new();
        if take_email {
            assignments.push("email = n.email".to_owned());
            let (old, new) = (self.app.email("a"), self.auth.email("n"));
            differences.push(format!("{old} IS DISTINCT FROM {new}"));
        }
        for (m, source) in fill {
            let column = &m.column;
            assignments
                .push(format!("{column} = coalesce(a.{column}, {})", self.typed(m, &source)));
            differences.push(format!("num_nulls(a.{column}) = 1 AND num_nulls({source}) = 0"));
        }
        if assignments.is_empty() {
            return 0;
        }
        let sql = format!(
            "UPDATE {}onagui.app_users a SET {} FROM new_users n WHERE a.id = n.id AND ({})",
            self.app.only,
            assignments.join(", "),
            differences.join(" OR "),
        );
        self.write(|session| {
            offer_new(session, new);
            session.run(&sql, args, Mode::Fresh).touched()
        })
    }

    fn typed(&self, m: &Mapped, source: &str) -> String {
        let kind = self.app.column(&m.name).map_or("text", |c| c.kind.as_str());
        format!("({source})::{kind}")
    }
}
