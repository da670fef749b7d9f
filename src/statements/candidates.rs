//! Who is to be repaired: rows of the survey, and whether they still hold once the user is locked.

use super::signup::Target;
use super::status::{Overview, Survey, Which as Whose, quick_key};
use crate::catalog::House;
use crate::error::Error;
use crate::pg::{self, Kept, Mode, Plan, Role, Rows, Session, connect};
use onagui_decide::repair::Status;
use pgrx::Uuid;
use pgrx::pg_sys::{TEXTARRAYOID, UUIDARRAYOID};
use std::cell::OnceCell;
use std::rc::Rc;

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
    /// The same, neighbours together: a batch then works on few pages.
    FixableByPlace(usize),
}

/// The statements that find users and look at them again, kept for a definition of the tables.
pub struct Finder {
    pub target: Rc<Target>,
    overview: Rc<Overview>,
    by_email: OnceCell<Plan>,
    auth_side: OnceCell<Plan>,
    app_side: OnceCell<Plan>,
}

thread_local! {
    static FINDER: Kept<Finder> = const { Kept::new() };
}

impl Finder {
    pub fn get(house: House) -> Result<Rc<Self>, Error> {
        let version = pg::watched_version();
        let (target, overview) = (Target::get(house)?, Overview::get(house)?);
        let fits = |kept: &Finder| {
            Rc::ptr_eq(&kept.target, &target) && Rc::ptr_eq(&kept.overview, &overview)
        };
        let learn = || {
            Ok::<_, Error>(Finder {
                target: target.clone(),
                overview: overview.clone(),
                by_email: OnceCell::new(),
                auth_side: OnceCell::new(),
                app_side: OnceCell::new(),
            })
        };
        FINDER.with(|kept| kept.get(version, fits, |_| true, learn))
    }

    /// Everybody asked for, ordered by their ids unless told otherwise, so that two calls lock them in the same order.
    pub fn find(&self, which: &Which, mode: Mode) -> Vec<Candidate> {
        pg::as_role(self.target.house.owner, || {
            connect(|session| {
                let rows = match which {
                    Which::Email(email) => {
                        let rows = || self.survey().rows_sql(Whose::Emails);
                        let prepare = || {
                            let sql = candidates_sql(&rows(), BY_ID);
                            session.prepare_read(&sql, &[TEXTARRAYOID], true)
                        };
                        let args = [vec![email.clone()].into()];
                        session.execute(self.by_email.get_or_init(prepare), &args, mode)
                    }
                    Which::Fixable(most) => self.fixable(session, BY_ID, *most, mode),
                    Which::FixableByPlace(most) => {
                        let by_place = format!(
                            "LEFT JOIN {}onagui.app_users u ON u.id = s.app_user_id ORDER BY u.tableoid, u.ctid",
                            self.target.app.only
                        );
                        self.fixable(session, &by_place, *most, mode)
                    }
                };
                (0..rows.len()).filter_map(|row| Candidate::of(&rows, row)).collect()
            })
        })
    }

    fn fixable(&self, session: &Session, order: &str, most: usize, mode: Mode) -> Rows {
        let fixable: Vec<&str> = Status::ALL
            .into_iter()
            .filter(|status| status.is_fixable())
            .map(Status::name)
            .collect();
        let rows = self.survey().rows_of(Whose::Apart, &fixable);
        let sql = format!("{} LIMIT $1", candidates_sql(&rows, order));
        session.run(&sql, &[i64::try_from(most).unwrap_or(i64::MAX).into()], mode)
    }

    fn survey(&self) -> Survey<'_> {
        Survey { dates: false, ..self.overview.survey() }
    }
}

const BY_ID: &str = "ORDER BY s.auth_user_id, s.app_user_id";

fn candidates_sql(rows: &str, order: &str) -> String {
    format!(
        "SELECT s.sync_status, s.email, s.auth_user_id, s.app_user_id, s.detail, s.auth_email, s.app_email,
                {}, {}
           FROM ({rows}) s {order}",
        quick_key("s.auth_email"),
        quick_key("s.app_email"),
    )
}

impl Candidate {
    fn of(rows: &Rows, row: usize) -> Option<Self> {
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
    }
}

/// What is so of an app user and an auth user right now.
#[derive(Default)]
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

