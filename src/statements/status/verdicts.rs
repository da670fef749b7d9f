//! The rules for those who have no counterpart by id.

use super::words::{self, Why};

/// Each lone user with what is known of their e-mail: how many have it in all, and who; how many of these are lone.
/// Nobody knows beforehand how many lone users there are. FULL JOIN, which is never done by comparing each with each,
/// keeps a planner that guessed a few, for want of statistics, from taking hours over many. (So it is with the join on
/// the id in [`Survey::all_sql`](super::Survey::all_sql) and in `apart`.)
pub fn facts() -> &'static str {
    "SELECT l.*, coalesce(ta.n, 0) AS auth_n, ta.id AS a_id, ta.email AS a_email,
            ta.tag AS a_tag, ta.confirmed AS a_confirmed,
            coalesce(tp.n, 0) AS app_n, tp.id AS p_id, tp.email AS p_email, tp.tag AS p_tag,
            coalesce(c.lone_auth, 0) AS lone_auth, coalesce(c.lone_app, 0) AS lone_app
       FROM lone l
       FULL JOIN at_auth ta ON ta.key = l.key
       FULL JOIN at_app tp ON tp.key = l.key
       FULL JOIN lone_of_key c ON c.key = l.key"
}

/// How many lone users have an e-mail, on either side.
pub fn lone_of_key() -> &'static str {
    "SELECT key, count(*) FILTER (WHERE is_auth) AS lone_auth, count(*) FILTER (WHERE NOT is_auth) AS lone_app
       FROM lone WHERE key IS NOT NULL GROUP BY key"
}

/// The rules for auth users without a row of their own and app rows without an auth user, in order of precedence.
/// `at_auth` and `at_app` count everybody with the e-mail; `lone_auth` and `lone_app` those without counterpart.
pub fn lone_verdicts() -> String {
    let known = |id: &str| {
        format!(
            "EXISTS (SELECT FROM ONLY auth.users k WHERE k.id = {id})
             OR EXISTS (SELECT FROM onagui.sync_known_id k WHERE k.auth_user_id = {id})"
        )
    };
    format!(
        "SELECT l.auth_id, l.auth_email, l.auth_tag, l.confirmed,
                f.app_id, f.app_email, f.app_tag, f.why, f.auth_n, f.app_n
           FROM (SELECT * FROM facts WHERE is_auth) l
          CROSS JOIN LATERAL (
                SELECT CASE WHEN l.auth_n > 1 THEN '{several_auth}'
                            WHEN l.app_n = 0 AND l.key IS NULL THEN '{missing_app_no_email}'
                            WHEN l.app_n = 0 THEN '{missing_app}'
                            WHEN l.app_n > 1 THEN '{several_app}'
                            WHEN l.lone_app = 0 THEN '{anothers_row}'
                            WHEN l.p_id IS NULL THEN '{no_id}'
                            WHEN {known_p} THEN '{known_id}'
                            WHEN l.confirmed THEN '{mismatched}'
                            ELSE '{pending}' END AS why OFFSET 0) v
          CROSS JOIN LATERAL (
                SELECT v.why, l.auth_n, l.app_n,
                       CASE WHEN {one_row} THEN l.p_id END AS app_id,
                       CASE WHEN {one_row} THEN l.p_email END AS app_email,
                       CASE WHEN {one_row} THEN l.p_tag END AS app_tag) f
         UNION ALL
         SELECT f.auth_id, f.auth_email, f.auth_tag, f.confirmed,
                l.app_id, l.app_email, l.app_tag, f.why, f.auth_n, f.app_n
           FROM (SELECT * FROM facts WHERE NOT is_auth) l
          CROSS JOIN LATERAL (
                SELECT CASE WHEN l.auth_n = 0 AND ({known_l}) THEN '{deleted}'
                            WHEN l.auth_n = 0 THEN '{missing_auth}'
                            WHEN l.auth_n > 1 THEN '{app_of_several_auth}'
                            WHEN l.lone_auth > 0 AND l.app_n > 1 THEN '{one_of_several_app}'
                            WHEN l.lone_auth > 0 THEN NULL -- shown with its auth user
                            WHEN l.app_id IS NULL THEN '{no_id_beside_own}'
                            WHEN {known_l} THEN '{known_id_beside_own}'
                            WHEN l.a_confirmed THEN '{duplicate}'
                            ELSE '{pending_duplicate}' END AS why OFFSET 0) v
          CROSS JOIN LATERAL (
                SELECT v.why, l.auth_n, l.app_n,
                       CASE WHEN {beside} THEN l.a_id END AS auth_id,
                       CASE WHEN {beside} THEN l.a_email END AS auth_email,
                       CASE WHEN {beside} THEN l.a_tag END AS auth_tag,
                       CASE WHEN {beside} THEN l.a_confirmed END AS confirmed) f
          WHERE f.why IS NOT NULL",
        one_row = words::any_of("v.why", &[Why::NoId, Why::KnownId, Why::Mismatched, Why::Pending]),
        beside = words::any_of("v.why", &words::NAMES_ANOTHERS_AUTH_USER),
        known_p = known("l.p_id"),
        known_l = known("l.app_id"),
        several_auth = Why::SeveralAuth.word(),
        missing_app_no_email = Why::MissingAppNoEmail.word(),
        missing_app = Why::MissingApp.word(),
        several_app = Why::SeveralApp.word(),
        anothers_row = Why::AnothersRow.word(),
        no_id = Why::NoId.word(),
        known_id = Why::KnownId.word(),
        mismatched = Why::Mismatched.word(),
        pending = Why::Pending.word(),
        deleted = Why::Deleted.word(),
        missing_auth = Why::MissingAuth.word(),
        app_of_several_auth = Why::AppOfSeveralAuth.word(),
        one_of_several_app = Why::OneOfSeveralApp.word(),
        no_id_beside_own = Why::NoIdBesideOwn.word(),
        known_id_beside_own = Why::KnownIdBesideOwn.word(),
        duplicate = Why::Duplicate.word(),
        pending_duplicate = Why::PendingDuplicate.word(),
    )
}
