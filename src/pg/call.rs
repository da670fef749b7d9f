//! A call from SQL: its arguments and its answer.

use super::encoding::from_server_c;
use super::spi::{Arg, Plan, Session};
use super::values::{FromSql, JsonbText, ToSql, jsonb_text};
use pgrx::pg_sys;

pub struct Call {
    fcinfo: pg_sys::FunctionCallInfo,
}

/// What a function answers.
pub enum Reply {
    Null,
    /// A trigger's answer: no row, which is not NULL.
    Done,
    /// Made when the function returns: in the memory of its caller, not in that of a connection which is closed by then.
    Value(Box<dyn FnOnce() -> Option<pg_sys::Datum>>),
}

impl Reply {
    pub fn of<T: ToSql + 'static>(value: T) -> Self {
        Reply::Value(Box::new(|| value.datum()))
    }

    /// A jsonb from its text, which is never taken apart on the way: no depth, size or number is too much for it.
    pub fn json(text: String) -> Self {
        Reply::of(JsonbText(text))
    }
}

impl Call {
    /// # Safety
    /// `fcinfo` is what the function manager passes, and outlives the value.
    pub(super) unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Call { fcinfo }
    }

    pub(super) fn fcinfo(&self) -> pg_sys::FunctionCallInfo {
        self.fcinfo
    }

    /// The argument at `place` (from 0); None where it is NULL.
    pub fn arg<T: FromSql>(&self, place: usize) -> Option<T> {
        // SAFETY: place is checked against the number of arguments; the SQL declaration fixes the type.
        unsafe {
            assert!(place < (*self.fcinfo).nargs as usize, "argument {place}");
            let arg = &*(*self.fcinfo).args.as_ptr().add(place);
            if arg.isnull { None } else { T::read(arg.value, pg_sys::InvalidOid) }
        }
    }

    /// The argument at `place`, of type jsonb, as its text.
    pub fn arg_json(&self, place: usize) -> Option<String> {
        // SAFETY: as in arg().
        unsafe {
            assert!(place < (*self.fcinfo).nargs as usize, "argument {place}");
            let arg = &*(*self.fcinfo).args.as_ptr().add(place);
            (!arg.isnull).then(|| jsonb_text(arg.value))
        }
    }

    /// The argument at `place`, of type name.
    pub fn arg_name(&self, place: usize) -> Option<String> {
        // SAFETY: as in arg(); a name is a NUL-terminated array.
        unsafe {
            assert!(place < (*self.fcinfo).nargs as usize, "argument {place}");
            let arg = &*(*self.fcinfo).args.as_ptr().add(place);
            (!arg.isnull).then(|| {
                let name = arg.value.cast_mut_ptr::<pg_sys::NameData>();
                from_server_c((*name).data.as_ptr())
            })
        }
    }

    /// Whether the function was called by a CALL that may commit.
    pub fn may_commit(&self) -> bool {
        // SAFETY: context is NULL or a node; a CALL passes a CallContext.
        unsafe {
            let context = (*self.fcinfo).context;
            !context.is_null()
                && (*context).type_ == pg_sys::NodeTag::T_CallContext
                && !(*context.cast::<pg_sys::CallContext>()).atomic
        }
    }

    pub(super) fn reply(&self, reply: Reply) -> pg_sys::Datum {
        let datum = match reply {
            Reply::Done => return pg_sys::Datum::null(),
            Reply::Null => None,
            Reply::Value(make) => make(),
        };
        // SAFETY: fcinfo is ours for the call.
        unsafe { (*self.fcinfo).isnull = datum.is_none() };
        datum.unwrap_or(pg_sys::Datum::null())
    }

    /// Makes the function answer a set of rows, which spills to disk beyond work_mem.
    pub fn rows(&self) -> RowWriter {
        // SAFETY: InitMaterializedSRF checks that the caller takes a set, and sets up store and descriptor.
        unsafe {
            pg_sys::InitMaterializedSRF(self.fcinfo, 0);
            let info = (*self.fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            RowWriter { store: (*info).setResult, descriptor: (*info).setDesc }
        }
    }
}

/// Writes the rows of a function's answer.
pub struct RowWriter {
    store: *mut pg_sys::Tuplestorestate,
    descriptor: pg_sys::TupleDesc,
}

impl RowWriter {
    /// Adds a row; as many values as the function has result columns.
    pub fn put(&self, row: &[Arg]) {
        let mut values: Vec<_> =
            row.iter().map(|arg| arg.datum().unwrap_or(pg_sys::Datum::null())).collect();
        let mut nulls: Vec<_> = row.iter().map(|arg| arg.datum().is_none()).collect();
        // SAFETY: the arrays are as long as the descriptor.
        unsafe {
            assert_eq!(row.len(), (*self.descriptor).natts as usize, "result columns");
            pg_sys::tuplestore_putvalues(
                self.store,
                self.descriptor,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
        }
    }

    /// Adds what a query answers, at most `limit` rows, without holding it in memory; returns how many rows that was.
    /// The planner does not know of the limit, so the query is not planned for a first few rows.
    pub fn pour(&self, session: &Session, plan: &Plan, args: &[Arg], limit: Option<u64>) -> u64 {
        session.pour(plan, args, limit, self.store)
    }

    pub(super) fn store(&self) -> *mut pg_sys::Tuplestorestate {
        self.store
    }

    pub(super) fn descriptor(&self) -> pg_sys::TupleDesc {
        self.descriptor
    }
}
