//! Rehearsing what a fix would do with one user.

use super::outcome::Outcome;
use super::repair::Repair;
use crate::error::Error;
use crate::pg::{Mode, Session};
use crate::statements::candidates::Candidate;
use crate::statements::checks;
use crate::statements::merge::Merge;
use crate::statements::rekey::Collision;
use onagui_decide::repair::Action;
use serde_json::json;

impl Repair {
    /// What `action` would do with one user, and what stands in the way: a read.
    pub(super) fn rehearse(
        &self,
        session: &Session,
        candidate: &Candidate,
        action: Action,
    ) -> Result<Outcome, Error> {
        let mut row = Outcome::of(candidate, action, "planned");
        row.new_app_user_id = candidate.auth_user_id;
        let pair = || Ok::<_, Error>((candidate.app()?, candidate.auth()?));
        let (referring, collisions, unsettled) = match action {
            Action::Rekey if self.is_plain(session, candidate)? => {
                let (app, auth) = pair()?;
                let collisions = self.mover.collisions(session, app, auth, Mode::Read);
                let unsettled = !collisions.is_empty();
                if !unsettled
                    && let Err(error) =
                        checks::fail(self.mover.broken(session, app, auth, Mode::Read))
                {
                    return Ok(refused(candidate, action, error));
                }
                let referring = self.mover.count(session, app, Mode::Read);
                (referring, collisions, unsettled)
            }
            Action::Rekey | Action::Merge => {
                let (app, auth) = pair()?;
                let plan = if action == Action::Merge {
                    Merge::plan(session, &self.mover, app, auth, self.policy, Mode::Read)
                } else {
                    Merge::plan_rekey(session, &self.mover, app, auth, &[], Mode::Read)
                };
                match plan {
                    Ok(merge) => (merge.referring(), merge.collisions.clone(), merge.unsettled),
                    Err(error) => return Ok(refused(candidate, action, error)),
                }
            }
            _ => return Ok(row),
        };
        row = row.moves(referring);
        if !collisions.is_empty() {
            row.details["conflicts"] = Collision::to_json(&collisions);
        }
        if unsettled {
            row.outcome = "refused";
            row.new_app_user_id = row.old_app_user_id;
            let error = collides(&collisions, action);
            row.details["reason"] = json!("rows would collide");
            row = row.refused_for(error);
        }
        Ok(row)
    }

    /// Whether a re-key is one statement for each table, and need not be planned row by row.
    fn is_plain(&self, session: &Session, candidate: &Candidate) -> Result<bool, Error> {
        let held = self.mover.held(session, candidate.auth()?, Mode::Read);
        Ok(held.is_empty() && !self.mover.references.by_rows)
    }
}

/// What stands in the way is foreseen.
pub(super) fn refused(candidate: &Candidate, action: Action, error: Error) -> Outcome {
    let row = Outcome::failed(candidate, action, Box::new(error.into()));
    Outcome { outcome: "refused", ..row }
}

pub(super) fn collides(collisions: &[Collision], action: Action) -> Error {
    Error::Collides { what: Collision::in_words(collisions), action }
}
