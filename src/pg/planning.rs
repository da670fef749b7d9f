//! What the planner is told: whose statements must not run anybody's code with the rights of the extension's owner (see
//! [`super::nobody`]), which pages are in memory, where it could not know, and that no statement of ours is worth compiling.
//!
//! Such statements are long, or look long where a table has many partitions: to compile one (`jit`, on by default) takes two
//! seconds, to run it among 100,000 users less than a tenth of that.

use super::capture::{failure_of, is_own, raise};
use super::nobody::{FIRST_OF_USERS, Nobody, entrust};
use super::server::{is_superuser, owner_of, table_name, table_named};
use crate::error::Error;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{PgLogLevel, pg_guard, pg_sys};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{UnwindSafe, catch_unwind};

/// A role whose statements are planned and carried out by nobody in particular: the extension's owner.
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
    static ANALYZED: Cell<pg_sys::post_parse_analyze_hook_type> = const { Cell::new(None) };
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
        ANALYZED.set(pg_sys::post_parse_analyze_hook);
        pg_sys::post_parse_analyze_hook = Some(analyzed);
    }
}

// Not pgrx's, as in `super::nobody`.
unsafe extern "C-unwind" {
    fn standard_planner(
        query: *mut pg_sys::Query,
        text: *const c_char,
        options: i32,
        params: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
}

unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: i32,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: the arguments are the planner's own; no destructor is alive where an error jumps over this.
    unsafe {
        if CHECKING.get() && is_foreign_key_check(text) {
            return plan_in_memory(query, text, options, params);
        }
        if !GUARDED.get() {
            let planned = plan_next(query, text, options, params);
            if is_own(text) {
                (*planned).jitFlags = pg_sys::PGJIT_NONE as i32;
            }
            return planned;
        }
        let owner = pg_sys::GetUserId();
        let nobody = Nobody::become_it();
        let planned = plan_next(query, text, options, params);
        nobody.end();
        (*planned).jitFlags = pg_sys::PGJIT_NONE as i32;
        or_raise(|| entrust(planned, owner));
        planned
    }
}

/// Raises what is wrong as an error of the server's; no destructor may be alive where it is called.
fn or_raise(check: impl FnOnce() -> Result<(), Error> + UnwindSafe) {
    let failure = match catch_unwind(check) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.into(),
        Err(panic) => failure_of(panic),
    };
    raise(PgLogLevel::ERROR, failure);
}

/// Names of a statement of ours have become tables, and no rule has been applied yet. A kept plan comes by here again after any
/// change of what it uses, or of a schema.
unsafe extern "C-unwind" fn analyzed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: the arguments are the server's own; no destructor is alive where an error jumps over this.
    unsafe {
        if let Some(next) = ANALYZED.get() {
            next(state, query, jumble);
        }
        if is_own((*state).p_sourcetext) {
            or_raise(|| check_tables(query, pg_sys::GetUserId(), GUARDED.get()));
        }
    }
}

/// Fails where a statement to be carried out as `role` names a table that is not the role's. It was when it was looked at:
/// somebody has put another one under its name, whose triggers, rules and policies would run with rights that are not theirs.
/// What is `guarded` may read others' tables, which nobody in particular does then, but views are not looked into.
///
/// # Safety
/// `query` is what a statement has been analyzed to.
unsafe fn check_tables(
    query: *mut pg_sys::Query,
    role: pg_sys::Oid,
    guarded: bool,
) -> Result<(), Error> {
    let is_roles = |table| {
        owner_of(table)
            .is_some_and(|owner| owner == role || is_superuser(owner) && is_superuser(role))
    };
    // SAFETY: by the function's contract; lists hold what their names say, and of queries in a WITH only such write.
    let (targets, named) = unsafe {
        let ctes = pgrx::PgList::<pg_sys::CommonTableExpr>::from_pg((*query).cteList);
        let inner = ctes.iter_ptr().map(|cte| (*cte).ctequery.cast::<pg_sys::Query>());
        let target = |query: *mut pg_sys::Query| {
            let tables = pgrx::PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable);
            let place = usize::try_from((*query).resultRelation).ok()?.checked_sub(1)?;
            Some((*tables.get_ptr(place)?).relid)
        };
        let targets: Vec<pg_sys::Oid> = inner.chain([query]).filter_map(target).collect();
        let mut named: Vec<pg_sys::Oid> = Vec::new();
        find_tables(query.cast(), (&raw mut named).cast());
        (targets, named)
    };
    // The table of the rows that are offered ([`super::rowset`]) is named, too.
    let may_read = |table| guarded || table_named(c"auth", c"users") == Some(table);
    for table in targets.iter().chain(&named).filter(|t| t.to_u32() >= FIRST_OF_USERS) {
        // SAFETY: a look-up in the system cache.
        let is_view = unsafe { pg_sys::get_rel_relkind(*table) } as u8 == pg_sys::RELKIND_VIEW;
        let may_use = is_roles(*table) || !targets.contains(table) && may_read(*table);
        if is_view || !may_use {
            return Err(Error::TableReplaced { table: table_name(*table) });
        }
    }
    Ok(())
}

