//! Running the survey: for the view and its function, and for the summary.

use super::{STATUSES, Survey, Suspects, Tag, Which, words};
use crate::catalog::tables::hold;
use crate::catalog::{App, Auth, House, Ways};
use crate::error::Error;
use crate::pg::{self, Arg, Kept, Mode, Plan, RowWriter, Session, connect};
use crate::settings;
use onagui_decide::repair::Status;
use onagui_decide::signup::LinkPolicy;
use pgrx::pg_sys::{INT8OID, TEXTARRAYOID, UUIDARRAYOID};
use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The tables as they are now, and the kept statement for one e-mail.
pub struct Overview {
    policy: LinkPolicy,
    pub house: House,
    pub auth: Auth,
    pub app: App,
    ways: Ways,
    by_email: OnceCell<Plan>,
}

thread_local! {
    static OVERVIEW: Kept<Overview> = const { Kept::new() };
}

/// What the caller of `onagui.sync_status()` asks for.
pub struct Question {
    /// Of [`STATUSES`], each at most once.
    pub wanted: Vec<&'static str>,
    pub email: Option<String>,
    pub limit: Option<i64>,
}

/// So many, at most, are fetched one by one.
const FEW: i64 = 10_000;

const CONTRACT_COLUMNS: &str =
    "email, auth_user_id, app_user_id, sync_status, auth_created_at, app_created_at, detail";

/// As the extension's owner, who may read both tables, and without running anything of the tables' owners.
fn look<R>(house: House, f: impl FnOnce() -> R) -> R {
    pg::as_after_waiting(|| pg::as_role(house.owner, f))
}

impl Overview {
    /// Fails with a hint where a table is missing or does not fit.
    pub fn get(house: House) -> Result<Rc<Overview>, Error> {
        hold();
        let version = pg::watched_version();
        let (auth, app) = (Auth::find(), App::find());
        let policy = settings::link_policy();
        let fits = |kept: &Overview| {
            kept.policy == policy && Some(kept.auth.table) == auth && Some(kept.app.table) == app
        };
        let learn = || {
            look(house, || {
                connect(|session| {
                    let auth = Auth::read(session)?;
                    let app = App::read(session)?;
                    let ways = Ways::read(session, &auth, &app);
                    Ok(Overview { policy, house, auth, app, ways, by_email: OnceCell::new() })
                })
            })
        };
        OVERVIEW.with(|kept| kept.get(version, fits, |_| true, learn))
    }

