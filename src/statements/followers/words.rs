//! What to say of rows that would not go along.

use crate::catalog::references::ForeignKey;
use crate::statements::rekey::Mover;

/// Of rows that refer by a key NOT VALID or NOT ENFORCED nobody can tell whether they came since, or were there and referred to
/// nobody.
pub(super) fn may_have_been_there(mover: &Mover, rows: usize, key: &ForeignKey) -> String {
    let state = if key.enforced { "NOT VALID" } else { "NOT ENFORCED" };
    format!(
        "{} from {} by {}, which is {}, and may have referred to nobody before",
        rows_refer(rows),
        label(mover, key.child),
        key.name,
        state
    )
}

pub(super) fn would_act(mover: &Mover, rows: usize, key: &ForeignKey) -> String {
    format!(
        "{} from {} by {}, whose ON UPDATE or ON DELETE action would change them when their key passes from one row \
         of {} to another",
        rows_refer(rows),
        label(mover, key.child),
        key.name,
        label(mover, key.parent)
    )
}

pub(super) fn would_leave(mover: &Mover, rows: usize, key: &ForeignKey) -> String {
    format!(
        "{} from {} by {} to rows of {} that would leave the partition it refers to",
        rows_refer(rows),
        label(mover, key.child),
        key.name,
        label(mover, key.parent)
    )
}

pub(super) fn left_behind(mover: &Mover, rows: usize, child: usize, parent: usize) -> String {
    format!(
        "{} from {} to a row of {} that would not be there any more",
        rows_refer(rows),
        label(mover, child),
        label(mover, parent)
    )
}

fn rows_refer(rows: usize) -> String {
    format!("{rows} {}", if rows == 1 { "row refers" } else { "rows refer" })
}

fn label(mover: &Mover, place: usize) -> &str {
    &mover.references.tables[place].label
}
