//! The link a confirmed e-mail makes at sign-up: a re-key, with what the sign-up brings filled in.

use crate::error::Error;
use crate::pg::{self, Mode, connect};
use crate::statements::candidates::{Candidate, Check};
use crate::statements::changes;
use crate::statements::rekey::{Mover, Referring};
use crate::statements::signup::Target;
use onagui_decide::repair::Status;
use pgrx::Uuid;
use serde_json::{Value, json};

pub struct Linked {
    pub rows: u64,
    pub details: Value,
}

/// Links the app users of one statement.
pub struct Linker<'a> {
    target: &'a Target,
    mover: Mover,
    check: Check,
}

impl<'a> Linker<'a> {
    pub fn start(target: &'a Target) -> Result<Self, Error> {
        let mover = pg::as_role(target.house.owner, || {
            connect(|session| Mover::read(session, target.house, &target.app, Mode::Fresh))
        })?;
        Ok(Linker { target, mover, check: Check::default() })
    }

    /// Re-keys the app user `app` to the auth user `auth`, then lets `refresh` bring the row up to date. Fails with
    /// P0002 where, once locked, the row is not the one with the confirmed e-mail any more.
    pub fn link(&self, app: Uuid, auth: Uuid, refresh: impl FnOnce()) -> Result<Linked, Error> {
        let mover = &self.mover;
        connect(|session| {
            mover.lock(session, &[app, auth]);
            let candidate = Candidate::pair_of(Status::Mismatched, app, auth);
            if !self.check.still_is(session, self.target, &candidate) {
                return Err(Error::AppUserGone { id: app.to_string() });
            }
            let held = mover.held_before(session, auth);
            let moved = mover.rekey(session, app, auth);
            let (table, shape) =
                (&mover.references.tables[0], mover.shape(session, 0, Mode::Fresh));
            let before = changes::whole_row(session, table, shape, auth);
            refresh();
            let refreshed =
                before.and_then(|row| changes::difference(session, table, shape, auth, &row));
            let rekey = json!({ "from": app.to_string(), "to": auth.to_string(), "held": held });
            let mut undo = vec![json!({ "rekey": rekey })];
            undo.extend(refreshed.map(|done| json!({ "changes": [done] })));
            Ok(Linked {
                rows: Referring::total(&moved),
                details: json!({ "references": Referring::to_json(&moved), "undo": undo }),
            })
        })
    }
}
