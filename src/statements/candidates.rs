//! Who is to be repaired: rows of the survey, and whether they still hold once the user is locked.

use super::signup::Target;
use super::status::{Overview, Survey, Tag, Which as Whose, quick_key};
use crate::catalog::House;
use crate::catalog::tables::hold;
use crate::error::Error;
use crate::pg::{self, Cursor, Kept, Mode, Plan, Rows, Session, connect};
use onagui_decide::repair::Status;
use pgrx::Uuid;
use pgrx::pg_sys::{TEXTARRAYOID, UUIDARRAYOID};
use std::borrow::Borrow;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

/// A user as the survey sees them.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub status: Status,
    pub email: Option<String>,
    pub auth_user_id: Option<Uuid>,
    pub app_user_id: Option<Uuid>,
    /// Why nothing is done for them, where that is so.
    pub detail: Option<String>,
    /// The two sides' e-mails and what makes e-mails the same, where they differ under one id.
    pub auth_email: Option<String>,
    pub app_email: Option<String>,
    pub auth_key: Option<String>,
    pub app_key: Option<String>,
}

/// The ids on the two sides, auth's first.
pub type Pair = (Option<Uuid>, Option<Uuid>);

impl Candidate {
    pub fn pair(&self) -> Pair {
        (self.auth_user_id, self.app_user_id)
    }
}

/// In which order those whom a fix can help are listed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By their ids, so that two calls lock them in the same order.
    Ids,
    /// Neighbours in the table together: a batch then works on few pages.
    Place,
}

/// The statements that find users and look at them again, kept for a definition of the tables.
pub struct Finder {
    pub target: Rc<Target>,
    overview: Rc<Overview>,
    by_email: OnceCell<Plan>,
    auth_side: OnceCell<Plan>,
    app_side: OnceCell<Plan>,
    locker: OnceCell<Plan>,
    crowded: OnceCell<Plan>,
}

thread_local! {
    static FINDER: Kept<Finder> = const { Kept::new() };
}

impl Finder {
    pub fn get(house: House) -> Result<Rc<Self>, Error> {
        hold();
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
                locker: OnceCell::new(),
                crowded: OnceCell::new(),
            })
        };
        FINDER.with(|kept| kept.get(version, fits, |_| true, learn))
    }

    /// Everybody with one of these e-mails on either side, ordered by their ids.
    pub fn find(&self, emails: Vec<String>, mode: Mode) -> Vec<Candidate> {
        pg::as_role(self.target.house.owner, || {
            connect(|session| {
                let prepare = || {
                    let rows = self.survey(Tag::Nothing).rows_sql(Whose::Emails);
                    session.prepare_read(&by_email_sql(&rows), &[TEXTARRAYOID], true)
                };
                let args = [emails.into()];
                let rows = session.execute(self.by_email.get_or_init(prepare), &args, mode);
                Candidate::all(&rows)
            })
        })
    }

    /// Those whom a fix can help, at most `most` of them.
    pub fn list(&self, order: Order, most: Option<usize>, mode: Mode) -> List {
        let fixable: Vec<&str> = Status::ALL
            .into_iter()
            .filter(|status| status.is_fixable())
            .map(Status::name)
            .collect();
        let (tag, order) = match order {
            Order::Ids => (Tag::Nothing, BY_ID),
            Order::Place => (Tag::Place, "s.app_tag"),
        };
        let rows = self.survey(tag).rows_of(Whose::Apart, &fixable);
        let sql = list_sql(&rows, order, most);
        let house = self.target.house;
        let cursor = pg::as_role(house.owner, || {
            connect(|session| session.open(&session.prepare_cursor(&sql), mode == Mode::Read))
        });
        List { house, cursor }
    }

    fn survey(&self, tag: Tag) -> Survey<'_> {
        Survey { tag, ..self.overview.survey() }
    }
}

const BY_ID: &str = "s.auth_user_id, s.app_user_id";

fn by_email_sql(rows: &str) -> String {
    format!(
        "SELECT s.sync_status, s.email, s.auth_user_id, s.app_user_id, s.detail, s.auth_email, s.app_email,
                {}, {}
           FROM ({rows}) s ORDER BY {BY_ID}",
        quick_key("s.auth_email"),
        quick_key("s.app_email"),
    )
}

