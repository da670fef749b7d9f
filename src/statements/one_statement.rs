//! Writing several tables, each as its owner, which to the constraints is one statement.

use super::order::distinct;
use crate::catalog::deferrable::{fire_as_session, is_nobody_elses};
use crate::catalog::references::References;
use crate::error::Error;
use crate::pg::{self, Mode, QueryLevel, Session};
use pgrx::pg_sys::Oid;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Runs `write` as each owner in turn. Foreign-key checks and AFTER triggers of what it writes fire when all owners have
/// had their turn, as the owner whose statement queued them. Whatever may be deferred is checked then too: nothing is left
/// for COMMIT to fire as the session's role. Where `write` fails, everything must be rolled back.
pub fn as_one_statement(
    owners: &[Oid],
    references: &References,
    session: &Session,
    mut write: impl FnMut(Oid) -> Result<(), Error>,
) -> Result<(), Error> {
    let constraints = by_owner(session, owners, references);
    let names: Vec<&str> = constraints.iter().map(|(_, name, _)| name.as_str()).collect();
    let mut said = BTreeSet::new();
    for owner in distinct(constraints.iter().map(|(owner, _, _)| *owner)) {
        said.extend(fire_as_session(session, &names));
        // What has fired, or somebody while a turn waited, may have given the names to constraints of others.
        if by_owner(session, owners, references) != constraints {
            return Err(Error::ReferencesChanged);
        }
        set_constraints(session, &constraints, "IMMEDIATE", |(of, name, _)| {
            *of == owner && !said.contains(name)
        });
    }
    let mut levels = Vec::new();
    for owner in owners {
        levels.push((*owner, QueryLevel::open()));
        pg::as_role(*owner, || write(*owner))?;
    }
    while let Some((owner, level)) = levels.pop() {
        pg::as_role(owner, || level.close());
    }
    set_constraints(session, &constraints, "DEFERRED", |(_, _, initially)| *initially);
    Ok(())
}

/// A constraint by its qualified name, the owner of its table, and whether it is deferred at first.
type OwnedConstraint = (Oid, String, bool);

/// Constraints and constraint triggers that must not wait: those named, and what triggers of these owners may write to in
/// other tables of theirs, or SECURITY DEFINER functions that triggers call in those of the functions' owners; where there are
/// triggers, foreign keys of anybody's tables: they may call what is SECURITY DEFINER, or write where they are allowed to. Each
/// is set by its table's owner.
static BY_OWNER: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT t.relowner, format('%I.%I', n.nspname, c.conname),
                bool_and(c.condeferred)
                AND NOT EXISTS (SELECT FROM pg_constraint o
                                 WHERE o.connamespace = n.oid AND o.conname = c.conname AND NOT o.condeferred)
           FROM pg_constraint c
           JOIN pg_namespace n ON n.oid = c.connamespace
           JOIN pg_class t ON t.oid = c.conrelid
          WHERE c.condeferrable
            AND (format('%I.%I', n.nspname, c.conname) = ANY ($1) OR c.condeferred AND (t.relowner = ANY ($2) OR c.contype = 'f' AND $3))
            AND has_schema_privilege(t.relowner, n.oid, 'USAGE')
            AND {}
          GROUP BY t.relowner, n.oid, n.nspname, c.conname
          ORDER BY 1, 2",
        is_nobody_elses("t.relowner")
    )
});

fn by_owner(session: &Session, owners: &[Oid], references: &References) -> Vec<OwnedConstraint> {
    let none = references.deferrable.is_empty() && !references.defers;
    let (Some(first), false) = (owners.first(), none) else {
        return Vec::new();
    };
    let names: Vec<String> = references.deferrable.iter().map(|(name, _)| name.clone()).collect();
    let writers: Vec<Oid> = owners.iter().chain(&references.definers).copied().collect();
    let rows = pg::as_role(*first, || {
        let args = [names.into(), writers.into(), references.triggers.into()];
        session.run_kept(&BY_OWNER, &args, Mode::Fresh)
    });
    (0..rows.len())
        .filter_map(|row| Some((rows.get(row, 1)?, rows.get(row, 2)?, rows.get(row, 3)?)))
        .collect()
}

fn set_constraints(
    session: &Session,
    all: &[OwnedConstraint],
    when: &str,
    which: impl Fn(&OwnedConstraint) -> bool,
) {
    for owner in distinct(all.iter().map(|(owner, _, _)| *owner)) {
        let names: Vec<&str> = all
            .iter()
            .filter(|constraint| constraint.0 == owner && which(constraint))
            .map(|(_, name, _)| name.as_str())
            .collect();
        if !names.is_empty() {
            let sql = format!("SET CONSTRAINTS {} {when}", names.join(", "));
            pg::as_role(owner, || session.run(&sql, &[], Mode::Fresh));
        }
    }
}
