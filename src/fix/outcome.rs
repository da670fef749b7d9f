//! What came of one user.

use crate::error::{Error, Failure};
use crate::statements::candidates::{Candidate, Pair};
use crate::statements::done::Step;
use crate::statements::merge::OwnFields;
use crate::statements::rekey::Referring;
use onagui_decide::repair::Action;
use pgrx::Uuid;
use serde::Serialize;
use serde_json::{Value, json};

/// A row of `fix_user_ids`.
pub struct Outcome {
    pub email: Option<String>,
    pub action: Action,
    pub outcome: &'static str,
    pub auth_user_id: Option<Uuid>,
    pub old_app_user_id: Option<Uuid>,
    pub new_app_user_id: Option<Uuid>,
    pub rows_changed: u64,
    /// What refers to the user and was moved, or would be.
    pub references: Option<Vec<Referring>>,
    pub details: Value,
    pub audit_id: Option<i64>,
    /// Why it was refused or failed.
    pub failure: Option<Box<Failure>>,
    /// What undo_fix() needs; goes to the audit log only.
    pub undo: Option<Vec<Step>>,
    /// Of those whose order matters: whose turn it was, from 1 on.
    pub turn: usize,
}

impl Outcome {
    pub fn new(action: Action, outcome: &'static str) -> Self {
        Outcome {
            email: None,
            action,
            outcome,
            auth_user_id: None,
            old_app_user_id: None,
            new_app_user_id: None,
            rows_changed: 0,
            references: None,
            details: json!({}),
            audit_id: None,
            failure: None,
            undo: None,
            turn: 0,
        }
    }

    pub fn of(candidate: &Candidate, action: Action, outcome: &'static str) -> Self {
        Outcome {
            email: candidate.email.clone(),
            auth_user_id: candidate.auth_user_id,
            old_app_user_id: candidate.app_user_id,
            new_app_user_id: candidate.app_user_id,
            ..Outcome::new(action, outcome)
        }
    }

    /// The candidate's ids, auth's first.
    pub fn pair(&self) -> Pair {
        (self.auth_user_id, self.old_app_user_id)
    }

    /// The same with the error why nothing was done.
    pub fn refused_for(mut self, error: Error) -> Self {
        let failure = Box::new(Failure::from(error));
        failure.note_in(&mut self.details);
        self.failure = Some(failure);
        self
    }

    /// The same with what refers to the user.
    pub fn moves(mut self, references: Vec<Referring>) -> Self {
        self.rows_changed = Referring::total(&references);
        self.references = Some(references);
        self
    }

    /// The same with what becomes of the leaving user's own fields in a merge.
    pub fn merges(mut self, own: &OwnFields) -> Self {
        for (name, columns) in [("taken_over", &own.taken_over), ("given_up", &own.given_up)] {
            if !columns.is_empty() {
                self.details[name] = json!(columns);
            }
        }
        self
    }

    /// The column `details`, of the audit log where `with_undo`: as JSON.
    pub fn told(&self, with_undo: bool) -> String {
        #[derive(Serialize)]
        struct Told<'a> {
            #[serde(flatten)]
            details: &'a Value,
            #[serde(skip_serializing_if = "Option::is_none")]
            references: Option<&'a [Referring]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            undo: Option<Option<&'a [Step]>>,
        }
        let told = Told {
            details: &self.details,
            references: self.references.as_deref(),
            undo: with_undo.then_some(self.undo.as_deref()),
        };
        serde_json::to_string(&told).expect("an object with texts as keys")
    }

    /// When the user's turn came, there was nothing left to do.
    pub fn overtaken(candidate: &Candidate) -> Self {
        let details = json!({ "reason": "it has been dealt with meanwhile, by somebody else or earlier in this call" });
        Outcome { details, ..Outcome::of(candidate, Action::None, "unchanged") }
    }

    /// Nothing was changed: the row is what it was.
    pub fn failed(candidate: &Candidate, action: Action, failure: Box<Failure>) -> Self {
        let is_conflict = matches!(failure.sqlstate.as_str(), "23505" | "23P01");
        let outcome = if is_conflict { "refused" } else { "failed" };
        let mut row = Outcome::of(candidate, action, outcome);
        row.details = json!({ "reason": failure.message });
        failure.note_in(&mut row.details);
        row.failure = Some(failure);
        row
    }
}
