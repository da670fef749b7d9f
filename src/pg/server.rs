//! Small questions to the server, and its notices.

use super::capture::raise;
use super::encoding::from_server_c;
use crate::error::Failure;
use pgrx::{PgLogLevel, pg_sys};
use std::cell::{Cell, RefCell};
use std::ffi::CStr;

/// A table found by name, and the version under which it was.
struct Known {
    schema: &'static CStr,
    name: &'static CStr,
    table: pg_sys::Oid,
    version: u64,
}

thread_local! {
    static KNOWN: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
    static CHANGES: Cell<u64> = const { Cell::new(1) };
    static RULE_CHANGES: Cell<u64> = const { Cell::new(1) };
    static ALL_CHANGES: Cell<u64> = const { Cell::new(1) };
    /// When the client's statement began that waited for a lock the last time.
    static WAITED_IN: Cell<pg_sys::TimestampTz> = const { Cell::new(0) };
}

/// Changes whenever a table that [`table_named`] has found may have changed or got another name. What was learnt of
/// such tables under one value may be used as long as the value stays.
pub fn watched_version() -> u64 {
    CHANGES.get()
}

/// The same, and whenever a constraint of any table, or a function, may have changed.
pub fn rules_version() -> u64 {
    RULE_CHANGES.get()
}

/// Changes whenever any table, or what tables are made of, may have changed.
pub fn catalog_version() -> u64 {
    // SAFETY: within a transaction; takes in what other sessions have committed until now.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    ALL_CHANGES.get()
}

