//! Cursors: the rows of a query a few at a time, also across commits.

use super::portals;
use super::rows::Rows;
use super::spi::{Plan, Session};
use pgrx::pg_sys;
use std::cell::Cell;

/// An open cursor. On an error the server closes it.
pub struct Cursor {
    portal: pg_sys::Portal,
    pinned: Cell<bool>,
    /// How many of the rows that the server has kept were fetched.
    fetched: Cell<usize>,
}

impl Session {
    /// Prepares a query without arguments for [`Self::open`].
    pub fn prepare_cursor(&self, sql: &str) -> Plan {
        self.prepare_with(sql, &[], pg_sys::CURSOR_OPT_NO_SCROLL)
    }

    /// Opens a cursor on a query that only reads; `as_caller`: as the statement sees the database that called us, else as
    /// it is now. It may be fetched from in other connections than this one.
    pub fn open(&self, plan: &Plan, as_caller: bool) -> Cursor {
        // SAFETY: the plan takes no arguments; a NULL name has the server choose one.
        let _own = plan.own();
        let portal = unsafe {
            let (name, values, nulls) = (std::ptr::null(), std::ptr::null_mut(), std::ptr::null());
            pg_sys::SPI_cursor_open(name, plan.raw(), values, nulls, as_caller)
        };
        portals::opened(portal);
        Cursor { portal, pinned: Cell::new(false), fetched: Cell::new(0) }
    }
}

impl Cursor {
    /// Has the server keep what is left of the rows when the transaction commits: beyond work_mem on disk. That is how
    /// PL/pgSQL loops over a query whose body commits.
    pub fn keep(&self) {
        // SAFETY: the portal is open, and pinned once only.
        unsafe {
            if !self.pinned.replace(true) {
                pg_sys::PinPortal(self.portal);
            }
        }
    }

    /// The next rows, at most so many; none where there are no more.
    pub fn fetch(&self, _session: &Session, most: usize) -> Rows {
        // SAFETY: the portal is open.
        unsafe {
            let kept = !(*self.portal).holdStore.is_null();
            let most = most.try_into().unwrap_or(i64::MAX);
            portals::with_own(self.portal, || pg_sys::SPI_cursor_fetch(self.portal, true, most));
            let rows = Rows::taken();
            if kept {
                self.fetched.set(self.fetched.get() + rows.len());
            }
            rows
        }
    }

    /// How many rows are left, which is known after a commit ([`Self::keep`]).
    pub fn left(&self) -> Option<usize> {
        // SAFETY: the portal is open; its store holds what had not been fetched when it was made.
        unsafe {
            let store = (*self.portal).holdStore;
            (!store.is_null())
                .then(|| pg_sys::tuplestore_tuple_count(store) as usize - self.fetched.get())
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        portals::close_own(self.portal);
    }
}
