//! The server programming interface: prepared plans, arguments, rows.

use super::aside::Aside;
use super::capture::OwnStatement;
use super::encoding::to_server_c;
use super::loader::Loader;
use super::planning::{by_key, in_memory};
use super::rows::Rows;
use super::rowset::RowSet;
use super::values::ToSql;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::rc::Rc;

/// How a statement sees the database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The caller's snapshot: a function that reads sees what the statement that called it sees.
    Read,
    /// A snapshot of its own, taken now, with everything this transaction has done so far.
    Fresh,
    /// As `Fresh`, and AFTER triggers wait for the [`super::QueryLevel`] around it to be closed.
    Queued,
}

/// An argument of a statement: a typed value or NULL.
pub struct Arg {
    kind: pg_sys::Oid,
    value: Option<pg_sys::Datum>,
}

impl Arg {
    pub fn of<T: ToSql>(value: Option<T>) -> Self {
        Arg { kind: T::kind(), value: value.and_then(ToSql::datum) }
    }

    pub(super) fn datum(&self) -> Option<pg_sys::Datum> {
        self.value
    }
}

impl Drop for Arg {
    fn drop(&mut self) {
        let is_by_value = matches!(
            self.kind,
            pg_sys::BOOLOID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::OIDOID
        );
        if let (Some(value), false) = (self.value, is_by_value || std::thread::panicking()) {
            // SAFETY: all other types are palloc'd for the argument, which does not outlive the connection it is made for; where
            // an error unwinds, whoever catches it frees the memory.
            unsafe { pg_sys::pfree(value.cast_mut_ptr()) };
        }
    }
}

impl<T: ToSql> From<T> for Arg {
    fn from(value: T) -> Self {
        Arg::of(Some(value))
    }
}

/// An open connection to the programming interface; memory of results is freed with it.
pub struct Session {
    _not_send: PhantomData<*const ()>,
}

/// Runs `f` with a connection.
pub fn connect<R>(f: impl FnOnce(&Session) -> R) -> R {
    // SAFETY: paired with SPI_finish; when `f` unwinds, the subtransaction or transaction that is rolled back closes it.
    unsafe {
        pg_sys::SPI_connect();
        let result = f(&Session { _not_send: PhantomData });
        pg_sys::SPI_finish();
        result
    }
}

/// A prepared statement that lives until dropped, and plans itself anew when a table it uses changes.
pub struct Plan {
    plan: pg_sys::SPIPlanPtr,
    /// Its text, which lives as long as the plan.
    text: *const c_char,
    arity: usize,
    /// It looks rows up by a key that has an index.
    by_key: bool,
}

impl Plan {
    pub(super) fn raw(&self) -> pg_sys::SPIPlanPtr {
        self.plan
    }

    /// While it lives, it is known whose statement this is.
    pub(super) fn own(&self) -> OwnStatement {
        // SAFETY: the text is the plan's own, which outlives what is done with it.
        unsafe { OwnStatement::begin(self.text) }
    }

    /// Makes the generic plan that the statement will go on using, where there is none that holds.
    fn make(&self) {
        // SAFETY: the text is the plan's own; the hold on the plan is given back.
        unsafe {
            let _own = OwnStatement::begin(self.text);
            let made = pg_sys::SPI_plan_get_cached_plan(self.plan);
            if !made.is_null() {
                pg_sys::ReleaseCachedPlan(made, pg_sys::CurrentResourceOwner);
            }
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: a kept plan is ours to free.
        unsafe { pg_sys::SPI_freeplan(self.plan) };
    }
}

fn check(code: i32, sql: &str) {
    if code < 0 {
        // SAFETY: returns a static string.
        let name = unsafe { CStr::from_ptr(pg_sys::SPI_result_code_string(code)) };
        panic!("{} for: {sql}", name.to_string_lossy());
    }
}

impl Session {
    /// Prepares `sql` for arguments of the given types.
    pub fn prepare(&self, sql: &str, kinds: &[pg_sys::Oid]) -> Plan {
        self.prepare_with(sql, kinds, 0)
    }

    /// Prepares a statement that is planned once, whatever the arguments: as if arrays among them were short.
    pub fn prepare_generic(&self, sql: &str, kinds: &[pg_sys::Oid]) -> Plan {
        self.prepare_with(sql, kinds, pg_sys::CURSOR_OPT_GENERIC_PLAN)
    }

    /// The same for rows that are looked up by a key which has an index ([`by_key`]).
    pub fn prepare_by_key(&self, sql: &str, kinds: &[pg_sys::Oid]) -> Plan {
        let mut plan = self.prepare_generic(sql, kinds);
        plan.by_key = true;
        plan
    }

    /// A generic plan made now, for few rows by index ([`in_memory`]).
    pub fn prepare_by_index(&self, sql: &str, kinds: &[pg_sys::Oid]) -> Plan {
        let plan = self.prepare_generic(sql, kinds);
        let _in_memory = in_memory();
        plan.make();
        plan
    }

