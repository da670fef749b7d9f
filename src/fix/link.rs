//! The link a confirmed e-mail makes at sign-up: a re-key, with what the sign-up brings filled in.

use crate::error::Error;
use crate::pg::connect;
use crate::statements::done::Step;
use crate::statements::merge;
use crate::statements::refresh::Refreshed;
use crate::statements::rekey::{Mover, Referring};
use crate::statements::rows::{self, Text};
use crate::statements::signup::Target;
use pgrx::Uuid;
use serde_json::{Value, json};
use std::rc::Rc;

/// What came of a link.
pub struct Linked {
    /// How many rows that refer to the user came along.
    pub rows: u64,
    /// For the audit log, with what takes the link back.
    pub details: Value,
}

/// Links the app users of one statement.
pub struct Linker<'t> {
    target: &'t Target,
    mover: Rc<Mover>,
}

impl<'t> Linker<'t> {
    pub fn start(target: &'t Target) -> Result<Self, Error> {
        let mover = Mover::get(target.house, &target.app)?;
        Ok(Linker { target, mover })
    }

    /// Re-keys the app user `app` to the auth user `auth`, whose e-mail is `email`, then lets `refresh` bring the row up to date.
    /// Fails with P0002 where, once the row is locked, it is not still so that it is to be linked.
    pub fn link(
        &self,
        (app, auth): (Uuid, Uuid),
        email: Text,
        is_still_so: impl FnOnce() -> Result<bool, Error>,
        refresh: impl FnOnce() -> Result<Refreshed, Error>,
    ) -> Result<Linked, Error> {
        connect(|session| {
            self.mover.lock(session, &[app, auth]);
            if !is_still_so()? {
                return Err(Error::AppUserGone { id: app.to_string() });
            }
            let mover = self.mover.clone().hold(session, &self.target.app)?;
            let done = merge::rekey(session, &mover, app, auth, &[])?;
            let (table, shape) = (&mover.references.tables[0], mover.shape(session, 0));
            let emails: Vec<(Uuid, Text)> =
                email.into_iter().map(|email| (auth, Some(email))).collect();
            let followed = self.target.bring_emails(&emails)?;
            let before = rows::whole_row(session, table, shape, auth);
            let mut details = refresh()?.details;
            let refreshed =
                before.and_then(|row| rows::difference(session, table, shape, auth, &row));
            let mut undo = vec![done.step];
            undo.extend(followed.into_iter().map(Step::Changes));
            undo.extend(refreshed.map(|done| Step::Changes(vec![done])));
            details["references"] = json!(done.moved);
            details["undo"] = json!(undo);
            Ok(Linked { rows: Referring::total(&done.moved), details })
        })
    }
}
