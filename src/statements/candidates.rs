//! Who is to be repaired: rows of the survey, and whether they still hold once the user is locked.

use super::email_key;
use super::signup::Target;
use super::status::{Survey, Which as Whose};
use crate::error::Error;
use crate::pg::{self, Arg, Mode, Plan, Role, Session, connect};
use onagui_decide::repair::Status;
use pgrx::Uuid;
use pgrx::pg_sys::UUIDOID;
use std::cell::OnceCell;

/// A user as the survey sees them.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub status: Status,
    pub email: Option<String>,
    pub auth_user_id: Option<Uuid>,
    pub app_user_id: Option<Uuid>,
    pub detail: Option<String>,
    pub auth_email: Option<String>,
    pub app_email: Option<String>,
    pub auth_key: Option<String>,
    pub app_key: Option<String>,
}

impl Candidate {
    /// The ids on the two sides, auth's first.
    pub fn pair(&self) -> (Option<Uuid>, Option<Uuid>) {
        (self.auth_user_id, self.app_user_id)
    }
}

/// Whom to look up.
pub enum Which {
    /// Everybody with this e-mail on either side.
    Email(String),
    /// At most so many of those whom a fix can help.
    Fixable(usize),
}

/// Everybody asked for, ordered by their ids so that two calls lock them in the same order.
pub fn read(target: &Target, which: &Which, mode: Mode) -> Vec<Candidate> {
    pg::as_role(target.house.owner, || {
        connect(|session| {
            let survey = Survey::new(session, &target.auth, &target.app);
            let (rows, args): (String, Vec<Arg>) = match which {
                Which::Email(email) => {
                    (survey.rows_sql(Whose::Emails), vec![vec![email.clone()].into()])
                }
                Which::Fixable(most) => {
                    let fixable: Vec<&str> = Status::ALL
                        .into_iter()
                        .filter(|status| status.is_fixable())
                        .map(Status::name)
                        .collect();
                    let most = i64::try_from(*most).unwrap_or(i64::MAX);
                    (survey.rows_of(Whose::Apart, &fixable), vec![most.into()])
                }
            };
            let limit = if matches!(which, Which::Fixable(_)) { " LIMIT $1" } else { "" };
            let sql = format!(
                "SELECT s.sync_status, s.email, s.auth_user_id, s.app_user_id, s.detail, s.auth_email, s.app_email,
                        nullif({}, ''), nullif({}, '')
                   FROM ({rows}) s ORDER BY s.auth_user_id, s.app_user_id{limit}",
                email_key("s.auth_email"),
                email_key("s.app_email"),
            );
            let rows = session.run(&sql, &args, mode);
            (0..rows.len())
                .filter_map(|row| {
                    Some(Candidate {
                        status: Status::parse(&rows.get::<String>(row, 1)?)?,
                        email: rows.get(row, 2),
                        auth_user_id: rows.get(row, 3),
                        app_user_id: rows.get(row, 4),
                        detail: rows.get(row, 5),
                        auth_email: rows.get(row, 6),
                        app_email: rows.get(row, 7),
                        auth_key: rows.get(row, 8),
                        app_key: rows.get(row, 9),
                    })
                })
                .collect()
        })
    })
}

/// What is so of an app user and an auth user right now.
struct Pair {
    /// None where there is no such auth user, or only a deleted one.
    confirmed: Option<bool>,
    app_is_there: bool,
    app_is_known: bool,
    /// The auth user has a row of their own.
    own: bool,
    auth_email: Option<String>,
    app_email: Option<String>,
    auth_key: Option<String>,
    app_key: Option<String>,
}

impl Pair {
    fn has_same_email(&self) -> bool {
        self.auth_key.is_some() && self.auth_key == self.app_key
    }
}

/// The look at one pair, prepared once for a call. Each side is read as its owner: planning a query runs code that the
/// owner of a table has put into its indexes.
#[derive(Default)]
pub struct Check {
    auth: OnceCell<Plan>,
    app: OnceCell<Plan>,
    known: OnceCell<Plan>,
}