/// Nothing is made up or carried along that those who can be helped do not need.
fn list_sql(rows: &str, order: &str, most: Option<usize>) -> String {
    let mismatch = Status::EmailMismatch.name();
    let of_mismatch =
        |what: &str| format!("CASE WHEN s.sync_status = '{mismatch}' THEN {what} END");
    let rows = most.map_or(rows.to_owned(), |most| first_of(rows, most));
    format!(
        "SELECT s.sync_status, s.email, s.auth_user_id, s.app_user_id, NULL::text, {}, {}, {}, {}
           FROM ({rows}) s ORDER BY {order}",
        of_mismatch("s.auth_email"),
        of_mismatch("s.app_email"),
        of_mismatch(&quick_key("s.auth_email")),
        of_mismatch(&quick_key("s.app_email")),
    )
}

/// At most `most` of them: first those with whom nothing has failed so far, then any others. Whoever always fails keeps nobody
/// from having a turn; that it failed once more in the same way is not recorded, so that nobody knows when it was.
fn first_of(rows: &str, most: usize) -> String {
    format!(
        "SELECT s.* FROM ({rows}) s
          ORDER BY CASE WHEN EXISTS (SELECT FROM onagui.sync_audit_log l
                                      WHERE l.auth_user_id = s.auth_user_id AND l.outcome IN ('failed', 'refused'))
                        THEN random() END NULLS FIRST, {BY_ID}
          LIMIT {most}"
    )
}

/// Users to be repaired, a few at a time: however many they are, they take no more than work_mem.
pub struct List {
    house: House,
    cursor: Cursor,
}

impl List {
    /// The next users, at most so many; none where there are no more.
    pub fn next(&self, most: usize) -> Vec<Candidate> {
        pg::as_role(self.house.owner, || {
            connect(|session| Candidate::all(&self.cursor.fetch(session, most)))
        })
    }

    /// Lets the list outlive commits.
    pub fn keep(&self) {
        self.cursor.keep();
    }

    /// How many users are left, which is known after a commit.
    pub fn left(&self) -> Option<usize> {
        self.cursor.left()
    }
}

impl Candidate {
    fn all(rows: &Rows) -> Vec<Self> {
        (0..rows.len()).filter_map(|row| Candidate::of(rows, row)).collect()
    }

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
struct Facts {
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

/// How many have an e-mail.
struct Crowd {
    auth: i64,
    app: i64,
    /// Auth users who have confirmed it.
    confirmed: i64,
}

impl Facts {
    fn has_same_email(&self) -> bool {
        self.auth_key.is_some() && self.auth_key == self.app_key
    }
}

/// An app user's e-mail, to the letter and as what makes it the same as another.
type AppEmail = (Option<String>, Option<String>);

impl Finder {
    /// The app users with these ids; with `lock`, locked in the order of their ids.
    fn app_users(
        &self,
        session: &Session,
        ids: Vec<Uuid>,
        lock: bool,
        mode: Mode,
    ) -> HashMap<Uuid, AppEmail> {
        // As the owner of app_users, whose indexes may hold code of theirs.
        pg::as_role(self.target.app.owner, || {
            let plan = if lock { &self.locker } else { &self.app_side };
            let prepare = || session.prepare_by_key(&app_sql(&self.target, lock), &[UUIDARRAYOID]);
            let rows = session.execute(plan.get_or_init(prepare), &[ids.into()], mode);
            let each = (0..rows.len()).filter_map(|row| {
                Some((rows.get::<Uuid>(row, 1)?, (rows.get(row, 2), rows.get(row, 3))))
            });
            each.collect()
        })
    }

    /// What is so of each of `users`.
    fn facts(&self, session: &Session, users: &[Pair], lock: bool, mode: Mode) -> Vec<Facts> {
        let (auth, app): (Vec<Option<Uuid>>, Vec<Option<Uuid>>) = users.iter().copied().unzip();
        let ids = app.iter().chain(&auth).copied().flatten().collect();
        let here = self.app_users(session, ids, lock, mode);
        let there = pg::as_role(self.target.house.owner, || {
            let prepare = || session.prepare_by_key(&auth_sql(&self.target), &[UUIDARRAYOID; 2]);
            let args = [app.into(), auth.into()];
            session.execute(self.auth_side.get_or_init(prepare), &args, mode)
        });
        let mut facts: Vec<Facts> = Vec::with_capacity(users.len());
        for (auth, app) in users {
            let own = auth.is_some_and(|id| here.contains_key(&id));
            let found = app.and_then(|id| here.get(&id).cloned());
            let app_is_there = found.is_some();
            let (app_email, app_key) = found.unwrap_or_default();
            facts.push(Facts { own, app_is_there, app_email, app_key, ..Facts::default() });
        }
        for row in 0..there.len() {
            let place = there.get::<i64>(row, 1).map_or(0, |place| place as usize - 1);
            let user = &mut facts[place];
            user.confirmed = there.get(row, 2);
            user.auth_email = there.get(row, 3);
            user.auth_key = there.get(row, 4);
            user.app_is_known = there.get(row, 5).unwrap_or_default();
        }
        facts
    }