    /// The survey of these tables, with the dates that the view shows.
    pub fn survey(&self) -> Survey<'_> {
        Survey { auth: &self.auth, app: &self.app, ways: self.ways, tag: Tag::Dates }
    }

    /// Writes the rows asked for. SYNCED users come first: they are found by a join that can stop early.
    pub fn answer(&self, question: &Question, rows: &RowWriter) {
        look(self.house, || {
            connect(|session| match &question.email {
                Some(email) => self.one(session, email, question, rows),
                None => self.all(session, question, rows),
            })
        });
    }

    fn one(&self, session: &Session, email: &str, question: &Question, rows: &RowWriter) {
        let plan = self.by_email.get_or_init(|| {
            let sql = format!(
                "SELECT {CONTRACT_COLUMNS} FROM ({}) s WHERE s.sync_status = ANY ($2) LIMIT $3",
                self.survey().rows_sql(Which::Emails)
            );
            session.prepare_read(&sql, &[TEXTARRAYOID, TEXTARRAYOID, INT8OID], true)
        });
        let wanted: Vec<String> = question.wanted.iter().map(|s| (*s).to_owned()).collect();
        let args = [vec![email.to_owned()].into(), wanted.into(), Arg::of(question.limit)];
        rows.pour(session, plan, &args, None);
    }

    fn all(&self, session: &Session, question: &Question, rows: &RowWriter) {
        if question.limit.is_none() && question.wanted.len() == STATUSES.len() {
            return self.everybody(session, rows);
        }
        let mut left = question.limit.map(|limit| limit as u64);
        let survey = self.survey();
        if question.wanted.contains(&"SYNCED") && left != Some(0) {
            let few = question.limit.is_some_and(|limit| limit <= FEW);
            let sql = survey.synced_sql(few);
            let sql = format!("SELECT {CONTRACT_COLUMNS} FROM ({sql}) s");
            let plan = session.prepare_read(&sql, &[], false);
            let written = rows.pour(session, &plan, &[], left);
            left = left.map(|left| left - written);
        }
        let others: Vec<&str> =
            question.wanted.iter().copied().filter(|status| *status != "SYNCED").collect();
        if !others.is_empty() && left != Some(0) {
            let suspects = Suspects::find(session, &survey);
            let sql = survey.rows_of(suspects.which(), &others);
            let sql = format!("SELECT {CONTRACT_COLUMNS} FROM ({sql}) s");
            let plan = session.prepare_read(&sql, &[UUIDARRAYOID], false);
            rows.pour(session, &plan, &[suspects.ids()], left);
        }
    }

    /// The whole view: one join of the two tables, and a second look at those without counterpart.
    fn everybody(&self, session: &Session, rows: &RowWriter) {
        let survey = self.survey();
        let plan = session.prepare_read(&survey.all_sql(), &[], false);
        let aside = rows.pour_decided(session, &plan, &[], 4);
        if aside.len() == 0 {
            return;
        }
        session.offer_aside(c"apart_rows", &aside);
        let sql = format!("SELECT {CONTRACT_COLUMNS} FROM ({}) s", survey.rows_sql(Which::Aside));
        let plan = session.prepare_read(&sql, &[], false);
        rows.pour(session, &plan, &[], None);
    }

    /// How many users have the status EMAIL_MISMATCH and an e-mail that no fix touches: auth has none.
    pub fn kept_emails(&self) -> i64 {
        let survey = Survey { tag: Tag::Nothing, ..self.survey() };
        let sql = format!(
            "SELECT count(*) FROM ({}) s WHERE nullif(btrim(s.auth_email), '') IS NULL",
            survey.rows_of(Which::Apart, &["EMAIL_MISMATCH"])
        );
        look(self.house, || connect(|session| session.run(&sql, &[], Mode::Read).one()))
            .unwrap_or_default()
    }

    /// How many users have each of [`STATUSES`].
    pub fn summary(&self) -> Vec<(&'static str, i64)> {
        let survey = Survey { tag: Tag::Nothing, ..self.survey() };
        look(self.house, || {
            connect(|session| {
                let suspects = Suspects::find(session, &survey);
                let sql = format!(
                    "SELECT s.sync_status, count(*), count(*) FILTER (WHERE NOT {})
                       FROM ({}) s GROUP BY s.sync_status",
                    words::any_of("s.why", &words::WITHOUT_APP_ROW),
                    survey.rows_sql(suspects.which()),
                );
                let plan = session.prepare_read(&sql, &[UUIDARRAYOID], false);
                let rows = session.execute(&plan, &[suspects.ids()], Mode::Read);
                // Each app row is in one row of the survey: those that are not among the others are SYNCED.
                let mut synced = suspects.app_rows(session, &survey);
                let mut counted = STATUSES.map(|status| (status, 0));
                for row in 0..rows.len() {
                    let status: String = rows.get(row, 1).unwrap_or_default();
                    let users: i64 = rows.get(row, 2).unwrap_or_default();
                    synced -= rows.get::<i64>(row, 3).unwrap_or_default();
                    if let Some(entry) = counted.iter_mut().find(|(name, _)| *name == status) {
                        entry.1 = users;
                    }
                }
                counted[0].1 = synced;
                counted.to_vec()
            })
        })
    }
}

/// One who is not SYNCED, for the report; ids and days as text.
pub struct Listed {
    pub status: String,
    pub email: Option<String>,
    pub auth_has_email: bool,
    pub auth_id: Option<String>,
    pub app_id: Option<String>,
    pub auth_created: Option<String>,
    pub app_created: Option<String>,
    pub detail: Option<String>,
    /// When a fix, or the sign-up, failed last, and what was said.
    pub tried: Option<String>,
}

