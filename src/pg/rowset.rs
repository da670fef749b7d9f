//! A set of rows of one table, held in a tuplestore: a transition table, the row of a row trigger, or a part of either.

use super::encoding::from_server_c;
use pgrx::{Uuid, pg_sys};
use std::ffi::CStr;

/// Who a row of `auth.users` is.
pub struct Person {
    pub id: Option<Uuid>,
    pub email: Option<String>,
}

/// A row of `auth.users` as far as an UPDATE of it matters.
pub struct Seen {
    pub person: Person,
    pub is_deleted: bool,
    /// Since when the e-mail is confirmed, as text.
    pub confirmed_at: Option<String>,
    /// The e-mail that is asked for, and not confirmed yet.
    pub email_change: Option<String>,
}

pub struct RowSet {
    store: *mut pg_sys::Tuplestorestate,
    table: pg_sys::Oid,
    descriptor: pg_sys::TupleDesc,
    owned: bool,
    owns_descriptor: bool,
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
                owns_descriptor: false,
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

    /// The rows of `table` that a query answered whole (`SELECT t FROM table t`).
    pub fn of_rows(rows: &super::Rows, table: pg_sys::Oid) -> Self {
        // SAFETY: store and descriptor outlive the connection that made the rows, and end with the value or with the
        // transaction; a composite value is a tuple of the row type, dropped columns included.
        unsafe {
            let kind = pg_sys::get_rel_type_id(table);
            let here = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = pg_sys::TopTransactionContext;
            let mut set = Self::empty(table, pg_sys::lookup_rowtype_tupdesc_copy(kind, -1));
            set.owns_descriptor = true;
            pg_sys::CurrentMemoryContext = here;
            for row in 0..rows.len() {
                let datum = rows.datum(row, 1).expect("a whole row is not NULL");
                let header = pg_sys::pg_detoast_datum(datum.cast_mut_ptr())
                    .cast::<pg_sys::HeapTupleHeaderData>();
                let mut tuple = pg_sys::HeapTupleData {
                    t_len: pgrx::varsize_any(header.cast()) as u32,
                    t_data: header,
                    ..Default::default()
                };
                pg_sys::tuplestore_puttuple(set.store, &mut tuple);
            }
            set
        }
    }

    fn empty(table: pg_sys::Oid, descriptor: pg_sys::TupleDesc) -> Self {
        // SAFETY: the store lives in the current memory context and its files end with the resource owner.
        let store = unsafe { pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem) };
        RowSet { store, table, descriptor, owned: true, owns_descriptor: false }
    }

    pub fn len(&self) -> usize {
        // SAFETY: the store is alive.
        unsafe { pg_sys::tuplestore_tuple_count(self.store) as usize }
    }

    /// The rows at `places`, which ascend, as a set of their own.
    pub fn part(&self, places: &[usize]) -> RowSet {
        let part = Self::empty(self.table, self.descriptor);
        let mut wanted = places.iter().copied().peekable();
        let mut place = 0;
        self.scan(|slot| {
            if wanted.next_if_eq(&place).is_some() {
                // SAFETY: both stores hold rows of the same descriptor.
                unsafe { pg_sys::tuplestore_puttupleslot(part.store, slot) };
            }
            place += 1;
            wanted.peek().is_some()
        });
        part
    }

    /// Calls `f` with each row until it answers false.
    pub(super) fn scan(&self, mut f: impl FnMut(*mut pg_sys::TupleTableSlot) -> bool) {
        // SAFETY: pointer 0 is nobody else's, since statements that read the store make pointers of their own. The slot
        // is dropped again; on an error its memory context takes care of it.
        unsafe {
            let slot = pg_sys::MakeSingleTupleTableSlot(
                self.descriptor,
                &raw const pg_sys::TTSOpsMinimalTuple,
            );
            pg_sys::tuplestore_select_read_pointer(self.store, 0);
            pg_sys::tuplestore_rescan(self.store);
            while pg_sys::tuplestore_gettupleslot(self.store, true, false, slot) && f(slot) {}
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
    }

    /// Calls `f` with the id and e-mail of all rows, `at_once` of them a call. Works whatever the columns look like:
    /// no statement is run, so no cast of somebody's own is.
    pub fn people(&self, at_once: usize, mut f: impl FnMut(Vec<Person>)) {
        let mut people = Vec::with_capacity(at_once.min(self.len()));
        self.scan(|slot| {
            // SAFETY: the slot holds a row of this set.
            people.push(unsafe { self.person(slot) });
            if people.len() == at_once {
                f(std::mem::take(&mut people));
            }
            true
        });
        if !people.is_empty() {
            f(people);
        }
    }

    /// The first row.
    pub fn first(&self) -> Option<Seen> {
        let mut first = None;
        self.scan(|slot| {
            // SAFETY: the slot holds a row of this set.
            first = Some(unsafe {
                Seen {
                    person: self.person(slot),
                    is_deleted: self.field(slot, c"deleted_at").is_some(),
                    confirmed_at: self.text(slot, c"email_confirmed_at"),
                    email_change: self.text(slot, c"email_change"),
                }
            });
            false
        });
        first
    }

    unsafe fn person(&self, slot: *mut pg_sys::TupleTableSlot) -> Person {
        // SAFETY: the slot holds a row of this set.
        unsafe { Person { id: self.id_of(slot), email: self.text(slot, c"email") } }
    }

    /// A column's value as text; None where it is NULL or there is no such column.
    unsafe fn text(&self, slot: *mut pg_sys::TupleTableSlot, name: &CStr) -> Option<String> {
        // SAFETY: a type's output function takes a value of the type.
        unsafe {
            let (value, kind) = self.field(slot, name)?;
            let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(kind, &mut output, &mut varlena);
            let text = pg_sys::OidOutputFunctionCall(output, value);
            let value = from_server_c(text);
            pg_sys::pfree(text.cast());
            Some(value)
        }
    }

    /// A column's value and type; None where it is NULL or there is no such column.
    unsafe fn field(
        &self,
        slot: *mut pg_sys::TupleTableSlot,
        name: &CStr,
    ) -> Option<(pg_sys::Datum, pg_sys::Oid)> {
        // SAFETY: the attribute number comes from the row's own descriptor.
        unsafe {
            let column = pg_sys::SPI_fnumber(self.descriptor, name.as_ptr());
            if column <= 0 {
                return None;
            }
            let mut is_null = false;
            let value = pg_sys::slot_getattr(slot, column, &mut is_null);
            (!is_null).then(|| (value, pg_sys::SPI_gettypeid(self.descriptor, column)))
        }
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
            unsafe {
                pg_sys::tuplestore_end(self.store);
                if self.owns_descriptor {
                    pg_sys::FreeTupleDesc(self.descriptor);
                }
            }
        }
    }
}

impl RowSet {
    /// The column `id` of the first row.
    pub(super) fn first_id(&self) -> Option<Uuid> {
        let mut id = None;
        self.scan(|slot| {
            // SAFETY: the slot holds a row of this set.
            id = unsafe { self.id_of(slot) };
            false
        });
        id
    }

    /// # Safety
    /// `slot` holds a row of the set's table.
    pub(super) unsafe fn id_of(&self, slot: *mut pg_sys::TupleTableSlot) -> Option<Uuid> {
        // SAFETY: the caller's promise; the type is looked at before the value.
        unsafe {
            let (value, kind) = self.field(slot, c"id")?;
            if pg_sys::getBaseType(kind) != pg_sys::UUIDOID {
                return None;
            }
            pgrx::FromDatum::from_datum(value, false)
        }
    }
}
