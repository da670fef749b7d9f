//! The checks of `onagui.sync_health()`. Each only reads, and each stands alone: where one cannot be made, that is what
//! it finds.

mod access;
mod activity;
mod references;
mod remedies;
mod tables;
mod triggers;

use crate::catalog::House;
use crate::catalog::tables::hold;
use crate::error::Error;
use crate::pg::{self, Arg, Mode, Rows, Session, connect, subtransaction};
use onagui_decide::failure::must_pass_on;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ok,
    Warn,
    Fail,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "fail",
        }
    }
}

pub struct Finding {
    pub check: &'static str,
    pub state: State,
    pub detail: String,
    /// SQL that mends it, to be pasted into psql.
    pub remedy: Option<String>,
}

/// Collects what one check finds.
pub struct Report<'a> {
    check: &'static str,
    findings: &'a mut Vec<Finding>,
}

impl Report<'_> {
    /// Names may hold what a terminal obeys: nothing is to be pasted then.
    fn add(&mut self, state: State, detail: impl Into<String>, remedy: Option<String>) {
        let obeyed = |c: char| c.is_control() && c != '\n';
        let remedy = remedy.map(|remedy| match remedy.contains(obeyed) {
            true => format!("-- {}", one_line(&remedy)),
            false => remedy,
        });
        let detail = detail.into().replace(obeyed, " ");
        self.findings.push(Finding { check: self.check, state, detail, remedy });
    }

    pub fn ok(&mut self, detail: impl Into<String>) {
        self.add(State::Ok, detail, None);
    }

    pub fn warn(&mut self, detail: impl Into<String>, remedy: impl Into<String>) {
        self.add(State::Warn, detail, Some(remedy.into()));
    }

    pub fn fail(&mut self, detail: impl Into<String>, remedy: impl Into<String>) {
        self.add(State::Fail, detail, Some(remedy.into()));
    }

    /// A warning for each row (detail, remedy) of a query.
    pub fn warn_rows(&mut self, rows: &Rows) {
        for row in 0..rows.len() {
            let detail: String = rows.get(row, 1).unwrap_or_default();
            let remedy: String = rows.get(row, 2).unwrap_or_default();
            self.warn(detail, remedy);
        }
    }

    /// The same; `fine` where there is none.
    pub fn warn_each(&mut self, rows: &Rows, fine: &str) {
        self.warn_rows(rows);
        if rows.is_empty() {
            self.ok(fine);
        }
    }
}

type Check = fn(&Session, House, &mut Report) -> Result<(), Error>;

/// In the order in which they are worth mending.
const CHECKS: [(&str, Check); 15] = [
    ("version", tables::version),
    ("tables", tables::tables),
    ("triggers", triggers::triggers),
    ("other triggers", triggers::others),
    ("settings", access::settings),
    ("column mapping", tables::mapping),
    ("e-mail look-up", tables::email_index),
    ("privileges", access::privileges),
    ("row security", access::row_security),
    ("unindexed references", references::unindexed),
    ("possible references", references::possible),
    ("published references", references::published),
    ("recent failures", activity::failures),
    ("pending links", activity::pending),
    ("users out of step", activity::out_of_step),
];

pub fn examine(house: House) -> Result<Vec<Finding>, Error> {
    let wait = || {
        hold();
        Ok(())
    };
    match subtransaction(wait) {
        Err(failure) if must_pass_on(&failure.sqlstate) => Err(failure.into()),
        // Each check that needs them says so.
        _ => pg::as_after_waiting(|| check_all(house)),
    }
}

fn check_all(house: House) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for (check, look) in CHECKS {
        let before = findings.len();
        let outcome = subtransaction(|| {
            let mut report = Report { check, findings: &mut findings };
            pg::as_role(house.owner, || connect(|session| look(session, house, &mut report)))
        });
        let Err(failure) = outcome else { continue };
        if must_pass_on(&failure.sqlstate) {
            return Err(failure.into());
        }
        findings.truncate(before);
        let unchecked = format!("could not be checked: {}", failure.message);
        // What a missing table keeps from being checked is told once, and how to make it.
        findings.push(match failure.sqlstate.as_str() {
            "42P01" | "42703" | "42804" => Finding {
                check,
                state: State::Warn,
                detail: unchecked,
                remedy: Some("-- See the check of the tables.".into()),
            },
            sqlstate => Finding {
                check,
                state: State::Fail,
                detail: format!("{unchecked} ({sqlstate})"),
                remedy: failure.hint.map(|hint| format!("-- {}", one_line(&hint))),
            },
        });
    }
    Ok(findings)
}

/// Runs a query of a check, on the caller's snapshot.
fn read(session: &Session, sql: &str, args: &[Arg]) -> Rows {
    session.run(sql, args, Mode::Read)
}

/// Text as an SQL literal.
fn literal(text: &str) -> String {
    pgrx::spi::quote_literal(text)
}

/// Text for a comment in SQL, which ends with its line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// "1 user", "2 users".
fn count(n: i64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}
