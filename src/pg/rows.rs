//! What a statement answered.

use super::values::FromSql;
use pgrx::pg_sys;

/// The rows a statement returned, and how many rows it touched.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    touched: u64,
}

impl Rows {
    pub(super) fn taken() -> Self {
        // SAFETY: SPI_tuptable belongs to whoever takes it.
        unsafe {
            let table = pg_sys::SPI_tuptable;
            pg_sys::SPI_tuptable = std::ptr::null_mut();
            Rows { table, touched: pg_sys::SPI_processed }
        }
    }

    /// Rows inserted, updated, deleted or selected.
    pub fn touched(&self) -> u64 {
        self.touched
    }

    pub fn len(&self) -> usize {
        if self.table.is_null() { 0 } else { self.touched as usize }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value in `row` (from 0) and `column` (from 1, as in SQL). Panics where the type does not fit: a bug.
    pub fn get<T: FromSql>(&self, row: usize, column: usize) -> Option<T> {
        assert!(row < self.len(), "row {row} of {}", self.len());
        // SAFETY: row is in range; SPI_getbinval answers NULL and sets SPI_result for a column out of range.
        unsafe {
            let descriptor = (*self.table).tupdesc;
            let mut kind = pg_sys::SPI_gettypeid(descriptor, column as i32);
            if !T::fits(kind) {
                kind = pg_sys::getBaseType(kind);
                assert!(T::fits(kind), "column {column} is of type {}", kind.to_u32());
            }
            let mut is_null = false;
            let datum = pg_sys::SPI_getbinval(
                *(*self.table).vals.add(row),
                descriptor,
                column as i32,
                &mut is_null,
            );
            if is_null { None } else { T::read(datum, kind) }
        }
    }

    pub(super) fn datum(&self, row: usize, column: usize) -> Option<pg_sys::Datum> {
        assert!(row < self.len(), "row {row} of {}", self.len());
        let mut is_null = false;
        // SAFETY: row is in range; SPI_getbinval answers NULL for a column out of range.
        let datum = unsafe {
            let table = &*self.table;
            pg_sys::SPI_getbinval(*table.vals.add(row), table.tupdesc, column as i32, &mut is_null)
        };
        (!is_null).then_some(datum)
    }

    /// The value of a single row's column, None where there is no row or it is NULL.
    pub fn one<T: FromSql>(&self) -> Option<T> {
        if self.is_empty() { None } else { self.get(0, 1) }
    }

    /// Every row's first column, NULLs left out.
    pub fn column<T: FromSql>(&self) -> Vec<T> {
        (0..self.len()).filter_map(|row| self.get(row, 1)).collect()
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if !self.table.is_null() {
            // SAFETY: taken over in taken(); a table whose connection is gone is never reached here, because results
            // do not outlive `connect` except by unwinding, where its subtransaction frees the memory.
            if !std::thread::panicking() {
                unsafe { pg_sys::SPI_freetuptable(self.table) };
            }
        }
    }
}
