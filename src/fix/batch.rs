//! `CALL onagui.fix_all_user_ids()`: all users, committing after each batch.

use super::repair::Repair;
use crate::catalog::House;
use crate::error::Error;
use crate::pg::{self, Call, Reply, connect_nonatomic};
use crate::statements::candidates::Order;
use pgrx::Uuid;
use std::collections::HashSet;
use std::time::{Duration, Instant};

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
    let start = || Repair::start(House::find()?, true, policy, actor.clone());
    let started = Instant::now();
    let mut progress = Progress::default();
    let mut tried: HashSet<(Option<Uuid>, Option<Uuid>)> = HashSet::new();
    connect_nonatomic(|connection| {
        // What is done may let others be helped: whose e-mail was free again, for instance. So look until there is nobody.
        loop {
            let list = start()?.list(Order::Place, None);
            list.keep();
            let mut again = tried.len();
            let mut helped = false;
            loop {
                pg::restart_statement_timeout();
                let mut batch = list.next(size);
                if batch.is_empty() {
                    break;
                }
                let listed = batch.len();
                batch.retain(|candidate| !tried.contains(&candidate.pair()));
                again = again.saturating_sub(listed - batch.len());
                if batch.is_empty() {
                    continue;
                }
                helped = true;
                // What refers to the users is looked up anew: there may be new tables since the last commit.
                for outcome in start()?.run(batch)? {
                    if outcome.outcome == "done" {
                        progress.done += 1;
                        progress.rows += outcome.rows_changed;
                    } else {
                        progress.failed += u64::from(outcome.failure.is_some());
                        tried.insert((outcome.auth_user_id, outcome.old_app_user_id));
                    }
                }
                connection.commit();
                let left = list.left().unwrap_or_default().saturating_sub(again);
                report("batch committed", &progress, left, started);
                pg::check_interrupts();
            }
            if !helped {
                report("finished", &progress, 0, started);
                return Ok(());
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
