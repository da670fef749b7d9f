//! Who may be out of step, found without a join: mostly everybody is in step, and a join of all must hold one of the two
//! tables, or write both to disk in parts.

use super::{Survey, Which};
use crate::pg::{Arg, Mode, Session};
use onagui_decide::differences::{Differences, Set};
use pgrx::Uuid;

pub struct Suspects {
    /// Everybody who is not SYNCED, and perhaps some who are; None where they are too many to name.
    ids: Option<Vec<Uuid>>,
    app_rows: Option<i64>,
}

impl Suspects {
    pub fn find(session: &Session, survey: &Survey) -> Self {
        let Some([auth, app]) = survey.members_sql() else {
            return Suspects { ids: None, app_rows: None };
        };
        let mut differences = Differences::default();
        let mut read = |sql: &str, set: Set| {
            let plan = session.prepare_read(sql, &[], false);
            session.each_uuid_and_text(&plan, |id, email| {
                differences.add(set, id.expect("an id is there"), email);
            })
        };
        read(&auth, Set::First);
        let app_rows = read(&app, Set::Second);
        let ids = differences.ids();
        Suspects {
            ids: ids
                .map(|ids| ids.into_iter().map(|id| Uuid::from_bytes(id.to_be_bytes())).collect()),
            app_rows: Some(app_rows as i64),
        }
    }

    /// How many rows `app_users` has.
    pub fn app_rows(&self, session: &Session, survey: &Survey) -> i64 {
        let count =
            || session.run(&survey.app_count_sql(), &[], Mode::Read).one().unwrap_or_default();
        self.app_rows.unwrap_or_else(count)
    }

    /// Whose rows to ask the survey for.
    pub fn which(&self) -> Which {
        if self.ids.is_some() { Which::Suspects } else { Which::Apart }
    }

    /// `$1` of a query over them.
    pub fn ids(&self) -> Arg {
        Arg::of(self.ids.clone())
    }
}
