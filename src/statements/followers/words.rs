//! What to say of rows that would not go along.

use crate::catalog::references::ForeignKey;
use crate::statements::rekey::Mover;

/// Of rows that refer by a key NOT VALID or NOT ENFORCED nobody can tell whether they came since, or were there and referred to nobody.
pub(super) fn may_have_been_there(mover: &Mover, rows: usize, key: &ForeignKey) -> String {
    let refer = if rows == 1 { "row refers" } else { "rows refer" };
    let table = &mover.references.tables[key.child].label;
    let state = if key.enforced { "NOT VALID" } else { "NOT ENFORCED" };
    format!(
        "{rows} {refer} from {table} by {}, which is {state}, and may have referred to nobody before",
        key.name
    )
}

pub(super) fn would_act(mover: &Mover, rows: usize, key: &ForeignKey) -> String {
    let refer = if rows == 1 { "row refers" } else { "rows refer" };
    let label = |place: usize| &mover.references.tables[place].label;
    format!(
        "{rows} {refer} from {} by {}, whose ON UPDATE or ON DELETE action would change them when their key passes from one row \
         of {} to another",
        label(key.child),
        key.name,
        label(key.parent)
    )
}

pub(super) fn would_leave(mover: &Mover, rows: usize, key: &ForeignKey) -> String {
    let refer = if rows == 1 { "row refers" } else { "rows refer" };
    let label = |place: usize| &mover.references.tables[place].label;
    format!(
        "{rows} {refer} from {} by {} to rows of {} that would leave the partition it refers to",
        label(key.child),
        key.name,
        label(key.parent)
    )
}

pub(super) fn left_behind(mover: &Mover, rows: usize, child: usize, parent: usize) -> String {
    let refer = if rows == 1 { "row refers" } else { "rows refer" };
    let label = |place: usize| &mover.references.tables[place].label;
    format!(
        "{rows} {refer} from {} to a row of {} that would not be there any more",
        label(child),
        label(parent)
    )
}
