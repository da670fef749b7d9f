//! A query whose rows go two ways: into a function's answer, or aside for a closer look.

use super::call::RowWriter;
use super::spi::{Arg, Plan, Session};
use pgrx::{pg_guard, pg_sys};

/// Rows that were put aside; beyond work_mem they spill to disk.
pub struct Aside {
    store: *mut pg_sys::Tuplestorestate,
    descriptor: pg_sys::TupleDesc,
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: ours; on an error the memory context and the resource owner take care of it.
            unsafe {
                pg_sys::tuplestore_end(self.store);
                if !self.descriptor.is_null() {
                    pg_sys::FreeTupleDesc(self.descriptor);
                }
            }
        }
    }
}

impl Aside {
    pub fn len(&self) -> usize {
        // SAFETY: the store is alive.
        unsafe { pg_sys::tuplestore_tuple_count(self.store) as usize }
    }

    pub(super) fn store(&self) -> *mut pg_sys::Tuplestorestate {
        self.store
    }

    pub(super) fn descriptor(&self) -> pg_sys::TupleDesc {
        self.descriptor
    }
}

/// What the executor hands the rows to. The server knows the first field only.
#[repr(C)]
struct Switch {
    receiver: pg_sys::DestReceiver,
    answer: *mut pg_sys::Tuplestorestate,
    answer_descriptor: pg_sys::TupleDesc,
    /// The column (from 0) that is NULL in a row to be put aside.
    verdict: usize,
    aside: *mut pg_sys::Tuplestorestate,
    aside_descriptor: pg_sys::TupleDesc,
    context: pg_sys::MemoryContext,
}

#[pg_guard]
unsafe extern "C-unwind" fn started(
    receiver: *mut pg_sys::DestReceiver,
    _operation: std::ffi::c_int,
    descriptor: pg_sys::TupleDesc,
) {
    // SAFETY: the receiver is the first field of a Switch; the copy of the descriptor outlives the executor.
    unsafe {
        let switch = &mut *receiver.cast::<Switch>();
        let before = pg_sys::MemoryContextSwitchTo(switch.context);
        switch.aside_descriptor = pg_sys::CreateTupleDescCopy(descriptor);
        pg_sys::MemoryContextSwitchTo(before);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn received(
    slot: *mut pg_sys::TupleTableSlot,
    receiver: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: as above; a slot's arrays are filled up to what slot_getsomeattrs was asked for, and the answer's columns
    // are the query's first ones.
    unsafe {
        let switch = &*receiver.cast::<Switch>();
        let all = (*(*slot).tts_tupleDescriptor).natts;
        if i32::from((*slot).tts_nvalid) < all {
            pg_sys::slot_getsomeattrs_int(slot, all);
        }
        if *(*slot).tts_isnull.add(switch.verdict) {
            pg_sys::tuplestore_puttupleslot(switch.aside, slot);
        } else {
            pg_sys::tuplestore_putvalues(
                switch.answer,
                switch.answer_descriptor,
                (*slot).tts_values,
                (*slot).tts_isnull,
            );
        }
        true
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn done(_receiver: *mut pg_sys::DestReceiver) {}

impl RowWriter {
    /// Adds the rows of a query that have a value in `column` (from 1, as in SQL), and returns the others. The answer's
    /// columns are the query's first ones.
    pub fn pour_decided(
        &self,
        session: &Session,
        plan: &Plan,
        args: &[Arg],
        column: usize,
    ) -> Aside {
        // SAFETY: everything the receiver points to outlives the execution.
        unsafe {
            let mut switch = Switch {
                receiver: pg_sys::DestReceiver {
                    receiveSlot: Some(received),
                    rStartup: Some(started),
                    rShutdown: Some(done),
                    rDestroy: Some(done),
                    mydest: pg_sys::CommandDest::DestTuplestore,
                },
                answer: self.store(),
                answer_descriptor: self.descriptor(),
                verdict: column - 1,
                aside: pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem),
                aside_descriptor: std::ptr::null_mut(),
                context: pg_sys::CurrentMemoryContext,
            };
            session.hand_to(plan, args, None, (&raw mut switch).cast());
            Aside { store: switch.aside, descriptor: switch.aside_descriptor }
        }
    }
}