/// Whether a new snapshot sees what others have committed until now, as the versions do.
pub fn sees_latest() -> bool {
    // SAFETY: backend-local variable. IsolationUsesXactSnapshot() of src/include/access/xact.h.
    unsafe { pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Whether a row that was to be written has moved to another partition meanwhile. READ COMMITTED follows rows that change, but not
/// there, and says 40001: a further look finds it.
pub fn is_overtaken(failure: &Failure) -> bool {
    failure.sqlstate == "40001" && sees_latest()
}

/// What tells this database from any other, also from one that a dump of it was restored to.
pub fn database() -> String {
    // SAFETY: reads what the control file said when the server started, and a backend-local variable.
    let (system, database) = unsafe { (pg_sys::GetSystemIdentifier(), pg_sys::MyDatabaseId) };
    format!("{system}/{}", database.to_u32())
}

/// Counts the transactions of all sessions that may have written something and have ended: as long as it stays, nobody else
/// has committed anything. One more for each commit of our own that [`has_written`], and for each such subtransaction that was
/// rolled back.
pub fn completions() -> u64 {
    // SAFETY: within a transaction. The server keeps the count to use snapshots again (GetSnapshotDataReuse() in
    // src/backend/storage/ipc/procarray.c).
    unsafe { (*pg_sys::GetLatestSnapshot()).snapXactCompletionCount }
}

/// Whether this transaction has an id: it has written something, or locked a row.
pub fn has_written() -> bool {
    // SAFETY: backend-local state.
    unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}

/// What tells this transaction from any other, once it [`has_written`].
pub fn transaction() -> u64 {
    // SAFETY: backend-local state.
    unsafe { pg_sys::GetTopFullTransactionIdIfAny().value }
}

/// Locks a table as statements do that write rows of it, until the transaction ends. Without effect on one that is gone.
pub fn lock_for_writing(table: pg_sys::Oid) {
    // SAFETY: within a transaction.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::RowExclusiveLock as i32) };
}

/// Runs `f`, in which statements of [`super::Mode::Read`] see what others have committed until now.
pub fn with_latest_snapshot<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: within a transaction; a subtransaction that is rolled back takes its snapshots along.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    let result = f();
    // SAFETY: paired with the push.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// Lets everything that was learnt of tables be learnt anew, though nobody is known to have altered them.
pub fn look_anew() {
    changed();
}

fn changed() {
    CHANGES.set(CHANGES.get().wrapping_add(1));
    a_rule_changed();
}

fn a_rule_changed() {
    RULE_CHANGES.set(RULE_CHANGES.get().wrapping_add(1));
    anything_changed();
}

fn anything_changed() {
    ALL_CHANGES.set(ALL_CHANGES.get().wrapping_add(1));
}

unsafe extern "C-unwind" fn object_changed(_: pg_sys::Datum, _: i32, _: u32) {
    anything_changed();
}

unsafe extern "C-unwind" fn rule_changed(_: pg_sys::Datum, _: i32, _: u32) {
    a_rule_changed();
}

unsafe extern "C-unwind" fn table_changed(_: pg_sys::Datum, table: pg_sys::Oid) {
    anything_changed();
    let ours = |known: &Known| known.table == table;
    if table == pg_sys::InvalidOid || KNOWN.with_borrow(|known| known.iter().any(ours)) {
        changed();
    }
}

unsafe extern "C-unwind" fn schema_changed(_: pg_sys::Datum, _: i32, _: u32) {
    changed();
}

/// What tables are made of, beside what tells of its changes by the table: its names stand in statements.
const MADE_OF: [pg_sys::SysCacheIdentifier::Type; 4] = [
    pg_sys::SysCacheIdentifier::CASTSOURCETARGET,
    pg_sys::SysCacheIdentifier::COLLOID,
    pg_sys::SysCacheIdentifier::OPEROID,
    pg_sys::SysCacheIdentifier::TYPEOID,
];

/// What keeps rows from being written, or is done beside.
const RULES: [pg_sys::SysCacheIdentifier::Type; 2] =
    [pg_sys::SysCacheIdentifier::CONSTROID, pg_sys::SysCacheIdentifier::PROCOID];

/// Set-up of a backend that loads the library.
pub fn start() {
    // SAFETY: the backend has one thread. The first keeps Rust backtraces out of messages meant for people.
    unsafe {
        std::env::set_var("RUST_LIB_BACKTRACE", "0");
        let nothing = pg_sys::Datum::null();
        pg_sys::CacheRegisterRelcacheCallback(Some(table_changed), nothing);
        let schemas = pg_sys::SysCacheIdentifier::NAMESPACEOID as i32;
        pg_sys::CacheRegisterSyscacheCallback(schemas, Some(schema_changed), nothing);
        for objects in MADE_OF {
            pg_sys::CacheRegisterSyscacheCallback(objects as i32, Some(object_changed), nothing);
        }
        for rules in RULES {
            pg_sys::CacheRegisterSyscacheCallback(rules as i32, Some(rule_changed), nothing);
        }
        pg_sys::MarkGUCPrefixReserved(c"onagui_sync".as_ptr());
    }
    super::planning::start();
    super::nobody::start();
}

/// The oid of a table by schema and name, without a lock. From now on its changes count for [`watched_version`].
pub fn table_named(schema: &'static CStr, name: &'static CStr) -> Option<pg_sys::Oid> {
    let same = |known: &Known| known.schema == schema && known.name == name;
    let version = watched_version();
    let known = KNOWN.with_borrow(|known| {
        known.iter().find(|k| k.version == version && same(k)).map(|k| k.table)
    });
    if known.is_some() {
        return known;
    }
    // SAFETY: look-ups in the system cache.
    let table = unsafe {
        let schema = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        if schema == pg_sys::InvalidOid {
            return None;
        }
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    if table == pg_sys::InvalidOid {
        return None;
    }
    KNOWN.with_borrow_mut(|known| {
        known.retain(|k| !same(k));
        known.push(Known { schema, name, table, version });
    });
    Some(table)
}

/// Locks a table for reading, until the transaction ends. What has the name once the lock is there is locked, if anything has.
pub fn lock_named(schema: &'static CStr, name: &'static CStr) {
    while let Some(table) = table_named(schema, name) {
        lock_for_reading(table);
        if table_named(schema, name) == Some(table) {
            break;
        }
        // SAFETY: the lock just taken.
        unsafe { pg_sys::UnlockRelationOid(table, pg_sys::AccessShareLock as i32) };
    }
}

/// The same for a table by its number. Without effect on one that is gone.
pub fn lock_for_reading(table: pg_sys::Oid) {
    let lock = pg_sys::AccessShareLock as i32;
    // SAFETY: within a transaction; takes in what others have committed meanwhile.
    unsafe {
        if !pg_sys::ConditionalLockRelationOid(table, lock) {
            pg_sys::LockRelationOid(table, lock);
            WAITED_IN.set(pg_sys::GetCurrentStatementStartTimestamp());
        }
    }
}

/// Runs `f`, in which statements of [`super::Mode::Read`] see what the caller's do; but where the client's statement has waited for a
/// lock ([`lock_for_reading`]), what was so afterwards: its snapshot is older, and to it a table that was written anew is empty.
pub fn as_after_waiting<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: backend-local state.
    let has_waited = WAITED_IN.get() == unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    if has_waited && sees_latest() { with_latest_snapshot(f) } else { f() }
}

/// Tells all backends, when this transaction commits, that what they know of `table` is out of date.
pub fn announce_change(table: pg_sys::Oid) {
    // SAFETY: registers an invalidation message.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table) };
}

/// Lets a cancel or a shutdown through.
pub fn check_interrupts() {
    pgrx::check_for_interrupts!();
}

pub fn warn(failure: Failure) {
    raise(PgLogLevel::WARNING, failure);
}

pub fn notice(message: impl Into<String>, hint: Option<String>) {
    raise(
        PgLogLevel::NOTICE,
        Failure { sqlstate: "00000".into(), message: message.into(), hint, ..Failure::default() },
    );
}

/// The owner of a table, read from the system cache.
pub fn owner_of(table: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a tuple of the cache RELOID is a pg_class row, valid until released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::RELOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, table.into());
        if tuple.is_null() {
            return None;
        }
        let class = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let owner = (*class).relowner;
        pg_sys::ReleaseSysCache(tuple);
        Some(owner)
    }
}

