//! What a status is (contract section 4): the one definition, in SQL. The view, the function, the summary, the report
//! and the fixes all read the rows made here.
//!
//! `link_by_email = never` changes no status: it keeps sign-ups from linking on their own, while a fix is a person's
//! explicit decision. Only the words of PENDING tell the difference.

mod answer;
mod look;
mod suspects;
mod verdicts;
mod words;

use crate::catalog::tables::{APP_USERS, AUTH_USERS};
use crate::catalog::{App, Auth, Column, Way, Ways};
use crate::pg::Session;
use crate::settings;
use onagui_decide::repair::Status;
use onagui_decide::signup::LinkPolicy;
use words::Why;
pub use words::{ANOTHERS_ROW, NO_ROW_OF_SEVERAL, ROW_WITHOUT_ID};

pub use answer::{Listed, Overview, Question};
pub use look::key as quick_key;
pub use suspects::Suspects;

/// Every status, in the order people read them.
pub const STATUSES: [&str; 8] = Status::NAMES;

/// Whose rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Everybody who is not SYNCED. No arguments.
    Apart,
    /// The same, told that nobody is who has not one of the ids in `$1 uuid[]`.
    Suspects,
    /// Everybody who has one of the few e-mails in `$1 text[]` on either side, SYNCED ones too.
    Emails,
    /// Those put aside from [`Survey::all_sql`], offered as [`ASIDE`].
    Aside,
}

/// The two tables, and how their rows are found.
pub struct Survey<'a> {
    pub auth: &'a Auth,
    pub app: &'a App,
    pub ways: Ways,
    pub tag: Tag,
}

/// What each row carries along through the joins; they are cheaper without.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    Nothing,
    /// When somebody was created.
    Dates,
    /// Where the app row lies in its table.
    Place,
}

/// The rows put aside, as statements name them.
pub const ASIDE: &str = "apart_rows";

const BOTH_SIDES: &str = "a.id AS auth_id, a.email AS auth_email, a.tag AS auth_tag, a.confirmed, \
                          p.id AS app_id, p.email AS app_email, p.tag AS app_tag";

/// The key of one who has no counterpart.
fn lone_key() -> String {
    format!(
        "CASE WHEN a.id IS NULL THEN {} WHEN p.id IS NULL THEN {} END AS key",
        look::key("p.email"),
        look::key("a.email"),
    )
}

#[derive(Clone, Copy)]
enum Side {
    Auth,
    App,
}

/// More e-mails than this are looked up by reading the whole table, but in a large one only those of more than one in so
/// many rows: by index one takes some forty times as long as to read a row, and that if nothing must come from the disk.
const FEW: &str = "1000";
const ONE_IN: &str = "500";

impl<'a> Survey<'a> {
    pub fn new(session: &Session, auth: &'a Auth, app: &'a App) -> Self {
        Survey { auth, app, ways: Ways::read(session, auth, app), tag: Tag::Dates }
    }

    /// A SELECT, one row for each user as the contract counts them, in no order. To be run as the
    /// extension's owner.
    ///
    /// Its columns are the contract's, then auth_email, app_email, confirmed, why.
    /// `confirmed` is the auth user's (NULL without one), `auth_email` and `app_email` are the two sides' e-mails to
    /// the letter, `why` is a short word for the reason (see words.rs).
    pub fn rows_sql(&self, which: Which) -> String {
        self.rows_of(which, &STATUSES)
    }