    /// Prepares a query that only reads: it may run in parallel, and with `generic` it is planned once, whatever the
    /// arguments.
    pub fn prepare_read(&self, sql: &str, kinds: &[pg_sys::Oid], generic: bool) -> Plan {
        let generic = if generic { pg_sys::CURSOR_OPT_GENERIC_PLAN } else { 0 };
        self.prepare_with(sql, kinds, pg_sys::CURSOR_OPT_PARALLEL_OK | generic)
    }

    pub(super) fn prepare_with(&self, sql: &str, kinds: &[pg_sys::Oid], options: u32) -> Plan {
        let text = to_server_c(sql);
        let mut kinds = kinds.to_vec();
        // SAFETY: all pointers hold for the call; SPI_keepplan moves the plan to long-lived memory.
        unsafe {
            let _own = OwnStatement::begin(text.as_ptr());
            let plan = pg_sys::SPI_prepare_cursor(
                text.as_ptr(),
                kinds.len() as i32,
                kinds.as_mut_ptr(),
                options as i32,
            );
            if plan.is_null() {
                check(pg_sys::SPI_result, sql);
                panic!("no plan for: {sql}");
            }
            check(pg_sys::SPI_keepplan(plan), sql);
            let source = pg_sys::list_nth(pg_sys::SPI_plan_get_plan_sources(plan), 0);
            let text = (*source.cast::<pg_sys::CachedPlanSource>()).query_string;
            Plan { plan, text, arity: kinds.len(), by_key: false }
        }
    }

