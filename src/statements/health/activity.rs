//! What has happened lately, and who is out of step.

use super::tables::{any_is_lacking, required, shut_out};
use super::{Report, count, literal, one_line, read};
use crate::catalog::{App, Auth, House};
use crate::error::Error;
use crate::pg::{Mode, Session};
use crate::statements::status::{Overview, Survey, Suspects};
use onagui_decide::repair::Status;
use pgrx::pg_sys::UUIDARRAYOID;

/// Sign-ups of the last day that failed on the app side, as far as they are still without an app row.
pub fn failures(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let mut mended = "mended since";
    let unmended = match (Auth::read(session), App::read(session)) {
        (Ok(auth), Ok(app)) => {
            // Those have a finding of their own, about the table.
            let lacking = any_is_lacking(&required(session, &auth, &app));
            if lacking.is_some() {
                mended = "mended since, or for want of what app users must have";
            }
            format!(
                "EXISTS (SELECT FROM ONLY auth.users n WHERE n.id = l.auth_user_id AND NOT ({}))
                 AND NOT EXISTS (SELECT FROM {}onagui.app_users p WHERE p.id = l.auth_user_id)",
                lacking.as_deref().unwrap_or("false"),
                app.only
            )
        }
        _ => "true".to_owned(),
    };
    let sql = format!(
        "SELECT count(*),
                count(DISTINCT l.auth_user_id) FILTER (WHERE {unmended}) + count(*) FILTER (WHERE {unmended} AND l.auth_user_id IS NULL),
                (array_agg((l.details #>> '{{error,message}}') || coalesce(' (' || substring(l.details ->> 'context' FROM '[^\n]*function [^\n]*') || ')', '')
                           ORDER BY l.audit_id DESC) FILTER (WHERE {unmended}))[1],
                string_agg(DISTINCT quote_literal(l.email), ', ') FILTER (WHERE {unmended} AND l.email <> ''),
                count(*) FILTER (WHERE {unmended} AND coalesce(l.email, '') = '')
           FROM onagui.sync_audit_log l
          WHERE l.action = 'failure' AND l.occurred_at > now() - interval '1 day'"
    );
    let rows = read(session, &sql, &[]);
    let all: i64 = rows.get(0, 1).unwrap_or_default();
    let unmended: i64 = rows.get(0, 2).unwrap_or_default();
    if all == 0 {
        report.ok("no failure in the last day");
    } else if unmended == 0 {
        report.ok(format!("{} in the last day, all {mended}", count(all, "failure")));
    } else {
        let emails: Option<String> = rows.get(0, 4);
        let without: i64 = rows.get(0, 5).unwrap_or_default();
        let whom = match emails {
            Some(emails) if without == 0 && unmended <= 100 => format!("ARRAY[{emails}], "),
            _ => String::new(),
        };
        let last: String = rows.get(0, 3).unwrap_or_default();
        report.warn(
            format!(
                "{} failed in the last day and not mended yet; the last failure: {last}",
                count(unmended, "user")
            ),
            format!("SELECT * FROM onagui.fix_user_ids({whom}p_apply => true);"),
        );
    }
    Ok(())
}

/// App users that wait for an e-mail to be confirmed.
pub fn pending(session: &Session, _: House, report: &mut Report) -> Result<(), Error> {
    let auth = Auth::read(session)?;
    let app = App::read(session)?;
    let survey = Survey::new(session, &auth, &app);
    let suspects = Suspects::find(session, &survey);
    let sql = format!(
        "SELECT count(*), min(auth_created_at)::date::text,
                coalesce(min(auth_created_at) < now() - interval '30 days', false),
                (array_agg(email ORDER BY auth_created_at))[1]
           FROM ({}) s",
        survey.rows_of(suspects.which(), &["PENDING"])
    );
    let plan = session.prepare_read(&sql, &[UUIDARRAYOID], false);
    let rows = session.execute(&plan, &[suspects.ids()], Mode::Read);
    let waiting: i64 = rows.get(0, 1).unwrap_or_default();
    if waiting == 0 {
        report.ok("nobody waits for a confirmation");
        return Ok(());
    }
    let since: String = rows.get(0, 2).unwrap_or_else(|| "unknown".into());
    let oldest: String = rows.get(0, 4).unwrap_or_default();
    let detail = format!(
        "{} waiting for a confirmed e-mail, the oldest since {since}",
        count(waiting, "link")
    );
    if rows.get::<bool>(0, 3).unwrap_or_default() {
        report.warn(
            detail,
            format!(
                "-- Wait until {} is confirmed by its owner; detail says what comes then. Who is waiting:\n\
                 SELECT * FROM onagui.sync_status(ARRAY['PENDING']) ORDER BY auth_created_at;",
                one_line(&literal(&oldest))
            ),
        );
    } else {
        report.ok(detail);
    }
    Ok(())
}

/// Users that a fix can bring back, and conflicts.
pub fn out_of_step(session: &Session, house: House, report: &mut Report) -> Result<(), Error> {
    let overview = Overview::get(house)?;
    let counted = overview.summary();
    let of = |status: &str| counted.iter().find(|(name, _)| *name == status).map_or(0, |(_, n)| *n);
    let fixable = Status::ALL.into_iter().filter(|status| status.is_fixable());
    let fixable: i64 = fixable.map(|status| of(status.name())).sum();
    let kept = if of("EMAIL_MISMATCH") > 0 { overview.kept_emails() } else { 0 };
    let shut_out = match of("MISSING_IN_APP_USERS") {
        0 => None,
        _ => {
            let (auth, app) = (Auth::read(session)?, App::read(session)?);
            let lacking = any_is_lacking(&required(session, &auth, &app));
            lacking.map(|lacking| shut_out(&auth, &app, &lacking))
        }
    };
    // These have a finding of their own, about the table.
    let shut_out = shut_out.map_or(0, |users| {
        read(session, &format!("SELECT count(*) FROM {users}"), &[]).one().unwrap_or_default()
    });
    let fixable = fixable - kept - shut_out;
    if fixable > 0 {
        report.warn(
            format!("{} out of step that a fix can bring back", count(fixable, "user")),
            "SELECT * FROM onagui.fix_user_ids(p_apply => true);",
        );
    }
    if of("CONFLICT") > 0 {
        report.warn(
            format!("{} that a person must decide", count(of("CONFLICT"), "conflict")),
            "SELECT * FROM onagui.sync_status(ARRAY['CONFLICT']); -- what to call: SELECT onagui.sync_report();",
        );
    }
    if fixable + of("CONFLICT") == 0 {
        let besides = [
            (kept, "whose e-mail auth does not have"),
            (shut_out, "without what app users must have"),
        ];
        let mut detail = format!("{} in step", count(of("SYNCED"), "user"));
        for (users, whose) in besides.iter().filter(|(users, _)| *users > 0) {
            detail.push_str(&format!(", {users} {whose}"));
        }
        report.ok(detail);
    }
    Ok(())
}