/// Whether `role` may create tables in a schema.
pub fn may_create_in(schema: &CStr, role: pg_sys::Oid) -> bool {
    // SAFETY: look-ups in the system cache.
    unsafe {
        let schema = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        let create = pg_sys::ACL_CREATE as pg_sys::AclMode;
        schema != pg_sys::InvalidOid
            && schema_acl(schema, role, create) == pg_sys::AclResult::ACLCHECK_OK
    }
}

unsafe fn schema_acl(
    schema: pg_sys::Oid,
    role: pg_sys::Oid,
    mode: pg_sys::AclMode,
) -> pg_sys::AclResult::Type {
    // SAFETY: a look-up in the system cache; 16 has one function for all kinds of objects.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_namespace_aclcheck(schema, role, mode);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, schema, role, mode);
    }
}

/// A role's name, for the audit log.
pub fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: answers a palloc'd string, or NULL for a role that is gone.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() {
            return role.to_u32().to_string();
        }
        from_server_c(name)
    }
}

/// The role with this name.
pub fn role_named(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a look-up in the system cache.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (role != pg_sys::InvalidOid).then_some(role)
}

pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: a look-up in the system cache.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Whether `role` is `other` or inherits its rights. A superuser inherits everything.
pub fn has_rights_of(role: pg_sys::Oid, other: pg_sys::Oid) -> bool {
    // SAFETY: a look-up in the system cache.
    unsafe { pg_sys::has_privs_of_role(role, other) }
}

/// A setting of the session; None where it has never been set.
pub fn setting(name: &CStr) -> Option<String> {
    // SAFETY: answers NULL or a string that holds until the setting changes.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| from_server_c(value))
    }
}

/// Writes `failure` into the server's log, and nowhere else.
pub fn log(failure: Failure) {
    raise(PgLogLevel::LOG_SERVER_ONLY, failure);
}

/// A table's name as SQL writes it, schema included.
pub fn table_name(table: pg_sys::Oid) -> String {
    // SAFETY: both answer a palloc'd string, or NULL for a table that is gone.
    unsafe {
        let name = pg_sys::get_rel_name(table);
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(table));
        if name.is_null() || schema.is_null() {
            return table.to_u32().to_string();
        }
        from_server_c(pg_sys::quote_qualified_identifier(schema, name))
    }
}

/// Runs `f`, whose errors are caught inside: in there, statements of [`super::Mode::Read`] see what this command has written so
/// far, too.
pub fn with_own_changes<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: a transaction is under way; the snapshot is popped on the level where it was pushed, or by the end of the
    // subtransaction.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = f();
        pg_sys::PopActiveSnapshot();
        result
    }
}
