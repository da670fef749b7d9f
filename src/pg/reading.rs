//! A query whose rows are looked at one by one and not kept.

use super::spi::{Plan, Session};
use pgrx::{pg_guard, pg_sys};

/// What is done with each row: the number that its uuid is, and the bytes of its text as the server has them.
type Look<'a> = dyn FnMut(Option<u128>, Option<&[u8]>) + 'a;

/// What the executor hands the rows to. The server knows the first field only.
#[repr(C)]
struct Reader<'a> {
    receiver: pg_sys::DestReceiver,
    look: &'a mut Look<'a>,
}

/// The types are looked at once, not in each row.
#[pg_guard]
unsafe extern "C-unwind" fn started(
    _receiver: *mut pg_sys::DestReceiver,
    _operation: std::ffi::c_int,
    descriptor: pg_sys::TupleDesc,
) {
    for (column, kind) in [(1, pg_sys::UUIDOID), (2, pg_sys::TEXTOID)] {
        // SAFETY: the descriptor is the query's; a column that it has not is of no type.
        let found = unsafe { pg_sys::getBaseType(pg_sys::SPI_gettypeid(descriptor, column)) };
        assert!(found == kind, "column {column} is of type {}", found.to_u32());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn received(
    slot: *mut pg_sys::TupleTableSlot,
    receiver: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: the receiver is the first field of a Reader, which outlives the execution; a slot's arrays are filled up to
    // what slot_getsomeattrs was asked for; a uuid is 16 bytes, a text is a varlena.
    unsafe {
        if (*slot).tts_nvalid < 2 {
            pg_sys::slot_getsomeattrs_int(slot, 2);
        }
        let value = |column: usize| {
            (!*(*slot).tts_isnull.add(column)).then(|| *(*slot).tts_values.add(column))
        };
        let id = value(0).map(|value| u128::from_be_bytes(*value.cast_mut_ptr::<[u8; 16]>()));
        let look = &mut *(*receiver.cast::<Reader>()).look;
        let Some(given) = value(1).map(|value| value.cast_mut_ptr::<pg_sys::varlena>()) else {
            look(id, None);
            return true;
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
        true
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn done(_receiver: *mut pg_sys::DestReceiver) {}

impl Session {
    /// Executes a query without arguments that only reads and answers a uuid and a text, and calls `look` with each row;
    /// returns how many there were.
    pub fn each_uuid_and_text(
        &self,
        plan: &Plan,
        mut look: impl FnMut(Option<u128>, Option<&[u8]>),
    ) -> u64 {
        let mut reader = Reader {
            receiver: pg_sys::DestReceiver {
                receiveSlot: Some(received),
                rStartup: Some(started),
                rShutdown: Some(done),
                rDestroy: Some(done),
                mydest: pg_sys::CommandDest::DestTuplestore,
            },
            look: &mut look,
        };
        // SAFETY: the reader outlives the execution.
        unsafe { self.hand_to(plan, &[], None, (&raw mut reader).cast()) }
    }
}