    /// Locks the app users of `candidates`, in the order of their ids, and answers of each candidate whether it still is
    /// what the survey saw, when [`pg::completions`] were `surveyed_at`.
    pub fn lock<C: Borrow<Candidate>>(
        &self,
        session: &Session,
        candidates: &[C],
        surveyed_at: u64,
    ) -> Vec<bool> {
        let candidates: Vec<&Candidate> = candidates.iter().map(Borrow::borrow).collect();
        let users: Vec<_> = candidates.iter().map(|c| c.pair()).collect();
        let now = self.facts(session, &users, true, Mode::Fresh);
        let is_linked = |c: &Candidate| matches!(c.status, Status::Mismatched | Status::Duplicate);
        let linked = candidates.iter().zip(&now).filter(|(c, now)| is_linked(c) && c.is_still(now));
        let linked: Vec<String> = linked.filter_map(|(_, now)| now.auth_key.clone()).collect();
        let crowded = match pg::completions() == surveyed_at {
            // Nobody has come since.
            true => HashMap::new(),
            false => self.crowded(session, linked),
        };
        let is_alone = |c: &Candidate, now: &Facts| {
            let several = now.auth_key.as_ref().and_then(|key| crowded.get(key));
            several.is_none_or(|crowd| match c.status {
                Status::Mismatched => crowd.auth <= 1 && crowd.app <= 1,
                Status::Duplicate => crowd.auth <= 1,
                _ => true,
            })
        };
        candidates.iter().zip(&now).map(|(c, now)| c.is_still(now) && is_alone(c, now)).collect()
    }

    /// Who has an e-mail (as a key), of those that several have: whose app row it is is for a person to say then.
    fn crowded(&self, session: &Session, keys: Vec<String>) -> HashMap<String, Crowd> {
        if keys.is_empty() {
            return HashMap::new();
        }
        pg::as_role(self.target.house.owner, || {
            let prepare = || {
                let sql = self.survey(Tag::Nothing).crowded_sql();
                session.prepare_read(&sql, &[TEXTARRAYOID], true)
            };
            let args = [keys.into()];
            let rows = session.execute(self.crowded.get_or_init(prepare), &args, Mode::Fresh);
            let each = (0..rows.len()).filter_map(|row| {
                let (auth, app) = (rows.get(row, 2)?, rows.get(row, 3)?);
                Some((rows.get(row, 1)?, Crowd { auth, app, confirmed: rows.get(row, 4)? }))
            });
            each.collect()
        })
    }

    /// How many auth users have confirmed each of these e-mails (as keys), of those that several have.
    pub fn confirmed(&self, keys: Vec<String>) -> HashMap<String, i64> {
        let crowded = connect(|session| self.crowded(session, keys));
        crowded.into_iter().map(|(key, crowd)| (key, crowd.confirmed)).collect()
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
        let users = [(Some(auth), Some(app))];
        let now = self.facts(session, &users, false, mode).pop().unwrap_or_default();
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
    fn is_still(&self, now: &Facts) -> bool {
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

/// The app users whose ids are in `$1`.
fn app_sql(target: &Target, lock: bool) -> String {
    let email = target.app.email("t");
    format!(
        "SELECT t.id, {email}, {key} FROM {only}onagui.app_users t WHERE t.id = ANY ($1) ORDER BY t.id{lock}",
        key = quick_key(&email),
        only = target.app.only,
        lock = if lock { " FOR UPDATE" } else { "" },
    )
}

/// Auth's side of each pair; ids of app users are `$1`, of auth users `$2`.
fn auth_sql(target: &Target) -> String {
    format!(
        "SELECT w.place, a.confirmed, a.email, {key},
                EXISTS (SELECT FROM ONLY auth.users k WHERE k.id = w.app)
                OR EXISTS (SELECT FROM onagui.sync_known_id k WHERE k.auth_user_id = w.app)
           FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS w(app, auth, place)
           LEFT JOIN LATERAL (SELECT {email} AS email, {confirmed} AS confirmed
                                FROM ONLY auth.users u WHERE u.id = w.auth AND NOT ({deleted}) OFFSET 0) a ON true",
        key = quick_key("a.email"),
        email = target.auth.email("u"),
        confirmed = target.confirmed_now("u"),
        deleted = target.deleted("u"),
    )
}
