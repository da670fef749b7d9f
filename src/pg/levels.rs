//! A query level of the trigger manager: statements run inside it queue their AFTER triggers, foreign-key checks
//! included, and all of them fire when the level is closed.
//!
//! This is how several tables change "in one statement" while each is written as its own owner: every table's
//! statement gets a level, no level is closed before all statements have run, and each is closed as the table's owner.

use super::planning::ForeignKeyChecks;
use pgrx::pg_sys;

pub struct QueryLevel {
    _not_send: std::marker::PhantomData<*const ()>,
}

impl QueryLevel {
    pub fn open() -> Self {
        // SAFETY: paired with close(); after an error the subtransaction's end resets the depth.
        unsafe { pg_sys::AfterTriggerBeginQuery() };
        QueryLevel { _not_send: std::marker::PhantomData }
    }

    /// Fires what the level has queued, as the current role. Levels are closed in reverse order of opening.
    pub fn close(self) {
        let _checks = ForeignKeyChecks::begin();
        // SAFETY: the trigger manager needs an executor state only to look up the tables of the events.
        unsafe {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let estate = pg_sys::CreateExecutorState();
            pg_sys::AfterTriggerEndQuery(estate);
            pg_sys::ExecCloseResultRelations(estate);
            pg_sys::ExecResetTupleTable((*estate).es_tupleTable, false);
            pg_sys::FreeExecutorState(estate);
            pg_sys::PopActiveSnapshot();
        }
    }
}

/// Whether triggers of a table wait for COMMIT, or until they are told not to.
pub fn triggers_wait(table: pg_sys::Oid) -> bool {
    // SAFETY: within a transaction; looks through a list of the backend's.
    unsafe { pg_sys::AfterTriggerPendingOnRel(table) }
}
