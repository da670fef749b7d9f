//! `onagui.sync_report()`: who is out of step, for people, at 80 columns.

mod text;

use crate::catalog::{App, House};
use crate::error::{Error, GIVE_IDS, SPARE_EMAIL};
use crate::pg::{self, Call, Reply};
use crate::statements::status::{
    ANOTHERS_ROW, Listed, NO_ROW_OF_SEVERAL, Overview, ROW_WITHOUT_ID, STATUSES,
};
use onagui_decide::repair::Status;
use text::{BREAK, literal, shown, thousands, wrapped};

/// No more of each status are told in full.
const MOST: i64 = 50;

const WIDTH: usize = 80;

/// `sync_report()`.
pub fn report(_: &Call) -> Result<Reply, Error> {
    let kept = Overview::get(House::find()?)?;
    let counted = kept.summary();
    let (head, listed) = kept.list(MOST);
    let mut out = vec![
        format!("onagui_sync {}", env!("CARGO_PKG_VERSION")),
        format!("{}, {}", shown(&head.database, WIDTH - 26), head.time),
        String::new(),
    ];
    for (status, users) in &counted {
        let what = meaning(status);
        out.push(format!("  {status:<20} {:>13}  {what}", thousands(*users)));
    }
    for status in &STATUSES[1..] {
        let all = counted.iter().find(|(name, _)| name == status).map_or(0, |(_, n)| *n);
        if all == 0 {
            continue;
        }
        out.push(String::new());
        out.push(format!("{status} ({})", thousands(all)));
        wrapped(&mut out, "  ", advice(status), WIDTH);
        let mut told = 0;
        for user in listed.iter().filter(|user| user.status == *status) {
            pg::check_interrupts();
            out.push(String::new());
            tell(&mut out, user, &kept.app);
            told += 1;
        }
        if told < all {
            out.push(String::new());
            out.push(format!("  ... and {} more:", thousands(all - told)));
            out.push(format!("  SELECT * FROM onagui.sync_status(ARRAY['{status}']);"));
        }
    }
    if counted[1..].iter().all(|(_, users)| *users == 0) {
        out.push(String::new());
        out.push("Everybody is in step.".into());
    }
    Ok(Reply::of(out.join("\n") + "\n"))
}

fn meaning(status: &str) -> &'static str {
    match status {
        "SYNCED" => "in step",
        "EMAIL_MISMATCH" => "same id, another e-mail",
        "MISMATCHED" => "same e-mail, another id",
        "DUPLICATE" => "a second app row with the e-mail",
        "MISSING_IN_APP_USERS" => "no app row",
        "MISSING_IN_AUTH" => "no auth user",
        "PENDING" => "waits for the confirmation",
        _ => "a person must decide",
    }
}

fn advice(status: &str) -> &'static str {
    match status {
        "EMAIL_MISMATCH" => {
            "The fix takes auth's e-mail over. Where auth has none, nothing is wiped."
        }
        "MISMATCHED" => {
            "The fix gives the app row, and all that refers to it, the auth user's id. Leave p_apply out to see first \
             what would be done."
        }
        "DUPLICATE" => {
            "The fix merges the app row into the auth user's own. Leave p_apply out to see first what would be done."
        }
        "MISSING_IN_APP_USERS" => "The fix creates the app row.",
        "MISSING_IN_AUTH" => {
            "Nothing is done about these: the auth user was deleted or never signed up. Delete the app row yourself if \
             its owner is gone."
        }
        "PENDING" => "Nothing to do yet: wait for the confirmation of the e-mail.",
        _ => {
            "Decide which app row is whose, where the fix does not say it. Without p_apply => true the call shows what \
             would be done, with it the auth user gets the app row. Is that somebody else's, or is there none: what stands \
             under else, then SELECT * FROM onagui.fix_user_ids(ARRAY['...'], p_apply => true);"
        }
    }
}

