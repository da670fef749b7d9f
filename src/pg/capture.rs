//! Keeps every field of an error that Postgres raises. pgrx keeps neither a custom SQLSTATE nor the names of the
//! constraint, table and column, so an error context callback reads them while the error is still being built.

use super::encoding::{for_client, from_server_c, to_server_c};
use crate::error::Failure;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{PgLogLevel, pg_sys};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int, c_void};

/// An error, and its message as pgrx reads it.
struct Caught {
    failure: Failure,
    seen: String,
}

thread_local! {
    /// The last error raised below the innermost [`Capture`].
    static LAST: RefCell<Option<Caught>> = const { RefCell::new(None) };
}

unsafe extern "C-unwind" {
    fn errstart(elevel: c_int, domain: *const c_char) -> bool;
    fn errcode(sqlerrcode: c_int) -> c_int;
    fn errmsg_internal(fmt: *const c_char, ...) -> c_int;
    fn errdetail_internal(fmt: *const c_char, ...) -> c_int;
    fn errhint(fmt: *const c_char, ...) -> c_int;
    fn errcontext_msg(fmt: *const c_char, ...) -> c_int;
    fn err_generic_string(field: c_int, text: *const c_char) -> c_int;
    fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
}

thread_local! {
    /// The text of the statement of ours that runs, below the innermost [`Capture`].
    static OWN: Cell<*const c_char> = const { Cell::new(std::ptr::null()) };
}

/// Whether `sql` is the text of the statement of ours that runs: that very one, not one that is written alike.
pub(super) fn is_own(sql: *const c_char) -> bool {
    !sql.is_null() && sql == OWN.get()
}

/// While it lives, a statement of ours runs: where an error is raised, the server tells so last.
pub(super) struct OwnStatement {
    before: *const c_char,
}

impl OwnStatement {
    /// # Safety
    /// `sql` is NULL or NUL-terminated, in the server's encoding, and outlives this.
    pub(super) unsafe fn begin(sql: *const c_char) -> Self {
        OwnStatement { before: OWN.replace(sql) }
    }
}

impl Drop for OwnStatement {
    fn drop(&mut self) {
        OWN.set(self.before);
    }
}

/// A link in the server's chain of error context callbacks; unlinked when dropped.
pub(super) struct Capture {
    link: Box<pg_sys::ErrorContextCallback>,
    _no_statement: OwnStatement,
}

impl Capture {
    pub(super) fn start() -> Self {
        // SAFETY: the link is boxed, so its address holds until Drop takes it out of the chain again.
        unsafe {
            let mut link = Box::new(pg_sys::ErrorContextCallback {
                previous: pg_sys::error_context_stack,
                callback: Some(keep_error),
                arg: std::ptr::null_mut(),
            });
            pg_sys::error_context_stack = &mut *link;
            Capture { link, _no_statement: OwnStatement::begin(std::ptr::null()) }
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // SAFETY: frames above this one are gone, so whatever they linked is gone too.
        unsafe { pg_sys::error_context_stack = self.link.previous };
    }
}

unsafe extern "C-unwind" fn keep_error(_: *mut c_void) {
    // SAFETY: called by errfinish() with a current error; CopyErrorData must not run in ErrorContext.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = pg_sys::CurTransactionContext;
        if !pg_sys::CurrentMemoryContext.is_null() {
            let error = pg_sys::CopyErrorData();
            if (*error).elevel >= PgLogLevel::ERROR as i32 {
                let failure = Failure {
                    sqlstate: sqlstate_text((*error).sqlerrcode),
                    message: text((*error).message).unwrap_or_default(),
                    detail: text((*error).detail),
                    hint: text((*error).hint),
                    table: text((*error).table_name),
                    column: text((*error).column_name),
                    constraint: text((*error).constraint_name),
                    context: text((*error).context).and_then(|context| of_application(&context)),
                    is_rehearsal: false,
                };
                let seen = CStr::from_ptr((*error).message).to_string_lossy().into_owned();
                LAST.with_borrow_mut(|last| *last = Some(Caught { failure, seen }));
            }
            pg_sys::FreeErrorData(error);
        }
        pg_sys::CurrentMemoryContext = context;
    }
}

/// So much of a context tells where an error comes from; recursion has thousands of lines.
const LONGEST_CONTEXT: usize = 2000;

/// What the server tells of where an error was raised, without the statement of ours that led there: in whatever language it
/// says so, it quotes that.
fn of_application(context: &str) -> Option<String> {
    // SAFETY: what was promised of it.
    let own = unsafe { text(OWN.get()) };
    let ours = own.and_then(|sql| context.find(&sql));
    let above = &context[..ours.unwrap_or(context.len())];
    let above =
        if ours.is_some() { above.rsplit_once('\n').map_or("", |(above, _)| above) } else { above };
    let mut told: String = above.chars().take(LONGEST_CONTEXT).collect();
    if told.len() < above.len() {
        told.push_str(" ...");
    }
    (!told.is_empty()).then_some(told)
}