    /// The same, for those of the statuses in `wanted` only; what these do not need is not computed.
    pub fn rows_of(&self, which: Which, wanted: &[&str]) -> String {
        let wants = |status: &str| wanted.contains(&status);
        let common = match which {
            Which::Apart => self.apart(wanted, ""),
            Which::Suspects => self.apart(wanted, " AND u.id = ANY ($1)"),
            Which::Aside => self.aside(),
            Which::Emails => self.by_email(),
        };
        let list: Vec<String> = wanted.iter().map(|status| format!("'{status}'")).collect();
        let filter = if STATUSES.iter().all(|status| wants(status)) {
            String::new()
        } else if list.is_empty() {
            " AND false".to_owned()
        } else {
            format!(" AND r.status IN ({})", list.join(", "))
        };
        format!(
            "WITH {common},
             facts AS ({facts}),
             verdict AS (
                 SELECT pair.auth_id, pair.auth_email, pair.auth_tag, pair.confirmed,
                        pair.app_id, pair.app_email, pair.app_tag,
                        CASE WHEN {differs} THEN '{email_mismatch}' ELSE '{synced}' END AS why,
                        NULL::bigint AS auth_n, NULL::bigint AS app_n
                   FROM pair
                 UNION ALL
                 {lone}),
             r AS (SELECT v.*, {status} AS status FROM verdict v)
             SELECT coalesce(nullif(r.auth_email, ''), r.app_email) AS email,
                    r.auth_id AS auth_user_id, r.app_id AS app_user_id, r.status AS sync_status,
                    r.auth_tag AS auth_created_at, r.app_tag AS app_created_at, {detail} AS detail,
                    r.auth_email, r.app_email, r.confirmed, r.why, r.app_tag
               FROM r WHERE r.why IS NOT NULL{filter}",
            differs = look::differs("pair.auth_email", "pair.app_email"),
            synced = Why::Synced.word(),
            email_mismatch = Why::EmailMismatch.word(),
            facts = verdicts::facts(),
            lone = verdicts::lone_verdicts(),
            status = words::status("v.why"),
            detail = words::detail("r", settings::link_policy() == LinkPolicy::Never),
        )
    }

    /// SYNCED users, the columns the contract names. `few`: one by one by index, for a caller who soon has enough.
    pub fn synced_sql(&self, few: bool) -> String {
        if !few {
            return format!("SELECT * FROM ({}) s WHERE s.sync_status = 'SYNCED'", self.all_sql());
        }
        format!(
            "SELECT coalesce(nullif(a.email, ''), p.email) AS email, a.id AS auth_user_id, p.id AS app_user_id,
                    'SYNCED'::text AS sync_status, a.tag AS auth_created_at, p.tag AS app_created_at,
                    NULL::text AS detail
               FROM ({}) a CROSS JOIN LATERAL ({} AND u.id = a.id OFFSET 0) p
              WHERE NOT {}",
            self.auth_rows(),
            self.app_rows(),
            look::differs("a.email", "p.email"),
        )
    }

    /// Everybody, by one join: the columns the contract names, then what [`Which::Aside`] wants to know of those whose
    /// sync_status is NULL yet, because they have no counterpart.
    pub fn all_sql(&self) -> String {
        let differs = look::differs("a.email", "p.email");
        let why = |why: Why| format!("'{}'::text", why.word());
        format!(
            "SELECT coalesce(nullif(s.auth_email, ''), s.app_email) AS email, s.auth_id AS auth_user_id,
                    s.app_id AS app_user_id, {status} AS sync_status,
                    s.auth_tag AS auth_created_at, s.app_tag AS app_created_at,
                    CASE WHEN s.why = {mismatch} THEN {detail} END AS detail,
                    s.auth_id, s.app_id, s.auth_email, s.app_email, s.confirmed, s.key
               FROM (SELECT {BOTH_SIDES}, {key},
                            CASE WHEN a.id IS NOT NULL AND p.id IS NOT NULL
                                 THEN CASE WHEN {differs} THEN {mismatch} ELSE {synced} END END AS why
                       FROM ({auth}) a FULL JOIN ({app}) p ON p.id = a.id OFFSET 0) s",
            status = words::status_of("s.why", &[Why::Synced, Why::EmailMismatch]),
            detail = words::detail_of("s", &[Why::EmailMismatch]),
            mismatch = why(Why::EmailMismatch),
            synced = why(Why::Synced),
            key = lone_key(),
            auth = self.auth_rows(),
            app = self.app_rows(),
        )
    }

    /// The id and the e-mail of each auth user and of each app row; None where an id may be missing.
    pub fn members_sql(&self) -> Option<[String; 2]> {
        let always = |columns: &[Column]| columns.iter().any(|c| c.name == "id" && c.not_null);
        let members = |rows: String| format!("SELECT u.id, u.email FROM ({rows}) u");
        (always(&self.auth.columns) && always(&self.app.columns))
            .then(|| [members(self.auth_rows()), members(self.app_rows())])
    }

    /// How many app rows there are.
    pub fn app_count_sql(&self) -> String {
        format!("SELECT count(*) FROM {}onagui.app_users", self.app.only)
    }