fn tell(out: &mut Vec<String>, user: &Listed, app: &App) {
    let email = email(user);
    out.push(format!("  {}", email.map_or("(no e-mail)".into(), |email| shown(email, WIDTH - 2))));
    for (side, id, created) in
        [("auth", &user.auth_id, &user.auth_created), ("app ", &user.app_id, &user.app_created)]
    {
        if let Some(id) = id {
            let created = created.as_ref().map_or(String::new(), |day| format!("  created {day}"));
            out.push(format!("    {side}  {id}{created}"));
        }
    }
    if let Some(detail) = &user.detail {
        wrapped(out, "    why   ", &shown(detail, 1_000), WIDTH);
    }
    if let Some(tried) = &user.tried {
        wrapped(out, "    tried ", &shown(tried, 500), WIDTH);
    }
    if let Some(fix) = fix(user, app.demands_email()) {
        wrapped(out, "    fix   ", &fix, WIDTH);
    }
    if let Some(other) = other_decision(user, app) {
        wrapped(out, "    else  ", &other, WIDTH);
    }
    if is_anothers(user) {
        wrapped(
            out,
            "    then  ",
            "the same once more, when the other user has their e-mail",
            WIDTH,
        );
    }
}

fn is_anothers(user: &Listed) -> bool {
    user.detail.as_deref() == Some(ANOTHERS_ROW)
}

fn is_fixable(status: &str) -> bool {
    Status::parse(status).is_some_and(Status::is_fixable)
}

fn email(user: &Listed) -> Option<&str> {
    user.email.as_deref().filter(|email| !email.trim().is_empty())
}

/// The call that brings the user into step.
fn fix(user: &Listed, demands_email: bool) -> Option<String> {
    match (user.status.as_str(), &user.app_id, &user.auth_id) {
        ("MISSING_IN_APP_USERS", _, _) if demands_email && !user.auth_has_email => {
            Some(format!("{SPARE_EMAIL} Then fix_user_ids() makes the row."))
        }
        // The e-mail stays: there is none to take over.
        ("EMAIL_MISMATCH", _, _) if !user.auth_has_email => None,
        (status, _, _) if is_fixable(status) || is_anothers(user) => {
            Some(match email(user) {
                Some(email) => {
                    format!(
                        "SELECT * FROM onagui.fix_user_ids({BREAK}ARRAY[{BREAK}{}], p_apply => true);",
                        literal(email)
                    )
                }
                // Without an e-mail a user cannot be named; everybody's fix is theirs too.
                None => "SELECT * FROM onagui.fix_user_ids(p_apply => true);".into(),
            })
        }
        ("CONFLICT", _, _) if user.detail.as_deref() == Some(ROW_WITHOUT_ID) => {
            Some(GIVE_IDS.into())
        }
        // One of several that have the e-mail.
        ("CONFLICT", None, None) => Some(GIVE_IDS.into()),
        // A rehearsal: it would give one person's rows to another, if the person who pastes it has not decided.
        ("CONFLICT", app, auth) => {
            let shown = |id: &Option<String>| id.clone().unwrap_or_else(|| "...".into());
            Some(format!(
                "SELECT * FROM onagui.fix_user_id({BREAK}p_app_user_id => '{}', p_auth_user_id => '{}');",
                shown(app),
                shown(auth)
            ))
        }
        _ => None,
    }
}

/// What leaves a CONFLICT's app row to whom it is, and gives the auth user one of their own.
fn other_decision(user: &Listed, app: &App) -> Option<String> {
    let no_email = match app.column("email").is_some_and(|email| email.not_null) {
        // A domain that nobody has (RFC 2606).
        true => "id || '@former.invalid'",
        false => "NULL",
    };
    let shares = user.detail.as_deref().is_some_and(|detail| detail.ends_with(NO_ROW_OF_SEVERAL));
    match (user.status.as_str(), &user.app_id, &user.auth_id, &user.email) {
        ("CONFLICT", Some(app), _, _) => Some(format!(
            "UPDATE onagui.app_users SET email = {no_email}{BREAK} WHERE id = '{app}';"
        )),
        ("CONFLICT", None, Some(auth), Some(email)) if shares => Some(format!(
            "INSERT INTO onagui.app_users (id, email){BREAK} VALUES ('{auth}', {BREAK}{});",
            literal(email)
        )),
        _ => None,
    }
}
