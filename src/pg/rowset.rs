//! A set of rows of one table, held in a tuplestore: a transition table, the row of a row trigger, or a part of either.

use pgrx::pg_sys;

pub struct RowSet {
    store: *mut pg_sys::Tuplestorestate,
    table: pg_sys::Oid,
    descriptor: pg_sys::TupleDesc,
    owned: bool,
}

impl RowSet {
    /// # Safety
    /// `store` holds rows of `relation`, and both outlive the value.
    pub(super) unsafe fn borrowed(
        store: *mut pg_sys::Tuplestorestate,
        relation: pg_sys::Relation,
    ) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            RowSet {
                store,
                table: (*relation).rd_id,
                descriptor: (*relation).rd_att,
                owned: false,
            }
        }
    }

    /// # Safety
    /// `slot` holds a row of `relation`, which outlives the value.
    pub(super) unsafe fn of_row(
        slot: *mut pg_sys::TupleTableSlot,
        relation: pg_sys::Relation,
    ) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let set = Self::empty((*relation).rd_id, (*relation).rd_att);
            pg_sys::tuplestore_puttupleslot(set.store, slot);
            set
        }
    }

    fn empty(table: pg_sys::Oid, descriptor: pg_sys::TupleDesc) -> Self {
        // SAFETY: the store lives in the current memory context and its files end with the resource owner.
        let store = unsafe { pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem) };
        RowSet {
            store,
            table,
            descriptor,
            owned: true,
        }
    }

    pub fn len(&self) -> usize {
        // SAFETY: the store is alive.
        unsafe { pg_sys::tuplestore_tuple_count(self.store) as usize }
    }

    /// The rows at `places`, which ascend, as a set of their own.
    pub fn part(&self, places: &[usize]) -> RowSet {
        let part = Self::empty(self.table, self.descriptor);
        let mut wanted = places.iter().copied().peekable();
        // SAFETY: a read pointer of our own, so that nobody else's is moved; the slot is dropped again.
        unsafe {
            let slot = pg_sys::MakeSingleTupleTableSlot(
                self.descriptor,
                &raw const pg_sys::TTSOpsMinimalTuple,
            );
            let pointer =
                pg_sys::tuplestore_alloc_read_pointer(self.store, pg_sys::EXEC_FLAG_REWIND as i32);
            pg_sys::tuplestore_select_read_pointer(self.store, pointer);
            pg_sys::tuplestore_rescan(self.store);
            let mut place = 0;
            while let Some(&next) = wanted.peek() {
                if !pg_sys::tuplestore_gettupleslot(self.store, true, false, slot) {
                    break;
                }
                if place == next {
                    pg_sys::tuplestore_puttupleslot(part.store, slot);
                    wanted.next();
                }
                place += 1;
            }
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
        part
    }

    pub(super) fn table(&self) -> pg_sys::Oid {
        self.table
    }

    pub(super) fn store(&self) -> *mut pg_sys::Tuplestorestate {
        self.store
    }
}

impl Drop for RowSet {
    fn drop(&mut self) {
        if self.owned && !std::thread::panicking() {
            // SAFETY: ours; on an error the memory context and the resource owner take care of it.
            unsafe { pg_sys::tuplestore_end(self.store) };
        }
    }
}

impl RowSet {
    /// The column `id` of the first row.
    pub(super) fn first_id(&self) -> Option<pgrx::Uuid> {
        // SAFETY: as in part().
        unsafe {
            let slot = pg_sys::MakeSingleTupleTableSlot(
                self.descriptor,
                &raw const pg_sys::TTSOpsMinimalTuple,
            );
            let pointer =
                pg_sys::tuplestore_alloc_read_pointer(self.store, pg_sys::EXEC_FLAG_REWIND as i32);
            pg_sys::tuplestore_select_read_pointer(self.store, pointer);
            pg_sys::tuplestore_rescan(self.store);
            let id = pg_sys::tuplestore_gettupleslot(self.store, true, false, slot)
                .then(|| self.id_of(slot))
                .flatten();
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            id
        }
    }

    /// # Safety
    /// `slot` holds a row of the set's table.
    pub(super) unsafe fn id_of(&self, slot: *mut pg_sys::TupleTableSlot) -> Option<pgrx::Uuid> {
        // SAFETY: the attribute number comes from the row's own descriptor.
        unsafe {
            let column = pg_sys::SPI_fnumber(self.descriptor, c"id".as_ptr());
            if column <= 0 {
                return None;
            }
            let mut is_null = false;
            let datum = pg_sys::slot_getattr(slot, column, &mut is_null);
            pgrx::FromDatum::from_datum(datum, is_null)
        }
    }
}
