//! A query whose rows go two ways: into a function's answer, or aside for a closer look.

use super::call::RowWriter;
use super::spi::{Arg, Plan, Session};
use pgrx::pg_sys;

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
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: the store and the copy of the descriptor are made in the memory of the caller, who outlives the executor;
        // a slot has as many values as the query has columns, and the answer's are the first of them.
        unsafe {
            let context = pg_sys::CurrentMemoryContext;
            let store = pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem);
            let mut start = |of_query| {
                let before = pg_sys::MemoryContextSwitchTo(context);
                descriptor = pg_sys::CreateTupleDescCopy(of_query);
                pg_sys::MemoryContextSwitchTo(before);
            };
            let mut take = |slot: *mut pg_sys::TupleTableSlot| {
                if *(*slot).tts_isnull.add(column - 1) {
                    pg_sys::tuplestore_puttupleslot(store, slot);
                } else {
                    let (values, nulls) = ((*slot).tts_values, (*slot).tts_isnull);
                    pg_sys::tuplestore_putvalues(self.store(), self.descriptor(), values, nulls);
                }
            };
            session.hand_over(plan, args, &mut start, &mut take);
            Aside { store, descriptor }
        }
    }
}
