//! Writing `app_users` while constraints may be deferred: none is left to COMMIT, which would check it as the session's role.

use super::signup::Target;
use crate::catalog::Deferrable;
use crate::catalog::deferrable::{self, fire_as_session};
use crate::error::Error;
use crate::pg::{self, Mode, Session, connect, subtransaction};
use std::convert::Infallible;
use std::rc::Rc;

const FOREIGN_KEY_VIOLATION: &str = "23503";

impl Target {
    /// Runs `f` as the owner of `app_users`. Whatever may be deferred is checked inside.
    pub fn write<R>(&self, f: impl FnOnce(&Session) -> R) -> R {
        self.write_checked(&self.deferrable().iter().collect::<Vec<_>>(), f)
    }

    /// The same for an `f` that only inserts. Rows that wait for theirs may have been inserted before: the keys by which they
    /// refer to `app_users` are left alone. Where none waits they are checked, too: what a trigger writes beside the new row
    /// could not be left to COMMIT.
    pub fn write_new<R>(&self, f: impl FnOnce(&Session) -> R) -> Result<R, Error> {
        let all = self.deferrable();
        let mut checked: Vec<&Deferrable> = all.iter().filter(|c| !c.inbound).collect();
        let beside: Vec<&Deferrable> =
            all.iter().filter(|c| self.may_be_written_beside(c)).collect();
        if beside.len() > 1 && self.check_now(&beside)? {
            checked.extend(beside);
        } else {
            // Only those by which rows do wait.
            for constraint in beside {
                if self.check_now(&[constraint])? {
                    checked.push(constraint);
                }
            }
        }
        Ok(self.write_checked(&checked, f))
    }

    /// Has these foreign keys checked from now on. Answers false, and leaves them, where rows wait for theirs.
    fn check_now(&self, keys: &[&Deferrable]) -> Result<bool, Error> {
        let check = || {
            connect(|session| {
                let unsaid = unsaid(session, keys);
                pg::as_role(self.app.owner, || set_constraints(session, &unsaid, "IMMEDIATE"));
            });
            Ok(())
        };
        match subtransaction(check) {
            Ok(()) => Ok(true),
            Err(failure) if failure.sqlstate == FOREIGN_KEY_VIOLATION => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Constraints and constraint triggers that may be deferred, and may be met by what is written.
    pub(super) fn deferrable(&self) -> Rc<Vec<Deferrable>> {
        let (house, app) = (self.house, &self.app);
        let learn = || {
            let read = |session: &Session| deferrable::read(session, app.table, app.owner);
            Ok::<_, Infallible>(pg::as_role(house.owner, || connect(read)))
        };
        let Ok(all) = self.deferrable.get(pg::rules_version(), |_| true, |_| true, learn);
        all
    }

    /// Whether a trigger of `app_users` may insert, beside a new row, one that refers to it by this key.
    pub(super) fn may_be_written_beside(&self, constraint: &Deferrable) -> bool {
        self.app.runs_code && constraint.inbound && constraint.initially
    }

    fn write_checked<R>(&self, checked: &[&Deferrable], f: impl FnOnce(&Session) -> R) -> R {
        let unsaid = match checked.is_empty() {
            true => Vec::new(),
            false => connect(|session| unsaid(session, checked)),
        };
        pg::as_role(self.app.owner, || {
            connect(|session| {
                set_constraints(session, &unsaid, "IMMEDIATE");
                let result = f(session);
                let initially: Vec<_> = checked.iter().copied().filter(|c| c.initially).collect();
                set_constraints(session, &initially, "DEFERRED");
                result
            })
        })
    }
}

/// Those of these constraints that are still to be made immediate.
fn unsaid<'c>(session: &Session, which: &[&'c Deferrable]) -> Vec<&'c Deferrable> {
    let said = fire_as_session(session, &names(which));
    which.iter().copied().filter(|constraint| !said.contains(&constraint.name)).collect()
}

fn names<'c>(which: &[&'c Deferrable]) -> Vec<&'c str> {
    which.iter().map(|constraint| constraint.name.as_str()).collect()
}

fn set_constraints(session: &Session, which: &[&Deferrable], when: &str) {
    if !which.is_empty() {
        let sql = format!("SET CONSTRAINTS {} {when}", names(which).join(", "));
        session.run(&sql, &[], Mode::Fresh);
    }
}
