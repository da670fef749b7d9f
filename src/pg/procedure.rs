//! Transaction control for `CALL`.

use crate::error::Error;
use pgrx::pg_sys;

/// An SPI connection that may commit.
pub struct Nonatomic {
    _not_send: std::marker::PhantomData<*const ()>,
}

/// Runs `f` with a connection that may commit between its statements. `f` must keep nothing of the server's across a
/// commit.
pub fn connect_nonatomic<R>(f: impl FnOnce(&Nonatomic) -> Result<R, Error>) -> Result<R, Error> {
    // SAFETY: paired with SPI_finish; on an error the transaction's end closes the connection.
    unsafe {
        pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32);
        let value = f(&Nonatomic { _not_send: std::marker::PhantomData })?;
        pg_sys::SPI_finish();
        Ok(value)
    }
}

impl Nonatomic {
    /// Commits, and starts the next transaction.
    pub fn commit(&self) {
        // SAFETY: the connection is nonatomic, so this is allowed where CALL is not inside a transaction block.
        unsafe { pg_sys::SPI_commit() };
    }
}

unsafe extern "C-unwind" {
    fn disable_timeout(id: i32, keep_indicator: bool);
    fn enable_timeout_after(id: i32, delay_ms: i32);
}

/// `STATEMENT_TIMEOUT` of `enum TimeoutId` (src/include/utils/timeout.h), the same in PostgreSQL 15 to 18.
const STATEMENT_TIMEOUT: i32 = 3;

/// Gives the next transaction of a CALL the whole of statement_timeout: the server counts from the start of the CALL.
pub fn restart_statement_timeout() {
    // SAFETY: as start_xact_command() arms it (src/backend/tcop/postgres.c).
    unsafe {
        if pg_sys::StatementTimeout > 0 {
            disable_timeout(STATEMENT_TIMEOUT, false);
            enable_timeout_after(STATEMENT_TIMEOUT, pg_sys::StatementTimeout);
        }
    }
}
