//! The settings. All of them are for superusers only: who may switch them off could let accounts fall out of step.

use onagui_decide::signup::LinkPolicy;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types)]
pub enum LinkByEmail {
    verified,
    always,
    never,
}

#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types)]
pub enum OnError {
    log,
    raise,
}

#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types)]
pub enum Audit {
    changes,
    all,
}

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static LINK_BY_EMAIL: GucSetting<LinkByEmail> =
    GucSetting::<LinkByEmail>::new(LinkByEmail::verified);
static ON_ERROR: GucSetting<OnError> = GucSetting::<OnError>::new(OnError::log);
static AUDIT: GucSetting<Audit> = GucSetting::<Audit>::new(Audit::changes);
static LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);

pub fn define() {
    GucRegistry::define_bool_guc(
        c"onagui_sync.enabled",
        c"Lets the triggers on auth.users write the application's users.",
        c"When off, the triggers only remember the ids of deleted auth users; explicit calls still work.",
        &ENABLED,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"onagui_sync.link_by_email",
        c"When a sign-up takes over an application user with the same e-mail.",
        c"verified: once the e-mail is confirmed; always: at once; never: not at all.",
        &LINK_BY_EMAIL,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"onagui_sync.on_error",
        c"What happens to a sign-up when its application user cannot be written.",
        c"log: the sign-up goes on and the failure is recorded; raise: the sign-up fails.",
        &ON_ERROR,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"onagui_sync.audit",
        c"What is recorded in onagui.sync_audit_log.",
        c"changes: everything but plain sign-ups; all: plain sign-ups too.",
        &AUDIT,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"onagui_sync.lock_timeout",
        c"The longest a sign-up waits for a lock on the application's tables, and enable_sync() and disable_sync() for auth.users.",
        c"0 leaves the session's own lock_timeout alone.",
        &LOCK_TIMEOUT,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
}

pub fn enabled() -> bool {
    ENABLED.get()
}

pub fn link_policy() -> LinkPolicy {
    match LINK_BY_EMAIL.get() {
        LinkByEmail::verified => LinkPolicy::Verified,
        LinkByEmail::always => LinkPolicy::Always,
        LinkByEmail::never => LinkPolicy::Never,
    }
}

pub fn raise_errors() -> bool {
    ON_ERROR.get() == OnError::raise
}

pub fn audit_signups() -> bool {
    AUDIT.get() == Audit::all
}

/// Milliseconds; 0 for the session's own.
pub fn lock_timeout() -> i32 {
    LOCK_TIMEOUT.get()
}