    /// Auth users: id, email, tag, confirmed.
    fn auth_rows(&self) -> String {
        let mut conditions = vec!["true".to_owned()];
        if self.auth.has("deleted_at") {
            conditions.push("u.deleted_at IS NULL".into());
        }
        if self.auth.columns.iter().any(|c| c.name == "id" && !c.not_null) {
            conditions.push("u.id IS NOT NULL".into());
        }
        format!(
            "SELECT u.id, {} AS email, {} AS tag, {} AS confirmed FROM ONLY auth.users u WHERE {}",
            self.auth.email("u"),
            self.created(&self.auth.columns),
            self.confirmed("u"),
            conditions.join(" AND "),
        )
    }

    /// App users: id, email, tag.
    fn app_rows(&self) -> String {
        format!(
            "SELECT u.id, {} AS email, {} AS tag FROM {}onagui.app_users u WHERE true",
            self.app.email("u"),
            if self.tag == Tag::Place { "u.ctid" } else { self.created(&self.app.columns) },
            self.app.only,
        )
    }

    fn confirmed(&self, alias: &str) -> String {
        let always = settings::link_policy() == LinkPolicy::Always;
        if self.auth.has("email_confirmed_at") && !always {
            format!("{alias}.email_confirmed_at IS NOT NULL")
        } else {
            "true".into()
        }
    }

