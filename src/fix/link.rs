//! The link a confirmed e-mail makes at sign-up: a re-key, with what the sign-up brings filled in.

use crate::error::Error;
use crate::pg::{self, Mode, connect};
use crate::statements::candidates::{Candidate, Check};
use crate::statements::changes;
use crate::statements::merge;
use crate::statements::rekey::{Mover, Referring};
use crate::statements::signup::Target;
use onagui_decide::repair::Status;
use pgrx::Uuid;
use serde_json::{Value, json};

pub struct Linked {
    pub rows: u64,
    pub details: Value,
}

/// Re-keys the app user `app` to the auth user `auth`, then lets `refresh` bring the row up to date. Fails with P0002
/// where, once locked, the row is not the one with the confirmed e-mail any more.
pub fn link(
    target: &Target,
    app: Uuid,
    auth: Uuid,
    refresh: impl FnOnce(),
) -> Result<Linked, Error> {
    connect(|session| {
        let mover = pg::as_role(target.house.owner, || {
            Mover::read(session, target.house, &target.app, Mode::Fresh)
        })?;
        mover.lock(session, &[app, auth]);
        let candidate = Candidate::pair_of(Status::Mismatched, app, auth);
        if !Check::default().still_is(session, target, &candidate) {
            return Err(Error::AppUserGone { id: app.to_string() });
        }
        let done = merge::rekey(session, &mover, app, auth, &[])?;
        let (table, shape) = (&mover.references.tables[0], mover.shape(session, 0, Mode::Fresh));
        let before = changes::whole_row(session, table, shape, auth);
        refresh();
        let refreshed =
            before.and_then(|row| changes::difference(session, table, shape, auth, &row));
        let mut undo = vec![done.step];
        undo.extend(refreshed.map(|done| json!({ "changes": [done] })));
        Ok(Linked {
            rows: Referring::total(&done.moved),
            details: json!({ "references": Referring::to_json(&done.moved), "undo": undo }),
        })
    })
}
