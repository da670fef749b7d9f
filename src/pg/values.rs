//! Values on their way between SQL and Rust. Texts are converted (see [`super::encoding`]).

use super::encoding::{from_server, from_server_c, to_server, to_server_c};
use pgrx::datum::Interval;
use pgrx::datum::{FromDatum, IntoDatum};
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{JsonB, Uuid};
use serde::Serialize;

pub trait FromSql: Sized {
    /// Whether a value of this type, which is no domain, can be read.
    fn fits(kind: Oid) -> bool;

    /// # Safety
    /// `datum` is a value of the type `kind`, which fits, and not NULL.
    unsafe fn read(datum: Datum, kind: Oid) -> Option<Self>;
}

pub trait ToSql {
    fn kind() -> Oid;
    fn datum(self) -> Option<Datum>;
}

/// Types without text in them.
macro_rules! as_they_are {
    ($($type:ty),+) => {$(
        impl FromSql for $type {
            fn fits(kind: Oid) -> bool {
                <$type as IntoDatum>::is_compatible_with(kind)
            }

            unsafe fn read(datum: Datum, kind: Oid) -> Option<Self> {
                // SAFETY: the caller's promise.
                unsafe { FromDatum::from_polymorphic_datum(datum, false, kind) }
            }
        }

        impl ToSql for $type {
            fn kind() -> Oid {
                <$type as IntoDatum>::type_oid()
            }

            fn datum(self) -> Option<Datum> {
                self.into_datum()
            }
        }
    )+};
}

as_they_are!(
    bool,
    i32,
    i64,
    Oid,
    Uuid,
    Vec<bool>,
    Vec<i64>,
    Vec<Oid>,
    Vec<Uuid>,
    Vec<Option<Uuid>>,
    Interval
);

impl FromSql for String {
    fn fits(kind: Oid) -> bool {
        <String as IntoDatum>::is_compatible_with(kind)
    }

    unsafe fn read(datum: Datum, _: Oid) -> Option<Self> {
        // SAFETY: text is a varlena; its bytes are copied before it is freed.
        unsafe {
            let given = datum.cast_mut_ptr::<pg_sys::varlena>();
            let text = pg_sys::pg_detoast_datum_packed(given);
            let len = pgrx::varsize_any_exhdr(text);
            let bytes = std::slice::from_raw_parts(pgrx::vardata_any(text).cast::<u8>(), len);
            let read = from_server(bytes);
            if text != given {
                pg_sys::pfree(text.cast());
            }
            Some(read)
        }
    }
}

impl ToSql for &str {
    fn kind() -> Oid {
        pg_sys::TEXTOID
    }

    fn datum(self) -> Option<Datum> {
        let text = to_server(self);
        let len = i32::try_from(text.len()).expect("a text of less than 2 GB");
        // SAFETY: copies the bytes into the current memory context.
        Some(unsafe { pg_sys::cstring_to_text_with_len(text.as_ptr().cast(), len) }.into())
    }
}

impl ToSql for String {
    fn kind() -> Oid {
        pg_sys::TEXTOID
    }

    fn datum(self) -> Option<Datum> {
        self.as_str().datum()
    }
}

impl FromSql for Vec<Option<String>> {
    fn fits(kind: Oid) -> bool {
        <Vec<String> as IntoDatum>::is_compatible_with(kind)
    }

    unsafe fn read(datum: Datum, _: Oid) -> Option<Self> {
        let (mut values, mut nulls) = (std::ptr::null_mut(), std::ptr::null_mut());
        let mut len = 0;
        // SAFETY: an array of text, all of whose elements are varlenas; both lists have as many entries as it.
        unsafe {
            let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
            pg_sys::deconstruct_array(
                array,
                pg_sys::TEXTOID,
                -1,
                false,
                pg_sys::TYPALIGN_INT as std::ffi::c_char,
                &mut values,
                &mut nulls,
                &mut len,
            );
            let one = |i: usize| match *nulls.add(i) {
                true => None,
                false => String::read(*values.add(i), pg_sys::TEXTOID),
            };
            Some((0..len as usize).map(one).collect())
        }
    }
}

impl ToSql for Vec<Option<String>> {
    fn kind() -> Oid {
        pg_sys::TEXTARRAYOID
    }

    fn datum(self) -> Option<Datum> {
        let mut nulls: Vec<bool> = self.iter().map(Option::is_none).collect();
        let values = self.into_iter().map(|text| text.and_then(ToSql::datum));
        let mut values: Vec<Datum> = values.map(|v| v.unwrap_or(Datum::null())).collect();
        let (mut lengths, mut first) = ([i32::try_from(values.len()).ok()?], [1]);
        let dimensions = i32::from(!values.is_empty());
        // SAFETY: both lists are as long as the array says; it is made in the current memory context.
        let array = unsafe {
            pg_sys::construct_md_array(
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
                dimensions,
                lengths.as_mut_ptr(),
                first.as_mut_ptr(),
                pg_sys::TEXTOID,
                -1,
                false,
                pg_sys::TYPALIGN_INT as std::ffi::c_char,
            )
        };
        Some(array.into())
    }
}

impl FromSql for Vec<String> {
    fn fits(kind: Oid) -> bool {
        Vec::<Option<String>>::fits(kind)
    }

    unsafe fn read(datum: Datum, kind: Oid) -> Option<Self> {
        // SAFETY: the caller's promise.
        let texts = unsafe { Vec::<Option<String>>::read(datum, kind) }?;
        texts.into_iter().collect()
    }
}

impl ToSql for Vec<String> {
    fn kind() -> Oid {
        pg_sys::TEXTARRAYOID
    }

    fn datum(self) -> Option<Datum> {
        self.into_iter().map(Some).collect::<Vec<_>>().datum()
    }
}

impl FromSql for JsonB {
    fn fits(kind: Oid) -> bool {
        kind == pg_sys::JSONBOID
    }

    unsafe fn read(datum: Datum, _: Oid) -> Option<Self> {
        // SAFETY: the output function takes a jsonb; its answer is palloc'd.
        unsafe {
            let text = pg_sys::OidOutputFunctionCall(Oid::from(pg_sys::F_JSONB_OUT), datum);
            let json = serde_json::from_str(&from_server_c(text));
            pg_sys::pfree(text.cast());
            Some(JsonB(json.expect("jsonb is JSON")))
        }
    }
}

impl ToSql for JsonB {
    fn kind() -> Oid {
        pg_sys::JSONBOID
    }

    fn datum(self) -> Option<Datum> {
        Some(jsonb(&self.0.to_string()))
    }
}

/// The text of a jsonb.
#[derive(Clone)]
pub struct Json(pub String);

impl Json {
    pub fn of(value: &impl Serialize) -> Self {
        Json(serde_json::to_string(value).expect("maps have names for keys"))
    }
}

impl ToSql for Json {
    fn kind() -> Oid {
        pg_sys::JSONBOID
    }

    fn datum(self) -> Option<Datum> {
        Some(jsonb(&self.0))
    }
}

/// A jsonb from its text.
pub(super) fn jsonb(text: &str) -> Datum {
    let text = to_server_c(text);
    let input = Oid::from(pg_sys::F_JSONB_IN);
    // SAFETY: the input function takes a NUL-terminated string, and its answer is palloc'd.
    unsafe { pg_sys::OidInputFunctionCall(input, text.as_ptr().cast_mut(), pg_sys::JSONBOID, -1) }
}