/// What the audit log tells of the last failures of auth users, if nothing has been done since. What is refused in the same way again
/// has no further entry.
const LAST_FAILURES: &str = "
    SELECT DISTINCT ON (l.auth_user_id) l.auth_user_id::text,
           concat(CASE l.action WHEN 'conflict' THEN 'since ' END, to_char(l.occurred_at, 'YYYY-MM-DD HH24:MI'), ', ',
                  concat_ws('. ', VARIADIC ARRAY(SELECT rtrim(e.said, '.') FROM unnest(ARRAY[
                      l.details #>> '{error,message}', l.details #>> '{error,detail}', l.details #>> '{error,hint}']) AS e(said)
                                                  WHERE e.said <> '')))
      FROM onagui.sync_audit_log l
     WHERE l.auth_user_id = ANY ($1::text[]::uuid[]) AND l.outcome IN ('failed', 'refused') AND l.details #>> '{error,message}' <> ''
           AND NOT EXISTS (SELECT FROM onagui.sync_audit_log d
                            WHERE d.auth_user_id = l.auth_user_id AND d.audit_id > l.audit_id AND d.outcome = 'done' AND d.undone_by IS NULL)
     ORDER BY l.auth_user_id, l.audit_id DESC";

/// Where and when the report was made.
pub struct Head {
    pub database: String,
    pub time: String,
}

impl Overview {
    /// The first `most` of each status but SYNCED, in the order of their e-mails.
    pub fn list(&self, most: i64) -> (Head, Vec<Listed>) {
        let survey = self.survey();
        let sql = |which: Which| {
            format!(
            "SELECT sync_status, email, nullif(btrim(auth_email), '') IS NOT NULL, auth_user_id::text,
                    app_user_id::text, to_char(auth_created_at, 'YYYY-MM-DD'), to_char(app_created_at, 'YYYY-MM-DD'),
                    detail
               FROM (SELECT s.*, row_number() OVER (PARTITION BY sync_status
                                                    ORDER BY lower(email), auth_user_id, app_user_id) AS place
                       FROM ({}) s) s
              WHERE place <= $2 ORDER BY sync_status, place",
            survey.rows_sql(which)
        )
        };
        look(self.house, || {
            connect(|session| {
                let head = session.run(
                    "SELECT current_database()::text, to_char(now(), 'YYYY-MM-DD HH24:MI OF')",
                    &[],
                    Mode::Read,
                );
                let head = Head {
                    database: head.get(0, 1).unwrap_or_default(),
                    time: head.get(0, 2).unwrap_or_default(),
                };
                let suspects = Suspects::find(session, &survey);
                let sql = sql(suspects.which());
                let plan = session.prepare_read(&sql, &[UUIDARRAYOID, INT8OID], false);
                let rows = session.execute(&plan, &[suspects.ids(), most.into()], Mode::Read);
                let mut listed: Vec<Listed> = (0..rows.len())
                    .map(|row| Listed {
                        status: rows.get(row, 1).unwrap_or_default(),
                        email: rows.get(row, 2),
                        auth_has_email: rows.get(row, 3).unwrap_or_default(),
                        auth_id: rows.get(row, 4),
                        app_id: rows.get(row, 5),
                        auth_created: rows.get(row, 6),
                        app_created: rows.get(row, 7),
                        detail: rows.get(row, 8),
                        tried: None,
                    })
                    .collect();
                let can_be_helped = |user: &&mut Listed| {
                    Status::parse(&user.status).is_some_and(Status::is_fixable)
                };
                let helped: Vec<&mut Listed> = listed.iter_mut().filter(can_be_helped).collect();
                let ids: Vec<String> = helped.iter().filter_map(|u| u.auth_id.clone()).collect();
                let failed = session.run_by_key(LAST_FAILURES, &[ids.into()], Mode::Read);
                let of = |row| Some((failed.get::<String>(row, 1)?, failed.get::<String>(row, 2)?));
                let failed: HashMap<String, String> = (0..failed.len()).filter_map(of).collect();
                for user in helped {
                    user.tried = user.auth_id.as_ref().and_then(|id| failed.get(id).cloned());
                }
                (head, listed)
            })
        })
    }
}
