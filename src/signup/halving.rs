//! Doing for as many rows as possible what fails for all of them together.

use crate::error::{Error, Failure};
use crate::pg::{RowSet, subtransaction};
use onagui_decide::failure::{LOCK_NOT_AVAILABLE, must_pass_on};
use std::cell::RefCell;

/// A row's place in its statement, and why nothing could be done for it.
pub type Failed = (usize, Box<Failure>);

/// Does something for the rows of a set, which stand at these places.
pub type Act<'a> = &'a dyn Fn(&RowSet, &[usize]) -> Result<(), Error>;

/// After so many waits in vain nothing more is tried: a lock that many rows need is held.
const LOCK_PATIENCE: usize = 64;

/// Does `act` for all of `rows` in one subtransaction. Where that fails, the rows that make it fail are found by halving,
/// in subtransactions that are rolled back, and the others are done in one. Returns those that failed.
pub fn do_for_most(rows: &RowSet, places: &[usize], act: Act) -> Result<Vec<Failed>, Error> {
    let Some(failure) = attempt(rows, places, act, true)? else {
        return Ok(Vec::new());
    };
    if places.len() == 1 {
        return Ok(vec![(places[0], failure)]);
    }
    super::spent(&failure);
    // What fails in the same way even without a row is no row's fault. In another way a trigger for each statement may fail
    // because it wants rows.
    if let Some(empty) = attempt(&rows.part(&[]), &[], act, false)?
        && (&empty.sqlstate, &empty.message) == (&failure.sqlstate, &failure.message)
    {
        return Ok(places.iter().map(|place| (*place, failure.clone())).collect());
    }
    let search = Search { act, waits: RefCell::default() };
    let mut failed = Vec::new();
    search.halves(rows, places, false, &mut failed)?;
    let mut bad = failed.iter().map(|(place, _)| *place).peekable();
    let good: Vec<usize> =
        (0..places.len()).filter(|i| bad.next_if_eq(&places[*i]).is_none()).collect();
    if !good.is_empty() {
        let rows = rows.part(&good);
        let places: Vec<usize> = good.iter().map(|i| places[*i]).collect();
        // Rows that fail only together: each half that passes is kept.
        search.one(&rows, &places, true, &mut failed)?;
    }
    Ok(failed)
}

/// None if it went well. Errors that must be passed on are.
fn attempt(
    rows: &RowSet,
    places: &[usize],
    act: Act,
    keep: bool,
) -> Result<Option<Box<Failure>>, Error> {
    let outcome = subtransaction(|| {
        act(rows, places)?;
        if keep { Ok(()) } else { Err(Error::Rehearsed) }
    });
    match outcome {
        Ok(()) => Ok(None),
        Err(failure) if failure.is_rehearsal => Ok(None),
        Err(failure) if must_pass_on(&failure.sqlstate) => Err(failure.into()),
        Err(failure) => Ok(Some(failure)),
    }
}

struct Search<'a> {
    act: Act<'a>,
    /// How often a lock was waited for in vain, and the last failure of that.
    waits: RefCell<(usize, Option<Box<Failure>>)>,
}

impl Search<'_> {
    fn one(
        &self,
        rows: &RowSet,
        places: &[usize],
        keep: bool,
        failed: &mut Vec<Failed>,
    ) -> Result<(), Error> {
        match self.attempt(rows, places, keep)? {
            None => Ok(()),
            Some(failure) if places.len() == 1 => {
                failed.push((places[0], failure));
                Ok(())
            }
            Some(_) => self.halves(rows, places, keep, failed),
        }
    }

    fn halves(
        &self,
        rows: &RowSet,
        places: &[usize],
        keep: bool,
        failed: &mut Vec<Failed>,
    ) -> Result<(), Error> {
        let middle = places.len() / 2;
        for half in [0..middle, middle..places.len()] {
            let part = rows.part(&half.clone().collect::<Vec<_>>());
            self.one(&part, &places[half], keep, failed)?;
        }
        Ok(())
    }

    fn attempt(
        &self,
        rows: &RowSet,
        places: &[usize],
        keep: bool,
    ) -> Result<Option<Box<Failure>>, Error> {
        if let (LOCK_PATIENCE.., Some(failure)) = &*self.waits.borrow() {
            return Ok(Some(failure.clone()));
        }
        let failure = attempt(rows, places, self.act, keep)?;
        if let Some(failure) = failure.iter().find(|f| f.sqlstate == LOCK_NOT_AVAILABLE) {
            let mut waits = self.waits.borrow_mut();
            *waits = (waits.0 + 1, Some(failure.clone()));
        }
        Ok(failure)
    }
}
