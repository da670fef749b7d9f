//! How a function called from SQL is entered and left.

use super::call::{Call, Reply};
use super::capture::{Capture, failure_of, raise};
use super::encoding;
use crate::error::{Error, Failure};
use pgrx::pg_sys;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Makes `$body: fn(&Call) -> Result<Reply, Error>` callable from SQL under the symbol `$name`.
#[macro_export]
macro_rules! door {
    ($($name:ident => $body:path;)+) => {$(
        /// # Safety
        /// Called by the function manager only.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(
            fcinfo: pgrx::pg_sys::FunctionCallInfo,
        ) -> pgrx::pg_sys::Datum {
            // SAFETY: called by the function manager only.
            unsafe { $crate::pg::enter(fcinfo, $body) }
        }
        const _: () = {
            #[unsafe(export_name = concat!("pg_finfo_", stringify!($name)))]
            pub extern "C" fn info() -> *const pgrx::pg_sys::Pg_finfo_record {
                const V1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &V1
            }
        };
    )+};
}

/// # Safety
/// `fcinfo` is what the function manager passes.
pub unsafe fn enter(
    fcinfo: pg_sys::FunctionCallInfo,
    body: fn(&Call) -> Result<Reply, Error>,
) -> pg_sys::Datum {
    match guarded(fcinfo, body) {
        Ok(datum) => datum,
        Err(failure) => {
            raise(pgrx::PgLogLevel::ERROR, unboxed(failure));
            unreachable!("an error was raised");
        }
    }
}

/// Frees the box, which would be left behind where it is alive when an error is raised.
#[expect(clippy::boxed_local, reason = "to free it is the point")]
fn unboxed(failure: Box<Failure>) -> Failure {
    *failure
}

#[inline(never)]
fn guarded(
    fcinfo: pg_sys::FunctionCallInfo,
    body: fn(&Call) -> Result<Reply, Error>,
) -> Result<pg_sys::Datum, Box<Failure>> {
    let _capture = Capture::start();
    // SAFETY: fcinfo holds for as long as the call.
    let call = unsafe { Call::new(fcinfo) };
    match catch_unwind(AssertUnwindSafe(|| {
        encoding::learn();
        body(&call).map(|reply| call.reply(reply))
    })) {
        Ok(Ok(datum)) => Ok(datum),
        Ok(Err(error)) => Err(Box::new(error.into())),
        Err(panic) => Err(Box::new(failure_of(panic))),
    }
}