impl Finder {
    /// What is so of each of `users`, ids as [`Candidate::pair`] has them.
    fn pairs(
        &self,
        session: &Session,
        users: &[(Option<Uuid>, Option<Uuid>)],
        mode: Mode,
    ) -> Vec<Pair> {
        let target = &self.target;
        let (auth, app): (Vec<Option<Uuid>>, Vec<Option<Uuid>>) = users.iter().copied().unzip();
        let look = |role: Role, plan: &OnceCell<Plan>, sql: fn(&Target) -> String| {
            pg::as_role(role, || {
                let prepare = || session.prepare_read(&sql(target), &[UUIDARRAYOID; 2], true);
                let args = [app.clone().into(), auth.clone().into()];
                session.execute(plan.get_or_init(prepare), &args, mode)
            })
        };
        // As the owner of app_users, whose indexes may hold code of theirs.
        let here = look(target.app.owner.into(), &self.app_side, app_sql);
        let there = look(target.house.owner.into(), &self.auth_side, auth_sql);
        let mut pairs: Vec<Pair> = users.iter().map(|_| Pair::default()).collect();
        let place =
            |rows: &Rows, row| rows.get::<i64>(row, 1).map_or(0, |place| place as usize - 1);
        for row in 0..here.len() {
            let pair = &mut pairs[place(&here, row)];
            pair.app_is_there = here.get(row, 2).unwrap_or_default();
            pair.own = here.get(row, 3).unwrap_or_default();
            pair.app_email = here.get(row, 4);
            pair.app_key = here.get(row, 5);
        }
        for row in 0..there.len() {
            let pair = &mut pairs[place(&there, row)];
            pair.confirmed = there.get(row, 2);
            pair.auth_email = there.get(row, 3);
            pair.auth_key = there.get(row, 4);
            pair.app_is_known = there.get(row, 5).unwrap_or_default();
        }
        pairs
    }

    fn pair(&self, session: &Session, app: Uuid, auth: Uuid, mode: Mode) -> Pair {
        self.pairs(session, &[(Some(auth), Some(app))], mode).pop().unwrap_or_default()
    }

    /// Whether the candidate, now locked, still is what the survey saw.
    pub fn still_is(&self, session: &Session, candidate: &Candidate) -> bool {
        self.still_are(session, std::slice::from_ref(candidate)) == [true]
    }

    /// The same for each of `candidates`.
    pub fn still_are(&self, session: &Session, candidates: &[Candidate]) -> Vec<bool> {
        let users: Vec<_> = candidates.iter().map(Candidate::pair).collect();
        let now = self.pairs(session, &users, Mode::Fresh);
        candidates.iter().zip(now).map(|(candidate, now)| candidate.is_still(&now)).collect()
    }

    /// The pair a person has decided on, with what must be done about it as its status. Fails where there is none, or
    /// where the e-mail that links them is still to be confirmed.
    pub fn decided(
        &self,
        session: &Session,
        app: Uuid,
        auth: Uuid,
        mode: Mode,
    ) -> Result<Candidate, Error> {
        let now = self.pair(session, app, auth, mode);
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

impl Candidate {
    fn is_still(&self, now: &Pair) -> bool {
        match self.status {
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
                    && now.auth_email == self.auth_email
                    && now.app_email == self.app_email
            }
            _ => true,
        }
    }
}

/// Ids of app users are `$1`, of auth users `$2`.
const USERS: &str = "unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS w(app, auth, place)";

fn app_sql(target: &Target) -> String {
    format!(
        "SELECT w.place, p.id IS NOT NULL,
                EXISTS (SELECT FROM {only}onagui.app_users o WHERE o.id = w.auth),
                p.email, {key}
           FROM {USERS}
           LEFT JOIN LATERAL (SELECT u.id, {email} AS email
                                FROM {only}onagui.app_users u WHERE u.id = w.app OFFSET 0) p ON true",
        key = quick_key("p.email"),
        email = target.app.email("u"),
        only = target.app.only,
    )
}

fn auth_sql(target: &Target) -> String {
    format!(
        "SELECT w.place, a.confirmed, a.email, {key},
                EXISTS (SELECT FROM ONLY auth.users k WHERE k.id = w.app)
                OR EXISTS (SELECT FROM onagui.sync_known_id k WHERE k.auth_user_id = w.app)
           FROM {USERS}
           LEFT JOIN LATERAL (SELECT {email} AS email, {confirmed} AS confirmed
                                FROM ONLY auth.users u WHERE u.id = w.auth AND NOT ({deleted}) OFFSET 0) a ON true",
        key = quick_key("a.email"),
        email = target.auth.email("u"),
        confirmed = target.confirmed_now("u"),
        deleted = target.deleted("u"),
    )
}
