//! Values on their way between SQL and Rust. Texts are converted (see [`super::encoding`]).

use super::encoding::{from_server, from_server_c, to_server, to_server_c};
use pgrx::datum::{FromDatum, Interval, IntoDatum};
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{JsonB, Uuid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::HashMap;

pub trait FromSql: Sized {
    /// Whether a value of this type, which is no domain, can be read.
    fn fits(kind: Oid) -> bool;

    /// # Safety
    /// `datum` is not NULL, and a value of the type `kind`, which fits: InvalidOid where the caller knows that it does.
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
            let texts = (0..len as usize).map(one).collect();
            pg_sys::pfree(values.cast());
            pg_sys::pfree(nulls.cast());
            if array != datum.cast_mut_ptr() {
                pg_sys::pfree(array.cast());
            }
            Some(texts)
        }
    }
}

impl ToSql for Vec<Option<String>> {
    fn kind() -> Oid {
        pg_sys::TEXTARRAYOID
    }

    fn datum(self) -> Option<Datum> {
        let values: Vec<_> = self.into_iter().map(|text| text.and_then(ToSql::datum)).collect();
        let array = array(pg_sys::TEXTOID, &values)?;
        free(values.into_iter().flatten());
        Some(array)
    }
}

/// An array with copies of `values`, which are of the variable-length type `kind`; None is NULL.
fn array(kind: Oid, values: &[Option<Datum>]) -> Option<Datum> {
    let mut nulls: Vec<bool> = values.iter().map(Option::is_none).collect();
    let mut values: Vec<Datum> = values.iter().map(|v| v.unwrap_or(Datum::null())).collect();
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
            kind,
            -1,
            false,
            pg_sys::TYPALIGN_INT as std::ffi::c_char,
        )
    };
    Some(array.into())
}

/// Gives back what has been copied into an array.
fn free(values: impl Iterator<Item = Datum>) {
    for value in values {
        // SAFETY: it was made for the array, once.
        unsafe { pg_sys::pfree(value.cast_mut_ptr()) };
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
        // SAFETY: the caller's promise.
        let text = unsafe { jsonb_text(datum) };
        Some(JsonB(serde_json::from_str(&text).expect("jsonb is JSON")))
    }
}

/// # Safety
/// `datum` is a jsonb.
pub(super) unsafe fn jsonb_text(datum: Datum) -> String {
    // SAFETY: the output function takes a jsonb; its answer is palloc'd.
    unsafe {
        let given = pg_sys::OidOutputFunctionCall(Oid::from(pg_sys::F_JSONB_OUT), datum);
        let text = from_server_c(given);
        pg_sys::pfree(given.cast());
        text
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

/// A JSON value as its text, which takes a tenth of the memory it takes in parts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Raw(Box<RawValue>);

impl Raw {
    pub fn of(value: &impl Serialize) -> Self {
        Raw(to_raw_value(value).expect("maps have names for keys"))
    }

    pub fn parsed(&self) -> Value {
        self.read().expect("a raw value is JSON")
    }

    /// None where it is something else.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.0.get()).ok()
    }
}

impl FromSql for Raw {
    fn fits(kind: Oid) -> bool {
        kind == pg_sys::JSONBOID
    }

    unsafe fn read(datum: Datum, _: Oid) -> Option<Self> {
        // SAFETY: the caller's promise.
        let text = unsafe { jsonb_text(datum) };
        Some(Raw(RawValue::from_string(text).expect("jsonb is JSON")))
    }
}

/// The text of a json.
#[derive(Clone)]
pub struct Json(String);

impl Json {
    pub fn of(value: &impl Serialize) -> Self {
        Json(serde_json::to_string(value).expect("maps have names for keys"))
    }
}

impl ToSql for Json {
    fn kind() -> Oid {
        pg_sys::JSONOID
    }

    fn datum(self) -> Option<Datum> {
        // It is kept as a text is.
        self.0.datum()
    }
}

/// The text of a jsonb.
pub struct JsonbText(pub String);

impl ToSql for JsonbText {
    fn kind() -> Oid {
        pg_sys::JSONBOID
    }

    fn datum(self) -> Option<Datum> {
        Some(jsonb(&self.0))
    }
}

/// Equal texts are parsed once.
impl ToSql for Vec<JsonbText> {
    fn kind() -> Oid {
        pg_sys::JSONBARRAYOID
    }

    fn datum(self) -> Option<Datum> {
        let mut parsed: HashMap<&str, Datum> = HashMap::new();
        let each =
            self.iter().map(|text| Some(*parsed.entry(&text.0).or_insert_with(|| jsonb(&text.0))));
        let values: Vec<_> = each.collect();
        let array = array(pg_sys::JSONBOID, &values)?;
        free(parsed.into_values());
        Some(array)
    }
}

/// A jsonb from its text. To parse it takes several times its size, which is given back at once.
fn jsonb(text: &str) -> Datum {
    let text = to_server_c(text);
    let input = Oid::from(pg_sys::F_JSONB_IN);
    // SAFETY: the input function takes a NUL-terminated string, and its answer, a varlena, is copied out of the context that
    // is deleted. Where it raises an error, that context goes with its parent.
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"onagui_sync jsonb".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let before = pg_sys::MemoryContextSwitchTo(context);
        let text = text.as_ptr().cast_mut();
        let parsed = pg_sys::OidInputFunctionCall(input, text, pg_sys::JSONBOID, -1);
        pg_sys::MemoryContextSwitchTo(before);
        let value = pg_sys::pg_detoast_datum_copy(parsed.cast_mut_ptr());
        pg_sys::MemoryContextDelete(context);
        value.into()
    }
}
