//! Working as another role, the way the server's own referential-integrity triggers do
//! (`ri_PerformCheck` in src/backend/utils/adt/ri_triggers.c): only around a statement, with row security not forced,
//! with nothing resolved through the caller's search_path, and undone on every path.

use super::planning::{self, Role};
use super::portals;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CStr, c_char};

/// The role whose rights are in force now.
pub fn current_role() -> pg_sys::Oid {
    // SAFETY: reads a backend-local variable.
    unsafe { pg_sys::GetUserId() }
}

/// Another role's rights while it lives.
struct Assumed {
    before: pg_sys::Oid,
    context: i32,
    guarded: bool,
    replication: i32,
}

impl Assumed {
    fn assume(role: Role) -> Self {
        let mut before = Assumed {
            before: pg_sys::InvalidOid,
            context: 0,
            guarded: planning::guard(role.guarded),
            replication: 0,
        };
        // SAFETY: saves, then sets backend-local state.
        unsafe {
            // What we write is no copy of what was checked elsewhere: where the caller applies replicated rows, foreign
            // keys and triggers of the application must hold all the same. The variable is written directly, because a
            // change by the settings machinery makes every plan of the session void.
            before.replication = pg_sys::SessionReplicationRole;
            pg_sys::SessionReplicationRole = pg_sys::SESSION_REPLICATION_ROLE_ORIGIN as i32;
            pg_sys::GetUserIdAndSecContext(&mut before.before, &mut before.context);
            let context = before.context
                | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32
                | pg_sys::SECURITY_RESTRICTED_OPERATION as i32
                | pg_sys::SECURITY_NOFORCE_RLS as i32;
            pg_sys::SetUserIdAndSecContext(role.oid, context);
        }
        before
    }

    /// The session's role, as at COMMIT: neither that of a SECURITY DEFINER function nor one that was assumed here.
    fn the_sessions() -> Self {
        let mut before = Assumed {
            before: pg_sys::InvalidOid,
            context: 0,
            guarded: planning::guard(false),
            // SAFETY: reads a backend-local variable.
            replication: unsafe { pg_sys::SessionReplicationRole },
        };
        // SAFETY: saves, then sets backend-local state.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut before.before, &mut before.context);
            let context = before.context & !(pg_sys::SECURITY_NOFORCE_RLS as i32)
                | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
            pg_sys::SetUserIdAndSecContext(pg_sys::GetOuterUserId(), context);
        }
        before
    }
}

impl Drop for Assumed {
    fn drop(&mut self) {
        // SAFETY: puts back what was read before.
        unsafe {
            pg_sys::SetUserIdAndSecContext(self.before, self.context);
            pg_sys::SessionReplicationRole = self.replication;
        }
        planning::guard(self.guarded);
    }
}

thread_local! {
    /// The search_path that the outermost [`Settings`] replaced; NULL where none has. The server keeps it for as long as they live,
    /// to put it back.
    static SESSIONS_PATH: Cell<*const c_char> = const { Cell::new(std::ptr::null()) };
}

/// Settings that are changed while it lives are put back afterwards, which needs no rights.
struct Settings {
    level: i32,
    sessions_path: *const c_char,
}

impl Settings {
    fn keep() -> Self {
        // SAFETY: opens a nest level of settings.
        let level = unsafe { pg_sys::NewGUCNestLevel() };
        Settings { level, sessions_path: SESSIONS_PATH.get() }
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        SESSIONS_PATH.set(self.sessions_path);
        // SAFETY: ends the nest level opened above.
        unsafe { pg_sys::AtEOXact_GUC(false, self.level) };
    }
}

const PINNED: &CStr = c"pg_catalog, pg_temp";

/// Pins how names are looked up, and how the server quotes them. The search_path is worth a look first: each change of it
/// makes every plan look names up anew.
fn pin_names() {
    // SAFETY: the variable of the setting search_path is NULL or NUL-terminated; the other one is a flag.
    let (is_pinned, quotes_all) = unsafe {
        let path = pg_sys::namespace_search_path;
        (!path.is_null() && CStr::from_ptr(path) == PINNED, pg_sys::quote_all_identifiers)
    };
    if !is_pinned {
        if SESSIONS_PATH.get().is_null() {
            // SAFETY: reads the variable of the setting.
            SESSIONS_PATH.set(unsafe { pg_sys::namespace_search_path });
        }
        set_locally(c"search_path", PINNED);
    }
    if quotes_all {
        set_locally(c"quote_all_identifiers", c"off");
    }
}

/// Runs `f` with the search_path pinned. Around many calls of [`as_role`] it spares each of them the change.
pub fn with_pinned_path<R>(f: impl FnOnce() -> R) -> R {
    let _settings = Settings::keep();
    pin_names();
    f()
}

