//! What keeps a re-key from being taken back: in words, for the person who asked for it.

use super::Logged;
use crate::catalog::references::{ForeignKey, SoftPlace};
use crate::fix::repair::Repair;
use crate::pg::{self, Mode, Session};
use crate::statements::rekey::unquoted;
use crate::statements::undo;
use pgrx::Uuid;
use serde_json::Value;

/// Later entries, which are still in force, that gave the id of an auth user to another row than it was given to by the entry $1.
const GIVEN_AGAIN: &str = "
    SELECT l.audit_id, l.action FROM onagui.sync_audit_log l
     WHERE l.audit_id > $1 AND l.auth_user_id = $2 AND l.new_app_user_id = $2 AND l.outcome = 'done'
       AND l.action IN ('rekey', 'link', 'create') AND l.old_app_user_id IS DISTINCT FROM $2
       AND (WITH RECURSIVE undone(by) AS (
                SELECT l.undone_by WHERE l.undone_by IS NOT NULL
                UNION ALL
                SELECT u.undone_by FROM undone d JOIN onagui.sync_audit_log u ON u.audit_id = d.by WHERE u.undone_by IS NOT NULL)
            SELECT count(*) % 2 = 0 FROM undone)
     ORDER BY l.audit_id DESC LIMIT 1";

/// Why the app user with the id `id` is not the one who got it by the entry `audit_id`.
pub(super) fn has_passed_on(
    repair: &Repair,
    session: &Session,
    audit_id: i64,
    id: Uuid,
) -> Option<String> {
    pg::as_role(repair.target().house.owner, || {
        let later = session.run_by_key(GIVEN_AGAIN, &[audit_id.into(), id.into()], Mode::Fresh);
        let (entry, action): (i64, String) =
            (!later.is_empty()).then(|| Some((later.get(0, 1)?, later.get(0, 2)?)))??;
        Some(format!("another app user has the id {id} now, by audit_id {entry} ({action})"))
    })
}

/// Why an app user cannot have the id `id` again: somebody else has it by now.
pub(super) fn in_use(
    repair: &Repair,
    session: &Session,
    id: Uuid,
    logged: &Logged,
) -> Option<String> {
    if !repair.mover().lock(session, &[id]).is_empty() {
        return Some(format!("another app user has the id {id} now"));
    }
    let was_so = logged.auth_user_id == Some(id) || logged.auths.contains(&id);
    (!was_so && repair.is_auths(id)).then(|| format!("{id} is another auth user's id now"))
}

/// What was moved with the user, holds the id still, and would stay behind: it does not refer to users any more.
pub(super) fn left_behind(
    repair: &Repair,
    session: &Session,
    logged: &Logged,
    id: Uuid,
) -> Vec<String> {
    let mut left = Vec::new();
    for reference in &logged.references {
        let label = reference["table"].as_str().unwrap_or_default();
        let columns = reference["columns"].as_array().into_iter().flatten();
        let mover = repair.mover();
        let references = &mover.references;
        let is_moved = |column: &str| {
            let mut tables = references.tables.iter().enumerate().filter(|(_, t)| t.label == label);
            tables.any(|(place, table)| {
                let follows = |key: &ForeignKey| {
                    key.child == place && key.columns.iter().any(|c| unquoted(c) == column)
                };
                table.moving.iter().any(|m| unquoted(&m.column) == column)
                    || references.by_rows && references.keys.iter().any(follows)
            })
        };
        for column in columns.filter_map(Value::as_str).filter(|column| !is_moved(column)) {
            if undo::holds(session, repair.target().house, label, column, id) {
                left.push(format!(
                    "rows of {label} hold {id} in {column}, which does not refer to users any more"
                ));
            }
        }
    }
    left
}

/// The same of references that were registered then, under whatever names their tables and columns have now.
pub(super) fn renamed(repair: &Repair, session: &Session, soft: &Value, id: Uuid) -> Vec<String> {
    let recorded: Vec<SoftPlace> = serde_json::from_value(soft.clone()).unwrap_or_default();
    let (house, mover) = (repair.target().house, repair.mover());
    let left = recorded.iter().filter_map(|place| {
        let (table, column) = undo::names_now(session, house, place)?;
        let mut now = mover.soft_places().into_iter();
        if now.any(|now| now.table == table && now.column == column) {
            return None;
        }
        undo::holds(session, house, &table, &column, id).then(|| {
            format!("rows of {table} hold {id} in {column}, which does not refer to users any more")
        })
    });
    left.collect()
}
