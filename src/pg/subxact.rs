//! Subtransactions: what is done inside is kept or undone as a whole.

use super::capture::failure_of;
use crate::error::{Error, Failure};
use pgrx::pg_sys;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `f` in a subtransaction. An error rolls its work back and is returned; nothing of it remains.
/// Memory context, resource owner, role and settings are afterwards what they were before, on every path.
pub fn subtransaction<R>(f: impl FnOnce() -> Result<R, Error>) -> Result<R, Box<Failure>> {
    // SAFETY: the sequence PL/pgSQL uses for a block with EXCEPTION (src/pl/plpgsql/src/pl_exec.c).
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::CurrentMemoryContext = context;
        let outcome = match catch_unwind(AssertUnwindSafe(f)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Box::new(Failure::from(error))),
            Err(panic) => Err(Box::new(failure_of(panic))),
        };
        pg_sys::CurrentMemoryContext = context;
        if outcome.is_ok() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::CurrentMemoryContext = context;
        pg_sys::CurrentResourceOwner = owner;
        outcome
    }
}

/// Lets an error that a [`subtransaction`] has caught go on, as if nobody had caught it: where it is none of those that are
/// expected, and whoever is told of an [`Error`] would take it for one.
pub fn go_on(failure: Box<Failure>) -> ! {
    resume_unwind(failure)
}

/// A subtransaction for an `f` that only reads: code of the application that would write fails (25006), as in a READ ONLY
/// transaction.
pub fn rehearsal<R>(f: impl FnOnce() -> Result<R, Error>) -> Result<R, Box<Failure>> {
    subtransaction(|| {
        // SAFETY: a backend-local variable; the subtransaction's end puts back what it was.
        unsafe { pg_sys::XactReadOnly = true };
        f()
    })
}
