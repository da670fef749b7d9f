//! Published tables that have no replica identity: the server refuses to UPDATE or DELETE there, rows or not.

use super::plan::{Plan, Row};
use super::rekey::Mover;
use crate::catalog::references::{Barred, ForeignKey, Table, Write};
use crate::error::Error;

impl Mover {
    /// Fails where no user can be changed.
    pub fn check_publications(&self) -> Result<(), Error> {
        self.references.tables[0].check(Write::Update)
    }

    /// Whether some table bars writes at all.
    pub fn is_barred(&self) -> bool {
        self.references.tables.iter().any(|t| t.no_update.is_some() || t.no_delete.is_some())
    }
}

impl Plan<'_> {
    /// Fails where rows cannot be changed or deleted, or a foreign key would act where nobody may.
    pub fn check_publications(&self) -> Result<(), Error> {
        if !self.mover.is_barred() {
            return Ok(());
        }
        for changes in self.changes_since(None) {
            if !changes.updated.is_empty() {
                changes.of.table.check(Write::Update)?;
            }
            if !changes.deleted.is_empty() {
                changes.of.table.check(Write::Delete)?;
            }
        }
        for key in self.keys() {
            let child = &self.mover.references.tables[key.child];
            let mut actions = self.rows.keys().filter_map(|row| self.action(key, row));
            actions.try_for_each(|write| child.check(write))?;
        }
        Ok(())
    }

    /// What a foreign key does, or tries to, as a row that it may refer to leaves its key
    /// (RI_FKey_pk_upd_check_required() of src/backend/utils/adt/ri_triggers.c).
    fn action(&self, key: &ForeignKey, row: &Row) -> Option<Write> {
        let had = |k: &String| self.before(row, k).is_some();
        if row.0 != key.parent || !key.is_to(row.1.0) || !key.keys.iter().all(had) {
            return None;
        }
        if self.gone.contains_key(row) {
            return key.on_delete;
        }
        let changes = key.keys.iter().any(|k| self.before(row, k) != self.after(row, k));
        key.on_update.filter(|_| changes)
    }
}

impl Table {
    fn check(&self, write: Write) -> Result<(), Error> {
        match self.barred(write) {
            Some(Barred { publication, table }) => Err(Error::HeldByPublication {
                publication: publication.clone(),
                table: table.clone(),
                write: write.name(),
            }),
            None => Ok(()),
        }
    }
}
