//! Small questions to the server, and its notices.

use super::capture::raise;
use crate::error::Failure;
use pgrx::{PgLogLevel, pg_sys};
use std::cell::Cell;
use std::ffi::CStr;

thread_local! {
    static WATCHED: Cell<[pg_sys::Oid; 3]> = const { Cell::new([pg_sys::InvalidOid; 3]) };
    static CHANGES: Cell<u64> = const { Cell::new(1) };
}

/// Changes whenever the definition of a watched table may have changed. What was learnt of them under one value may be
/// used as long as the value stays.
pub fn watched_version() -> u64 {
    CHANGES.get()
}

/// Names the tables whose changes count from now on.
pub fn watch(tables: [pg_sys::Oid; 3]) {
    WATCHED.set(tables);
}

unsafe extern "C-unwind" fn table_changed(_: pg_sys::Datum, table: pg_sys::Oid) {
    if table == pg_sys::InvalidOid || WATCHED.get().contains(&table) {
        CHANGES.set(CHANGES.get().wrapping_add(1));
    }
}

/// Set-up of a backend that loads the library.
pub fn start() {
    // SAFETY: the backend has one thread. The first keeps Rust backtraces out of messages meant for people.
    unsafe {
        std::env::set_var("RUST_LIB_BACKTRACE", "0");
        pg_sys::CacheRegisterRelcacheCallback(Some(table_changed), pg_sys::Datum::null());
        pg_sys::MarkGUCPrefixReserved(c"onagui_sync".as_ptr());
        super::nobody::start();
    }
}

/// The oid of a table by schema and name, without a lock.
pub fn table_named(schema: &CStr, name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: look-ups in the system cache.
    unsafe {
        let schema = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        if schema == pg_sys::InvalidOid {
            return None;
        }
        let table = pg_sys::get_relname_relid(name.as_ptr(), schema);
        (table != pg_sys::InvalidOid).then_some(table)
    }
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
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
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
        CStr::from_ptr(pg_sys::quote_qualified_identifier(schema, name))
            .to_string_lossy()
            .into_owned()
    }
}
