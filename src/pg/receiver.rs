//! Handing a query's rows to a function, one by one, as the executor makes them.

use super::spi::{Arg, Plan, Session};
use pgrx::{pg_guard, pg_sys};

/// What the executor hands the rows to. The server knows the first field only.
#[repr(C)]
struct Receiver<'a> {
    head: pg_sys::DestReceiver,
    start: &'a mut dyn FnMut(pg_sys::TupleDesc),
    take: &'a mut dyn FnMut(*mut pg_sys::TupleTableSlot),
}

#[pg_guard]
unsafe extern "C-unwind" fn started(
    receiver: *mut pg_sys::DestReceiver,
    _operation: std::ffi::c_int,
    descriptor: pg_sys::TupleDesc,
) {
    // SAFETY: the head is the first field of a Receiver, which outlives the execution.
    unsafe { ((*receiver.cast::<Receiver>()).start)(descriptor) };
}

#[pg_guard]
unsafe extern "C-unwind" fn received(
    slot: *mut pg_sys::TupleTableSlot,
    receiver: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: as above; a slot's arrays are filled up to what slot_getsomeattrs was asked for.
    unsafe {
        let all = (*(*slot).tts_tupleDescriptor).natts;
        if i32::from((*slot).tts_nvalid) < all {
            pg_sys::slot_getsomeattrs_int(slot, all);
        }
        ((*receiver.cast::<Receiver>()).take)(slot);
    }
    true
}

#[pg_guard]
unsafe extern "C-unwind" fn done(_receiver: *mut pg_sys::DestReceiver) {}

impl Session {
    /// Executes a query that only reads: calls `start` with its descriptor, which lives until it has been executed, and
    /// `take` with each row, all of whose values are there. Returns how many rows there were.
    pub(super) fn hand_over(
        &self,
        plan: &Plan,
        args: &[Arg],
        start: &mut dyn FnMut(pg_sys::TupleDesc),
        take: &mut dyn FnMut(*mut pg_sys::TupleTableSlot),
    ) -> u64 {
        let head = pg_sys::DestReceiver {
            receiveSlot: Some(received),
            rStartup: Some(started),
            rShutdown: Some(done),
            rDestroy: Some(done),
            mydest: pg_sys::CommandDest::DestTuplestore,
        };
        let mut receiver = Receiver { head, start, take };
        // SAFETY: the receiver outlives the execution.
        unsafe { self.hand_to(plan, args, None, (&raw mut receiver).cast()) }
    }
}
