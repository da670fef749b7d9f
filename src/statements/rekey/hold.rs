//! What refers to the users is held as it is, once they are locked.

use super::Mover;
use crate::catalog::App;
use crate::catalog::references::{Soft, SoftPlace};
use crate::error::Error;
use crate::pg::{self, Mode, Session};
use pgrx::pg_sys::Oid;
use std::collections::BTreeSet;
use std::rc::Rc;

/// How often tables that change meanwhile are looked at again.
const LOOKS: usize = 10;

impl Mover {
    /// Once users are locked: what refers to them cannot change any more until the transaction ends. Answers `self`, or what
    /// is so now where it has changed since the call began: what is not known of would be left behind, or worse, be deleted
    /// along by a foreign key that acts.
    pub fn hold(self: Rc<Self>, session: &Session, app: &App) -> Result<Rc<Self>, Error> {
        let mut mover = self;
        let mut locked = BTreeSet::new();
        for _ in 0..LOOKS {
            // As an UPDATE does: columns and foreign keys cannot be added meanwhile. What was read after that stays so.
            let tables = mover.references.tables.iter().map(|table| table.oid.to_u32());
            let new: Vec<u32> = tables.filter(|table| locked.insert(*table)).collect();
            new.iter().for_each(|table| pg::lock_for_writing(Oid::from(*table)));
            if new.is_empty() || mover.is_so(session) {
                return match pg::sees_latest() || mover.is_so_to_all(session) {
                    true => Ok(mover),
                    false => Err(Error::ReferencesChanged),
                };
            }
            let now = Self::get(mover.house, app)?;
            now.in_order.set(mover.in_order.get());
            mover = now;
        }
        Err(Error::ReferencesChanged)
    }

    /// Where the registered references are.
    pub fn soft_places(&self) -> Vec<&SoftPlace> {
        self.soft.iter().map(|soft| &soft.place).collect()
    }

    fn is_so(&self, session: &Session) -> bool {
        pg::as_role(self.house.owner, || {
            !self.is_stale() && Soft::read(session, Mode::Fresh) == self.soft
        })
    }

    /// Whether a transaction that sees the catalog as it once was sees of this what foreign-key checks see.
    fn is_so_to_all(&self, session: &Session) -> bool {
        const OF_CATALOG: &str = "
            SELECT md5(concat((SELECT string_agg(concat_ws(' ', c.oid, c.xmin), ',' ORDER BY c.oid)
                                 FROM pg_constraint c
                                WHERE c.contype = 'f' AND (c.confrelid = ANY ($1) OR c.conrelid = ANY ($1))),
                              (SELECT string_agg(concat_ws(' ', a.attrelid, a.attnum, a.xmin), ',' ORDER BY a.attrelid, a.attnum)
                                 FROM pg_attribute a WHERE a.attrelid = ANY ($1)),
                              (SELECT string_agg(r::text, ',' ORDER BY r::text) FROM onagui.sync_reference r)))";
        let tables: Vec<Oid> = self.references.tables.iter().map(|table| table.oid).collect();
        pg::as_role(self.house.owner, || {
            let read =
                |mode| session.run(OF_CATALOG, &[tables.clone().into()], mode).one::<String>();
            read(Mode::Fresh) == pg::with_latest_snapshot(|| read(Mode::Read))
        })
    }
}
