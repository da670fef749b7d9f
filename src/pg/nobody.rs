//! Planning as nobody. Whoever owns a table can attach expressions to it (an index's predicate, extended statistics,
//! a CHECK constraint) that the planner folds, which runs their functions with the rights of the role that plans. A
//! query that must read other people's tables with the extension owner's rights is therefore planned as a role that
//! may do nothing, and executed as the owner: execution runs nothing but what stands in the query itself.

use pgrx::{pg_guard, pg_sys};
use std::cell::Cell;
use std::ffi::{c_char, c_int};

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    static NEXT: Cell<pg_sys::planner_hook_type> = const { Cell::new(None) };
}

/// `pg_stat_scan_tables`, a role of the server's own that owns nothing and may read no table
/// (src/include/catalog/pg_authid.dat).
const NOBODY: pg_sys::Oid = pg_sys::Oid::from_u32(3377);

/// Runs `f`; every statement in it that is planned is planned as nobody.
pub fn planned_by_nobody<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
        }
    }
    let _restore = Restore(ACTIVE.replace(true));
    f()
}

/// Set-up of a backend that loads the library.
pub(super) fn start() {
    // SAFETY: the backend has one thread; whoever was there before is called on.
    unsafe {
        NEXT.set(pg_sys::planner_hook);
        pg_sys::planner_hook = Some(plan);
    }
}

struct Identity {
    role: pg_sys::Oid,
    context: c_int,
}

impl Drop for Identity {
    fn drop(&mut self) {
        // SAFETY: puts back what was read before.
        unsafe { pg_sys::SetUserIdAndSecContext(self.role, self.context) };
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: passes its arguments on; the identity is put back on every path.
    unsafe {
        let _identity = ACTIVE.get().then(|| {
            let mut before = Identity { role: pg_sys::InvalidOid, context: 0 };
            pg_sys::GetUserIdAndSecContext(&mut before.role, &mut before.context);
            pg_sys::SetUserIdAndSecContext(
                NOBODY,
                before.context
                    | pg_sys::SECURITY_LOCAL_USERID_CHANGE as c_int
                    | pg_sys::SECURITY_RESTRICTED_OPERATION as c_int,
            );
            before
        });
        match NEXT.get() {
            // An error of theirs must not jump over this frame.
            Some(next) => pg_sys::ffi::pg_guard_ffi_boundary(|| next(query, text, options, params)),
            None => pg_sys::standard_planner(query, text, options, params),
        }
    }
}
