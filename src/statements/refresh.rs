//! Bringing rows of `app_users` up to date with their auth users.

use super::mapping::Mapped;
use super::offer_new;
use super::signup::Target;
use crate::error::{Error, Failure};
use crate::pg::{Mode, RowSet, subtransaction};
use onagui_decide::failure::is_about_values;
use pgrx::Uuid;

/// What came of [`Target::refresh`].
pub struct Refreshed {
    pub written: u64,
    /// Why empty columns were not filled.
    pub unfilled: Option<Box<Failure>>,
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

    /// Gives the rows with the ids of `new` auth's e-mail where `take_email`, and fills their empty columns where
    /// `fill`. What cannot be filled (a username that is taken, say) keeps the e-mail of a single user from nothing.
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
        let all = |written: u64| Refreshed { written: written.max(brought), unfilled: None };
        if !(take_email && fill && new.len() == 1) {
            return Ok(all(self.write_refresh(new, take_email, fill)));
        }
        match subtransaction(|| Ok(self.write_refresh(new, true, true))) {
            Ok(written) => Ok(all(written)),
            Err(failure) if is_about_values(&failure.sqlstate) => {
                let written = self.write_refresh(new, true, false);
                Ok(Refreshed { unfilled: Some(failure), ..all(written) })
            }
            Err(failure) => Err(failure.into()),
        }
    }

    fn write_refresh(&self, new: &RowSet, take_email: bool, fill: bool) -> u64 {
        let mut assignments = Vec::new();
        let mut differences = Vec::new();
        if take_email {
            assignments.push("email = n.email".to_owned());
            let (old, new) = (self.app.email("a"), self.auth.email("n"));
            differences.push(format!("{old} IS DISTINCT FROM {new}"));
        }
        for m in self.mapped.iter().filter(|_| fill) {
            let (column, source) = (&m.column, m.source_cut());
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
            session.run(&sql, &[], Mode::Fresh).touched()
        })
    }

    fn typed(&self, m: &Mapped, source: &str) -> String {
        let kind = self.app.column(&m.name).map_or("text", |c| c.kind.as_str());
        format!("({source})::{kind}")
    }
}
