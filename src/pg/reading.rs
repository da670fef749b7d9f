//! A query whose rows are looked at one by one and not kept.

use super::spi::{Plan, Session};
use pgrx::pg_sys;

impl Session {
    /// Executes a query without arguments that only reads and answers a uuid and a text, and calls `look` with each row:
    /// the number that the uuid is, and the bytes of the text as the server has them. Returns how many rows there were.
    pub fn each_uuid_and_text(
        &self,
        plan: &Plan,
        mut look: impl FnMut(Option<u128>, Option<&[u8]>),
    ) -> u64 {
        // The types are looked at once, not in each row.
        let mut start = |descriptor| {
            for (column, kind) in [(1, pg_sys::UUIDOID), (2, pg_sys::TEXTOID)] {
                // SAFETY: the descriptor is the query's; a column that it has not is of no type.
                let found =
                    unsafe { pg_sys::getBaseType(pg_sys::SPI_gettypeid(descriptor, column)) };
                assert!(found == kind, "column {column} is of type {}", found.to_u32());
            }
        };
        // SAFETY: the slot has its two values; a uuid is 16 bytes, a text is a varlena.
        let mut take = |slot: *mut pg_sys::TupleTableSlot| unsafe {
            let value = |column: usize| {
                (!*(*slot).tts_isnull.add(column)).then(|| *(*slot).tts_values.add(column))
            };
            let id = value(0).map(|value| u128::from_be_bytes(*value.cast_mut_ptr::<[u8; 16]>()));
            let Some(given) = value(1).map(|value| value.cast_mut_ptr::<pg_sys::varlena>()) else {
                return look(id, None);
            };
            // Only what is compressed or out of line has to be put together, and freed again.
            let is_whole = pgrx::varatt_is_4b_u(given)
                || pgrx::varatt_is_1b(given) && !pgrx::varatt_is_1b_e(given);
            let text = if is_whole { given } else { pg_sys::pg_detoast_datum_packed(given) };
            let len = pgrx::varsize_any_exhdr(text);
            look(id, Some(std::slice::from_raw_parts(pgrx::vardata_any(text).cast::<u8>(), len)));
            if text != given {
                pg_sys::pfree(text.cast());
            }
        };
        self.hand_over(plan, &[], &mut start, &mut take)
    }
}
