//! `CALL onagui.fix_all_user_ids()`: all users, committing after each batch.

use super::repair::Repair;
use crate::catalog::House;
use crate::error::Error;
use crate::pg::{self, Call, Reply, connect_nonatomic};
use crate::statements::candidates::{Candidate, Which};
use pgrx::Uuid;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How many users are looked up at once: bounds memory, whatever the number of users.
const LIST: usize = 50_000;

#[derive(Default)]
struct Progress {
    done: u64,
    failed: u64,
    rows: u64,
}

/// Goes on where it stopped when called again: what is done is not out of step any more.
pub fn fix_all_user_ids(call: &Call) -> Result<Reply, Error> {
    let size = match call.arg::<i32>(0) {
        None => {
            return Err(Error::NullArgument { name: "p_batch_size" });
        }
        Some(size) if size < 1 => {
            return Err(Error::BadArgument {
                name: "p_batch_size",
                value: size.to_string(),
                wanted: "a number of users from 1 on",
            });
        }
        Some(size) => size as usize,
    };
    let policy = super::policy(call, 1)?;
    if !call.may_commit() {
        return Err(Error::InTransaction);
    }
    let actor = super::actor();
    let started = Instant::now();
    let mut progress = Progress::default();
    let mut tried: HashSet<(Option<Uuid>, Option<Uuid>)> = HashSet::new();
    connect_nonatomic(|connection| {
        loop {
            let list = {
                let repair = Repair::start(House::find()?, true, policy, actor.clone())?;
                repair.candidates(&Which::FixableByPlace(LIST + tried.len()))
            };
            let todo: Vec<Candidate> =
                list.into_iter().filter(|c| !tried.contains(&c.pair())).collect();
            if todo.is_empty() {
                report("finished", &progress, 0, started);
                return Ok(());
            }
            let mut left = todo.len();
            let mut todo = todo.into_iter().peekable();
            while todo.peek().is_some() {
                pg::restart_statement_timeout();
                let batch: Vec<Candidate> = todo.by_ref().take(size).collect();
                left -= batch.len();
                // What refers to the users is looked up anew: there may be new tables since the last commit.
                let repair = Repair::start(House::find()?, true, policy, actor.clone())?;
                for outcome in repair.run(batch)? {
                    if outcome.outcome == "done" {
                        progress.done += 1;
                        progress.rows += outcome.rows_changed;
                    } else {
                        progress.failed += u64::from(outcome.failure.is_some());
                        tried.insert((outcome.auth_user_id, outcome.old_app_user_id));
                    }
                }
                drop(repair);
                connection.commit();
                report("batch committed", &progress, left, started);
                pg::check_interrupts();
            }
        }
    })?;
    Ok(Reply::Null)
}

fn report(what: &str, progress: &Progress, left: usize, started: Instant) {
    let taken = started.elapsed();
    let all = progress.done + progress.failed;
    let rate = all as f64 / taken.as_secs_f64().max(0.001);
    let rest = Duration::from_secs_f64(left as f64 / rate.max(0.001));
    pg::notice(
        format!(
            "{what}: {} users done, {left} left, {} failed, {} referring rows moved, {rate:.0} users/s, {} s to go",
            progress.done,
            progress.failed,
            progress.rows,
            rest.as_secs()
        ),
        None,
    );
}