    /// Executes a prepared statement and returns its rows, or those of its RETURNING.
    pub fn execute(&self, plan: &Plan, args: &[Arg], mode: Mode) -> Rows {
        assert_eq!(plan.arity, args.len(), "arguments of a prepared statement");
        let (mut values, nulls) = datums(args);
        if plan.by_key {
            // What triggers of the application do meanwhile is planned as ever.
            let _by_key = by_key();
            plan.make();
        }
        // SAFETY: the plan outlives its execution.
        let _own = unsafe { OwnStatement::begin(plan.text) };
        // SAFETY: arrays are as long as the plan's arguments.
        let code = unsafe {
            pg_sys::SPI_execute_snapshot(
                plan.plan,
                values.as_mut_ptr(),
                nulls.as_ptr(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                mode == Mode::Read,
                mode != Mode::Queued,
                0,
            )
        };
        check(code, "a prepared statement");
        Rows::taken()
    }

    /// A quicker way to execute `plan`, which inserts into `table`, where there is one; see [`Loader`].
    pub fn loader(
        &self,
        plan: &Plan,
        table: pg_sys::Oid,
        runs_code: bool,
        version: u64,
    ) -> Option<Loader> {
        Loader::of(plan, table, runs_code, version)
    }

    /// Plans and executes `sql` once.
    pub fn run(&self, sql: &str, args: &[Arg], mode: Mode) -> Rows {
        let kinds: Vec<_> = args.iter().map(|arg| arg.kind).collect();
        self.execute(&self.prepare(sql, &kinds), args, mode)
    }

    /// The same, for rows that are looked up by a key which has an index, or by their addresses ([`by_key`]).
    pub fn run_by_key(&self, sql: &str, args: &[Arg], mode: Mode) -> Rows {
        let kinds: Vec<_> = args.iter().map(|arg| arg.kind).collect();
        self.execute(&self.prepare_by_key(sql, &kinds), args, mode)
    }

    /// As [`Self::run`], for a statement of the program's own text: prepared and planned once per backend. `args` are of the same
    /// types each time.
    pub fn run_kept(&self, sql: &'static str, args: &[Arg], mode: Mode) -> Rows {
        self.execute_kept(sql, Self::prepare_generic, args, mode)
    }

    /// The same, for rows that are looked up by a key which has an index ([`by_key`]).
    pub fn run_kept_by_key(&self, sql: &'static str, args: &[Arg], mode: Mode) -> Rows {
        self.execute_kept(sql, Self::prepare_by_key, args, mode)
    }

    fn execute_kept(
        &self,
        sql: &'static str,
        prepare: impl Fn(&Self, &str, &[pg_sys::Oid]) -> Plan,
        args: &[Arg],
        mode: Mode,
    ) -> Rows {
        thread_local! {
            static PLANS: RefCell<HashMap<&'static str, Rc<Plan>>> = RefCell::default();
        }
        let plan = PLANS.with_borrow(|plans| plans.get(sql).cloned());
        let plan = plan.unwrap_or_else(|| {
            let kinds: Vec<_> = args.iter().map(|arg| arg.kind).collect();
            let plan = Rc::new(prepare(self, sql, &kinds));
            PLANS.with_borrow_mut(|plans| plans.insert(sql, plan.clone()));
            plan
        });
        self.execute(&plan, args, mode)
    }

    /// Lets the statements of this connection select from `rows` under the name `name`.
    pub fn offer(&self, name: &CStr, rows: &RowSet) {
        let (table, unknown) = (rows.table(), std::ptr::null_mut());
        // SAFETY: the tuplestore lives at least as long as `rows`.
        unsafe { self.offer_store(name, (table, unknown), rows.store(), rows.len()) };
    }

    /// The same with rows that are of no table.
    pub fn offer_aside(&self, name: &CStr, rows: &Aside) {
        let (no_table, columns) = (pg_sys::InvalidOid, rows.descriptor());
        // SAFETY: as in offer().
        unsafe { self.offer_store(name, (no_table, columns), rows.store(), rows.len()) };
    }

    /// What the rows are made of is said by their table, or by a descriptor.
    ///
    /// # Safety
    /// Store and descriptor outlive the statements that select from them.
    unsafe fn offer_store(
        &self,
        name: &CStr,
        (table, descriptor): (pg_sys::Oid, pg_sys::TupleDesc),
        store: *mut pg_sys::Tuplestorestate,
        rows: usize,
    ) {
        // SAFETY: the entry lives in this connection's memory; the rest is the caller's promise.
        unsafe {
            let enr = pg_sys::palloc0(size_of::<pg_sys::EphemeralNamedRelationData>())
                as *mut pg_sys::EphemeralNamedRelationData;
            (*enr).md.name = pg_sys::pstrdup(name.as_ptr());
            (*enr).md.reliddesc = table;
            (*enr).md.tupdesc = descriptor;
            (*enr).md.enrtype = pg_sys::EphemeralNameRelationType::ENR_NAMED_TUPLESTORE;
            (*enr).md.enrtuples = rows as f64;
            (*enr).reldata = store.cast();
            pg_sys::SPI_unregister_relation(name.as_ptr());
            check(pg_sys::SPI_register_relation(enr), "a set of rows");
        }
    }

    /// Executes a query and writes its rows, at most `limit`, straight into `store`; returns how many. The columns must
    /// fit the store's.
    pub(super) fn pour(
        &self,
        plan: &Plan,
        args: &[Arg],
        limit: Option<u64>,
        store: *mut pg_sys::Tuplestorestate,
    ) -> u64 {
        unsafe extern "C-unwind" {
            fn SetTuplestoreDestReceiverParams(
                receiver: *mut pg_sys::DestReceiver,
                store: *mut pg_sys::Tuplestorestate,
                context: pg_sys::MemoryContext,
                detoast: bool,
                target: pg_sys::TupleDesc,
                map_failure: *const c_char,
            );
        }
        // SAFETY: the receiver is set up before use, and lives in this connection's memory; the store is the caller's answer.
        unsafe {
            let receiver = pg_sys::CreateDestReceiver(pg_sys::CommandDest::DestTuplestore);
            let context = pg_sys::MemoryContextGetParent(pg_sys::CurrentMemoryContext);
            SetTuplestoreDestReceiverParams(
                receiver,
                store,
                context,
                false,
                std::ptr::null_mut(),
                std::ptr::null(),
            );
            self.hand_to(plan, args, limit, receiver)
        }
    }

    /// Executes a query for a receiver of its rows, at most `limit`, which the planner does not know of; returns how
    /// many there were.
    ///
    /// # Safety
    /// `receiver` is set up and outlives the call.
    pub(super) unsafe fn hand_to(
        &self,
        plan: &Plan,
        args: &[Arg],
        limit: Option<u64>,
        receiver: *mut pg_sys::DestReceiver,
    ) -> u64 {
        if limit == Some(0) {
            return 0;
        }
        assert_eq!(plan.arity, args.len(), "arguments of a prepared statement");
        // SAFETY: the parameter list has as many entries as arguments.
        unsafe {
            let params = pg_sys::makeParamList(args.len() as i32);
            for (i, arg) in args.iter().enumerate() {
                let param = (*params).params.as_mut_ptr().add(i);
                (*param).value = arg.value.unwrap_or(pg_sys::Datum::null());
                (*param).isnull = arg.value.is_none();
                (*param).pflags = pg_sys::PARAM_FLAG_CONST as u16;
                (*param).ptype = arg.kind;
            }
            let options = pg_sys::SPIExecuteOptions {
                params,
                read_only: true,
                tcount: limit.unwrap_or_default(),
                dest: receiver,
                ..Default::default()
            };
            let _own = OwnStatement::begin(plan.text);
            check(pg_sys::SPI_execute_plan_extended(plan.plan, &options), "a prepared statement");
            pg_sys::SPI_processed
        }
    }
}

fn datums(args: &[Arg]) -> (Vec<pg_sys::Datum>, Vec<c_char>) {
    args.iter()
        .map(|arg| match arg.value {
            Some(datum) => (datum, b' ' as c_char),
            None => (pg_sys::Datum::null(), b'n' as c_char),
        })
        .unzip()
}