/// Runs `f` as `role`. `SET ROLE` and `SET SESSION AUTHORIZATION` are refused in there, and every setting that is
/// changed in there (by a trigger of the application, say) is put back afterwards. Nothing of it may outlive `f` either:
/// no temporary object that the session would later take for another one, no deferred trigger that COMMIT would fire as
/// the session's role, no cursor that the session would fetch from.
pub fn as_role<R>(role: impl Into<Role>, f: impl FnOnce() -> R) -> R {
    let _role = Assumed::assume(role.into());
    let _settings = Settings::keep();
    pin_names();
    let _cursors = portals::Guard::start();
    f()
}

/// The same for an `f` that looks no name up and, as far as can be seen, runs no code but the server's own: search_path does
/// not matter to it. Settings are put back all the same.
pub fn as_role_without_code<R>(role: impl Into<Role>, f: impl FnOnce() -> R) -> R {
    let _role = Assumed::assume(role.into());
    let _settings = Settings::keep();
    f()
}

/// Runs `f` as COMMIT runs what waits for it: as the session's role, with its search_path. What that is cannot be seen in code that
/// runs with somebody else's rights, and may have set another one: there it is what RESET would set.
pub fn as_session<R>(f: impl FnOnce() -> R) -> R {
    let role = Assumed::the_sessions();
    let _settings = Settings::keep();
    let is_its_own = role.before == current_role() && role.context == 0;
    let path = match is_its_own {
        true => SESSIONS_PATH.get(),
        // SAFETY: NULL, or there as long as nobody sets what it is reset to.
        false => unsafe { pg_sys::GetConfigOptionResetString(c"search_path".as_ptr()) },
    };
    if !path.is_null() {
        // SAFETY: NUL-terminated, and there as long as the level of settings that replaced it.
        set_locally(c"search_path", unsafe { CStr::from_ptr(path) });
    }
    f()
}

/// Runs `f` with the settings under which a value's text form is the same in every session.
pub fn with_stable_text<R>(f: impl FnOnce() -> R) -> R {
    let _settings = Settings::keep();
    for (name, value) in [
        (c"datestyle", c"ISO, YMD"),
        (c"timezone", c"UTC"),
        (c"intervalstyle", c"postgres"),
        (c"extra_float_digits", c"1"),
        (c"bytea_output", c"hex"),
        (c"xmloption", c"content"),
        (c"lc_monetary", c"C"),
        (c"array_nulls", c"on"),
    ] {
        set_locally(name, value);
    }
    f()
}

fn set_locally(name: &CStr, value: &CStr) {
    // SAFETY: as a SET clause of a function does it; the caller holds the nest level.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

thread_local! {
    /// When the transaction started in which a wait for a lock was given up.
    static WAITED_IN: Cell<pg_sys::TimestampTz> = const { Cell::new(0) };
}

/// How long to wait for a further lock in a transaction that has waited in vain before.
const ONCE_MORE: i32 = 10;

/// Bounds every wait for a lock while it lives. The setting's variable is written directly: this is on the path of
/// every sign-up, and the settings machinery costs more than the rest of it.
pub struct Lockwait {
    before: i32,
}

impl Lockwait {
    /// `millis` 0 leaves the session's own limit; a shorter one of the session stays in force.
    pub fn at_most(millis: i32) -> Self {
        // SAFETY: backend-local variable of the setting lock_timeout, read by ProcSleep only.
        unsafe {
            let before = pg_sys::LockTimeout;
            if millis > 0 {
                let waited = WAITED_IN.get() == pg_sys::GetCurrentTransactionStartTimestamp();
                let millis = if waited { millis.min(ONCE_MORE) } else { millis };
                if before == 0 || millis < before {
                    pg_sys::LockTimeout = millis;
                }
            }
            Lockwait { before }
        }
    }

    /// A lock could not be had: for the rest of the transaction the next one is hardly waited for, so that a sign-up of
    /// several statements is not held up several times. To be called while a `Lockwait` lives.
    pub fn in_vain() {
        // SAFETY: as in at_most.
        unsafe {
            WAITED_IN.set(pg_sys::GetCurrentTransactionStartTimestamp());
            if pg_sys::LockTimeout == 0 || pg_sys::LockTimeout > ONCE_MORE {
                pg_sys::LockTimeout = ONCE_MORE;
            }
        }
    }
}

impl Drop for Lockwait {
    fn drop(&mut self) {
        // SAFETY: see at_most.
        unsafe { pg_sys::LockTimeout = self.before };
    }
}
