//! The trigger protocol, as the server's own triggers check it (`ri_CheckTrigger` in
//! src/backend/utils/adt/ri_triggers.c).

use super::call::Call;
use super::rowset::RowSet;
use crate::error::Error;
use pgrx::pg_sys;

pub enum TriggerEvent {
    Insert {
        new: RowSet,
    },
    Update {
        old: RowSet,
        new: RowSet,
    },
    Delete {
        old: RowSet,
    },
    Truncate,
    /// A row trigger's call for a row that the call for the statement's first row has dealt with.
    AlreadySeen,
}

pub struct TriggerCall {
    data: *mut pg_sys::TriggerData,
}

impl TriggerCall {
    /// Fails with 39P01 where the function was not called as a trigger.
    pub fn of(call: &Call) -> Result<Self, Error> {
        // SAFETY: context is NULL or a node.
        unsafe {
            let context = (*call.fcinfo()).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return Err(Error::NotATrigger);
            }
            Ok(TriggerCall { data: context.cast() })
        }
    }

    /// The table the trigger stands on.
    pub fn table(&self) -> pg_sys::Oid {
        // SAFETY: the trigger manager opened the relation.
        unsafe { (*(*self.data).tg_relation).rd_id }
    }

    /// The rows the trigger is called for. Fails with 39P01 where it is not an AFTER trigger.
    pub fn event(&self) -> Result<TriggerEvent, Error> {
        // SAFETY: the fields of TriggerData that its event flags promise (src/include/commands/trigger.h).
        unsafe {
            let data = &*self.data;
            let event = data.tg_event;
            let operation = event & pg_sys::TRIGGER_EVENT_OPMASK;
            if operation == pg_sys::TRIGGER_EVENT_TRUNCATE {
                return Ok(TriggerEvent::Truncate);
            }
            if event & pg_sys::TRIGGER_EVENT_TIMINGMASK != pg_sys::TRIGGER_EVENT_AFTER {
                return Err(Error::NotAfter);
            }
            let row = event & pg_sys::TRIGGER_EVENT_ROW != 0;
            let relation = data.tg_relation;
            match operation {
                pg_sys::TRIGGER_EVENT_INSERT => match Self::set(data.tg_newtable, data, row)? {
                    Some(new) if row && !Self::is_first(&new, data.tg_trigslot) => {
                        Ok(TriggerEvent::AlreadySeen)
                    }
                    Some(new) => Ok(TriggerEvent::Insert { new }),
                    None => {
                        Ok(TriggerEvent::Insert { new: RowSet::of_row(data.tg_trigslot, relation) })
                    }
                },
                pg_sys::TRIGGER_EVENT_DELETE => match Self::set(data.tg_oldtable, data, row)? {
                    Some(old) if row && !Self::is_first(&old, data.tg_trigslot) => {
                        Ok(TriggerEvent::AlreadySeen)
                    }
                    Some(old) => Ok(TriggerEvent::Delete { old }),
                    None => {
                        Ok(TriggerEvent::Delete { old: RowSet::of_row(data.tg_trigslot, relation) })
                    }
                },
                _ if row => Ok(TriggerEvent::Update {
                    old: RowSet::of_row(data.tg_trigslot, relation),
                    new: RowSet::of_row(data.tg_newslot, relation),
                }),
                _ => Err(Error::NotForEachRow),
            }
        }
    }

    /// The transition table, which a statement trigger must have and a row trigger may have.
    unsafe fn set(
        store: *mut pg_sys::Tuplestorestate,
        data: &pg_sys::TriggerData,
        row: bool,
    ) -> Result<Option<RowSet>, Error> {
        if store.is_null() {
            return if row { Ok(None) } else { Err(Error::NoTransitionTable) };
        }
        // SAFETY: the trigger manager keeps both for the call.
        Ok(Some(unsafe { RowSet::borrowed(store, data.tg_relation) }))
    }

    /// Whether a row trigger's row is the first of its statement, by its id.
    unsafe fn is_first(set: &RowSet, slot: *mut pg_sys::TupleTableSlot) -> bool {
        // SAFETY: the slot holds the row the trigger is called for.
        set.first_id().is_some_and(|first| unsafe { set.id_of(slot) } == Some(first))
    }
}