/// Notes the tables that a query reads or writes, those of its subqueries too. What is merely named in it, like the sequence of
/// a default, is nobody's code.
///
/// # Safety
/// `node` is a query, or a part of one; `found` is a vector of oids.
unsafe extern "C-unwind" fn find_tables(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: by the function's contract; a node is what its tag says.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_RangeTblEntry => {
                let table = node.cast::<pg_sys::RangeTblEntry>();
                if (*table).rtekind == pg_sys::RTEKind::RTE_RELATION {
                    (*found.cast::<Vec<pg_sys::Oid>>()).push((*table).relid);
                }
                false
            }
            pg_sys::NodeTag::T_Query => {
                let flags = pg_sys::QTW_EXAMINE_RTES_BEFORE as i32;
                pg_sys::query_tree_walker(node.cast(), Some(find_tables), found, flags)
            }
            _ => pg_sys::expression_tree_walker(node, Some(find_tables), found),
        }
    }
}

unsafe fn plan_next(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: i32,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: by the function's contract, which is the planner's.
    unsafe {
        match NEXT.get() {
            Some(next) => next(query, text, options, params),
            None => standard_planner(query, text, options, params),
        }
    }
}

/// An error unwinds through what is put back here.
#[pg_guard]
unsafe extern "C-unwind" fn plan_in_memory(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: i32,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    let _in_memory = in_memory();
    // SAFETY: as in plan().
    unsafe { pg_guard_ffi_boundary(|| plan_next(query, text, options, params)) }
}

/// A setting of the planner that is another while this lives, also where an error ends it.
pub(super) struct Assumption<T: Copy> {
    setting: *mut T,
    before: T,
}

impl<T: Copy> Assumption<T> {
    /// # Safety
    /// `setting` is a backend-local variable that nothing but settings depends on.
    unsafe fn make(setting: *mut T, value: T) -> Self {
        // SAFETY: by the function's contract.
        unsafe { Assumption { setting, before: setting.replace(value) } }
    }
}

impl<T: Copy> Drop for Assumption<T> {
    fn drop(&mut self) {
        // SAFETY: as in make().
        unsafe { *self.setting = self.before };
    }
}

/// Plans are made as for pages that are in memory: to read them in any order costs as much as in turn.
///
/// For two or three rows the planner would otherwise set up a bitmap, which costs more than to read them, and saves nothing
/// where there are more: an index has the rows of one value in their order.
pub(super) fn in_memory() -> Assumption<f64> {
    // SAFETY: settings of the planner.
    unsafe { Assumption::make(&raw mut pg_sys::random_page_cost, pg_sys::seq_page_cost) }
}

/// Plans read tables by index where they can: a table that is small, or empty, when the plan is made need not be so when it
/// is used, later in the same transaction.
pub(super) fn by_key() -> Assumption<bool> {
    // SAFETY: a setting of the planner.
    unsafe { Assumption::make(&raw mut pg_sys::enable_seqscan, false) }
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
