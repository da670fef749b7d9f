//! Text as the database has it, and as Rust has it, which is UTF-8.
//!
//! In a database of another encoding every text is converted on its way into this room and out of it. A byte of which the
//! server cannot say what it means (in SQL_ASCII that is every byte beyond ASCII that is no UTF-8) travels as a character of
//! a private range, so that it comes back as what it was.

use super::owner::with_pinned_path;
use pgrx::pg_sys;
use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

/// The bytes 0x80 to 0xFF travel as U+10FF80 to U+10FFFF.
const PRIVATE: u32 = 0x10_FF00;

const UTF8: i32 = pg_sys::pg_enc::PG_UTF8 as i32;

/// An encoding other than UTF-8, and the server's functions that convert from it and to it, where there are any.
struct Foreign {
    encoding: i32,
    to_utf8: Option<pg_sys::FmgrInfo>,
    from_utf8: Option<pg_sys::FmgrInfo>,
}

thread_local! {
    /// None until it is known, Some(None) where it is UTF-8.
    static FOREIGN: RefCell<Option<Option<Foreign>>> = const { RefCell::new(None) };
}

/// Finds out how to convert. Not while an error is under way: it looks into the catalog.
pub(super) fn learn() {
    if FOREIGN.with_borrow(Option::is_some) {
        return;
    }
    // SAFETY: look-ups in the system catalog; what they find is kept for good.
    let foreign = unsafe {
        let encoding = pg_sys::GetDatabaseEncoding();
        let find = |from, to| {
            let procedure = with_pinned_path(|| pg_sys::FindDefaultConversionProc(from, to));
            (procedure != pg_sys::InvalidOid).then(|| {
                let mut info = pg_sys::FmgrInfo::default();
                pg_sys::fmgr_info_cxt(procedure, &mut info, pg_sys::TopMemoryContext);
                info
            })
        };
        (encoding != UTF8).then(|| Foreign {
            encoding,
            to_utf8: find(encoding, UTF8),
            from_utf8: find(UTF8, encoding),
        })
    };
    FOREIGN.replace(Some(foreign));
}

/// A text as any client can be shown it: what its encoding may lack is escaped.
pub(super) fn for_client(text: String) -> String {
    // SAFETY: reads backend-local variables.
    let (client, server) =
        unsafe { (pg_sys::pg_get_client_encoding(), pg_sys::GetDatabaseEncoding()) };
    let sql_ascii = pg_sys::pg_enc::PG_SQL_ASCII as i32;
    if text.is_ascii() || [server, UTF8, sql_ascii].contains(&client) {
        return text;
    }
    let escaped = |c: char| match c {
        c if c.is_ascii() => c.to_string(),
        c => format!("\\u{:04x}", c as u32),
    };
    text.chars().map(escaped).collect()
}

/// A text of the server's.
pub(super) fn from_server(bytes: &[u8]) -> String {
    let converted = || {
        FOREIGN.with_borrow_mut(|foreign| match foreign {
            Some(Some(Foreign { encoding, to_utf8: Some(function), .. })) => {
                let unknown = |out: &mut Vec<u8>, rest: &[u8]| {
                    // SAFETY: looks at the first byte only.
                    let len = unsafe { pg_sys::pg_encoding_mblen(*encoding, rest.as_ptr().cast()) };
                    let bytes = &rest[..(len.max(1) as usize).min(rest.len())];
                    out.extend(bytes.iter().copied().map(private).collect::<String>().as_bytes());
                    bytes.len()
                };
                convert(function, *encoding, UTF8, bytes, unknown)
            }
            _ => None,
        })
    };
    if !bytes.is_ascii()
        && let Some(text) = converted()
    {
        return String::from_utf8_lossy(&text).into_owned();
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().copied().map(private));
    }
    text
}

/// The same, of a NUL-terminated text.
///
/// # Safety
/// `text` is one.
pub(super) unsafe fn from_server_c(text: *const c_char) -> String {
    // SAFETY: the caller's promise.
    from_server(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// A text for the server. What its encoding has no character for becomes a question mark.
pub(super) fn to_server(text: &str) -> Cow<'_, [u8]> {
    if text.is_ascii() {
        return Cow::Borrowed(text.as_bytes());
    }
    FOREIGN.with_borrow_mut(|foreign| match foreign {
        Some(Some(foreign)) => {
            let converted = foreign.from_utf8.as_mut().and_then(|function| {
                convert(function, UTF8, foreign.encoding, text.as_bytes(), |out, rest| {
                    let first = std::str::from_utf8(rest).ok().and_then(|rest| rest.chars().next());
                    out.push(first.and_then(byte).unwrap_or(b'?'));
                    first.map_or(1, char::len_utf8)
                })
            });
            converted.unwrap_or_else(|| bytes_of(text)).into()
        }
        _ => Cow::Borrowed(text.as_bytes()),
    })
}

/// The same, NUL-terminated.
pub(super) fn to_server_c(text: &str) -> CString {
    CString::new(to_server(text)).expect("text has no NUL byte")
}

fn private(byte: u8) -> char {
    char::from_u32(PRIVATE + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn byte(c: char) -> Option<u8> {
    u32::from(c).checked_sub(PRIVATE).and_then(|byte| u8::try_from(byte).ok())
}

/// Where there is no conversion: UTF-8 as it is, other bytes as they were.
fn bytes_of(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match byte(c) {
            Some(byte) => out.push(byte),
            None => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

/// Converts as much as can be; `unknown` deals with the start of what cannot, and says how many bytes that was.
fn convert(
    function: &mut pg_sys::FmgrInfo,
    from: i32,
    to: i32,
    text: &[u8],
    unknown: impl Fn(&mut Vec<u8>, &[u8]) -> usize,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let mut part = vec![0; rest.len() * pg_sys::MAX_CONVERSION_GROWTH as usize + 1];
        // SAFETY: the signature of conversion functions (CREATE CONVERSION); they raise no error where the last argument
        // says so, and write no more than that for each byte, with a NUL after it.
        let done = unsafe {
            pg_sys::FunctionCall6Coll(
                function,
                pg_sys::InvalidOid,
                from.into(),
                to.into(),
                pg_sys::Datum::from(rest.as_ptr()),
                pg_sys::Datum::from(part.as_mut_ptr()),
                i32::try_from(rest.len()).ok()?.into(),
                true.into(),
            )
        };
        out.extend(CStr::from_bytes_until_nul(&part).ok()?.to_bytes());
        rest = rest.get(done.value()..)?;
        if !rest.is_empty() {
            let passed_over = unknown(&mut out, rest);
            rest = &rest[passed_over..];
        }
    }
    Some(out)
}