    /// `pair`, `lone`, `found_auth`, `found_app` for everybody who is not SYNCED, of those rows that `only` leaves.
    fn apart(&self, wanted: &[&str], only: &str) -> String {
        let wants = |some: &[&str]| some.iter().any(|status| wanted.contains(status));
        // One side alone will do where the verdicts of the other are not asked for.
        let side = if wants(&["MISMATCHED", "DUPLICATE", "PENDING", "CONFLICT"])
            || wants(&["MISSING_IN_APP_USERS"]) && wants(&["MISSING_IN_AUTH"])
        {
            "auth_id IS NULL OR app_id IS NULL"
        } else if wants(&["MISSING_IN_APP_USERS"]) {
            "auth_id IS NOT NULL AND app_id IS NULL"
        } else if wants(&["MISSING_IN_AUTH"]) {
            "auth_id IS NULL"
        } else {
            "false"
        };
        let differs = if wanted.contains(&"EMAIL_MISMATCH") {
            format!(" OR {}", look::differs("a.email", "p.email"))
        } else {
            String::new()
        };
        format!(
            "apart AS MATERIALIZED (
                 SELECT {BOTH_SIDES}, {key}
                   FROM ({auth}{only}) a FULL JOIN ({app}{only}) p ON p.id = a.id
                  WHERE a.id IS NULL OR p.id IS NULL{differs}),
             pair AS (SELECT * FROM apart WHERE auth_id IS NOT NULL AND app_id IS NOT NULL),
             {lone}",
            auth = self.auth_rows(),
            app = self.app_rows(),
            key = lone_key(),
            lone = self.lone_from("apart", side),
        )
    }

    /// The same where everybody has been read by [`Survey::all_sql`] and the lone ones were put aside.
    fn aside(&self) -> String {
        let source = format!(
            "(SELECT *, auth_created_at AS auth_tag, app_created_at AS app_tag FROM {ASIDE}) aside"
        );
        format!("pair AS (SELECT * FROM {source} WHERE false), {}", self.lone_from(&source, "true"))
    }

    fn lone_from(&self, source: &str, side: &str) -> String {
        format!(
            "lone AS (SELECT *, auth_id IS NOT NULL AS is_auth FROM {source} WHERE {side}),
             wanted AS MATERIALIZED (SELECT DISTINCT key FROM lone WHERE key IS NOT NULL),
             found_auth AS ({found_auth}),
             found_app AS ({found_app})",
            found_auth = self.found_either_way(Side::Auth),
            found_app = self.found_either_way(Side::App),
        )
    }

    /// One table: its rows, their columns, the way to them by e-mail.
    fn side(&self, side: Side) -> (String, &'static str, Way) {
        match side {
            Side::Auth => (self.auth_rows(), "id, email, tag, confirmed", self.ways.auth),
            Side::App => (self.app_rows(), "id, email, tag", self.ways.app),
        }
    }

    /// The rows of one table whose key is `k.key`.
    fn probe(&self, side: Side) -> String {
        let email = match side {
            Side::Auth => self.auth.email("u"),
            Side::App => self.app.email("u"),
        };
        let (rows, _, way) = self.side(side);
        look::probe(&rows, way, &email)
    }

    /// How many e-mails are worth looking up one by one.
    fn few(side: Side) -> String {
        let table = match side {
            Side::Auth => AUTH_USERS,
            Side::App => APP_USERS,
        };
        format!(
            "greatest({FEW}, (SELECT t.reltuples / {ONE_IN} FROM pg_class t WHERE t.oid = '{table}'::regclass))"
        )
    }

    /// The rows of one table that have a key in `wanted`, however many these are.
    fn found_either_way(&self, side: Side) -> String {
        let (rows, columns, way) = self.side(side);
        let (few, sweep) = (self.found_by_index(side), look::sweep(&rows, columns));
        look::either_way(way, &Self::few(side), &few, &sweep)
    }

    /// The same where these are few.
    fn found(&self, side: Side) -> String {
        match self.side(side) {
            (rows, columns, Way::Scan) => look::sweep(&rows, columns),
            _ => self.found_by_index(side),
        }
    }

    fn found_by_index(&self, side: Side) -> String {
        format!("SELECT u.*, k.key FROM wanted k CROSS JOIN LATERAL ({}) u", self.probe(side))
    }

    /// `pair`, `lone`, `found_auth`, `found_app` for the e-mails in `$1`.
    fn by_email(&self) -> String {
        format!(
            "wanted AS MATERIALIZED (
                 SELECT DISTINCT {key} AS key FROM unnest($1) AS given(email) WHERE {key} IS NOT NULL),
             found_auth AS MATERIALIZED ({}),
             found_app AS MATERIALIZED ({}),
             {}",
            self.found(Side::Auth),
            self.found(Side::App),
            self.among_found(),
            key = look::key("given.email"),
        )
    }

    /// A query for those of the e-mails in `$1`, as keys, that several have: how many auth users, how many app rows, and how many
    /// auth users have confirmed it.
    pub fn crowded_sql(&self) -> String {
        let count = |side| match side {
            // Its unique index sees to it.
            Side::App if self.app.email_is_unique => {
                "SELECT NULL::text AS key, NULL::bigint AS n WHERE false".to_owned()
            }
            side => {
                let confirmed = match side {
                    Side::Auth => ", count(*) FILTER (WHERE f.confirmed) AS confirmed",
                    Side::App => "",
                };
                let found = self.found(side);
                format!("SELECT f.key, count(*) AS n{confirmed} FROM ({found}) f GROUP BY f.key")
            }
        };
        format!(
            "WITH wanted AS MATERIALIZED (SELECT DISTINCT given.key FROM unnest($1) AS given(key))
             SELECT w.key, coalesce(a.n, 0), coalesce(p.n, 0), coalesce(a.confirmed, 0)
               FROM wanted w LEFT JOIN ({}) a ON a.key = w.key LEFT JOIN ({}) p ON p.key = w.key
              WHERE a.n > 1 OR p.n > 1",
            count(Side::Auth),
            count(Side::App),
        )
    }

    fn among_found(&self) -> String {
        format!(
            "pair AS (
                 SELECT {BOTH_SIDES} FROM found_auth a JOIN LATERAL ({app} AND u.id = a.id OFFSET 0) p ON true
                 UNION
                 SELECT {BOTH_SIDES} FROM found_app p JOIN LATERAL ({auth} AND u.id = p.id OFFSET 0) a ON true),
             lone AS MATERIALIZED (
                 SELECT a.id AS auth_id, a.email AS auth_email, a.tag AS auth_tag, a.confirmed,
                        NULL::uuid AS app_id, NULL::text AS app_email, NULL::timestamptz AS app_tag, a.key, true AS is_auth
                   FROM found_auth a
                  WHERE NOT EXISTS ({app} AND u.id = a.id OFFSET 0)
                 UNION ALL
                 SELECT NULL, NULL, NULL, NULL, p.id, p.email, p.tag, p.key, false
                   FROM found_app p
                  WHERE NOT EXISTS ({auth} AND u.id = p.id OFFSET 0))",
            app = self.app_rows(),
            auth = self.auth_rows(),
        )
    }

    fn created(&self, columns: &[Column]) -> &'static str {
        match columns.iter().find(|c| c.name == "created_at").map(|c| c.base.as_str()) {
            Some("timestamptz" | "timestamp" | "date") if self.tag == Tag::Dates => {
                "u.created_at::timestamptz"
            }
            _ => "NULL::timestamptz",
        }
    }
}
