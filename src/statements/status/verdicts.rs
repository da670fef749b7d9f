//! The rules for those who have no counterpart by id.

use super::words::{self, Why};

/// Each lone user with what is known of their e-mail: how many have it in all, and who; how many of these are lone.
/// Nobody knows beforehand how many lone users there are. FULL JOIN, which is never done by comparing each with each,
/// keeps a planner that guessed a few, for want of statistics, from taking hours over many. (So it is with the join on
/// the id in [`Survey::all_sql`](super::Survey::all_sql) and in `apart`.)
///
/// Of several who have an e-mail it does not matter who is named. (There is no max(uuid) before PostgreSQL 18.)
pub fn facts() -> String {
    let of = |kind: &str| format!("FILTER (WHERE k.kind = {kind})");
    format!(
        "SELECT l.*, coalesce(e.auth_n, 0) AS auth_n, e.a_id, e.a_email, e.a_tag, e.a_confirmed,
                coalesce(e.app_n, 0) AS app_n, e.p_id, e.p_email, e.p_tag,
                coalesce(e.lone_auth, 0) AS lone_auth, coalesce(e.lone_app, 0) AS lone_app
           FROM lone l
           FULL JOIN (
                SELECT k.key,
                       count(*) {auth} AS auth_n, (array_agg(k.id) {auth})[1] AS a_id, max(k.email) {auth} AS a_email,
                       max(k.auth_tag) AS a_tag, bool_and(k.confirmed) AS a_confirmed,
                       count(*) {app} AS app_n, (array_agg(k.id) {app})[1] AS p_id, max(k.email) {app} AS p_email,
                       max(k.app_tag) AS p_tag,
                       count(*) {lone_auth} AS lone_auth, count(*) {lone_app} AS lone_app
                  FROM (SELECT key, 1 AS kind, id, email, tag AS auth_tag, confirmed, NULL AS app_tag FROM found_auth
                        UNION ALL
                        SELECT key, 2, id, email, NULL, NULL, tag FROM found_app
                        UNION ALL
                        SELECT key, CASE WHEN is_auth THEN 3 ELSE 4 END, NULL, NULL, NULL, NULL, NULL FROM lone) k
                 WHERE k.key IS NOT NULL
                 GROUP BY k.key) e ON e.key = l.key",
        auth = of("1"),
        app = of("2"),
        lone_auth = of("3"),
        lone_app = of("4"),
    )
}

/// The rules for auth users without a row of their own and app rows without an auth user, in order of precedence.
/// `auth_n` and `app_n` count everybody with the e-mail; `lone_auth` and `lone_app` those without counterpart.
pub fn lone_verdicts() -> String {
    let known = |id: &str| {
        format!(
            "EXISTS (SELECT FROM ONLY auth.users k WHERE k.id = {id})
             OR EXISTS (SELECT FROM onagui.sync_known_id k WHERE k.auth_user_id = {id})"
        )
    };
    let beside = words::any_of("v.why", &words::NAMES_ANOTHERS_AUTH_USER);
    let one_row = words::any_of("v.why", &[Why::NoId, Why::KnownId, Why::Mismatched, Why::Pending]);
    // A lone user's own side, and of the other side the one who has the e-mail, where the verdict is about them.
    let auth = |own: &str, of_email: &str| {
        format!("CASE WHEN l.is_auth THEN l.{own} WHEN {beside} THEN l.{of_email} END AS {own}")
    };
    let app = |own: &str, of_email: &str| {
        format!(
            "CASE WHEN NOT l.is_auth THEN l.{own} WHEN {one_row} THEN l.{of_email} END AS {own}"
        )
    };
    format!(
        "SELECT {auth_id}, {auth_email}, {auth_tag}, {confirmed}, {app_id}, {app_email}, {app_tag},
                v.why, l.auth_n, l.app_n
           FROM facts l
          CROSS JOIN LATERAL (
                SELECT CASE WHEN l.is_auth THEN
                       CASE WHEN l.auth_n > 1 THEN '{several_auth}'
                            WHEN l.app_n = 0 AND l.key IS NULL THEN '{missing_app_no_email}'
                            WHEN l.app_n = 0 THEN '{missing_app}'
                            WHEN l.app_n > 1 THEN '{several_app}'
                            WHEN l.lone_app = 0 THEN '{anothers_row}'
                            WHEN l.p_id IS NULL THEN '{no_id}'
                            WHEN {known_p} THEN '{known_id}'
                            WHEN l.confirmed THEN '{mismatched}'
                            ELSE '{pending}' END
                       WHEN NOT l.is_auth THEN
                       CASE WHEN l.auth_n = 0 AND ({known_l}) THEN '{deleted}'
                            WHEN l.auth_n = 0 THEN '{missing_auth}'
                            WHEN l.auth_n > 1 THEN '{app_of_several_auth}'
                            WHEN l.lone_auth > 0 AND l.app_n > 1 THEN '{one_of_several_app}'
                            WHEN l.lone_auth > 0 THEN NULL -- shown with its auth user
                            WHEN l.app_id IS NULL THEN '{no_id_beside_own}'
                            WHEN {known_l} THEN '{known_id_beside_own}'
                            WHEN l.a_confirmed THEN '{duplicate}'
                            ELSE '{pending_duplicate}' END END AS why OFFSET 0) v",
        auth_id = auth("auth_id", "a_id"),
        auth_email = auth("auth_email", "a_email"),
        auth_tag = auth("auth_tag", "a_tag"),
        confirmed = auth("confirmed", "a_confirmed"),
        app_id = app("app_id", "p_id"),
        app_email = app("app_email", "p_email"),
        app_tag = app("app_tag", "p_tag"),
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