impl Check {
    fn read(
        &self,
        session: &Session,
        target: &Target,
        app: Option<Uuid>,
        auth: Option<Uuid>,
        mode: Mode,
    ) -> Pair {
        let look = |role: Role, plan: &OnceCell<Plan>, sql: &str| {
            pg::as_role(role, || {
                let plan = plan.get_or_init(|| session.prepare(sql, &[UUIDOID, UUIDOID]));
                session.execute(plan, &[Arg::of(app), Arg::of(auth)], mode)
            })
        };
        let here = look(target.app.owner.into(), &self.app, &app_sql(target));
        let there = look(target.auth.owner.into(), &self.auth, &auth_sql(target));
        let known = look(target.house.owner.into(), &self.known, KNOWN);
        Pair {
            confirmed: there.get(0, 1),
            app_is_there: here.get(0, 1).unwrap_or_default(),
            app_is_known: there.get(0, 4).unwrap_or_default()
                || known.get(0, 1).unwrap_or_default(),
            own: here.get(0, 2).unwrap_or_default(),
            auth_email: there.get(0, 2),
            app_email: here.get(0, 3),
            auth_key: there.get(0, 3),
            app_key: here.get(0, 4),
        }
    }

    /// Whether the candidate, now locked, still is what the survey saw.
    pub fn still_is(&self, session: &Session, target: &Target, candidate: &Candidate) -> bool {
        let (auth, app) = candidate.pair();
        let now = self.read(session, target, app, auth, Mode::Fresh);
        match candidate.status {
            Status::Mismatched => {
                now.confirmed == Some(true)
                    && now.app_is_there
                    && !now.app_is_known
                    && !now.own
                    && now.has_same_email()
            }
            Status::Duplicate => {
                now.confirmed == Some(true)
                    && now.app_is_there
                    && !now.app_is_known
                    && now.own
                    && now.has_same_email()
            }
            Status::MissingInAppUsers => now.confirmed.is_some() && !now.own,
            Status::EmailMismatch => {
                now.confirmed.is_some()
                    && now.own
                    && now.auth_email == candidate.auth_email
                    && now.app_email == candidate.app_email
            }
            _ => true,
        }
    }

    /// The pair a person has decided on, with what must be done about it as its status. Fails where there is none, or
    /// where the e-mail that links them is still to be confirmed.
    pub fn decided(
        &self,
        session: &Session,
        target: &Target,
        app: Uuid,
        auth: Uuid,
        mode: Mode,
    ) -> Result<Candidate, Error> {
        let now = self.read(session, target, Some(app), Some(auth), mode);
        let Some(confirmed) = now.confirmed else {
            return Err(Error::AuthUserGone { id: auth.to_string() });
        };
        if !now.app_is_there {
            return Err(Error::AppUserGone { id: app.to_string() });
        }
        if app != auth && now.has_same_email() && !confirmed {
            return Err(Error::Unconfirmed { email: now.auth_email.unwrap_or_default() });
        }
        let status = match (app == auth, now.own) {
            (true, _) if now.auth_key == now.app_key => Status::Synced,
            (true, _) => Status::EmailMismatch,
            (false, true) => Status::Duplicate,
            (false, false) => Status::Mismatched,
        };
        Ok(Candidate {
            status,
            email: now.auth_email.clone().or_else(|| now.app_email.clone()),
            auth_user_id: Some(auth),
            app_user_id: Some(app),
            detail: None,
            auth_email: now.auth_email,
            app_email: now.app_email,
            auth_key: now.auth_key,
            app_key: now.app_key,
        })
    }
}

const KNOWN: &str = "SELECT EXISTS (SELECT FROM onagui.sync_known_id k WHERE k.auth_user_id = $1 AND $2 IS NOT DISTINCT FROM $2)";

fn app_sql(target: &Target) -> String {
    format!(
        "SELECT p.id IS NOT NULL, EXISTS (SELECT FROM {only}onagui.app_users o WHERE o.id = $2), p.email,
                nullif({}, '')
           FROM (SELECT) one
           LEFT JOIN (SELECT u.id, {email} AS email FROM {only}onagui.app_users u WHERE u.id = $1) p ON true",
        email_key("p.email"),
        email = target.app.email("u"),
        only = target.app.only,
    )
}

fn auth_sql(target: &Target) -> String {
    format!(
        "SELECT a.confirmed, a.email, nullif({}, ''), EXISTS (SELECT FROM ONLY auth.users k WHERE k.id = $1)
           FROM (SELECT) one
           LEFT JOIN (SELECT {email} AS email, {confirmed} AS confirmed
                        FROM ONLY auth.users u WHERE u.id = $2 AND NOT ({deleted})) a ON true",
        email_key("a.email"),
        email = target.auth.email("u"),
        confirmed = target.confirmed_now("u"),
        deleted = target.deleted("u"),
    )
}