unsafe fn text(s: *const c_char) -> Option<String> {
    // SAFETY: the fields of ErrorData are NULL or NUL-terminated.
    (!s.is_null()).then(|| unsafe { from_server_c(s) })
}

/// The five characters of an SQLSTATE packed as `MAKE_SQLSTATE` does (src/include/utils/elog.h).
fn sqlstate_text(code: i32) -> String {
    (0..5).map(|i| char::from(((code >> (6 * i)) & 0x3F) as u8 + b'0')).collect()
}

fn sqlstate_code(text: &str) -> i32 {
    text.bytes().take(5).enumerate().map(|(i, c)| ((i32::from(c) - 0x30) & 0x3F) << (6 * i)).sum()
}

/// What a caught panic was: the captured Postgres error in full, one that goes on ([`super::go_on`]), or a bug.
pub(super) fn failure_of(panic: Box<dyn Any + Send>) -> Failure {
    use pg_sys::panic::{CaughtError, ErrorReportWithLevel};
    let captured = LAST.with_borrow_mut(Option::take);
    let of_report = |report: &ErrorReportWithLevel| Failure {
        sqlstate: sqlstate_text(report.sql_error_code() as i32),
        message: report.message().to_owned(),
        detail: report.detail().map(str::to_owned),
        hint: report.hint().map(str::to_owned),
        ..Failure::default()
    };
    match panic.downcast::<CaughtError>() {
        Ok(caught) => match *caught {
            CaughtError::PostgresError(ref report) => captured
                .filter(|c| c.seen == report.message())
                .map_or_else(|| of_report(report), |caught| caught.failure.with_advice()),
            CaughtError::ErrorReport(ref report) => of_report(report),
            CaughtError::RustPanic { ref ereport, .. } => of_report(ereport),
        },
        Err(panic) => match panic.downcast::<Failure>() {
            Ok(failure) => *failure,
            Err(panic) => {
                if let Some(report) = panic.downcast_ref::<ErrorReportWithLevel>() {
                    return of_report(report);
                }
                let message = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                    .unwrap_or_else(|| "unknown panic".to_owned());
                Failure {
                    sqlstate: "XX000".into(),
                    message: format!("onagui_sync: {message}"),
                    hint: Some("This is a bug of onagui_sync. Please report it.".into()),
                    ..Failure::default()
                }
            }
        },
    }
}

/// Raises `failure` at `level` (WARNING, NOTICE, …), every field kept. Does not return at ERROR,
/// and then runs no destructor: only [`super::doors`] and hooks may raise errors.
pub fn raise(level: PgLogLevel, failure: Failure) {
    /// The codes of `err_generic_string`, PG_DIAG_* in src/include/postgres_ext.h.
    const TABLE: c_int = b't' as c_int;
    const COLUMN: c_int = b'c' as c_int;
    const CONSTRAINT: c_int = b'n' as c_int;
    let is_error = level as c_int >= PgLogLevel::ERROR as c_int;
    let palloced = |s: &str| {
        let s = s.replace('\0', "");
        // What the client's encoding lacks makes an error of a message.
        let s = if is_error { s } else { for_client(s) };
        let s = to_server_c(&s);
        // SAFETY: pstrdup copies into the current memory context, which outlives the report.
        unsafe { pg_sys::pstrdup(s.as_ptr()) as *const c_char }
    };
    let optional = |s: &Option<String>| s.as_deref().map_or(std::ptr::null(), palloced);
    let code = sqlstate_code(&failure.sqlstate);
    let message = palloced(&failure.message);
    let (detail, hint) = (optional(&failure.detail), optional(&failure.hint));
    let context = optional(&failure.context);
    let names = [
        (TABLE, optional(&failure.table)),
        (COLUMN, optional(&failure.column)),
        (CONSTRAINT, optional(&failure.constraint)),
    ];
    drop(failure);
    // SAFETY: the protocol of ereport(); all strings are palloc'd, nothing with a destructor is alive.
    let report = || unsafe {
        if errstart(level as c_int, std::ptr::null()) {
            errcode(code);
            errmsg_internal(c"%s".as_ptr(), message);
            if !detail.is_null() {
                errdetail_internal(c"%s".as_ptr(), detail);
            }
            if !hint.is_null() {
                errhint(c"%s".as_ptr(), hint);
            }
            if !context.is_null() {
                errcontext_msg(c"%s".as_ptr(), context);
            }
            for (field, name) in names {
                if !name.is_null() {
                    err_generic_string(field, name);
                }
            }
            errfinish(c"onagui_sync".as_ptr(), 0, std::ptr::null());
        }
    };
    if is_error {
        report();
    } else {
        // A message is sent at once, and a cancel that waits is noticed then: that has to unwind.
        // SAFETY: as above.
        unsafe { pg_guard_ffi_boundary(report) };
    }
}
