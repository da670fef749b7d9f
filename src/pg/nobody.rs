//! Statements of the extension's owner, a superuser, that read tables of others are planned and carried out as a role that
//! may do nothing.
//!
//! The planner works out what it can of a table's indexes, statistics and partition keys in advance, and the executor goes
//! on with the conditions of its indexes: both call functions that the table's owner has put there. Whether the tables may be
//! read is asked of the owner of the extension all the same: the plan says so, as that of a view does.

use super::planning::guard;
use super::server::owner_of;
use crate::error::Error;
use pgrx::pg_sys;
use std::cell::Cell;

/// ROLE_PG_CHECKPOINT (src/include/catalog/pg_authid.dat): the predefined role that may do least, a CHECKPOINT.
const NOBODY: u32 = 4544;

/// A bit of `PlannedStmt.jitFlags` that the server does not know (PGJIT_* in src/include/jit/jit.h): it marks the plans to be
/// carried out by nobody, whoever does it and when, in a parallel worker too.
const BY_NOBODY: i32 = 1 << 30;

/// Objects of the system have lower numbers (FirstNormalObjectId in src/include/access/transam.h).
pub(super) const FIRST_OF_USERS: u32 = 16_384;

// Not pgrx's, which make a Rust panic of an error: what the hooks call raises its errors right through them, and whoever
// catches these puts the role back, as after any error.
unsafe extern "C-unwind" {
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: i32);
    #[cfg(not(feature = "pg18"))]
    fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
        once: bool,
    );
    #[cfg(feature = "pg18")]
    fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
    );
}

thread_local! {
    static START: Cell<pg_sys::ExecutorStart_hook_type> = const { Cell::new(None) };
    static RUN: Cell<pg_sys::ExecutorRun_hook_type> = const { Cell::new(None) };
}

pub(super) fn start() {
    // SAFETY: hooks are backend-local variables; whoever was there before is called by ours.
    unsafe {
        START.set(pg_sys::ExecutorStart_hook);
        pg_sys::ExecutorStart_hook = Some(start_plan);
        RUN.set(pg_sys::ExecutorRun_hook);
        pg_sys::ExecutorRun_hook = Some(run_plan);
    }
}

/// Works as nobody from now on. Statements of code that runs meanwhile are nobody's, and no concern of ours. It ends with an
/// error, too: where a role was assumed is where that is caught (`super::owner`), or in the end of the transaction.
pub(super) struct Nobody {
    role: pg_sys::Oid,
    context: i32,
    guarded: bool,
}

impl Nobody {
    pub(super) fn become_it() -> Self {
        let mut before = Nobody { role: pg_sys::InvalidOid, context: 0, guarded: guard(false) };
        // SAFETY: saves, then sets backend-local state.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut before.role, &mut before.context);
            let context = before.context
                | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32
                | pg_sys::SECURITY_RESTRICTED_OPERATION as i32;
            pg_sys::SetUserIdAndSecContext(pg_sys::Oid::from(NOBODY), context);
        }
        before
    }

    pub(super) fn end(self) {
        // SAFETY: puts back what was read before.
        unsafe { pg_sys::SetUserIdAndSecContext(self.role, self.context) };
        guard(self.guarded);
    }
}

/// Has `plan` carried out by nobody, if it reads tables of others than `owner`, with `owner`'s rights to the tables.
///
/// # Safety
/// `plan` is the planner's answer.
pub(super) unsafe fn entrust(
    plan: *mut pg_sys::PlannedStmt,
    owner: pg_sys::Oid,
) -> Result<(), Error> {
    // SAFETY: by the function's contract; its lists hold what their names say.
    unsafe {
        let tables = pgrx::PgList::<pg_sys::RangeTblEntry>::from_pg((*plan).rtable);
        let mut of_others = false;
        for table in tables.iter_ptr().filter(|t| (**t).rtekind == pg_sys::RTEKind::RTE_RELATION) {
            if (*table).relkind as u8 == pg_sys::RELKIND_FOREIGN_TABLE {
                // A connection to another server would be made with the rights of the extension's owner.
                return Err(Error::ForeignTable);
            }
            of_others |= (*table).relid.to_u32() >= FIRST_OF_USERS
                && owner_of((*table).relid).is_some_and(|of| of != owner);
        }
        if !of_others {
            return Ok(());
        }
        #[cfg(feature = "pg15")]
        for table in tables.iter_ptr().filter(|t| (**t).checkAsUser == pg_sys::InvalidOid) {
            (*table).checkAsUser = owner;
        }
        #[cfg(not(feature = "pg15"))]
        for table in
            pgrx::PgList::<pg_sys::RTEPermissionInfo>::from_pg((*plan).permInfos).iter_ptr()
        {
            if (*table).checkAsUser == pg_sys::InvalidOid {
                (*table).checkAsUser = owner;
            }
        }
        (*plan).jitFlags |= BY_NOBODY;
    }
    Ok(())
}

/// # Safety
/// `query` is what the executor is called with.
unsafe fn nobody_for(query: *mut pg_sys::QueryDesc) -> Option<Nobody> {
    // SAFETY: by the function's contract.
    let flags = unsafe { (*(*query).plannedstmt).jitFlags };
    (flags & BY_NOBODY != 0).then(Nobody::become_it)
}

unsafe extern "C-unwind" fn start_plan(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: the arguments are the executor's own; no destructor is alive where an error jumps over this.
    unsafe {
        let nobody = nobody_for(query);
        match START.get() {
            Some(next) => next(query, flags),
            None => standard_ExecutorStart(query, flags),
        }
        if let Some(nobody) = nobody {
            nobody.end();
        }
    }
}

#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn run_plan(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: as above.
    unsafe {
        let nobody = nobody_for(query);
        match RUN.get() {
            Some(next) => next(query, direction, count, once),
            None => standard_ExecutorRun(query, direction, count, once),
        }
        if let Some(nobody) = nobody {
            nobody.end();
        }
    }
}

#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn run_plan(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // SAFETY: as above.
    unsafe {
        let nobody = nobody_for(query);
        match RUN.get() {
            Some(next) => next(query, direction, count),
            None => standard_ExecutorRun(query, direction, count),
        }
        if let Some(nobody) = nobody {
            nobody.end();
        }
    }
}
