//! Tables that are altered while a call waits for them.

use super::repair::Repair;
use crate::error::{Error, Failure};
use crate::pg::{self, subtransaction};
use crate::statements::candidates::Finder;
use crate::statements::rekey::Mover;
use onagui_decide::failure::must_pass_on;

impl Repair {
    /// Looks at the tables anew where they were altered since the call began, which a wait for their lock brings to light as
    /// an error. Answers whether that was so.
    pub(super) fn renew(&self) -> Result<bool, Error> {
        if !self.target().is_stale() && !self.mover().is_stale() {
            return Ok(false);
        }
        let look = || {
            let finder = Finder::get(self.target().house)?;
            let mover = Mover::get(finder.target.house, &finder.target.app)?;
            Ok((finder, mover))
        };
        match subtransaction(look) {
            Ok((finder, mover)) => {
                self.finder.replace(finder);
                self.mover.replace(mover);
                Ok(true)
            }
            Err(failure) if must_pass_on(&failure.sqlstate) => Err(failure.into()),
            // What was tried has failed for a reason that is told.
            Err(_) => Ok(false),
        }
    }

    /// Tries once more what failed because a row was overtaken, or tables were altered meanwhile.
    pub(super) fn once_more<R>(
        &self,
        attempt: impl Fn() -> Result<R, Box<Failure>>,
    ) -> Result<R, Box<Failure>> {
        match attempt() {
            Err(failure) if pg::is_overtaken(&failure) => attempt(),
            Err(failure) if !must_pass_on(&failure.sqlstate) => {
                // Then it is stale, and renewed.
                self.target().is_outdated(&failure.sqlstate);
                match self.renew() {
                    Ok(true) => attempt(),
                    Ok(false) => Err(failure),
                    Err(error) => Err(Box::new(error.into())),
                }
            }
            tried => tried,
        }
    }
}
