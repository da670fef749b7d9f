//! Carrying out what a person has decided about a pair.

use super::emails;
use super::outcome::Outcome;
use super::repair::Repair;
use crate::error::Error;
use crate::pg;
use crate::statements::candidates::Candidate;
use crate::statements::done::Step;
use onagui_decide::repair::{Action, Status};
use pgrx::Uuid;
use serde_json::json;

impl Repair {
    /// Carries out a person's decision about a pair.
    pub fn run_decided(&self, candidate: Candidate) -> Result<Vec<Outcome>, Error> {
        self.wait_for_tables(std::slice::from_ref(&candidate))?;
        self.looking(|| self.carry_out(candidate))
    }

    fn carry_out(&self, candidate: Candidate) -> Result<Vec<Outcome>, Error> {
        let action = match candidate.status {
            Status::Synced => Action::None,
            Status::EmailMismatch => {
                let mut outcomes = Vec::new();
                emails::exchange(self, vec![candidate], &mut outcomes)?;
                self.record(&mut outcomes);
                return Ok(outcomes);
            }
            Status::Duplicate => Action::Merge,
            _ => Action::Rekey,
        };
        let mut outcomes = vec![self.settle(&candidate, action, false)?];
        let leaving = candidate.app_user_id.filter(|id| self.is_auths(*id));
        if let (Some(id), Some(row)) = (leaving, outcomes.first_mut()) {
            if matches!(row.outcome, "planned" | "done") {
                let reason = format!("the app row is that of auth user {id}, who has none then");
                row.details["reason"] = json!(reason);
            }
            if let Some(steps) = &mut row.undo {
                steps.push(Step::Auths(id.to_string()));
            }
        }
        self.record(&mut outcomes);
        Ok(outcomes)
    }

    /// Whether it is the id of an auth user now.
    pub fn is_auths(&self, id: Uuid) -> bool {
        let target = self.target();
        let sql = format!(
            "SELECT EXISTS (SELECT FROM ONLY auth.users u WHERE u.id = $1 AND NOT ({}))",
            target.deleted("u")
        );
        pg::as_role(target.house.owner, || {
            pg::connect(|session| session.run(&sql, &[id.into()], self.mode()).one())
                .unwrap_or_default()
        })
    }

    /// The pair a person has decided on, with what must be done about it as its status. Fails where there is none, or
    /// where the e-mail that links them is still to be confirmed.
    pub fn decided(&self, app: Uuid, auth: Uuid) -> Result<Candidate, Error> {
        let look = || pg::connect(|s| self.finder().decided(s, app, auth, self.mode()));
        self.looking(look)
    }
}
