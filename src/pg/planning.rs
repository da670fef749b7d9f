//! Keeps plans that are made with the rights of the extension's owner, a superuser, from running anybody's code, and from
//! being compiled.
//!
//! The planner works out what it can of a table's indexes, statistics and partition keys in advance, and calls the
//! functions that the table's owner has put there. Permissions are checked later, by the executor. So such a plan is made
//! as a role that may do nothing, and then carried out as the one that may read.
//!
//! Such queries are long: to compile one (`jit`, on by default) takes two seconds, to run it among 100,000 users less than a
//! tenth of that.
//!
//! And it tells the planner of pages that are in memory, where it could not know.

use pgrx::{pg_guard, pg_sys};
use std::cell::Cell;
use std::ffi::{CStr, c_char};

/// ROLE_PG_CHECKPOINT (src/include/catalog/pg_authid.dat): the predefined role that may do least, a CHECKPOINT.
const NOBODY: u32 = 4544;

/// A role whose statements are planned by nobody in particular: the extension's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guarded(pub pg_sys::Oid);

/// Whom to work as.
#[derive(Clone, Copy)]
pub struct Role {
    pub(super) oid: pg_sys::Oid,
    pub(super) guarded: bool,
}

impl From<pg_sys::Oid> for Role {
    fn from(oid: pg_sys::Oid) -> Self {
        Role { oid, guarded: false }
    }
}

impl From<Guarded> for Role {
    fn from(role: Guarded) -> Self {
        Role { oid: role.0, guarded: true }
    }
}

impl PartialEq<pg_sys::Oid> for Guarded {
    fn eq(&self, other: &pg_sys::Oid) -> bool {
        self.0 == *other
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static CHECKING: Cell<bool> = const { Cell::new(false) };
    static NEXT: Cell<pg_sys::planner_hook_type> = const { Cell::new(None) };
}

/// Says whether plans are to be guarded from now on, and answers what was so before.
pub(super) fn guard(on: bool) -> bool {
    GUARDED.replace(on)
}

pub(super) fn start() {
    // SAFETY: hooks are backend-local variables; whoever was there before is called by ours.
    unsafe {
        NEXT.set(pg_sys::planner_hook);
        pg_sys::planner_hook = Some(plan);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: i32,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: the arguments are the planner's own; `_nobody` puts the role back also when planning fails.
    unsafe {
        let guarded = GUARDED.get();
        let _nobody = guarded.then(Nobody::become_it);
        let _in_memory = (CHECKING.get() && is_foreign_key_check(text)).then(InMemory::assume);
        let planned = match NEXT.get() {
            Some(next) => next(query, text, options, params),
            None => pg_sys::standard_planner(query, text, options, params),
        };
        if guarded {
            (*planned).jitFlags = pg_sys::PGJIT_NONE as i32;
        }
        planned
    }
}

struct Nobody {
    role: pg_sys::Oid,
    context: i32,
}

impl Nobody {
    fn become_it() -> Self {
        let mut before = Nobody { role: pg_sys::InvalidOid, context: 0 };
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
}

impl Drop for Nobody {
    fn drop(&mut self) {
        // SAFETY: puts back what was read before.
        unsafe { pg_sys::SetUserIdAndSecContext(self.role, self.context) };
    }
}

/// While it lives, plans are made as for pages that are in memory: to read them in any order costs as much as in turn.
///
/// For two or three rows the planner would otherwise set up a bitmap, which costs more than to read them, and saves nothing
/// where there are more: an index has the rows of one value in their order.
pub(super) struct InMemory {
    before: f64,
}

impl InMemory {
    pub(super) fn assume() -> Self {
        // SAFETY: a backend-local setting, put back when this is dropped, also by an error.
        unsafe {
            let before = pg_sys::random_page_cost;
            pg_sys::random_page_cost = pg_sys::seq_page_cost;
            InMemory { before }
        }
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { pg_sys::random_page_cost = self.before };
    }
}

/// While it lives, the server checks foreign keys of rows that have just been changed, and so are in memory. It plans a
/// check once in a session; what triggers of the application do meanwhile is planned as ever.
pub(super) struct ForeignKeyChecks {
    before: bool,
}

impl ForeignKeyChecks {
    pub(super) fn begin() -> Self {
        ForeignKeyChecks { before: CHECKING.replace(true) }
    }
}

impl Drop for ForeignKeyChecks {
    fn drop(&mut self) {
        CHECKING.set(self.before);
    }
}

/// Whether it is a query by which the server looks for a key, or for what refers to it (src/backend/utils/adt/ri_triggers.c).
///
/// # Safety
/// `text` is NULL or NUL-terminated.
unsafe fn is_foreign_key_check(text: *const c_char) -> bool {
    if text.is_null() {
        return false;
    }
    // SAFETY: by the function's contract.
    let text = unsafe { CStr::from_ptr(text) }.to_bytes();
    text.starts_with(b"SELECT 1 FROM ") && text.ends_with(b" FOR KEY SHARE OF x")
}
